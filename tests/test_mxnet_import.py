"""MXNet can be imported where Python or NumPy no longer has what it uses: with stand-ins for all of
them, in a process without installed packages (and so on every version of both)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MXNET = r"""
import distutils.version, numpy
names = "bool", "int", "float", "object", "complex", "str"
numpy.names = [getattr(numpy, name) for name in names]
if numpy is 1:
    pattern = "\d"
"""
NUMPY = """
import warnings

def __getattr__(name):
    warnings.warn(f"{name} will mean something else", FutureWarning)
    raise AttributeError(name)
"""
SETUPTOOLS = """
import sys, types
for name in ("distutils", "distutils.version"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["distutils"].version = sys.modules["distutils.version"]
sys.modules["distutils"].__path__ = []
"""
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.append(sys.argv[2])
if "without distutils" in sys.argv:
    sys.modules["distutils"] = None
%s
assert "numpy" not in sys.modules and "setuptools" not in sys.modules
import mxnet, numpy
print(*[getattr(name, "__name__", name) for name in numpy.names], "setuptools" in sys.modules)
"""
FROM_SSD = "import ssd, ssd"
# As scripts/setup.sh installs it for Horovod's own processes.
ALONE = "import ssd_mxnet_import; ssd_mxnet_import.install()"


@pytest.fixture
def packages(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet/__init__.py").write_text(MXNET)
    (tmp_path / "numpy.py").write_text(NUMPY)
    (tmp_path / "setuptools.py").write_text(SETUPTOOLS)
    return tmp_path


def run(packages, entry=FROM_SSD, *arguments):
    root = "" if entry == ALONE else ROOT
    command = [sys.executable, "-I", "-S", "-B", "-c", CODE % entry, packages, root, *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, cwd=packages
    )


@pytest.mark.parametrize("entry", [FROM_SSD, ALONE])
def test_what_is_missing_is_put_back_without_a_warning(packages, entry):
    """And only when MXNet is imported: `import ssd` alone loads neither NumPy nor setuptools."""
    shutil.copy(str(ROOT / "ssd/mxnet_import.py"), str(packages / "ssd_mxnet_import.py"))
    done = run(packages, entry, "without distutils")
    assert (done.stdout, done.stderr) == ("bool int float object complex str True\n", "")


def test_what_is_there_is_left_alone(packages):
    (packages / "numpy.py").write_text("bool = int = object = complex = str = 'its own'\n")
    (packages / "distutils").mkdir()
    (packages / "distutils/__init__.py").touch()
    (packages / "distutils/version.py").touch()
    done = run(packages)
    own = "its own"
    assert (done.stdout, done.stderr) == (f"{own} {own} float {own} {own} {own} False\n", "")


def test_neither_distutils_nor_setuptools(packages):
    (packages / "setuptools.py").unlink()
    done = run(packages, FROM_SSD, "without distutils")
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: MXNet 1.9.1 needs distutils, which this Python no longer has:"
        " pip install setuptools"
    )


def test_horovodrun_can_import_mxnet(tmp_path):
    """It does so in a process of its own, which knows nothing of the package."""
    pytest.importorskip("horovod")
    command = [sys.executable, "-c", "import mxnet, sys; print('ssd' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
