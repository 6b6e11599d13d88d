"""OpenMP threads of a rank."""
import os
import subprocess
import sys

import pytest

from ssd.threads import use_all_cores


@pytest.fixture
def machine(monkeypatch):
    # Set, not deleted: only then is what the function sets taken back.
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    for name in ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    return monkeypatch


@pytest.mark.parametrize("variables, threads", [
    ({}, 6), ({"HOROVOD_LOCAL_SIZE": "2"}, 3), ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 1),
    ({"SLURM_NTASKS_PER_NODE": "8"}, 1), ({"OMP_NUM_THREADS": "5", "HOROVOD_LOCAL_SIZE": "2"}, 5),
    ({"OMP_NUM_THREADS": "lots"}, 6), ({"HOROVOD_LOCAL_SIZE": "0"}, 6), ({"HOROVOD_LOCAL_SIZE": "2(x3)"}, 6)])
def test_a_ranks_share_of_the_cores(machine, variables, threads):
    for name, value in variables.items():
        machine.setenv(name, value)
    assert use_all_cores() == threads
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


def test_a_spin_count_that_is_given_stays(machine):
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
    threads = {}
    for kind in ("ours", "plain"):
        result = subprocess.run([sys.executable, "-W", "ignore", "-c", TEAMS, kind], cwd=root, env=environment,
                                capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        threads[kind] = int(result.stdout)
    assert threads == {"ours": 0, "plain": 2}
