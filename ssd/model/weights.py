"""Weight files: MXNet's .params of the whole network, by structural names (`backbone.conv1.weight`).

MXNet's format is no pickle: names, shapes, types and raw numbers.
"""
from __future__ import annotations

import os
import shutil
import zipfile
from typing import Dict

import mxnet as mx
import numpy as np

from ssd.errors import UserError
from ssd.model.ssd import SSD


def save_weights(network: SSD, path: str) -> None:
    """Writes all parameters and running statistics; an older file at `path` is replaced only by a whole new one.
    UserError if it cannot be written."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        network.save_parameters(partial)
        os.replace(partial, path)
    except (OSError, mx.MXNetError) as error:
        reason = [line for line in str(error).splitlines() if line][-1]
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        raise UserError(f"weights {path} cannot be written ({free} bytes are free): {reason}") from None
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def load_weights(network: SSD, path: str) -> None:
    """Sets all parameters of an initialised network, from a .params file or a checkpoint's parameters.npz; UserError
    if the file is of another network."""
    if not os.path.isfile(path):
        raise UserError(f"weights {path}: no such file")
    tensors = _read_npz(path) if str(path).endswith(".npz") else _read_params(path)
    parameters = network._collect_params_with_prefix()
    for word, names in (("lacks", set(parameters) - set(tensors)),
                        ("holds the unexpected", set(tensors) - set(parameters))):
        if names:
            raise UserError(f"weights {path}: another network's: {word} {min(names)}"
                            + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise UserError(f"weights {path}: {name} has shape {tensors[name].shape}, not {parameter.shape}")
        if not np.isfinite(tensors[name].asnumpy()).all():
            raise UserError(f"weights {path}: {name} is not finite")
    for name, parameter in parameters.items():
        parameter.set_data(tensors[name].astype(parameter.dtype))


def _read_params(path: str) -> Dict[str, mx.nd.NDArray]:
    try:
        tensors = mx.nd.load(path)
    except mx.MXNetError:
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
