"""The start of a process that runs the network."""

from __future__ import annotations

import os

from ssd.threads import one_openmp_team, use_all_cores


def start() -> int:
    """Loads Pillow, DALI and MXNet in the only order in which they work together; returns the
    number of MXNet's OpenMP threads.

    Call it in the thread that will compute, before anything imports MXNet or Horovod. It takes
    three seconds, so check first what can be refused quickly. A second call does nothing.

    Horovod loads its library with RTLD_GLOBAL, and with it the libjpeg inside MXNet 1.9.1.
    Libraries loaded later then call that libjpeg instead of their own: Pillow finds every JPEG
    broken, DALI crashes. Libraries loaded first are bound to their own. OpenCV hides its libjpeg,
    and may be loaded later.
    """
    threads = use_all_cores()  # read once, when MXNet's library is loaded
    # Otherwise MXNet prints a line for each graph that oneDNN optimises.
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    # isort: off
    import PIL._imaging  # noqa: F401
    import nvidia.dali.fn
    import nvidia.dali.pipeline  # noqa: F401
    import mxnet  # noqa: F401

    # isort: on
    one_openmp_team()
    return threads
