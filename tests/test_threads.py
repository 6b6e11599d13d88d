"""OpenMP threads of a rank."""
import os

import pytest

from ssd.threads import use_all_cores


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # set, not deleted: only then is what the function sets taken back
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
