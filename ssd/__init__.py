"""Single-shot detectors: trained, evaluated, used. MXNet is loaded when `Predictor` is first asked
for."""


def __getattr__(name):
    if name in ("Predictor", "Detector"):  # the latter is what it was called first
        from ssd.tools.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
