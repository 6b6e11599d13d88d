"""The BatchNorm of NVIDIA's MXNet, whose kernels write to the memory of the other GPUs of a node.

Its operator takes bn_group, the number of GPUs, and xbuf_ptr, the address of an array with a
pointer for each GPU of the node. The pointers come from two functions of its library:
MXInitXBufSingle allocates a GPU's buffer and gives a handle of 64 bytes for the other processes;
MXOpenIpcHandles opens their handles. Every BatchNorm needs its own buffers. Ported from NVIDIA's
submissions to MLPerf Training (v0.7 to v1.1: ssd, resnet; group_batch_norm.py), which use it only
with NHWC in float16. Apache's MXNet does not have it.

We could not run it, since we do not have that MXNet. So it is used only after it has given the same
numbers as Horovod.
"""

from __future__ import annotations

import ctypes
import inspect
import math
from typing import Callable, List, Optional

import mxnet as mx
import numpy as np

from ssd.config import Config
from ssd.model.batch_norm import BatchNorm

GROUPS = (2, 4, 8)
HANDLE_BYTES = 64
_FUNCTIONS = ("MXInitXBufSingle", "MXOpenIpcHandles")
_POINTERS: List[ctypes.Array] = []  # the operator reads them as long as the process lives


def join(norms: List[BatchNorm], config: Config, ranks, size: int, reference: Callable) -> str:
    """Joins the BatchNorms over groups of `size` ranks; returns "". If that is not possible,
    changes nothing and returns the reason. Collective.

    reference: (norm, ranks, size, name), the implementation whose numbers it must give.
    """
    context = norms[0].gamma.list_ctx()[0]
    node = local_ranks(ranks, size)
    why = unsupported(config, context.device_type, size) or (
        "a group would span nodes" if node is None else ""
    )
    if ranks.mean(np.array([bool(why)], float), "BatchNorm's operator is missing")[0]:
        return why or "it is missing on some ranks"
    try:
        same = agrees(context, ranks, size, node, reference)
    except mx.MXNetError as error:
        same = False
        print(f"rank {ranks.rank}: MXNet's BatchNorm with bn_group={size}: {error}", flush=True)
    if ranks.mean(np.array([same], float), "BatchNorm's operator agrees")[0] < 1:
        return "MXNet's own operator gave other numbers"
    for number, norm in enumerate(norms):
        use(norm, ranks, size, node, f"batch norm {number}")
    return ""


def unsupported(config: Config, device: str, size: int) -> str:
    """The reason why the operator cannot be used; "" if it can."""
    missing = [name for name in _FUNCTIONS if not hasattr(mx.base._LIB, name)]
    if missing or "bn_group" not in inspect.signature(mx.nd.BatchNorm).parameters:
        return f"MXNet {mx.__version__} has no operator for it"
    if config.run.batch_norm_exchange == "horovod":
        return "as set by --batch-norm-exchange"
    if device != "gpu" or (config.model.layout, config.model.dtype) != ("NHWC", "float16"):
        return "MXNet's own operator works on GPUs, with NHWC and float16"
    return (
        ""
        if size in GROUPS
        else f"MXNet's own operator supports groups of {', '.join(map(str, GROUPS))}"
    )


def local_ranks(ranks, size: int) -> Optional[np.ndarray]:
    """The ranks of this node, in order; None unless they are neighbours and form complete groups of
    `size`. Collective."""
    starts = ranks.gather(
        np.array([[float(ranks.rank - ranks.local_rank), ranks.local_rank]]), "nodes"
    )
    own = np.flatnonzero(starts[:, 0] == ranks.rank - ranks.local_rank)
    complete = (
        len(own) % size == 0
        and own[0] % size == 0
        and (starts[own, 1] == np.arange(len(own))).all()
    )
    return own if complete else None


def use(norm: BatchNorm, ranks, size: int, node: np.ndarray, name: str) -> None:
    """Joins one BatchNorm. Collective."""
    pointers = (ctypes.c_void_p * len(node))()
    handle = np.zeros(HANDLE_BYTES, np.uint8)
    depth = int(math.log2(size))

    def address(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    mx.base.check_call(
        mx.base._LIB.MXInitXBufSingle(ranks.local_rank, depth, pointers, address(handle))
    )
    handles = ranks.gather(handle[None].astype(np.float64), f"{name} handles")[node].astype(
        np.uint8
    )
    handles = np.ascontiguousarray(handles)
    mx.base.check_call(
        mx.base._LIB.MXOpenIpcHandles(
            ranks.local_rank, len(node), depth, pointers, address(handles)
        )
    )
    _POINTERS.append(pointers)
    norm.use_operator(bn_group=size, xbuf_ptr=ctypes.addressof(pointers))


def agrees(context, ranks, size: int, node: np.ndarray, reference: Callable) -> bool:
    """Whether the operator gives the outputs, gradients and running means of `reference` on a small
    batch. Collective."""
    noise, found = np.random.default_rng(ranks.rank), []
    values, gradients = noise.standard_normal((2, 2, 16, 16, 64))
    for join_one, name in (
        (reference, "batch norm trial"),
        (lambda *args: use(*args[:3], node, args[3]), "batch norm trial"),
    ):
        norm = BatchNorm(axis=3, in_channels=64)
        norm.initialize(ctx=context)
        norm.cast("float16")
        join_one(norm, ranks, size, name)
        norm.hybridize()
        x = mx.nd.array(values + ranks.rank, ctx=context, dtype="float16")
        x.attach_grad()
        with mx.autograd.record():
            y = norm(x)
        y.backward(mx.nd.array(gradients, ctx=context, dtype="float16"))
        found.append(
            [
                array.asnumpy().astype(np.float64)
                for array in (
                    y,
                    x.grad,
                    norm.gamma.grad(),
                    norm.beta.grad(),
                    norm.running_mean.data(),
                )
            ]
        )
    # Gradients of gamma and beta are sums over 512 numbers.
    return all(
        np.abs(one - two).max() <= 1e-2 * max(1, np.abs(one).max()) for one, two in zip(*found)
    )
