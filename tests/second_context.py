"""A stand-in for a GPU: MXNet's second CPU context, on which a command runs while every operator is
looked at.

`mx.cpu(1)` is main memory like `mx.cpu(0)`, so that MXNet itself does not mind arrays of both in
one operator; on a GPU it would end there. What is computed on the default context where it ought to
be the step's is found all the same: `on_second_context` lists every operator with an array
elsewhere, but for copies, and for the first values of parameters, which Gluon makes in main memory.

    python -m tests.second_context COMMAND FLAGS    runs a command so; its status, or 99 where
                                                    something was elsewhere
"""

import contextlib
import ctypes
import sys
import traceback
from unittest.mock import patch

import mxnet as mx
from mxnet._ctypes import ndarray as low
from mxnet.ndarray import register

from ssd.data import bridge
from ssd.model import device

STEP = mx.cpu(1)
COPIES = ("_copyto", "_npi_copyto")


class Elsewhere(dict):
    """Number of times by (operator, contexts, place in our sources); operators: how many were
    looked at."""

    operators = 0

    def note(self, name, arrays):
        if name in COPIES:
            return
        self.operators += 1
        contexts = tuple(
            sorted({str(array.context) for array in arrays if isinstance(array, mx.nd.NDArray)})
        )
        if contexts not in ((), (str(STEP),)):
            frames = traceback.extract_stack()
            if any(frame.filename.endswith("mxnet/gluon/parameter.py") for frame in frames):
                return
            place = next(
                (
                    f"{frame.filename}:{frame.lineno}"
                    for frame in reversed(frames)
                    if "/ssd/" in frame.filename and "mxnet" not in frame.filename
                ),
                "?",
            )
            key = name, " ".join(contexts), place
            self[key] = self.get(key, 0) + 1


def _names():
    names = {}
    for name in mx.operator.get_all_registered_operators():
        handle = ctypes.c_void_p()
        mx.base.check_call(mx.base._LIB.NNGetOpHandle(mx.base.c_str(name), ctypes.byref(handle)))
        names[handle.value] = name
    return names


@contextlib.contextmanager
def on_second_context():
    """`--device cpu` means mx.cpu(1), to which DALI's batches go as well; yields an Elsewhere."""
    found, names = Elsewhere(), _names()
    Device, to_mxnet, filled = device.Device, bridge.to_mxnet, bridge.filled
    invoke, call = register._imperative_invoke, low.CachedOp.__call__

    def watched(handle, inputs, keys, values, out, *rest):
        result = invoke(handle, inputs, keys, values, out, *rest)
        found.note(names.get(getattr(handle, "value", handle), "?"), [*inputs, *_listed(result)])
        return result

    def watched_graph(self, *arguments, **options):
        result = call(self, *arguments, **options)
        found.note("a hybridized graph", [*arguments, *_listed(result)])
        return result

    with patch.object(
        device, "Device", lambda kind, index, context: Device(kind, index, STEP)
    ), patch.object(
        bridge, "to_mxnet", lambda batch, device_id=0: to_mxnet(batch).as_in_context(STEP)
    ), patch.object(
        bridge, "filled", lambda *arguments: filled(*arguments).as_in_context(STEP)
    ), patch.object(register, "_imperative_invoke", watched), patch.object(
        low.CachedOp, "__call__", watched_graph
    ):
        yield found


def _listed(result):
    return result if isinstance(result, (list, tuple)) else [result]


def run(arguments):
    from ssd.__main__ import main

    with on_second_context() as found:
        status = main(arguments)
    if status == 0 and (found or not found.operators):
        print(
            f"of {found.operators} operators these were not on {STEP} alone: {dict(found)}",
            file=sys.stderr,
        )
        return 99
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
