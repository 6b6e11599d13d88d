"""Types of flags that several command lines share. Standard library only, as prepare-json.py runs
without any package."""

from __future__ import annotations

import argparse


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


share.__name__ = "number"  # argparse's name for it in messages
