"""Weights of published detectors, under the names of the programs that trained them."""
from __future__ import annotations

from typing import Dict

import mxnet as mx
import numpy as np

from ssd.errors import UserError
from ssd.model.initialization import to_layout
from ssd.model.network import Network

WRAPPER = "module."                    # PyTorch's DistributedDataParallel puts it before every name
COUNTER = ".num_batches_tracked"       # of PyTorch's BatchNorm
CLASSES = "head.classification_head.cls_logits.bias"    # of RetinaNet: its length is anchors a cell times classes


def plain_names(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """`tensors` without BatchNorm's counters and without the prefix that training on several GPUs leaves."""
    if tensors and all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name[len(WRAPPER):]: tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def classes_of(tensors: Dict[str, np.ndarray], boxes_per_cell: int, source: str) -> int:
    """Classes of a published RetinaNet, without a background, by the size of its last convolution. UserError where
    there is none of that size."""
    bias = tensors.get(CLASSES)
    if bias is None:
        raise UserError(f"{source}: lacks {CLASSES}: not a RetinaNet of MLPerf's reference")
    if bias.ndim != 1 or not bias.size or bias.size % boxes_per_cell:
        raise UserError(f"{source}: {CLASSES} has shape {bias.shape}, no multiple of {boxes_per_cell} anchors a cell")
    return bias.size // boxes_per_cell


def set_published(network: Network, tensors: Dict[str, np.ndarray], source: str) -> None:
    """Sets all parameters of an initialised network from tensors under its reference's names (OIHW). UserError, before
    anything is set, for a tensor that is missing, unexpected, of another shape, of no number type or not finite."""
    parameters = network.reference_parameters()
    for word, names in (("lacks", [name for name in parameters if name not in tensors]),
                        ("holds the unexpected", [name for name in tensors if name not in parameters])):
        if names:
            raise UserError(f"{source}: another network's: {word} {names[0]}"
                            + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    for name, parameter in parameters.items():
        tensor, wanted = tensors[name], tuple(parameter.shape)
        if len(wanted) == 4 and network.layout == "NHWC":
            wanted = (wanted[0], wanted[3], wanted[1], wanted[2])
        if tuple(tensor.shape) != wanted:
            raise UserError(f"{source}: {name} has shape {tuple(tensor.shape)}, not {wanted}")
        if tensor.dtype.kind != "f":
            raise UserError(f"{source}: {name} is of type {tensor.dtype}, where floating-point numbers are needed")
        if not np.isfinite(tensor).all():
            raise UserError(f"{source}: {name} is not finite")
    for name, parameter in parameters.items():
        value = tensors[name].astype(np.float32)
        value = to_layout(value, parameter.shape, network.layout) if value.ndim == 4 else value
        parameter.set_data(mx.nd.array(value, dtype=parameter.dtype))
