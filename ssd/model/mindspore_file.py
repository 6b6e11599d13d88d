"""Read a MindSpore checkpoint (.ckpt) without MindSpore and without protobuf.

The file is one protobuf message (google's encoding: a key of field number and wire type, then a
varint or a length and bytes), as MindSpore 1 and 2 write it: repeated field 1, a parameter, of
field 1, its name, and field 2, a tensor of field 1, its sides, field 2, the name of its type, and
field 3, its numbers in little-endian order. A parameter that is too large for one entry continues
in the following entries of its name. Newer files may end with a checksum, which is ignored.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple

import numpy as np

from ssd.errors import UserError

TYPES = {
    "Float16": "<f2",
    "Float32": "<f4",
    "Float64": "<f8",
    "Int8": "|i1",
    "Int16": "<i2",
    "Int32": "<i4",
    "Int64": "<i8",
    "UInt8": "|u1",
    "Bool": "|b1",
}
CHECKSUM = b"crc_num"
_VARINT, _BYTES = 0, 2  # wire types


class _Damaged(Exception):
    """What is wrong with the file."""


def read_checkpoint(path: str) -> Dict[str, np.ndarray]:
    """{name: array} of all parameters, in the file's order, with their shapes and types. UserError
    naming the file where it is no checkpoint, is cut off or damaged."""
    try:
        with open(path, "rb") as file:
            content = memoryview(file.read())
        return _parameters(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _Damaged as error:
        raise UserError(f"{path}: not an intact MindSpore checkpoint: {error}") from None


def _parameters(content: memoryview) -> Dict[str, np.ndarray]:
    parts: Dict[str, List] = {}
    for field, value in _fields(content, top=True):
        if field != 1 or not isinstance(value, memoryview):
            raise _Damaged(f"field {field}, where parameters are field 1")
        name, sides, kind, numbers = _parameter(value)
        known = parts.setdefault(name, [sides, kind, []])
        if known[:2] != [sides, kind]:
            raise _Damaged(f"two parameters named {name}")
        known[2].append(numbers)
    if not parts:
        raise _Damaged("it holds no parameter")
    return {name: _array(name, *part) for name, part in parts.items()}


def _parameter(message: memoryview) -> Tuple[str, Tuple[int, ...], str, memoryview]:
    name, tensor = "", None
    for field, value in _fields(message):
        if field == 1:
            name = _text(value)
        elif field == 2:
            tensor = value
    if not name or not isinstance(tensor, memoryview):
        raise _Damaged(
            f"a parameter {name!r} without a tensor" if name else "a parameter without a name"
        )
    sides, kind, numbers = [], "", memoryview(b"")
    for field, value in _fields(tensor):
        if field == 1:
            sides += _packed(value) if isinstance(value, memoryview) else [value]
        elif field == 2:
            kind = _text(value)
        elif field == 3 and isinstance(value, memoryview):
            numbers = value
    return name, tuple(sides), kind, numbers


def _array(name: str, sides: Tuple[int, ...], kind: str, numbers: List[memoryview]) -> np.ndarray:
    if kind not in TYPES:
        raise _Damaged(f"parameter {name} is of type {kind!r:.40}")
    dtype, count = np.dtype(TYPES[kind]), 1
    for side in sides:
        count *= side
    size = sum(map(len, numbers))
    if size != count * dtype.itemsize:
        raise _Damaged(
            f"parameter {name} of shape {sides} has {size} bytes instead of "
            f"{count * dtype.itemsize}"
        )
    return np.frombuffer(b"".join(numbers), dtype).reshape(sides).astype(dtype.newbyteorder("="))


def _fields(message: memoryview, top: bool = False) -> Iterator[Tuple[int, object]]:
    """(field number, int or bytes) of a message. top: it may end with a checksum."""
    offset = 0
    while offset < len(message):
        if top and bytes(message[offset : offset + len(CHECKSUM)]) == CHECKSUM:
            return
        key, offset = _varint(message, offset)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, offset = _varint(message, offset)
        elif wire == _BYTES:
            length, offset = _varint(message, offset)
            if length > len(message) - offset:
                raise _Damaged(f"it is cut off: {len(message) - offset} of {length} bytes are left")
            value, offset = message[offset : offset + length], offset + length
        else:
            raise _Damaged(f"wire type {wire}, which no MindSpore checkpoint has")
        yield field, value


def _varint(message: memoryview, offset: int) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            raise _Damaged("it is cut off")
        byte = message[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
    raise _Damaged("a number that does not end")


def _packed(values: memoryview) -> List[int]:
    found, offset = [], 0
    while offset < len(values):
        value, offset = _varint(values, offset)
        found.append(value)
    return found


def _text(value) -> str:
    try:
        return bytes(value).decode() if isinstance(value, memoryview) else ""
    except UnicodeDecodeError:
        raise _Damaged("a name that is no text") from None
