"""For all tests: PyTorch, where installed, is imported before anything can import Horovod.

In the other order (mxnet, horovod.mxnet, torch) the process dies with "free(): invalid size".

And Ctrl-C is not ignored: a shell that starts pytest in the background has it ignored, which all processes of the tests
would inherit.
"""
import os
import signal

import pytest

THREADS = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    import torch  # noqa: F401
except ImportError:
    pass


@pytest.fixture(autouse=True)
def threads_of_a_command_called_here():
    """A command that a test calls in this process sets its number of threads: the next tests' processes have their own
    (two ranks would take as many threads each)."""
    yield
    for name, value in THREADS.items():
        if os.environ.get(name) != value:
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
