"""Types of flags that several command lines have; without a package, as prepare-json.py runs
without any."""

from __future__ import annotations

import argparse


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


share.__name__ = "number"  # what argparse calls it in its messages
