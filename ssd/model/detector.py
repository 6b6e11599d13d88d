"""The detector of a recipe: its parts, chosen by name. The only file that knows all of them."""

from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.anchor_matching import AnchorMatcher
from ssd.model.backbones.mobilenet import mobilenet
from ssd.model.backbones.resnet import resnet
from ssd.model.boxes.anchors import AnchorSizes, anchors_cxcywh
from ssd.model.boxes.box_rules import BOX_RULES
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.detections.per_class import PerClassDetections
from ssd.model.detections.per_class_sigmoid import PerClassSigmoidDetections
from ssd.model.detections.per_level import PerLevelDetections
from ssd.model.features.extra_blocks import batch_norm_blocks, plain_blocks
from ssd.model.features.mobile_blocks import mobile_blocks, ssdlite_blocks
from ssd.model.features.pyramid import Pyramid
from ssd.model.features.pyramid_norm import NormPyramid
from ssd.model.heads.fused import FusedHeads
from ssd.model.heads.separable import SeparableHeads
from ssd.model.heads.shared import SharedHead
from ssd.model.heads.shared_norm import NormSharedHead
from ssd.model.losses.focal import FocalBatchLoss, FocalLoss
from ssd.model.losses.hard_negatives import HardNegativesLoss
from ssd.model.matching import FirstClaimMatcher, Matcher
from ssd.model.network import Network


def _per_map(sizes) -> Tuple[int, ...]:
    return tuple(cells * each for cells, each in sizes.grid)


def _ssd_matcher(config: Config, sizes, boxes: np.ndarray) -> Matcher:
    return Matcher(cxcywh_to_ltrb(boxes), config.default_boxes, sizes.grid)


def _mindcv_matcher(config: Config, sizes, boxes: np.ndarray) -> FirstClaimMatcher:
    # Corners are rounded once, as MindCV's are, not made of rounded centres.
    return FirstClaimMatcher(
        cxcywh_to_ltrb(default_boxes(sizes, np.float64)).astype(np.float32),
        config.default_boxes,
        sizes.grid,
    )


def _anchor_matcher(config: Config, sizes, boxes: np.ndarray) -> AnchorMatcher:
    _need_anchors(sizes, "default_boxes.matching retinanet")
    return AnchorMatcher(sizes, config.default_boxes)


def _per_class(config: Config, sizes, boxes: np.ndarray) -> PerClassDetections:
    return PerClassDetections(
        boxes, config.model.num_classes, config.default_boxes, config.detection
    )


def _per_class_sigmoid(config: Config, sizes, boxes: np.ndarray) -> PerClassSigmoidDetections:
    return PerClassSigmoidDetections(
        boxes, config.model.num_classes, sizes.image_size, config.default_boxes, config.detection
    )


def _per_level(config: Config, sizes, boxes: np.ndarray) -> PerLevelDetections:
    _need_anchors(sizes, "detection.detections per_level")
    return PerLevelDetections(
        anchors_cxcywh(sizes),
        _per_map(sizes),
        config.model.num_classes - 1,
        sizes.image_size,
        config.default_boxes,
        config.detection,
    )


def _need_anchors(sizes, setting: str) -> None:
    if not isinstance(sizes, AnchorSizes):
        raise UserError(
            f"{setting}: works on anchors of whole pixels, default_boxes.rule retinanet"
        )


# One table per seam; its keys are the choices of the setting named above it. The table of
# default_boxes.rule is BOX_RULES.

# model.backbone
BACKBONES = {
    "resnet34": resnet,
    "resnet50": resnet,
    "resnext50_32x4d": resnet,
    "mobilenet_v2": mobilenet,
    "mobilenet_v3_large": mobilenet,
}
# model.features
FEATURES = {
    "plain_blocks": plain_blocks,
    "batch_norm_blocks": batch_norm_blocks,
    "ssdlite_blocks": ssdlite_blocks,
    "mobile_blocks": mobile_blocks,
    "pyramid": Pyramid,
    "norm_pyramid": NormPyramid,
}
# model.head
HEADS = {
    "fused": FusedHeads,
    "separable": SeparableHeads,
    "shared": SharedHead,
    "shared_norm": NormSharedHead,
}
# default_boxes.matching
MATCHERS = {
    "ssd": _ssd_matcher,
    "mindcv": _mindcv_matcher,
    "retinanet": _anchor_matcher,
}
# loss.loss
LOSSES = {
    "hard_negatives": lambda config: HardNegativesLoss(config.loss),
    "focal": lambda config: FocalLoss(config.loss, config.model.num_classes - 1),
    "focal_batch": lambda config: FocalBatchLoss(config.loss, config.model.num_classes),
}
# detection.detections
DETECTIONS = {
    "per_class": _per_class,
    "per_class_sigmoid": _per_class_sigmoid,
    "per_level": _per_level,
}

# Heads, losses and detections with a logit for the background; the others have one logit fewer.
BACKGROUND = {
    "fused",
    "separable",
    "shared_norm",
    "hard_negatives",
    "focal_batch",
    "per_class",
    "per_class_sigmoid",
}
# Losses and detections that take a softmax over background and classes, and those that take a
# sigmoid per logit.
SOFTMAX, SIGMOID = (
    {"hard_negatives", "per_class"},
    {"focal", "focal_batch", "per_class_sigmoid", "per_level"},
)


class Detector(NamedTuple):
    """N default boxes, K logits a box: one per class, or one fewer where a sigmoid turns them into
    scores without a background. Class 0 is always the background.

    network: images (B, 3, H, W) or NHWC to offsets (B, N, 4), logits (B, N, K). default_boxes: (N,
    4) float32 cxcywh in [0, 1], in the order of the heads. boxes_per_map: adds up to N. matcher:
    boxes (m, 4) ltrb, labels (m,) from 1 to ssd.model.matching.Matches. loss: offsets, logits,
    target offsets (B, N, 4), classes (B, N) (-1 ignored, 0 background) to two losses (B,), of
    classes and of boxes. detections: offsets, logits to rows (B, K', 6): class from 1, score, ltrb
    in shares of the image. sizes: what follows from the size of the image.
    """

    network: Network
    default_boxes: np.ndarray
    boxes_per_map: Tuple[int, ...]
    matcher: Callable
    loss: HybridBlock
    detections: HybridBlock
    sizes: object


def build_detector(config: Config) -> Detector:
    """The detector of a recipe; network and detections are not yet initialised, the network is cast
    to the recipe's dtype. UserError where settings do not fit each other, and where the number of
    classes is not known yet."""
    model = config.model
    if not model.num_classes:
        raise UserError(
            "num_classes is 0, to be counted from a data set, but this command reads none: give "
            "--num-classes"
        )
    parts = dict(head=model.head, loss=config.loss.loss, detections=config.detection.detections)
    loss, detections = config.loss.loss, config.detection.detections
    if len({part in BACKGROUND for part in parts.values()}) > 1 or (loss in SOFTMAX) != (
        detections in SOFTMAX
    ):
        raise UserError(
            "head, loss and detections: "
            + ", ".join(f"{name} {part}" for name, part in parts.items())
            + " do not fit each other: some take a softmax with the background, some a sigmoid per "
            "class"
        )
    size_rule, box_rule = BOX_RULES[config.default_boxes.rule]
    sizes = size_rule(config)
    boxes = box_rule(sizes)
    network = Network(
        config, sizes, BACKBONES[model.backbone], FEATURES[model.features], HEADS[model.head]
    )
    network.cast(model.dtype)
    return Detector(
        network,
        boxes,
        _per_map(sizes),
        MATCHERS[config.default_boxes.matching](config, sizes, boxes),
        LOSSES[config.loss.loss](config),
        DETECTIONS[config.detection.detections](config, sizes, boxes),
        sizes,
    )


def describe_sizes(config: Config, sizes) -> str:
    """One line: classes, feature maps and default boxes; another where default boxes lie outside
    the image."""
    height, width = sizes.image_size
    square = all(rows == columns for rows, columns in sizes.maps) and height == width
    maps = ", ".join(str(rows) if square else f"{rows}x{columns}" for rows, columns in sizes.maps)
    count = sum(cells * each for cells, each in sizes.grid)
    line = (
        f"{config.model.num_classes} classes with the background; images of "
        f"{config.model.image_size} pixels: feature maps of {maps} cells, {count:,} default boxes "
        f"from {sizes.span[0]:.4g} to {sizes.span[1]:.4g} pixels"
    )
    # Computed steps overhang by at most a cell.
    outside = sizes.outside() if config.default_boxes.steps else 0
    return line + (
        f"\nsteps: the centres of {outside:,} default boxes lie outside the image"
        if outside
        else ""
    )
