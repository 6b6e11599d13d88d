"""Full and unwritable discs, and scorers that die, during a complete training run."""

import json
import os
import subprocess

import pytest

from ssd.checkpoints.store import find_checkpoint
from tests.faults.launch import run
from tests.training.tiny import rows, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture
def small_disc(tmp_path):
    """A mounted file system of a given size; mounting needs root."""
    mounted = []

    def mount(size, options=""):
        folder = tmp_path / "disc"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_that_cannot_save_continues(data, small_disc):
    """The disc has space for two checkpoints, but not for a third one or the weights. Training
    completes."""
    disc = small_disc("5m")
    result = run(
        "none:0:1",
        data,
        disc / "out",
        "--max-steps",
        "4",
        "--save-interval",
        "1steps",
        "--eval-every",
        "9",
        "--boxes-per-image",
        "5",
    )
    assert result.status == 0, result.output[-2000:]
    assert "warning: checkpoint folder" in result.output and "is full" in result.output
    assert "training continues" in result.output
    assert len(rows(disc / "out" / "train.csv")) == 4
    assert find_checkpoint(disc / "out").step == 2
    assert "warning: weights" in result.output
    assert not [
        name for name in os.listdir(disc / "out" / "checkpoints") if name.startswith(".")
    ], "no temporary files"


def test_a_disc_too_full_for_the_log(data, small_disc):
    disc = small_disc("40k")
    result = run("none:0:1", data, disc / "out", "--max-steps", "2", "--save-interval", "never")
    assert result.status == 2, result.output[-2000:]
    last = result.last_line()
    assert (
        str(disc / "out") in last and "No space left" in last and "Traceback" not in result.output
    )
    assert not result.survivors


def test_a_folder_that_cannot_be_written(data, small_disc):
    disc = small_disc("1m", ",ro")
    result = run("none:0:1", data, disc / "out", "--max-steps", "2")
    assert (
        result.status == 2
        and f"--output {disc / 'out'}: Read-only file system" in result.last_line()
    )


def test_a_killed_scorer_is_restarted(data, tmp_path):
    result = run("kill-scorer:0:1", data, tmp_path / "out", "--max-steps", "2", "--eval-every", "1")
    assert result.status == 0, result.output[-2000:]
    assert (
        "scoring of epoch 1: " in result.output
        and "SIGKILL" in result.output
        and "scored again" in result.output
    )
    assert len(rows(tmp_path / "out" / "evaluation.csv")) == 1 and not result.survivors


def test_a_scorer_that_is_killed_twice_ends_the_run_and_nothing_is_lost(data, tmp_path):
    result = run("kill-scorer:0:2", data, tmp_path / "out", "--max-steps", "2", "--eval-every", "1")
    last = result.last_line()
    assert (
        result.status == 1 and "stopped: epoch 1 could not be scored" in last and "SIGKILL" in last
    )
    assert (
        "detections-epoch-1.npz" in last
        and "checkpoint of step 2 saved" in last
        and not result.survivors
    )
    assert "Traceback" not in result.output
    again = run(
        "none:0:1",
        data,
        tmp_path / "out",
        "--max-steps",
        "2",
        "--eval-every",
        "1",
        "--resume",
        "auto",
    )
    assert again.status == 0 and len(rows(tmp_path / "out" / "evaluation.csv")) == 1
    with open(tmp_path / "out" / "summary.json") as file:
        assert json.load(file)["steps"] == 2
