"""Reading users' JSON files: any of JSON's encodings, with or without a byte order mark, compressed
or not.

All annotation files and files of detections are read by this module, so that one rule holds for
all.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import stat
import zlib
from typing import Any, BinaryIO, Iterator, Optional

# The first bytes of compressed files, and what opens them.
_COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_ARCHIVES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)


# What users may have instead of the file: a failed download, or another format.
_OTHERS = (
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that",
    ),
    (b"<!doctype", "it is a web page, perhaps instead of a download"),
    (b"<html", "it is a web page, perhaps instead of a download"),
    (b"<?xml", "it is XML, and JSON is needed"),
)


@contextlib.contextmanager
def open_bytes(path) -> Iterator[BinaryIO]:
    """A file open for reading its bytes once, from start to end; a gzip, bzip2 or xz file is
    decompressed.

    A pipe is read like a file. Raises OSError, also while it is open, if it cannot be read; an
    archive, a damaged compressed file and a file that is written meanwhile are named as such.
    """
    with open(path, "rb") as file, _unchanged(file):
        start = file.peek(32)[:32]
        for magic, what in _ARCHIVES:
            if start.startswith(magic):
                raise OSError(f"it is {what}, which cannot be read directly; unpack it first")
        for beginning, what in _OTHERS:
            if start.lstrip().lower().startswith(beginning):
                raise OSError(what)
        opener = next((opener for magic, opener in _COMPRESSED if start.startswith(magic)), None)
        if opener is None:
            yield file
            return
        try:
            with opener(file, "rb") as inside:
                yield inside
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise OSError(f"it is compressed, and cut short or damaged: {error}") from None


@contextlib.contextmanager
def _unchanged(file) -> Iterator[None]:
    """OSError if a file changed meanwhile, in place of any error that this has caused."""
    before = _state(file)
    try:
        yield
    except Exception:
        if _state(file) == before:
            raise
    if _state(file) != before:
        raise OSError("it was changed while it was read; start again once it is complete")


def _state(file):
    status = os.fstat(file.fileno())
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def load_json(path) -> Any:
    """The content of a JSON file. OSError as of open_bytes; ValueError or RecursionError if it is
    not JSON."""
    with open_bytes(path) as file:
        return json.loads(file.read())


def whole_number(value) -> Optional[int]:
    """A JSON value as an int if it is a 64-bit integer, else None. JSON does not distinguish 3.0
    from 3, so both count; numbers with a point must be exact in float64. True is no number, nor is
    text."""
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def not_whole(value) -> str:
    """Why a JSON value is no integer, to be added to a message that names the value."""
    return (
        "is missing"
        if value is None
        else "is text, not a number"
        if isinstance(value, str)
        else "is no whole number of 64 bits"
    )
