"""The published detectors whose weights can be imported, and which of them a file holds."""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.backbones.naming import has_gamma, without_state
from ssd.model.backbones.published_backbone import is_mindspore
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.mindspore_file import read_checkpoint
from ssd.model.network import Network
from ssd.model.published import mindcv, pytorch
from ssd.model.published.tensor_mapping import TensorPlan, plain_names
from ssd.model.torch_file import read_state_dict


class PublishedDetector(NamedTuple):
    """what: its name and origin. recipe: the recipe with its settings. chosen_by: (model.features,
    model.backbone), "" for any backbone. marker: a tensor that only this detector has. classes: the
    bias whose length is the first map's boxes per cell times logits. background: whether one logit
    is the background's. plan: (network, model.backbone, whether names are with gamma) to
    TensorPlan."""

    what: str
    recipe: str
    chosen_by: Tuple[str, str]
    marker: str
    classes: str
    background: bool
    plan: Callable[[Network, str, bool], TensorPlan]


_RETINANET = "head.classification_head.cls_logits.bias"
_MINDCV = ("multi_box.multi_cls_layers.0.3.bias", True, mindcv.mindcv)
PUBLISHED = (
    PublishedDetector(
        "a RetinaNet of MLPerf's reference",
        "retinanet-resnext50-openimages",
        ("pyramid", ""),
        _RETINANET,
        _RETINANET,
        False,
        pytorch.retinanet,
    ),
    PublishedDetector(
        "an SSD-ResNet50 of uvipen/SSD-pytorch",
        "ssd-resnet50-coco",
        ("batch_norm_blocks", "resnet50"),
        "additional_blocks.0.0.weight",
        "conf.0.bias",
        True,
        pytorch.ssd_resnet50,
    ),
    PublishedDetector(
        "an SSDLite of uvipen/SSD-pytorch",
        "ssdlite-mobilenetv2-coco",
        ("ssdlite_blocks", "mobilenet_v2"),
        "additional_blocks.0.conv.0.0.weight",
        "conf.0.3.bias",
        True,
        pytorch.ssdlite,
    ),
    PublishedDetector(
        "MindCV's SSD-MobileNetV2",
        "ssd-mobilenetv2-coco",
        ("mobile_blocks", "mobilenet_v2"),
        "backbone_wrapper.feature1_expand_layer.features.0.weight",
        *_MINDCV,
    ),
    PublishedDetector(
        "MindCV's SSD-MobileNetV3",
        "ssd-mobilenetv3-coco",
        ("mobile_blocks", "mobilenet_v3_large"),
        "backbone_wrapper.feature1_expand_layer.0.weight",
        *_MINDCV,
    ),
    PublishedDetector(
        "MindCV's SSD-ResNet50-FPN",
        "ssd-resnet50-fpn-coco",
        ("norm_pyramid", "resnet50"),
        "backbone_wrapper.fpn.lateral_convs_list.0.weight",
        "multi_box.cls_layers.0.bias",
        *_MINDCV[1:],
    ),
)


def read_published(path: str) -> Dict[str, np.ndarray]:
    """The tensors of a published .pth or .ckpt by their names, without the state of training."""
    if is_mindspore(path):
        return plain_names(without_state(read_checkpoint(path), mindcv.PREFIX))
    return plain_names(read_state_dict(path, checkpoint=True))


def detector_in(tensors: Dict[str, np.ndarray]) -> Optional[PublishedDetector]:
    """The published detector that the tensors belong to; None if it is not known."""
    return next((known for known in PUBLISHED if known.marker in tensors), None)


def published_of(config: Config, tensors: Dict[str, np.ndarray], source: str) -> PublishedDetector:
    """The published detector that a recipe describes. UserError if none is known, and if the
    tensors belong to another one."""
    model = config.model
    wanted = next(
        (
            known
            for known in PUBLISHED
            if known.chosen_by in ((model.features, model.backbone), (model.features, ""))
        ),
        None,
    )
    if wanted is None:
        raise UserError(
            f"--recipe {config.recipe}: no published file of this network is known; known are "
            + ", ".join(f"{known.what} ({known.recipe})" for known in PUBLISHED)
        )
    found = detector_in(tensors)
    if found is None:
        raise UserError(f"{source}: missing {wanted.marker}: not {wanted.what}")
    if found is not wanted:
        raise UserError(
            f"{source}: the weights of {found.what}, not of {wanted.what}, which recipe "
            f"{config.recipe} describes; --recipe {found.recipe} is theirs"
        )
    return wanted


def class_count(
    published: PublishedDetector, tensors: Dict[str, np.ndarray], config: Config, source: str
) -> int:
    """Number of classes of the published detector, without a background, by the size of its first
    convolution for classes. UserError if that is missing or of another size."""
    boxes, bias = sizes_of(config).per_cell[0], tensors.get(published.classes)
    if bias is None:
        raise UserError(f"{source}: missing {published.classes}")
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
    published: PublishedDetector, network: Network, config: Config, tensors: Dict[str, np.ndarray]
) -> TensorPlan:
    """How the parameters of the recipe's network are built from the tensors."""
    return published.plan(network, config.model.backbone, has_gamma(tensors))
