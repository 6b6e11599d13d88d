"""The number of OpenMP threads of a rank."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ssd import threads
from ssd.threads import use_all_cores


@pytest.fixture
def machine(monkeypatch):
    # Set, not deleted: only then does monkeypatch undo what the function sets.
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    for name in ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(threads, "SAMPLE_SECONDS", 0)
    others(monkeypatch, [0])
    return monkeypatch


def others(monkeypatch, busy):
    """busy: the number of cores that other processes take, in one sample after the other."""
    samples = iter(busy)
    monkeypatch.setattr(
        threads, "OtherWork", lambda: SimpleNamespace(share=lambda: next(samples) / 6)
    )


@pytest.mark.parametrize(
    "variables, number",
    [
        ({}, 6),
        ({"HOROVOD_LOCAL_SIZE": "2"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 1),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 1),
        ({"OMP_NUM_THREADS": "5", "HOROVOD_LOCAL_SIZE": "2"}, 5),
        ({"OMP_NUM_THREADS": "lots"}, 6),
        ({"HOROVOD_LOCAL_SIZE": "0"}, 6),
        ({"HOROVOD_LOCAL_SIZE": "2(x3)"}, 6),
    ],
)
def test_a_ranks_share_of_the_cores(machine, variables, number):
    for name, value in variables.items():
        machine.setenv(name, value)
    assert use_all_cores() == number
    assert os.environ["OMP_NUM_THREADS"] == str(number)


@pytest.mark.parametrize(
    "busy, ranks, number",
    [
        ([0.2], 1, 6),
        ([0.59], 1, 6),
        ([1, 1, 1, 1, 1], 1, 5),
        ([0.7, 0.9, 1.2, 0.8, 1], 1, 5),
        ([1, 1, 0], 1, 6),
        ([2.9, 3.1, 2.8, 3, 3], 1, 3),
        ([6, 6, 6, 6, 6], 1, 1),
        ([2, 2, 2, 2, 2], 2, 2),
        ([5, 5, 5, 5, 5], 2, 1),
    ],
)
def test_cores_that_other_processes_use_are_left_to_them(machine, busy, ranks, number):
    """If they use them in all samples."""
    others(machine, busy)
    machine.setenv("HOROVOD_LOCAL_SIZE", str(ranks))
    assert use_all_cores() == number


def test_a_given_spin_count_is_kept(machine):
    use_all_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "77"


TEAMS = """
import os, sys
import mxnet as mx
import numpy as np
from ssd.runtime import start
if sys.argv[1] == "ours":
    start()
(mx.nd.zeros((4, 64, 75, 75)) + 1).wait_to_read()    # the team of MXNet's own thread
before = len(os.listdir("/proc/self/task"))
mx.nd.array(np.ones(10 ** 6, np.float32))            # a large copy, by the main thread
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.slow
def test_the_main_thread_has_no_team_of_its_own():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = dict(os.environ, OMP_NUM_THREADS="3")
    counts = {}
    for kind in ("ours", "plain"):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TEAMS, kind],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        counts[kind] = int(result.stdout)
    assert counts == {"ours": 0, "plain": 2}
