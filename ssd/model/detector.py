"""What a recipe's detector is: its parts, chosen by name. The only file that knows all of them."""
from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.anchor_matching import AnchorMatcher
from ssd.model.backbones.resnet import resnet
from ssd.model.boxes.anchors import AnchorSizes, anchors_cxcywh
from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.boxes.rules import BOX_RULES
from ssd.model.detections.per_class import PerClassDetections
from ssd.model.detections.per_level import PerLevelDetections
from ssd.model.features.extra_blocks import batch_norm_blocks, plain_blocks
from ssd.model.features.pyramid import Pyramid
from ssd.model.heads.fused import FusedHeads
from ssd.model.heads.shared import SharedHead
from ssd.model.losses.focal import FocalLoss
from ssd.model.losses.hard_negatives import HardNegativesLoss
from ssd.model.matching import Matcher
from ssd.model.network import Network


def _per_map(sizes) -> Tuple[int, ...]:
    return tuple(cells * each for cells, each in sizes.grid)


def _ssd_matcher(config: Config, sizes, boxes: np.ndarray) -> Matcher:
    return Matcher(cxcywh_to_ltrb(boxes), config.default_boxes, sizes.grid)


def _anchor_matcher(config: Config, sizes, boxes: np.ndarray) -> AnchorMatcher:
    _need_anchors(sizes, "default_boxes.matching retinanet")
    return AnchorMatcher(sizes, config.default_boxes)


def _per_class(config: Config, sizes, boxes: np.ndarray) -> PerClassDetections:
    return PerClassDetections(boxes, config.model.num_classes, config.default_boxes, config.detection)


def _per_level(config: Config, sizes, boxes: np.ndarray) -> PerLevelDetections:
    _need_anchors(sizes, "detection.detections per_level")
    return PerLevelDetections(anchors_cxcywh(sizes), _per_map(sizes), config.model.num_classes - 1, sizes.image_size,
                              config.default_boxes, config.detection)


def _need_anchors(sizes, setting: str) -> None:
    if not isinstance(sizes, AnchorSizes):
        raise UserError(f"{setting}: works on anchors of whole pixels, default_boxes.rule retinanet")


# One table per seam; its keys are the choices of the setting beside it. That of default_boxes.rule is BOX_RULES.
BACKBONES = {"resnet34": resnet, "resnet50": resnet, "resnext50_32x4d": resnet}                   # model.backbone
FEATURES = {"plain_blocks": plain_blocks, "batch_norm_blocks": batch_norm_blocks, "pyramid": Pyramid}    # .features
HEADS = {"fused": FusedHeads, "shared": SharedHead}                                               # model.head
MATCHERS = {"ssd": _ssd_matcher, "retinanet": _anchor_matcher}                                    # .matching
LOSSES = {"hard_negatives": lambda config: HardNegativesLoss(config.loss),                        # loss.loss
          "focal": lambda config: FocalLoss(config.loss, config.model.num_classes - 1)}
DETECTIONS = {"per_class": _per_class, "per_level": _per_level}                                   # detection.detections

# What works on a softmax over the classes and the background, and what on a sigmoid per class.
SOFTMAX = {"fused", "hard_negatives", "per_class"}


class Detector(NamedTuple):
    """N default boxes, K logits a box, one fewer than classes where a sigmoid makes scores of them; class 0 is the
    background for everybody.

    network: images (B, 3, H, W) or NHWC to offsets (B, N, 4), logits (B, N, K). default_boxes: (N, 4) float32 cxcywh
    in [0, 1], in the order of the heads. boxes_per_map: adds up to N. matcher: boxes (m, 4) ltrb, labels (m,) from 1 to
    ssd.model.matching.Matches. loss: offsets, logits, target offsets (B, N, 4), classes (B, N) (-1 ignored, 0
    background) to two losses (B,), of classes and of boxes. detections: offsets, logits to rows (B, K', 6): class from
    1, score, ltrb in shares of the image. sizes: what followed from the size of the image.
    """
    network: Network
    default_boxes: np.ndarray
    boxes_per_map: Tuple[int, ...]
    matcher: Callable
    loss: HybridBlock
    detections: HybridBlock
    sizes: object


def build_detector(config: Config) -> Detector:
    """The detector of a recipe; network and detections are not yet initialised, the network is cast to the recipe's
    dtype. UserError where settings do not fit each other, and where the number of classes is still to be counted."""
    model = config.model
    if not model.num_classes:
        raise UserError("num_classes is 0, to be counted from a data set, and there is none here: name --num-classes")
    parts = dict(head=model.head, loss=config.loss.loss, detections=config.detection.detections)
    if len({part in SOFTMAX for part in parts.values()}) > 1:
        raise UserError("head, loss and detections: " + ", ".join(f"{name} {part}" for name, part in parts.items())
                        + " do not fit each other: some take a softmax with the background, some a sigmoid per class")
    size_rule, box_rule = BOX_RULES[config.default_boxes.rule]
    sizes = size_rule(config)
    boxes = box_rule(sizes)
    network = Network(config, sizes, BACKBONES[model.backbone], FEATURES[model.features], HEADS[model.head])
    network.cast(model.dtype)
    return Detector(
        network, boxes, _per_map(sizes), MATCHERS[config.default_boxes.matching](config, sizes, boxes),
        LOSSES[config.loss.loss](config), DETECTIONS[config.detection.detections](config, sizes, boxes), sizes)


def describe(config: Config, sizes) -> str:
    """One line: classes, feature maps and default boxes; another where default boxes lie outside the image."""
    height, width = sizes.image_size
    square = all(rows == columns for rows, columns in sizes.maps) and height == width
    maps = ", ".join(str(rows) if square else f"{rows}x{columns}" for rows, columns in sizes.maps)
    count = sum(cells * each for cells, each in sizes.grid)
    line = (f"{config.model.num_classes} classes with the background; images of {config.model.image_size} pixels: "
            f"feature maps of {maps} cells, {count:,} default boxes from {sizes.span[0]:.4g} to "
            f"{sizes.span[1]:.4g} pixels")
    outside = sizes.outside() if config.default_boxes.steps else 0    # what is computed overhangs by a cell at most
    return line + (f"\nsteps: the centres of {outside:,} default boxes lie outside the image" if outside else "")
