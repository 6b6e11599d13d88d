"""RecordIO, MXNet's file format for many small items, in plain Python.

A record has one part or several. A part is the magic number, a word with the kind of the part in
its upper 3 bits and its length [bytes] in the other 29, the content, and zeros up to a multiple of
4 bytes; all numbers are little-endian. Where the content has the magic number at a multiple of 4
bytes, the writer splits it at that point and omits the number; so a reader that has lost its
position finds the next record by the number alone. The content of an image's record starts with
MXNet's header: the number of label values, a single label, an id of 128 bits; then come the label
values, float32, and the image file.

mx.recordio is not used: its reader has one file position for all threads, does not check what it
reads, and importing it imports MXNet. tests/datasets/test_recordio.py compares the bytes with
MXNet's.

Sources: dmlc-core, include/dmlc/recordio.h and src/recordio.cc; MXNet, src/io/image_recordio.h.
"""

from __future__ import annotations

import struct
from typing import Iterator, List

import numpy as np

MAGIC = struct.pack("<I", 0xCED7230A)
LONGEST = (1 << 29) - 1  # bytes of a content
_PART = struct.Struct("<4sI")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_IMAGE = struct.Struct("<IfQQ")


class Damaged(Exception):
    """Bytes that are not the expected record; the message says why."""


def encode(content: bytes) -> List[bytes]:
    """A content of at most LONGEST bytes as a record: pieces of bytes, to be written one after the
    other."""
    assert len(content) <= LONGEST
    pieces, start = [], 0
    for position in _magic_positions(content):
        pieces += [_head(_MIDDLE if start else _FIRST, position - start), content[start:position]]
        start = position + len(MAGIC)
    rest = content[start:] if start else content
    return [*pieces, _head(_LAST if start else _WHOLE, len(rest)), rest, bytes(-len(rest) % 4)]


def decode(record) -> memoryview:
    """The content of a record. record: any buffer with the bytes of exactly one record. Damaged."""
    view, position, parts = memoryview(record), 0, []
    expected = (_WHOLE, _FIRST)
    while expected:
        if position + _PART.size > len(view):
            raise Damaged("the record is truncated")
        magic, word = _PART.unpack_from(view, position)
        kind, length = word >> 29, word & LONGEST
        if magic != MAGIC:
            raise Damaged("RecordIO's magic number is missing")
        if kind not in expected:
            raise Damaged(f"a part of kind {kind} instead of {' or '.join(map(str, expected))}")
        start, position = position + _PART.size, position + _PART.size + length + -length % 4
        if position > len(view):
            raise Damaged("the record is longer than it should be")
        parts.append(view[start : start + length])
        expected = () if kind in (_WHOLE, _LAST) else (_MIDDLE, _LAST)
    if position < len(view):
        raise Damaged("the record is shorter than it should be")
    return parts[0] if len(parts) == 1 else memoryview(MAGIC.join(parts))


def image_content(number: int, label: np.ndarray, image: bytes) -> bytes:
    """The content of an image's record. number: its id, stored as 64 bits, two's complement; label:
    (n,) float32, n > 0; image: the bytes of the file."""
    return (
        _IMAGE.pack(len(label), 0.0, number & (1 << 64) - 1, 0)
        + label.astype("<f4").tobytes()
        + image
    )


def image_of(content: memoryview) -> memoryview:
    """The bytes of the image file in the content of its record. Damaged."""
    if len(content) < _IMAGE.size:
        raise Damaged("the record has no image header")
    start = _IMAGE.size + 4 * _IMAGE.unpack_from(content)[0]
    if start > len(content):
        raise Damaged("the record's label is longer than the record")
    return content[start:]


def image_record_size(values, image):
    """Bytes on the disc of records with `values` label values and `image` bytes of file (numbers or
    arrays) that do not contain the magic number; each time they do adds 4."""
    length = _IMAGE.size + 4 * values + image
    return _PART.size + length + -length % 4


def _head(kind: int, length: int) -> bytes:
    return _PART.pack(MAGIC, kind << 29 | length)


def _magic_positions(content: bytes) -> Iterator[int]:
    """Multiples of 4 at which the content has the magic number."""
    position = content.find(MAGIC)
    while position >= 0:
        if position % 4 == 0:
            yield position
        position = content.find(MAGIC, position + 1)
