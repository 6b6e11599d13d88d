"""Single-shot detectors: training, evaluation, prediction. The first use of `Predictor` imports
MXNet."""


def __getattr__(name):
    if name in ("Predictor", "Detector"):  # Detector was its first name
        from ssd.tools.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
