"""Single-shot detectors: training, evaluation, prediction. The first use of `Predictor` imports
MXNet."""

from ssd import mxnet_import

__version__ = "0.2.0"  # the one place where it stands: pyproject.toml reads it here
mxnet_import.install()  # before any module of this package imports MXNet


def __getattr__(name):
    if name in ("Predictor", "Detector"):  # Detector was its first name
        from ssd.tools.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
