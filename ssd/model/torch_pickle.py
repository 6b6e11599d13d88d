"""A closed interpreter for the pickles inside PyTorch's files: it imports nothing and calls
nothing.

pickletools names the opcodes; those that a state dict of tensors consists of are executed on dicts,
lists, tuples, strings and numbers, and PyTorch's tensor records become TensorRecord. Anything else
is refused by name, or, in a checkpoint, which also holds optimizer, schedule and arguments, becomes
an Opaque without content. The records are those of torch/_utils.py and
torch/serialization.py of PyTorch.
"""

from __future__ import annotations

import io
import pickletools
from reprlib import repr as short  # the content of a damaged file may be deep or long
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from ssd.errors import UserError

_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class StorageRecord(NamedTuple):
    key: str
    dtype: np.dtype
    total: int  # elements of the stored array
    start: int  # this storage is its elements start to start + count
    count: int


class TensorRecord(NamedTuple):
    storage: StorageRecord
    offset: int  # elements, as are strides
    shape: tuple
    strides: tuple


class _Global(NamedTuple):
    name: str


class Opaque(NamedTuple):
    """An object that was not constructed, by the name of its constructor."""

    name: str


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _rebuild_tensor(args: tuple) -> TensorRecord:
    """The first four arguments of torch._utils._rebuild_tensor and _v2; the rest is about
    gradients."""
    if len(args) < 4 or not isinstance(args[0], StorageRecord) or not _is_count(args[1]):
        raise UserError("a tensor record without storage and offset")
    storage, offset, shape, strides = args[:4]
    for sizes in (shape, strides):
        if type(sizes) is not tuple or not all(map(_is_count, sizes)):
            raise UserError(f"a tensor with shape {short(shape)} and strides {short(strides)}")
    if len(shape) != len(strides) or len(shape) > 32:
        raise UserError(f"a tensor with {len(shape)} dimensions and {len(strides)} strides")
    elements = 1
    for size in shape:
        elements *= size
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    # More elements than storage (stride 0) are no weights, but a way to fill the memory.
    if elements > storage.count or (elements and last >= storage.count):
        raise UserError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} in a storage of "
            f"{storage.count} elements"
        )
    return TensorRecord(storage, offset, shape, strides)


def _unwrap_parameter(args: tuple) -> TensorRecord:
    if not args or not isinstance(args[0], TensorRecord):
        raise UserError("a Parameter without a tensor")
    return args[0]


def _ordered_dict(args: tuple) -> dict:
    """OrderedDict() as Python 3 writes it, or OrderedDict([[key, value], ...]) as Python 2 does."""
    pairs = args[0] if args else []
    if len(args) > 1 or type(pairs) is not list:
        raise UserError("an OrderedDict of something other than pairs")
    result: dict = {}
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise UserError("an OrderedDict of something other than pairs")
        _set_item(result, *pair)
    return result


def _set_item(target: Any, key: Any, value: Any) -> None:
    if type(target) is not dict or type(key) not in (str, int):
        raise UserError(f"an item under a key of type {type(key).__name__}")
    target[key] = value


_CALLS: Dict[str, Callable[[tuple], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _unwrap_parameter,
    "torch.nn.parameter.Parameter": _unwrap_parameter,
}
_STORAGE_TYPES = {
    f"{module}.{name}": np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for name, dtype in _STORAGE_DTYPES.items()
}


def _persistent_storage(identity: Any) -> StorageRecord:
    """("storage", type, key, location, elements[, view]), view being None or (key, start,
    elements)."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise UserError("a persistent id that is no storage")
    kind, key, _, total = identity[1:5]
    if not isinstance(kind, _Global) or kind.name not in _STORAGE_TYPES:
        raise UserError(f"a storage of type {getattr(kind, 'name', None) or short(kind)}")
    if type(key) is not str or not _is_count(total):
        raise UserError(f"a storage with key {short(key)} and {short(total)} elements")
    start, count = 0, total
    view = identity[5] if len(identity) == 6 else None
    if view is not None:
        if type(view) is not tuple or len(view) != 3 or not all(map(_is_count, view[1:])):
            raise UserError(f"a view of storage {key} that is malformed")
        start, count = view[1:]
        if start + count > total:
            raise UserError(f"a view past the end of storage {key}")
    return StorageRecord(key, _STORAGE_TYPES[kind.name], total, start, count)


_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Interpreter:
    """One pickle, from PROTO to STOP. opaque: unknown objects become Opaque. records: the storages
    seen, by key."""

    def __init__(self, opaque: bool = False) -> None:
        self.stack: List[Any] = []
        self.memo: Dict[int, Any] = {}
        self.opaque = opaque
        self.records: Dict[str, StorageRecord] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise UserError("a pickle that takes more than it has put")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list:
        values: list = []
        while self.stack and self.stack[-1] is not _MARK:
            values.append(self.stack.pop())
        if not self.stack:
            raise UserError("a pickle without the mark that it needs")
        self.stack.pop()
        return values[::-1]

    def run(self, file: io.BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        value = self.pop()
        if self.stack:
            raise UserError("a pickle with something left over")
        return value

    def step(self, name: str, argument: Any) -> None:
        if name == "PROTO":
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _TUPLES:
            self.stack.append(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_to_mark()))
        elif name == "EMPTY_DICT":
            self.stack.append({})
        elif name == "EMPTY_LIST":
            self.stack.append([])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise UserError(f"a pickle that recalls entry {argument}, which it never kept")
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            wanted = argument.replace(" ", ".")
            known = wanted in _CALLS or wanted in _STORAGE_TYPES
            if not known and not self.opaque:
                raise UserError(
                    f"a request for {wanted}, which no state dict of tensors needs (it was not "
                    "followed)"
                )
            self.stack.append(_Global(wanted) if known else Opaque(wanted))
        elif name == "BINPERSID":
            record = _persistent_storage(self.pop())
            self.records.setdefault(record.key, record)
            self.stack.append(record)
        elif self.opaque and name in _OPAQUE:
            self.step_opaque(name, argument)
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            if isinstance(function, Opaque):  # only with `opaque`
                self.stack.append(function)
                return
            known = isinstance(function, _Global) and function.name in _CALLS
            if not known or type(arguments) is not tuple:
                raise UserError("a call of something that is no tensor record")
            self.stack.append(_CALLS[function.name](arguments))
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_to_mark()
            if len(items) % 2:
                raise UserError("a dict with a key and no value")
            if self.opaque and not isinstance(self.top(), dict):
                return  # an object that behaves like a dict
            for key, value in zip(items[::2], items[1::2]):
                if self.opaque and type(key) not in (str, int):
                    continue  # of an optimizer's or a schedule's state
                _set_item(self.top(), key, value)
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            if self.opaque and isinstance(self.top(), Opaque):
                return
            if type(self.top()) is not list:
                raise UserError("an append to something that is no list")
            self.top().extend(items)
        elif name == "BUILD":
            # A module's state dict carries _metadata, an old Parameter gradient flags: neither is a
            # weight.
            self.pop()
            if not isinstance(self.top(), (dict, TensorRecord, Opaque)):
                raise UserError("attributes for something that is neither dict nor tensor")
        else:
            raise UserError(f"the pickle operation {name}, which no state dict of tensors needs")

    def step_opaque(self, name: str, argument: Any) -> None:
        """What a checkpoint holds besides tensors: numbers, bytes, sets, objects of any class."""
        if name in ("BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "LONG4", "INT", "LONG", "FLOAT"):
            self.stack.append(argument)
        elif name == "NEWOBJ":
            self.pop()
            kind = self.pop()
            self.stack.append(kind if isinstance(kind, Opaque) else Opaque("an object"))
        elif name == "EMPTY_SET":
            self.stack.append(Opaque("set"))
        elif name == "ADDITEMS":
            self.pop_to_mark()
        else:  # DICT, LIST of protocol 0
            items = self.pop_to_mark()
            self.stack.append(dict(zip(items[::2], items[1::2])) if name == "DICT" else items)


_OPAQUE = frozenset(
    "BINFLOAT BINBYTES SHORT_BINBYTES LONG4 INT LONG FLOAT NEWOBJ EMPTY_SET ADDITEMS DICT "
    "LIST".split()
)


def interpret(file: io.BytesIO) -> Any:
    """The value of the pickle that begins at the file's position; the file is left just behind it.

    The value is made of dict, list, tuple, str, int, bool, None and TensorRecord. Raises UserError,
    naming what was found (without the file's name), for anything else and for a pickle that is
    damaged or cut off.
    """
    return _interpreted(_Interpreter(), file)


def interpret_checkpoint(file: io.BytesIO) -> Tuple[Any, Dict[str, StorageRecord]]:
    """As `interpret`, but what no state dict of tensors needs becomes Opaque or is left out; and
    the storages that the pickle names, by key."""
    interpreter = _Interpreter(opaque=True)
    return _interpreted(interpreter, file), interpreter.records


def _interpreted(interpreter: _Interpreter, file: io.BytesIO) -> Any:
    try:
        return interpreter.run(file)
    except UserError:
        raise
    except ValueError as error:  # pickletools: unknown opcode, end of file, bad text
        raise UserError(f"a pickle that is damaged or cut off ({error})") from None
