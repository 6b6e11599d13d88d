"""What MXNet 1.9.1 needs to be imported on Python 3.12 and with NumPy 1.24 to 1.26.

It uses distutils, which Python 3.12 removed, and names such as numpy.bool, which NumPy 1.24
removed. Both are put back before MXNet is imported, whoever imports it (Horovod and GluonCV do
too). Where nothing is missing (Python 3.8 to 3.11 with NumPy 1.23) nothing is changed.

`import ssd` installs an import hook instead of doing this at once: it needs NumPy, which must not
be loaded before the number of threads is set (ssd.threads), nor for `python -m ssd --help` at all.

This file imports nothing of the package: scripts/setup.sh installs a copy of it for the processes
that import Horovod and not this package.
"""

from __future__ import annotations

import sys

# Each was the builtin of the same name.
NUMPY_NAMES = ("bool", "int", "float", "object", "complex", "str")


class _BeforeMXNet:
    """A finder that finds nothing: it prepares the process when MXNet is first looked for."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "mxnet":
            prepare()
        return None


def install() -> None:
    """Has `prepare` run when MXNet is first imported. Calling it again does nothing more."""
    if _BeforeMXNet not in sys.meta_path:
        sys.meta_path.insert(0, _BeforeMXNet)


def prepare() -> None:
    """Puts back what MXNet 1.9.1 imports and this Python or this NumPy no longer has.

    Raises ModuleNotFoundError where distutils is missing, and setuptools, which holds a copy, too.
    """
    import builtins
    import importlib.util
    import warnings

    if importlib.util.find_spec("distutils") is None:
        try:
            import setuptools  # noqa: F401  makes its copy known as distutils
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "MXNet 1.9.1 needs distutils, which this Python no longer has:"
                " pip install setuptools",
                name="distutils",
            ) from None
    import numpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns about some of these names when asked for them
        missing = [name for name in NUMPY_NAMES if not hasattr(numpy, name)]
    for name in missing:
        setattr(numpy, name, getattr(builtins, name))
    # Shown when MXNet's files are compiled first: six from Python 3.12 on.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*[\\/]mxnet[\\/]")
