"""Single-shot detectors: trained, evaluated, used. MXNet is loaded when `Predictor` is first asked
for."""

from ssd import mxnet_import

__version__ = "0.2.0"  # the one place where it stands: pyproject.toml reads it here
mxnet_import.install()  # before any module of this package imports MXNet


def __getattr__(name):
    if name in ("Predictor", "Detector"):  # the latter is what it was called first
        from ssd.tools.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
