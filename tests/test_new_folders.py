"""Runs that start in the same second: folders named by the time, and two runs with one --output."""

import os
import subprocess
import sys

import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.files import claim_folder
from ssd.training import setup

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Prints what it got, and holds it until its standard input ends.
CLAIM = """
import sys
from ssd.files import {function}
sys.stdin.readline()
print({function}(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def at_once(function, path, count):
    """What `count` processes get that ask for the same path at the same time."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM.format(function=function), str(path)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    return answers


@pytest.mark.parametrize("count", [2, 6])
def test_each_process_gets_a_folder_of_its_own(tmp_path, count):
    names = [str(tmp_path / "runs" / "ssd-20261127")] + [
        str(tmp_path / "runs" / f"ssd-20261127-{number}") for number in range(2, count + 1)
    ]
    assert sorted(at_once("new_folder", tmp_path / "runs" / "ssd-20261127", count)) == names
    assert sorted(os.listdir(tmp_path / "runs")) == [os.path.basename(name) for name in names]


@pytest.mark.parametrize("exists", [False, True])
def test_one_process_gets_a_given_folder(tmp_path, exists):
    if exists:
        (tmp_path / "out").mkdir()
    assert sorted(at_once("claim_folder", tmp_path / "out", 5)) == ["False"] * 4 + ["True"]
    assert os.listdir(tmp_path / "out") == []
    assert at_once("claim_folder", tmp_path / "out", 1) == ["True"], (
        "nothing is left of processes that have ended"
    )


def test_a_process_keeps_its_own_folder(tmp_path):
    assert claim_folder(str(tmp_path / "out")) and claim_folder(str(tmp_path / "out"))
    assert at_once("claim_folder", tmp_path / "out", 1) == ["False"]
    assert at_once("new_folder", tmp_path / "out", 1) == [str(tmp_path / "out-2")]


def test_training_refuses_a_folder_that_another_run_has_claimed(tmp_path, monkeypatch):
    config = load_recipe("ssd-resnet34-shapes").with_values(output=str(tmp_path / "out"))
    monkeypatch.setattr(setup, "claim_folder", lambda path: False)
    with pytest.raises(
        UserError, match="--output .*out: another process writes there; name a new folder"
    ):
        setup.open_folder(config)


def test_unnamed_runs_of_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setup.time, "strftime", lambda form: "-20261127-120000")
    config = load_recipe("ssd-resnet34-shapes")
    folders = [setup.open_folder(config) for _ in range(3)]
    name = os.path.join("runs", "ssd-resnet34-shapes-20261127-120000")
    assert [(folder.path, folder.part) for folder in folders] == [
        (name, 1),
        (f"{name}-2", 1),
        (f"{name}-3", 1),
    ]
