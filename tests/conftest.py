"""For all tests: PyTorch, where installed, is imported before anything can import Horovod.

In the other order (mxnet, horovod.mxnet, torch) the process dies with "free(): invalid size".
"""
try:
    import torch  # noqa: F401
except ImportError:
    pass
