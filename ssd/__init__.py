"""Single-shot detectors: trained, evaluated, used. `from ssd import Detector` loads MXNet only when it is asked for."""


def __getattr__(name):
    if name == "Detector":
        from ssd.tools.detector import Detector
        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
