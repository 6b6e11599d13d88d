"""For all tests: PyTorch, where installed, is imported before anything can import Horovod.

In the other order (mxnet, horovod.mxnet, torch) the process dies with "free(): invalid size".

And Ctrl-C is not ignored: a shell that starts pytest in the background has it ignored, which all processes of the tests
would inherit.

scripts/test.sh runs the tests in two processes (pytest-xdist), since many of them wait for others to start, to fail or
to be found hanging. Each of the two has one thread, as have the processes that it starts.
"""
import os
import signal

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")    # before PyTorch and MXNet read it
THREADS = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    import torch  # noqa: F401
except ImportError:
    pass


# What waits comes first, so that the end is short; the longest of all are these.
FIRST = ("tests/launch/test_slurm.py", "tests/launch/test_docker", "tests/launch/", "tests/faults/")


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False    # keep the order below


def pytest_collection_modifyitems(items):
    """The order, and which tests stay in one process: those of a file, for its fixtures, and all that need the Docker
    engine, of which a machine has one."""
    def place(item):
        path = item.location[0].replace(os.sep, "/")
        return next((number for number, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))
    items.sort(key=place)
    for item in items:
        path = item.location[0]
        docker = "docker_environment" in item.fixturenames or path.endswith("test_slurm.py")
        item.add_marker(pytest.mark.xdist_group("docker" if docker else path.replace(os.sep, ".")))


@pytest.fixture(autouse=True)
def threads_of_a_command_called_here():
    """A command that a test calls in this process sets its number of threads: the next tests' processes have their own
    (two ranks would take as many threads each)."""
    yield
    for name, value in THREADS.items():
        if os.environ.get(name) != value:
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
