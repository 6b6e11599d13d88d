"""The published detectors whose weights can be taken over, and which of them a file holds."""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.backbones.naming import has_gamma, without_state
from ssd.model.backbones.published import is_mindspore
from ssd.model.boxes.rules import sizes_of
from ssd.model.mindspore_file import read_checkpoint
from ssd.model.network import Network
from ssd.model.published import mindcv, pytorch
from ssd.model.published.tensors import Plan, plain_names
from ssd.model.torch_file import read_state_dict


class Published(NamedTuple):
    """what: its name, and whose. recipe: the one with its settings. chosen_by: (model.features,
    model.backbone), "" for any backbone. marker: a tensor that it alone has. classes: the bias
    whose length is the first map's boxes a cell times logits. background: whether one of these is
    the background's. plan: (network, model.backbone, whether names are with gamma) to Plan."""

    what: str
    recipe: str
    chosen_by: Tuple[str, str]
    marker: str
    classes: str
    background: bool
    plan: Callable[[Network, str, bool], Plan]


_RETINANET = "head.classification_head.cls_logits.bias"
_MINDCV = ("multi_box.multi_cls_layers.0.3.bias", True, mindcv.mindcv)
PUBLISHED = (
    Published(
        "a RetinaNet of MLPerf's reference",
        "retinanet-resnext50-openimages",
        ("pyramid", ""),
        _RETINANET,
        _RETINANET,
        False,
        pytorch.retinanet,
    ),
    Published(
        "an SSD-ResNet50 of uvipen/SSD-pytorch",
        "ssd-resnet50-coco",
        ("batch_norm_blocks", "resnet50"),
        "additional_blocks.0.0.weight",
        "conf.0.bias",
        True,
        pytorch.ssd_resnet50,
    ),
    Published(
        "an SSDLite of uvipen/SSD-pytorch",
        "ssdlite-mobilenetv2-coco",
        ("ssdlite_blocks", "mobilenet_v2"),
        "additional_blocks.0.conv.0.0.weight",
        "conf.0.3.bias",
        True,
        pytorch.ssdlite,
    ),
    Published(
        "MindCV's SSD-MobileNetV2",
        "ssd-mobilenetv2-coco",
        ("mobile_blocks", "mobilenet_v2"),
        "backbone_wrapper.feature1_expand_layer.features.0.weight",
        *_MINDCV,
    ),
    Published(
        "MindCV's SSD-MobileNetV3",
        "ssd-mobilenetv3-coco",
        ("mobile_blocks", "mobilenet_v3_large"),
        "backbone_wrapper.feature1_expand_layer.0.weight",
        *_MINDCV,
    ),
    Published(
        "MindCV's SSD-ResNet50-FPN",
        "ssd-resnet50-fpn-coco",
        ("norm_pyramid", "resnet50"),
        "backbone_wrapper.fpn.lateral_convs_list.0.weight",
        "multi_box.cls_layers.0.bias",
        *_MINDCV[1:],
    ),
)


def read_published(path: str) -> Dict[str, np.ndarray]:
    """The tensors of a published .pth or .ckpt by their names, without what training left beside
    them."""
    if is_mindspore(path):
        return plain_names(without_state(read_checkpoint(path), mindcv.PREFIX))
    return plain_names(read_state_dict(path, checkpoint=True))


def found_in(tensors: Dict[str, np.ndarray]) -> Optional[Published]:
    """The detector that the tensors are of, None where none is known."""
    return next((one for one in PUBLISHED if one.marker in tensors), None)


def published_of(config: Config, tensors: Dict[str, np.ndarray], source: str) -> Published:
    """The published detector that a recipe describes. UserError where none is known, and where the
    tensors are another's."""
    model = config.model
    wanted = next(
        (
            one
            for one in PUBLISHED
            if one.chosen_by in ((model.features, model.backbone), (model.features, ""))
        ),
        None,
    )
    if wanted is None:
        raise UserError(
            f"--recipe {config.recipe}: no published file of such a network is known; known are "
            + ", ".join(f"{one.what} ({one.recipe})" for one in PUBLISHED)
        )
    found = found_in(tensors)
    if found is None:
        raise UserError(f"{source}: lacks {wanted.marker}: not {wanted.what}")
    if found is not wanted:
        raise UserError(
            f"{source}: the weights of {found.what}, not of {wanted.what}, which recipe "
            f"{config.recipe} describes; --recipe {found.recipe} is theirs"
        )
    return wanted


def classes_of(
    published: Published, tensors: Dict[str, np.ndarray], config: Config, source: str
) -> int:
    """Classes of the published detector, without a background, by the size of its first convolution
    for them. UserError where there is none of such a size."""
    boxes, bias = sizes_of(config).per_cell[0], tensors.get(published.classes)
    if bias is None:
        raise UserError(f"{source}: lacks {published.classes}")
    if (
        bias.ndim != 1
        or not bias.size
        or bias.size % boxes
        or bias.size // boxes <= published.background
    ):
        raise UserError(
            f"{source}: {published.classes} has shape {bias.shape}, no multiple of {boxes} boxes a "
            "cell"
        )
    return bias.size // boxes - published.background


def plan_of(
    published: Published, network: Network, config: Config, tensors: Dict[str, np.ndarray]
) -> Plan:
    """How the parameters of the recipe's network are made of the tensors."""
    return published.plan(network, config.model.backbone, has_gamma(tensors))
