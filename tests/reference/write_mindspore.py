"""Writes MindSpore's checkpoint format, as its files were seen to be (ssd.model.mindspore_file
reads it)."""

import numpy as np

NAMES = {"float16": "Float16", "float32": "Float32", "int32": "Int32", "int64": "Int64"}


def _varint(value):
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes(parts) + bytes([value])


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def write_mindspore(path, tensors):
    """tensors: {name: array}."""
    with open(path, "wb") as file:
        for name, array in tensors.items():
            array = np.asarray(array)
            tensor = b"".join(_varint(1 << 3) + _varint(side) for side in array.shape)
            tensor += _field(2, NAMES[array.dtype.name].encode()) + _field(3, array.tobytes())
            file.write(_field(1, _field(1, name.encode()) + _field(2, tensor)))
