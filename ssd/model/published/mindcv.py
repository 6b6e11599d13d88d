"""Weights of MindCV's detectors (mindspore-lab/mindcv, examples/det/ssd): SSD on MobileNetV2 and V3
and on ResNet-50's pyramid. Their boxes are cy, cx, h, w."""

from __future__ import annotations

import re
from typing import Tuple

from ssd.model.backbones.naming import mindcv_names, with_gamma
from ssd.model.network import Network
from ssd.model.published.tensor_mapping import TensorPart, TensorPlan, y_first

PREFIX = "network."  # of the training cell, before every name
# (pattern of our layer, theirs), where {0}, {1}, ... are the pattern's groups; (conv, bn) are
# called 0 and 1.
KINDS = {"conv": 0, "bn": 1}
LAYERS = (
    (
        r"extras\.(\d+)\.expand\.(conv|bn)",
        "backbone_wrapper.multi_residual.{0}.conv.0.features.{1}",
    ),
    (
        r"extras\.(\d+)\.depthwise\.(conv|bn)",
        "backbone_wrapper.multi_residual.{0}.conv.1.features.{1}",
    ),
    (r"extras\.(\d+)\.project\.conv", "backbone_wrapper.multi_residual.{0}.conv.2"),
    (r"extras\.(\d+)\.project\.bn", "backbone_wrapper.multi_residual.{0}.conv.3"),
    (r"(loc|conf)\.(\d+)\.depthwise\.(conv|bn)", "multi_box.multi_{0}_layers.{1}.{2}"),
    (r"(loc|conf)\.(\d+)\.out", "multi_box.multi_{0}_layers.{1}.3"),
    (r"fpn\.lateral\.(\d+)", "backbone_wrapper.fpn.lateral_convs_list.{0}"),
    (r"fpn\.smooth\.(\d+)\.(conv|bn)", "backbone_wrapper.fpn.fpn_convs_list.{0}.features.{1}"),
    (r"fpn\.down\.(\d+)\.(conv|bn)", "backbone_wrapper.bottom_up.blocks.{0}.features.{1}"),
    (
        r"(loc|conf)\.tower\.(\d+)\.conv",
        "multi_box.addition_layer_{0}.0.{1}.features.0",
    ),  # shared by the levels
    (
        r"(loc|conf)\.tower\.(\d+)\.level(\d+)\.bn",
        "multi_box.addition_layer_{0}.{2}.{1}.features.1",
    ),
    (r"(loc|conf)\.out", "multi_box.{0}_layers.0"),
)
TAP = {
    "mobilenet_v2": "backbone_wrapper.feature1_expand_layer.features.{0}",
    "mobilenet_v3_large": "backbone_wrapper.feature1_expand_layer.{0}",
}


def mindcv(network: Network, backbone: str, gamma: bool) -> TensorPlan:
    """gamma: BatchNorm's vectors have MindSpore's names in the file
    (ssd.model.backbones.naming)."""
    parameters, names = network.reference_parameters(), {}
    within = mindcv_names(backbone, gamma=False, flat=True)
    for name in parameters:
        if name.startswith("backbone."):
            names[name] = f"backbone_wrapper.backbone.net.{within[name[len('backbone.') :]]}"
        else:
            layer, kind = name.rsplit(".", 1)
            names[name] = f"{_layer(layer, backbone)}.{kind}"
    names = with_gamma(names) if gamma else names
    return TensorPlan(
        [
            (
                parameter,
                (TensorPart(names[name], tuple(parameter.shape), _rows(name, parameter.shape)),),
            )
            for name, parameter in parameters.items()
        ]
    )


def _layer(name: str, backbone: str) -> str:
    for pattern, theirs in (
        *LAYERS,
        *([(r"tap\.(conv|bn)", TAP[backbone])] if backbone in TAP else []),
    ):
        match = re.fullmatch(pattern, name)
        if match:
            return theirs.format(
                *("cls" if group == "conf" else KINDS.get(group, group) for group in match.groups())
            )
    raise AssertionError(name)


def _rows(name: str, shape: Tuple[int, ...]):
    """Only the channels of the last convolution for offsets are coordinates."""
    return (
        y_first(shape[0] // 4) if re.fullmatch(r"loc\.(\d+\.)?out\.(weight|bias)", name) else None
    )
