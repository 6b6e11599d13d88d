"""The number of OpenMP threads for MXNet's CPU operators."""

from __future__ import annotations

import os
import time

from ssd.machine_load import SAMPLE_SECONDS, OtherWork

_SAMPLES = 5
_BUSY = 0.6  # share of a core above which it counts as taken
# The number of this run's processes on this machine, as set by horovodrun, mpirun and srun.
_LOCAL_SIZE_VARIABLES = (
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
)


def use_all_cores() -> int:
    """Sets OMP_NUM_THREADS, unless the user has, to this process's share of the cores; returns the
    value in force.

    Call it before MXNet is imported, and before NumPy, whose OpenBLAS reads it too. By default
    MXNet takes half of the cores that it sees, whether they are hyper-threads or not, so one of two
    real cores stays idle (SSD-ResNet34, batch 4: 0.80 images/s with one thread, 1.42 with two).
    Several ranks on a machine share its cores. Cores that other work takes when this is called are
    left to that work: threads wait for each other, and the slowest is the one that shares its core
    (quickstart's network on two cores beside one busy process: 8.3 images/s with one thread, 5.4
    with two).
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0))
    local_size = next(
        (
            int(os.environ[name])
            for name in _LOCAL_SIZE_VARIABLES
            if os.environ.get(name, "").isdigit()
        ),
        1,
    )
    threads = max(1, (cores - _taken(cores)) // max(1, local_size))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # With one team (see below), a thread that waits for the next loop spins, by default for
    # milliseconds: four times slower if another job wants the core. Compared with not setting this,
    # 20000 is 1.3 times as fast on an idle machine and 0.7 times beside a busy process; 2000 is 1.2
    # and 1.05 times as fast (docs/performance-log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return threads


def _taken(cores: int) -> int:
    """How many of this process's cores others keep busy: 0 if one sample of a tenth of a second
    finds none; else the least of five samples, since a process that ends in the meantime does not
    matter."""
    work, least = OtherWork(), float(cores)
    for _ in range(_SAMPLES):
        time.sleep(SAMPLE_SECONDS)
        least = min(least, work.share() * cores)
        if least < _BUSY:
            return 0
    return min(cores - 1, int(least + 1 - _BUSY))


def one_openmp_team() -> None:
    """Leaves OpenMP's threads to MXNet's own thread, which runs the network. Call it in the main
    thread, once MXNet is imported.

    Otherwise the main thread gets a team of its own with its first large copy. GNU's OpenMP then
    counts more threads than cores, and a thread that waits for the next loop sleeps at once: 1285
    context switches in a step of the quickstart's network instead of 33, and 234 ms instead of 184
    (docs/performance-log.md).
    """
    import mxnet as mx

    mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(1))
