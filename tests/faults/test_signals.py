"""SIGTERM and Slurm's SIGUSR1: all ranks save and stop at the same step, and resume as if they had
not been interrupted."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from ssd.checkpoints.store import find_checkpoint
from ssd.training.interval import SaveInterval
from ssd.training.outcome import Stopped
from ssd.training.state import Progress
from ssd.training.train import Training
from tests.faults.launch import run
from tests.training.tiny import rows, tiny_data

FLAGS = [
    "--max-steps",
    "6",
    "--eval-every",
    "1",
    "--score-threshold",
    "0",
    "--boxes-per-image",
    "5",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    result = run("none:0:1", data, folder, *FLAGS)
    assert result.status == 0, result.output[-2000:]
    return folder


@pytest.mark.parametrize(
    "fault, name",
    [
        ("term", "SIGTERM"),
        ("usr1", "SIGUSR1"),
        ("int", "SIGINT"),
        ("term-in-evaluation", "SIGTERM"),
    ],
)
def test_a_stopped_run_resumes_bit_by_bit(data, uninterrupted, tmp_path, fault, name):
    first = run(f"{fault}:0:3", data, tmp_path / "out", *FLAGS)
    assert first.status == 75, first.output[-2000:]
    assert f"stopped: {name} on rank 0, after step " in first.last_line()
    assert f"--resume {tmp_path / 'out'}" in first.last_line() and not first.survivors
    with open(tmp_path / "out" / "mlperf.log") as file:
        stop = json.loads(file.read().splitlines()[-1].split(":::MLLOG ")[1])
    assert stop["key"] == "run_stop" and stop["metadata"]["status"] == "aborted"
    done = find_checkpoint(tmp_path / "out").step
    assert done < 6
    second = run(
        "none:0:1",
        data,
        tmp_path / "out",
        *FLAGS,
        "--resume",
        "auto",
        "--keep-checkpoints",
        "1",
        "--save-interval",
        "1steps",
    )
    assert second.status == 0 and f"resumed after step {done}" in second.output
    assert "with the best score" not in second.output, (
        "a checkpoint must be kept until its score is known"
    )
    ours = find_checkpoint(tmp_path / "out").arrays
    for part, values in find_checkpoint(uninterrupted).arrays.items():
        if part == "pending" and part not in ours:
            continue  # the detections of the last evaluation, saved only until their score is known
        for key, value in values.items():
            np.testing.assert_array_equal(ours[part][key], value, err_msg=f"{part} {key}")
    for name in ("train.csv", "evaluation.csv"):
        kept = [
            [
                {
                    key: row[key]
                    for key in row
                    if "second" not in key and not key.endswith("wait_share")
                }
                for row in rows(folder / name)
            ]
            for folder in (uninterrupted, tmp_path / "out")
        ]
        assert kept[0] == kept[1], name


@pytest.mark.parametrize("fault", ["term", "usr1"])
def test_a_signal_to_one_of_two_ranks(data, tmp_path, fault):
    result = run(f"{fault}:1:3", data, tmp_path / "out", *FLAGS, ranks=2)
    lines = [line for line in result.output.splitlines() if "ssd train: stopped: " in line]
    assert (
        len(lines) == 1
        and "on rank 1, after step " in lines[0]
        and "checkpoint of step" in lines[0]
    )
    assert result.output.count("exit with status code 75") == 2, "both ranks, at the same step"
    assert not result.survivors and "Traceback" not in result.ranks_output()
    assert find_checkpoint(tmp_path / "out").step in (3, 4), "flags arrive one step later"


def test_a_signal_before_the_start_leaves_no_folder(data, tmp_path):
    result = run("term-at-start:0:0", data, tmp_path / "out", *FLAGS, "--resume", "auto")
    assert (
        result.status == 75 and "on rank 0, before the first step; nothing is lost" in result.output
    )
    assert not os.path.exists(tmp_path / "out")


def new_training(ranks, received):
    """A Training before its start. received: the name of a signal, or None."""
    signals = SimpleNamespace(received=received)
    return Training(None, ranks, log=None, folder=None, signals=signals, watch=None)


def test_a_signal_before_the_start_of_a_resumed_run_saves_nothing():
    """A checkpoint of that moment would replace one that holds detections without a score, and not
    hold them itself."""
    training = new_training(SimpleNamespace(gather_texts=lambda text, name: [text]), "SIGTERM")
    training.state = SimpleNamespace(started=None, progress=Progress(steps=3, evaluated=2))
    with pytest.raises(Stopped, match="SIGTERM on rank 0, before the first step"):
        training.stop(0)


def test_a_save_that_is_due_in_an_evaluation_is_requested_at_the_next_step():
    now = [0.0]
    training = new_training(SimpleNamespace(is_first=True), None)
    training.saver = SimpleNamespace(interval=SaveInterval("1min", clock=lambda: now[0]))
    now[0] = 61.0
    assert training.local_flags() == (False, False, False), "this caller cannot save"
    assert training.local_flags(may_save=True) == (False, True, False)


def test_no_checkpoint_is_saved_with_save_interval_never(data, tmp_path):
    result = run("term:0:2", data, tmp_path / "out", *FLAGS, "--save-interval", "never")
    assert (
        result.status == 75 and "no checkpoint, as --save-interval is never" in result.last_line()
    )
    assert not os.path.exists(tmp_path / "out" / "checkpoints")
