"""The collectives, on one, two and three real ranks."""

import os
import subprocess
import sys

import pytest

from ssd.training.ranks import rank_from_environment
from tests.training.tiny import ROOT, horovodrun

WORKER = os.path.join(ROOT, "tests", "training", "ranks_worker.py")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_collectives(size):
    result = subprocess.run(
        [*horovodrun(size), sys.executable, WORKER],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for rank in range(size):
        assert f"rank {rank} of {size}: all checks passed" in result.stdout


def test_the_rank_from_launchers_variables(monkeypatch):
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert rank_from_environment() == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert rank_from_environment() == 3
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "2")
    assert rank_from_environment() == 2, "mpirun inside a Slurm job"
