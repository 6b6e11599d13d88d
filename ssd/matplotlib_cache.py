"""Matplotlib's settings and font list when the home folder is not writable (a container's read-only
root)."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile


def use_writable_cache() -> None:
    """Give Matplotlib a temporary folder for this process if its folders cannot be made or written;
    call it before Matplotlib is imported. Matplotlib would do the same, but with three lines of
    warnings in the log.

    A folder chosen by the user (MPLCONFIGDIR) stays, with Matplotlib's warnings about it.
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
        return  # no temporary folder either: Matplotlib reports it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder
    # Matplotlib logs that it lists the machine's fonts, which takes seconds. With a temporary
    # folder it would log this in every process.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
