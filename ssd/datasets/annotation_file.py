"""Reading a COCO annotation file: what it must be before anybody looks at its entries."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import reprlib

from ssd.errors import UserError

SECTIONS = ("images", "annotations", "categories")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def show(value) -> str:
    """Any JSON value as one short line of printable text (line breaks and lone surrogates escaped)."""
    return _short.repr(value)


def read_annotation_file(path) -> dict:
    """The JSON object of a COCO annotation file, its three sections proved to be lists.

    The entries of the sections are not looked at. Raises UserError, in one line, for a file that cannot be
    read, is not JSON, or is not COCO ground truth (a list at the top level is named as COCO detections).
    """
    path = os.fspath(path)
    with opened(path) as file, collector_off():
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, an integer too long
            raise not_json(path, error) from None
    if isinstance(content, list):
        raise UserError(f"annotation file {path} is not COCO ground truth: a list at the top level, "
                        "as COCO detections have it")
    if not isinstance(content, dict):
        raise UserError(f"annotation file {path} is not COCO: {show(content)} at the top level")
    for section in SECTIONS:
        if section not in content:
            raise UserError(f"annotation file {path} is not COCO: it has no {section!r}")
        if not isinstance(content[section], list):
            raise UserError(f"annotation file {path} is not COCO: {section!r} is not a list "
                            f"but {show(content[section])}")
    return content


@contextlib.contextmanager
def opened(path):
    """An annotation file, open for reading bytes; what prevents that is a UserError."""
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise UserError(f"annotation file {show(path)} cannot be read: {_one_line(error)}") from None
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise UserError(f"annotation file {show(path)} cannot be read: {_one_line(error)}") from None


@contextlib.contextmanager
def collector_off():
    """Without Python's collector: millions of small objects, none of them garbage, take half as long again with it."""
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
