"""For all tests: PyTorch, where installed, is imported before anything can import Horovod.

In the other order (mxnet, horovod.mxnet, torch) the process dies with "free(): invalid size".

And Ctrl-C is not ignored: a shell that starts pytest in the background has it ignored, which all
processes of the tests would inherit.

scripts/test.sh runs the tests in three processes (pytest-xdist), since many of them wait for others
to start, to fail or to be found hanging. Each of them has one thread, as have the processes that
it starts.
"""

import contextlib
import ctypes
import gc
import os
import signal

import pytest

import ssd  # noqa: F401  many tests import MXNet before the package (ssd.mxnet_import)

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch and MXNet read it
THREADS = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    import torch  # noqa: F401
except ImportError:
    pass


# Those that need a Docker engine and its image, which are made once in a process, or ask as much of
# the machine.
DOCKER = ("tests/launch/test_slurm.py", "tests/launch/test_docker")
# What waits comes first, so that the end is short; the longest of all are these.
FIRST = (*DOCKER, "tests/test_every_recipe.py", "tests/launch/", "tests/faults/")
# What starts processes, networks of full size or servers: no part of the quick subset.
SLOW = (
    "tests/launch/",
    "tests/faults/",
    "tests/scripts/",
    "tests/benchmark/",
    "tests/benchmarks/",
    "tests/report/",
    "tests/test_every_recipe.py",
    "tests/test_ends.py",
    "tests/test_mlperf.py",
    "tests/test_retinanet_log.py",
    "tests/tools/test_predictor.py",
    "tests/evaluation/test_fast_scoring.py",
    "tests/data/test_",
    *(
        f"tests/commands/test_{name}"
        for name in ("evaluate", "export", "odd_annotations", "predict", "show_data")
    ),
    *(f"tests/datasets/test_{name}" for name in ("prepare_json", "shapes")),
    *(
        f"tests/model/test_{name}"
        for name in (
            "backbone",
            "channels_last",
            "family_reference",
            "fine_tuning",
            "int8",
            "retinanet_reference",
            "structure",
            "weights",
        )
    ),
    *(
        f"tests/training/test_{name}.py"
        for name in (
            "bad_input",
            "norm_groups",
            "optimizer",
            "own_data",
            "plan",
            "progress",
            "ranks",
            "retinanet",
            "run_folder",
            "score_extent",
            "trace",
            "train",
        )
    ),
)


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # keep the order below


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay in one process, for its fixtures, and those of DOCKER too."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return DOCKER[0] if nodeid.startswith(DOCKER) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    def rank(item):
        return next(
            (number for number, start in enumerate(FIRST) if item.nodeid.startswith(start)),
            len(FIRST),
        )

    items.sort(key=rank)
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def memory_goes_back():
    """The C library keeps what a module's networks have freed, in pieces, for every thread: 3.3 GB
    after the reference tests, of which 1.0 GB are in use."""
    yield
    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def threads_of_a_command_called_here():
    """A command that a test calls in this process sets its number of threads: the next tests'
    processes have their own (two ranks would take as many threads each)."""
    yield
    for name, value in THREADS.items():
        if os.environ.get(name) != value:
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
