"""Faults of the scoring process: its trainer is killed, it is killed itself, it runs out of
memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring_process import ScoringProcess
from tests.training.tiny import ROOT
from tests.waiting import SLOW_MACHINE, wait_until

DETECTIONS = Detections([1], [[10, 10, 20, 20]], [0.5], [1])

# Starts a scoring whose annotations are a named pipe that nobody writes, so that it blocks there.
# Prints the scorer's pid.
TRAINER = """
import os, signal, sys
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring_process import ScoringProcess
with ScoringProcess() as scoring:
    scoring.start(sys.argv[1], Detections([1], [[10, 10, 20, 20]], [0.5], [1]), sys.argv[2])
    print(scoring.pid, flush=True)
    signal.pause()
"""

# The scorer, limited to the memory that it has after the start and `spare` bytes more.
SHORT_OF_MEMORY = """
import resource, sys
import numpy, {library}
from ssd.evaluation import scoring, scoring_child
have = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (have + {spare}, have + {spare}))
sys.exit(scoring_child.main())
"""


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


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    assert os.listdir(folder) == []


def runs(pid):
    """Whether there is such a process. A zombie, which nobody reaps in a container, counts as
    gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("moment", ["at once", "while it scores"])
def test_the_scorer_dies_with_its_trainer(tmp_path, temporary, moment):
    pipe = tmp_path / "annotations.json"
    os.mkfifo(pipe)
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(pipe), str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    scorer = int(trainer.stdout.readline())
    try:
        if moment == "while it scores":
            # once there is a reader, the pipe can be opened for writing without blocking
            wait_until(lambda: opens_for_writing(pipe))
        assert runs(scorer)
        trainer.kill()
        assert trainer.wait(SLOW_MACHINE) == -signal.SIGKILL
        wait_until(lambda: not runs(scorer))
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
        if runs(scorer):
            os.kill(scorer, signal.SIGKILL)
    assert os.listdir(tmp_path / "run") == ["detections.npz"]


opened = []


def opens_for_writing(pipe):
    try:
        # Kept open, so that its reader keeps waiting.
        opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return True
    except OSError:
        return False


@pytest.fixture(autouse=True)
def close_opened():
    yield
    while opened:
        os.close(opened.pop())


def test_a_killed_scorer_is_reported_and_reaped(tmp_path, temporary):
    pipe = tmp_path / "annotations.json"
    os.mkfifo(pipe)
    with ScoringProcess() as scoring:
        scoring.start(pipe, DETECTIONS, tmp_path / "run")
        pid = scoring.pid
        wait_until(lambda: opens_for_writing(pipe))
        assert scoring.poll() is None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            RuntimeError,
            match=r"^the scorer died with status -9, killed by signal 9 \(SIGKILL\), "
            "perhaps by the kernel for lack of memory: ",
        ):
            scoring.result(SLOW_MACHINE)
        assert not os.path.exists(f"/proc/{pid}"), "a zombie"
    assert os.listdir(tmp_path / "run") == ["detections.npz"]


@pytest.mark.parametrize(
    "library, spare", [("pycocotools.cocoeval", 2**24), ("hotcoco", 2**24), ("hotcoco", 5 * 2**26)]
)
def test_a_scorer_that_runs_out_of_memory_is_reported(
    annotations, tmp_path, temporary, library, spare
):
    """With Python's own error, and with hotcoco's, which aborts."""
    pytest.importorskip(library.split(".")[0])
    many = 10**6
    found = Detections(np.ones(many), np.ones((many, 4)), np.ones(many), np.ones(many))
    code = SHORT_OF_MEMORY.format(library=library, spare=spare)
    with ScoringProcess(command=[sys.executable, "-c", code]) as scoring:
        scoring.start(annotations, found, tmp_path / "run")
        pid = scoring.pid
        with pytest.raises(
            RuntimeError, match="^the scorer died with status (1|-6), out of memory: .*[mM]emory"
        ):
            scoring.result(SLOW_MACHINE)
        assert not os.path.exists(f"/proc/{pid}"), "a zombie"
    assert os.listdir(tmp_path / "run") == ["detections.npz"]


def test_another_signal_is_reported(tmp_path, temporary):
    with ScoringProcess(command=[sys.executable, "-c", "import os; os.abort()"]) as scoring:
        scoring.start("a.json", DETECTIONS, tmp_path)
        with pytest.raises(RuntimeError, match=r"status -6, killed by signal 6 \(SIGABRT\): "):
            scoring.result(SLOW_MACHINE)
