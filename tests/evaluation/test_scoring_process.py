"""Scoring in a separate process."""

from __future__ import annotations

import json
import os
import sys

import pytest

from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import score_detections
from ssd.evaluation.scoring_process import ScoringProcess

FOUND = Detections([1, 1], [[10, 10, 20, 20], [0, 0, 5, 5]], [0.5, 0.75], [1, 1])
NOTHING = Detections([], [], [], [])


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1}],
                "categories": [{"id": 1, "name": "disc"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
                ],
            }
        )
    )
    return path


def python(code):
    return ScoringProcess(command=[sys.executable, "-c", code])


@pytest.mark.parametrize("found", [FOUND, NOTHING])
def test_process_gives_the_same_numbers_from_any_folder(annotations, tmp_path, monkeypatch, found):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ScoringProcess() as scoring:
        scoring.start(os.path.relpath(annotations), found, tmp_path / "run", name="epoch5")
        stats = scoring.result(timeout=60)
        assert stats == score_detections(annotations, found)
        assert scoring.poll() == stats and scoring.result() == stats
    assert len(Detections.from_npz(tmp_path / "run" / "epoch5.npz")) == len(found)


def test_poll_is_none_while_it_runs_and_close_kills(tmp_path):
    scoring = python("import signal; signal.pause()")
    scoring.start("a.json", NOTHING, tmp_path)
    pid = scoring.pid
    assert scoring.poll() is None
    with pytest.raises(TimeoutError):
        scoring.result(timeout=0.01)
    scoring.close()
    scoring.close()
    with pytest.raises(ProcessLookupError):  # killed and reaped, not a zombie
        os.kill(pid, 0)


def test_the_child_dies_with_its_object(tmp_path):
    scoring = python("import signal; signal.pause()")
    scoring.start("a.json", NOTHING, tmp_path)
    pid = scoring.pid
    del scoring
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_child_has_one_thread_and_a_new_session(tmp_path):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    with python(
        f"import json, os; print(json.dumps({{**{{n: os.environ[n] for n in {names!r}}},"
        "'session': os.getsid(0) == os.getpid()}))"
    ) as scoring:
        scoring.start("a.json", NOTHING, tmp_path)
        assert scoring.result(timeout=60) == dict.fromkeys(names + ["session"], 1.0)


@pytest.mark.parametrize(
    "code, words",
    [
        (
            "import sys; print('first', file=sys.stderr); sys.exit('last words')",
            "status 1: last words",
        ),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("print('no numbers')", "no numbers but 'no numbers"),
        ("import sys; sys.stderr.write('x' * 10 ** 6); sys.exit(3)", "status 3: x"),
    ],
)
def test_a_dead_scorer_is_reported_each_time(tmp_path, code, words):
    with python(code) as scoring:
        scoring.start("a.json", NOTHING, tmp_path)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=words):
                scoring.result(timeout=60)
        with pytest.raises(RuntimeError, match=words):
            scoring.poll()


def test_a_user_error_in_the_child_keeps_its_line(annotations, tmp_path):
    with ScoringProcess() as scoring:
        scoring.start(tmp_path / "absent.json", FOUND, tmp_path)
        with pytest.raises(RuntimeError, match="status 2: error: .*absent.json does not exist"):
            scoring.result(timeout=60)
