"""Matplotlib's settings and font list, where the user's home cannot be written (a container's
read-only root)."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile


def use_writable_cache() -> None:
    """To be called before Matplotlib is imported: where its folders cannot be made or written, it
    gets a temporary one for the life of this process. By itself it would do the same, with three
    lines of warning in the log.

    A folder that the user has chosen (MPLCONFIGDIR) stays, and so do Matplotlib's words about it.
    """
    if "matplotlib" in sys.modules or os.environ.get("MPLCONFIGDIR"):
        return
    # matplotlib.get_configdir and get_cachedir, on Linux
    home = os.path.expanduser("~")
    parents = (
        os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"),
        os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"),
    )
    if all(_writable(os.path.join(parent, "matplotlib")) for parent in parents):
        return
    try:
        folder = tempfile.mkdtemp(prefix="matplotlib-")
    except OSError:
        return  # no temporary folder either: Matplotlib says what it lacks
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder
    # That it lists the machine's fonts, which takes seconds, is news once, and here it does so in
    # each process.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
