"""How many OpenMP threads MXNet's CPU operators get."""

from __future__ import annotations

import os
import time

from ssd.machine_load import LOOK_SECONDS, OtherWork

_LOOKS = 5
_BUSY = 0.6  # of a core, from which on it counts as taken
# Processes of this run on this machine, as mpirun, horovodrun and srun say it.
_LOCAL_SIZE_VARIABLES = (
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
)


def use_all_cores() -> int:
    """Sets OMP_NUM_THREADS, where the user has not, to the cores of this process's share; returns
    the value in force.

    To be called before MXNet is imported, and before NumPy, whose OpenBLAS reads it too. Left
    alone, MXNet takes half of the cores that it sees, whether they are hyper-threads or not: of two
    real cores one stays idle (SSD-ResNet34, batch 4: 0.80 images/s with one thread, 1.42 with two).
    Several ranks on a machine share its cores. Those that other work takes as this starts are left
    to it: threads wait for each other, and the slowest is the one that shares its core
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
    # With one team (below) a thread that waits for the next loop spins, by default for
    # milliseconds: four times slower where another job wants the core. With 20000 it is 1.3 times
    # faster than without this on a machine of its own, and 0.7 times beside a busy process; with
    # 2000 it is 1.2 and 1.05 times (docs/performance-log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return threads


def _taken(cores: int) -> int:
    """How many of this process' cores others keep busy: 0 after one look of a tenth of a second if
    that finds none; else as many as five looks find at least, since a process that ends in the
    midst of it is no company."""
    work, least = OtherWork(), float(cores)
    for _ in range(_LOOKS):
        time.sleep(LOOK_SECONDS)
        least = min(least, work.share() * cores)
        if least < _BUSY:
            return 0
    return min(cores - 1, int(least + 1 - _BUSY))


def one_openmp_team() -> None:
    """Leaves OpenMP's threads to MXNet's own thread, which does the network's work. To be called
    once MXNet is imported, in the main thread.

    Else the main thread gets a team of its own with its first large copy. GNU's OpenMP then counts
    more threads than cores and lets a thread that waits for the next loop sleep at once: 1285
    context switches in a step of the quickstart's network instead of 33, and 234 ms instead of 184
    (docs/performance-log.md).
    """
    import mxnet as mx

    mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(1))
