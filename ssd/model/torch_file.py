"""Read a PyTorch state dict without PyTorch and without unpickling.

A .pth file is a pickle, and unpickling runs whatever the file asks for; torch_pickle.py interprets
it instead. Formats, after torch/serialization.py of PyTorch:
- zip (1.6 and later): ARCHIVE/data.pkl, ARCHIVE/data/KEY (raw storages), stored uncompressed;
- the older one: pickles of a magic number, a protocol number, system information, the object and
  the list of storage keys, one after the other, then for each key an int64 count of elements and
  the raw storage.
"""

from __future__ import annotations

import io
import struct
import zipfile
from reprlib import repr as short
from typing import Any, BinaryIO, Dict

import numpy as np

from ssd.errors import UserError
from ssd.model.torch_pickle import StorageRecord, TensorRecord, interpret, interpret_checkpoint

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# Keys under which a checkpoint keeps its state dict.
STATE_KEYS = ("model", "state_dict", "model_state_dict", "net", "ssd")


def _state_dict_of(value: Any) -> Dict[str, TensorRecord]:
    if type(value) is not dict or not value:
        raise UserError("no dict of tensors")
    for name, tensor in value.items():
        if type(name) is not str or not isinstance(tensor, TensorRecord):
            raise UserError(
                f"the entry {short(name)}, which is a {type(tensor).__name__} and no tensor"
            )
    return value


def _state_dict_in(value: Any) -> Dict[str, TensorRecord]:
    """The state dict of a checkpoint: the value itself, or under one of STATE_KEYS."""
    if type(value) is dict and any(isinstance(entry, TensorRecord) for entry in value.values()):
        return _state_dict_of(value)
    found = [key for key in STATE_KEYS if type(value) is dict and type(value.get(key)) is dict]
    if not found:
        raise UserError("no dict of tensors, itself or under " + ", ".join(STATE_KEYS))
    return _state_dict_of(value[found[0]])


def _read_value(file, checkpoint: bool):
    """(tensors, every storage that the pickle names, or None)."""
    if checkpoint:
        value, records = interpret_checkpoint(file)
        return _state_dict_in(value), records
    return _state_dict_of(interpret(file)), None


def _storages_of(tensors: Dict[str, TensorRecord]) -> Dict[str, StorageRecord]:
    records: Dict[str, StorageRecord] = {}
    for tensor in tensors.values():
        record = records.setdefault(tensor.storage.key, tensor.storage)
        if (record.dtype, record.total) != (tensor.storage.dtype, tensor.storage.total):
            raise UserError(f"two descriptions of storage {record.key}")
    return records


def _to_arrays(
    tensors: Dict[str, TensorRecord], storages: Dict[str, np.ndarray]
) -> Dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in tensors.items():
        start, count = tensor.storage.start, tensor.storage.count
        part = storages[tensor.storage.key][start : start + count]
        strides = tuple(stride * part.itemsize for stride in tensor.strides)
        # The bounds were checked when the record was read.
        view = np.lib.stride_tricks.as_strided(
            part[tensor.offset :], tensor.shape, strides, writeable=False
        )
        # In the machine's byte order, and a copy, so that no array keeps its storage alive.
        arrays[name] = np.array(view, dtype=part.dtype.newbyteorder("="), order="C")
    return arrays


def _read_zip(file: BinaryIO, checkpoint: bool) -> Dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError("a zip archive without a data.pkl")
        folder = pickles[0].split("/")[0]

        def read(name: str) -> bytes:
            # PyTorch stores without compression, so nothing read here is larger than the file.
            if name not in entries or entries[name].compress_type != zipfile.ZIP_STORED:
                raise UserError(f"no uncompressed entry {name}")
            return archive.read(name)

        if f"{folder}/byteorder" in entries and read(f"{folder}/byteorder") != b"little":
            raise UserError("a byte order other than little-endian")
        tensors, _ = _read_value(io.BytesIO(read(pickles[0])), checkpoint)
        storages = {}
        for key, record in _storages_of(tensors).items():
            data = read(f"{folder}/data/{key}")
            size = record.total * record.dtype.itemsize
            if len(data) != size:
                raise UserError(f"storage {key} of {len(data)} bytes instead of {size}")
            storages[key] = np.frombuffer(data, record.dtype)
        return _to_arrays(tensors, storages)


def _read_old(file: io.BytesIO, checkpoint: bool) -> Dict[str, np.ndarray]:
    if interpret(file) != MAGIC_NUMBER:
        raise UserError("a pickle that is not PyTorch's")
    version, system = interpret(file), interpret(file)
    if version != PROTOCOL_VERSION:
        raise UserError(f"protocol version {short(version)} instead of {PROTOCOL_VERSION}")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UserError("a byte order other than little-endian")
    tensors, named = _read_value(file, checkpoint)
    keys = interpret(file)
    records = {**(named or {}), **_storages_of(tensors)}
    if (
        type(keys) is not list
        or not all(type(key) is str for key in keys)
        or len(set(keys)) != len(keys)
    ):
        raise UserError("a list of storage keys that is malformed")
    file_size = file.getbuffer().nbytes
    storages: Dict[str, np.ndarray] = {}
    for key in keys:
        if key not in records:  # without its type, its length in bytes is not known
            raise UserError(f"storage {key}, which no tensor uses")
        record = records[key]
        header = file.read(8)
        count = int.from_bytes(header, "little", signed=True)
        if len(header) == 8 and count != record.total:
            raise UserError(f"storage {key} of {count} elements instead of {record.total}")
        size, left = record.total * record.dtype.itemsize, file_size - file.tell()
        if len(header) < 8 or left < size:
            raise UserError(f"storage {key} cut off at {left} of {size} bytes")
        storages[key] = np.frombuffer(file.read(size), record.dtype)
    missing = sorted(set(records) - set(storages))
    if missing:
        raise UserError(f"no data for storage {missing[0]}")
    return _to_arrays(tensors, storages)


def read_state_dict(path: str, checkpoint: bool = False) -> Dict[str, np.ndarray]:
    """The tensors of a state dict saved by torch.save, in either of PyTorch's file formats.
    checkpoint: the state dict may also be under one of STATE_KEYS in a dict of other things, which
    are ignored.

    Returns {name: array} in the file's order: contiguous copies in the machine's byte order, of the
    tensor's shape and dtype (float16/32/64, int8/16/32/64, uint8 or bool). Shared storages, offsets
    and strides are resolved.

    Raises UserError, naming the file and what was found, for anything that is not a plain state
    dict of dense tensors: other objects, other types, damage, a cut-off file, big-endian data.
    Nothing in it is executed.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                return _read_zip(file, checkpoint)
            if start[:1] == b"\x80":
                # From memory, where reading by a damaged length returns what there is; a file's
                # read would allocate that length first.
                return _read_old(io.BytesIO(file.read()), checkpoint)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
        struct.error,
    ) as error:
        # zipfile raises all of these for a damaged archive.
        raise UserError(f"{path}: not an intact PyTorch file: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: not a state dict that can be read: it holds {error}") from None
    raise UserError(f"{path}: not a PyTorch file")
