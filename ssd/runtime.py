"""How a process that computes with the network begins."""

from __future__ import annotations

import os

from ssd.threads import one_openmp_team, use_all_cores


def start() -> int:
    """Loads Pillow, DALI and MXNet in the order in which they live together; returns MXNet's OpenMP
    threads.

    To be called in the thread that will compute, before anything imports MXNet or Horovod. It takes
    three seconds, so what can be refused quickly is checked before. Calling it again does nothing
    more.

    Horovod loads its library with RTLD_GLOBAL, and with it the libjpeg inside MXNet 1.9.1.
    Libraries loaded later then call that one instead of their own: Pillow finds every JPEG broken,
    DALI crashes. Loaded first, they are bound to their own. OpenCV's libjpeg is hidden inside it,
    and may come later.
    """
    threads = use_all_cores()  # read once, when MXNet's library is loaded
    os.environ.setdefault(
        "MXNET_SUBGRAPH_VERBOSE", "0"
    )  # or it says at each graph that oneDNN optimises it
    # isort: off
    import PIL._imaging  # noqa: F401
    import nvidia.dali.fn
    import nvidia.dali.pipeline  # noqa: F401
    import mxnet  # noqa: F401

    # isort: on
    one_openmp_team()
    return threads
