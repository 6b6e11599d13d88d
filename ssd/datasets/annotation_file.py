"""Opening a COCO annotation file, and messages about it."""

from __future__ import annotations

import contextlib
import gc
import reprlib

from ssd.datasets.json_files import open_bytes
from ssd.errors import UserError

SECTIONS = ("images", "annotations", "categories")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def show(value) -> str:
    """Any JSON value as one short line of printable text (line breaks and lone surrogates
    escaped)."""
    return _short.repr(value)


@contextlib.contextmanager
def opened(path):
    """An annotation file, open for reading bytes, see open_bytes; UserError if that fails."""
    try:
        with open_bytes(path) as file:
            yield file
    except UserError:  # a ValueError too
        raise
    except FileNotFoundError:
        raise UserError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise UserError(f"annotation file {path} cannot be read: {_one_line(error)}") from None
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise UserError(f"annotation file {path} cannot be read: {_one_line(error)}") from None


@contextlib.contextmanager
def collector_off():
    """Turns Python's garbage collector off: with it, millions of small objects, none of them
    garbage, take half as long again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def not_json(path: str, error) -> UserError:
    return UserError(f"annotation file {path} is not JSON: {_one_line(error)}")


def _one_line(error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
