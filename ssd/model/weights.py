"""Weight files: MXNet's .params of the complete network, by structural names
(`backbone.conv1.weight`).

MXNet's format is no pickle: names, shapes, types and raw numbers. Besides the tensors there is one
more array, `metadata`, with what is needed to use them: see ssd.model.weights_info. Gluon's
`network.load_parameters(path, ignore_extra=True)` reads the tensors too, and this module reads
files without that array.
"""

from __future__ import annotations

import os
import zipfile
from typing import Dict, Optional

import mxnet as mx
import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.files import replacing, write_errors
from ssd.model.detector import Detector, build_detector
from ssd.model.initialization import initialize
from ssd.model.network import Network
from ssd.model.parameters import by_structural_name
from ssd.model.weights_info import (
    INT8,
    METADATA,
    WeightsInfo,
    pack_info,
    pack_ranges,
    unpack_info,
    unpack_ranges,
)


def save_weights(
    network: Network, path: str, info: Optional[WeightsInfo] = None, ranges=None
) -> None:
    """Writes all parameters and running statistics, `info`, and the `ranges` of a network that is
    to compute in integers (ssd.model.int8); an older file at `path` is replaced only by a complete
    new one. UserError if it cannot be written."""
    tensors = {
        name: parameter.data().copyto(mx.cpu())
        for name, parameter in by_structural_name(network).items()
    }
    if info is not None:
        tensors[METADATA] = mx.nd.array(pack_info(info), ctx=mx.cpu(), dtype=np.uint8)
    if ranges is not None:
        tensors[INT8] = mx.nd.array(pack_ranges(ranges), ctx=mx.cpu(), dtype=np.uint8)
    with write_errors(f"weights {path}", path, mx.MXNetError), replacing(path) as partial:
        mx.nd.save(partial, tensors)


def load_weights(network: Network, path: str) -> None:
    """Sets all parameters of an initialised network, from a .params file or a checkpoint's
    parameters.npz; UserError if the file is of another network. Weights whose metadata state layout
    NHWC are converted for a network of layout NCHW."""
    tensors = read_tensors(path)
    parameters = by_structural_name(network)
    if network.layout == "NCHW" and any(tensor.ndim == 4 for tensor in tensors.values()):
        info = read_info(path)
        if info is not None and info.config.model.layout == "NHWC":
            tensors = {
                name: _channels_first(name, tensor, parameters[name].shape)
                if name in parameters
                else tensor
                for name, tensor in tensors.items()
            }
    for problem, names in (
        ("missing", set(parameters) - set(tensors)),
        ("unexpected", set(tensors) - set(parameters)),
    ):
        if names:
            raise UserError(
                f"weights {path}: another network's: {problem} {min(names)}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            )
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise UserError(
                f"weights {path}: {name} has shape {tensors[name].shape}, not {parameter.shape}"
            )
        if not np.isfinite(tensors[name].asnumpy()).all():
            raise UserError(f"weights {path}: {name} is not finite")
    for name, parameter in parameters.items():
        parameter.set_data(tensors[name].astype(parameter.dtype))


def load_detector(config: Config, path: str, context) -> Detector:
    """The detector of `config` with the weights at `path`, on an MXNet context. UserError as of
    `load_weights`."""
    detector = build_detector(config)
    initialize(detector.network, 0, context)
    load_weights(detector.network, path)
    return detector


def _channels_first(name: str, tensor: mx.nd.NDArray, shape) -> mx.nd.NDArray:
    """A tensor of layout NHWC for a parameter of `shape` in NCHW: OHWI becomes OIHW, without the
    channels padded for tensor cores (see FusedHead and input_channels)."""
    tensor = tensor.transpose((0, 3, 1, 2)) if tensor.ndim == 4 else tensor
    if name.startswith("predictors.") and tensor.shape[0] == -(-shape[0] // 8) * 8:
        return tensor[: shape[0]]
    if tensor.shape[1:2] == (4,) and shape[1:2] == (3,):
        return tensor[:, :3]
    return tensor


def read_tensors(path: str) -> Dict[str, mx.nd.NDArray]:
    """The tensors of a .params file or a checkpoint's parameters.npz by structural name, of any
    network, in main memory. UserError if it is neither."""
    tensors = _read(path)
    for name in (METADATA, INT8):
        tensors.pop(name, None)
    return tensors


def read_info(path: str) -> Optional[WeightsInfo]:
    """The file's metadata; None for a file without. UserError if it is no weight file, or its
    metadata is invalid."""
    content = _read(path).get(METADATA)
    return None if content is None else unpack_info(content.asnumpy(), path)


def read_ranges(path: str):
    """The ranges by which the file's weights are to compute in integers (ssd.model.int8.Ranges);
    None for a file without. UserError if it is no weight file, or the ranges are invalid."""
    content = _read(path).get(INT8)
    return None if content is None else unpack_ranges(content.asnumpy(), path)


def _read(path: str) -> Dict[str, mx.nd.NDArray]:
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"weights {path}: a folder; name a file in it, such as weights.params")
    if not os.path.isfile(path):
        raise UserError(f"weights {path}: no such file")
    return _read_npz(path) if path.endswith(".npz") else _read_params(path)


def _read_params(path: str) -> Dict[str, mx.nd.NDArray]:
    try:
        tensors = mx.nd.load(path)
    except (mx.MXNetError, UnicodeDecodeError):  # the latter for a damaged name
        raise UserError(f"weights {path}: not a file of MXNet arrays, or cut short") from None
    if not isinstance(tensors, dict):
        raise UserError(f"weights {path}: its arrays have no names")
    return tensors


def _read_npz(path: str) -> Dict[str, mx.nd.NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: mx.nd.array(file[name], dtype=file[name].dtype) for name in file.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"weights {path}: not an .npz of arrays, or cut short") from None
