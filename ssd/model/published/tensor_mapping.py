"""Sets a network's parameters from tensors under a published program's names."""

from __future__ import annotations

from types import MappingProxyType
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

from ssd.errors import UserError

WRAPPER = "module."  # PyTorch's DistributedDataParallel puts it before every name
COUNTER = ".num_batches_tracked"  # of PyTorch's BatchNorm


class TensorPart(NamedTuple):
    """A published tensor that becomes a parameter, or some rows of one. shape: of the tensor, OIHW.
    rows: for each of our rows the index of the published one; None if they are the same."""

    name: str
    shape: Tuple[int, ...]
    rows: Optional[np.ndarray] = None


class TensorPlan(NamedTuple):
    """parameters: each with its parts, whose rows are concatenated. unused: {published tensor:
    shape} that the published network has and does not use."""

    parameters: List[Tuple[Parameter, Tuple[TensorPart, ...]]]
    unused: Dict[str, Tuple[int, ...]] = {}


def plain_names(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """`tensors` without BatchNorm's counters and without the prefix that training on several GPUs
    leaves."""
    if tensors and all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name[len(WRAPPER) :]: tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def same(
    parameters: Dict[str, Parameter], names: Mapping[str, str] = MappingProxyType({})
) -> List[Tuple[Parameter, Tuple[TensorPart, ...]]]:
    """The parts of parameters, {name: parameter}, that equal published tensors. names: {name: the
    published name}, where they differ."""
    return [
        (parameter, (TensorPart(names.get(name, name), tuple(parameter.shape)),))
        for name, parameter in parameters.items()
    ]


def value_first(boxes: int, values: int) -> np.ndarray:
    """Rows for our channel box * values + value where the published one is value * boxes + box."""
    return np.arange(boxes * values).reshape(values, boxes).T.ravel()


def y_first(boxes: int) -> np.ndarray:
    """Rows for our channel box * 4 + (cx, cy, w, h) where the published one is box * 4 + (cy, cx,
    h, w)."""
    return np.arange(boxes * 4).reshape(boxes, 4)[:, [1, 0, 3, 2]].ravel()


def set_published(
    plan: TensorPlan,
    tensors: Dict[str, np.ndarray],
    source: str,
    report: Callable[[str], None] = print,
) -> None:
    """Sets all parameters of an initialised network of layout NCHW. UserError, before anything is
    set, for a tensor that is missing, unexpected, of another shape, of no floating-point type or
    not finite. `report` gets a line about what is left out."""
    parts = {part.name: part for _, each in plan.parameters for part in each}
    unused = {name: shape for name, shape in plan.unused.items() if name in tensors}
    for problem, names in (
        ("missing", [name for name in parts if name not in tensors]),
        ("unexpected", [name for name in tensors if name not in {**parts, **unused}]),
    ):
        if names:
            raise UserError(
                f"{source}: another network's: {problem} {names[0]}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            )
    for name, shape in [(name, part.shape) for name, part in parts.items()] + list(unused.items()):
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise UserError(f"{source}: {name} has shape {tuple(tensor.shape)}, not {shape}")
        if tensor.dtype.kind != "f":
            raise UserError(
                f"{source}: {name} is of type {tensor.dtype}, but floating-point numbers are needed"
            )
        if name in parts and not np.isfinite(tensor).all():
            raise UserError(f"{source}: {name} is not finite")
    for parameter, each in plan.parameters:
        value = np.concatenate(
            [
                tensors[part.name] if part.rows is None else tensors[part.name][part.rows]
                for part in each
            ]
        ).astype(np.float32)
        parameter.set_data(mx.nd.array(value, dtype=parameter.dtype))
    if unused:
        report(f"{source}: {', '.join(unused)} dropped: the published network does not use them")
