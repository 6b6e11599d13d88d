"""Matplotlib without a writable home folder: no warnings, and no files left."""

import os
import subprocess
import sys

import pytest

from tests.training.tiny import ROOT

CODE = """
from ssd.matplotlib_cache import use_writable_cache
use_writable_cache()
import matplotlib
print(matplotlib.get_configdir(), matplotlib.get_cachedir())
"""


@pytest.mark.parametrize(
    "home, temporary",
    [
        (dict(HOME="/proc/none"), True),
        (dict(HOME="/dev/null"), True),
        (dict(XDG_CONFIG_HOME="/proc/none"), True),
        (dict(XDG_CACHE_HOME="/proc/none"), True),
        (dict(), False),
        (dict(HOME="/proc/none", MPLCONFIGDIR="mine"), False),
    ],
)
def test_writable_folders_are_used_else_a_temporary_one(tmp_path, home, temporary):
    (tmp_path / "mine").mkdir()
    (tmp_path / "tmp").mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))
    }
    environment.update(
        dict(dict(HOME=str(tmp_path)), **home), TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=ROOT
    )
    result = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    folders = result.stdout.split()
    assert [folder.startswith(str(tmp_path / "tmp" / "matplotlib-")) for folder in folders] == [
        temporary
    ] * 2
    assert os.listdir(tmp_path / "tmp") == [], "what is temporary goes"
