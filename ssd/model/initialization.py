"""Initial weights, drawn with NumPy from (seed, parameter name): equal on every rank, device and
MXNet version."""

from __future__ import annotations

import zlib
from typing import Dict

import mxnet as mx
import numpy as np

from ssd.errors import UserError
from ssd.model.heads.fused import FusedHeads
from ssd.model.initial import Constant, FanIn, Normal, TruncatedNormal
from ssd.model.network import Network


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _xavier(generator, out_channels: int, in_channels: int, area: int) -> np.ndarray:
    """Xavier uniform, (out, in, area): Glorot and Bengio, 2010."""
    limit = np.sqrt(6.0 / ((in_channels + out_channels) * area))
    return generator.uniform(-limit, limit, (out_channels, in_channels, area))


def to_layout(oihw: np.ndarray, shape, layout: str) -> np.ndarray:
    """An OIHW weight in the shape of a parameter (OHWI with NHWC), with zeros for padded
    channels."""
    weight = oihw if layout == "NCHW" else oihw.transpose(0, 2, 3, 1)
    result = np.zeros(shape, np.float32)
    result[tuple(slice(0, size) for size in weight.shape)] = weight
    return result


def _convolution(
    generator, parameter, layout: str, kind: str, parts, true_inputs=None
) -> np.ndarray:
    """Weight of a convolution whose first sum(parts) outputs are drawn as separate convolutions of
    `parts` outputs each."""
    shape = parameter.shape
    inner, height, width = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
    inner, area = true_inputs or inner, height * width
    if kind == "he":  # torchvision's ResNet: normal, fan-out (He et al., 2015)
        drawn = generator.standard_normal((shape[0], inner, area)) * np.sqrt(
            2.0 / (shape[0] * area)
        )
    else:
        drawn = np.concatenate([_xavier(generator, part, inner, area) for part in parts])
    return to_layout(drawn.reshape(-1, inner, height, width).astype(np.float32), shape, layout)


def _drawn(generator, kind, shape) -> np.ndarray:
    """A value as ssd.model.initial describes it."""
    if isinstance(kind, Constant):
        return np.full(shape, kind.value)
    if isinstance(kind, Normal):
        return kind.deviation * generator.standard_normal(shape)
    if isinstance(kind, TruncatedNormal):
        value = generator.standard_normal(shape)
        while (np.abs(value) > 2).any():
            far = np.abs(value) > 2
            value[far] = generator.standard_normal(int(far.sum()))
        return kind.deviation * value
    assert isinstance(kind, FanIn), kind
    return generator.uniform(-1, 1, shape) * np.sqrt(3 / np.prod(shape[1:]))


def initialize(network: Network, seed: int, ctx) -> None:
    """Gives every parameter its initial value.

    Backbone: torchvision's way. Pyramid and shared heads: theirs. Extra features and fused heads:
    weights Xavier uniform, a fused head's parts as if they were separate convolutions, biases
    uniform in +-1/sqrt(fan_in) (PyTorch's default, which the reference keeps).
    """
    network.initialize(mx.init.One(), ctx=ctx, force_reinit=True)
    backbone, special = set(network.backbone.collect_params().keys()), network.initial()
    fused = network.predictors if isinstance(network.predictors, FusedHeads) else ()
    parts = {head.conv.weight.name: (head.boxes * 4, head.boxes * head.classes) for head in fused}
    for name, parameter in network.collect_params().items():
        generator = _generator(seed, name)
        if name in special:
            value = _drawn(generator, special[name], parameter.shape)
        elif name.endswith(("_gamma", "_running_var")):
            value = np.ones(parameter.shape)
        elif name.endswith(("_beta", "_running_mean")):
            value = np.zeros(parameter.shape)
        elif name.endswith("_weight"):
            first = name == network.backbone.conv1.weight.name
            value = _convolution(
                generator,
                parameter,
                network.layout,
                "he" if name in backbone else "xavier",
                parts.get(name, (parameter.shape[0],)),
                3 if first else None,
            )
        else:
            weight = network.collect_params()[name[: -len("bias")] + "weight"]
            limit = 1 / np.sqrt(np.prod(weight.shape[1:]))
            value = generator.uniform(-limit, limit, parameter.shape)
        parameter.set_data(mx.nd.array(value, dtype=parameter.dtype))


def load_backbone(network: Network, tensors: Dict[str, np.ndarray], source: str) -> None:
    """Sets the backbone's parameters and running statistics from tensors under torchvision's names
    (OIHW)."""
    parameters = network.backbone.torchvision_parameters()
    missing, unexpected = (
        sorted(set(parameters) - set(tensors)),
        sorted(set(tensors) - set(parameters)),
    )
    if missing or unexpected:
        raise UserError(
            f"{source}: "
            + "; ".join(
                f"{kind} tensor {names[0]}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                for kind, names in (("missing", missing), ("unexpected", unexpected))
                if names
            )
        )
    for name, parameter in parameters.items():
        value, wanted = tensors[name], parameter.shape
        if value.ndim == 4:
            wanted = (
                wanted if network.layout == "NCHW" else (wanted[0], wanted[3], wanted[1], wanted[2])
            )
            if parameter is network.backbone.conv1.weight:  # whose input channels may be padded
                wanted = (wanted[0], 3) + tuple(wanted[2:])
        if tuple(value.shape) != tuple(wanted):
            raise UserError(
                f"{source}: tensor {name} has shape {tuple(value.shape)}, not {tuple(wanted)}"
            )
        if not np.isfinite(value).all():
            raise UserError(f"{source}: tensor {name} is not finite")
        value = to_layout(value, parameter.shape, network.layout) if value.ndim == 4 else value
        parameter.set_data(mx.nd.array(value, dtype=parameter.dtype))
