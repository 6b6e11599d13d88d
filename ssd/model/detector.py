"""What a recipe's detector is: its parts, chosen by name. The only file that knows all of them."""
from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.backbones.resnet import resnet34, resnet50
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.boxes.ssd_sizes import Sizes, sizes_of
from ssd.model.detections.per_class import PerClassDetections
from ssd.model.features.extra_blocks import batch_norm_blocks, plain_blocks
from ssd.model.heads.fused import FusedHead
from ssd.model.losses.hard_negatives import HardNegativesLoss
from ssd.model.matching import Matcher
from ssd.model.network import Network

# One table per seam; its keys are the choices of the setting beside it.
BACKBONES = {"resnet34": resnet34, "resnet50": resnet50}                                          # model.backbone
FEATURES = {"plain_blocks": plain_blocks, "batch_norm_blocks": batch_norm_blocks}                 # model.features
HEADS = {"fused": FusedHead}                                                                      # model.head
BOX_RULES = {"ssd": (sizes_of, default_boxes)}                                                    # default_boxes.rule
MATCHERS = {"ssd": Matcher}                                                                       # .matching
LOSSES = {"hard_negatives": HardNegativesLoss}                                                    # loss.loss
DETECTIONS = {"per_class": PerClassDetections}                                                    # detection.detections


class Detector(NamedTuple):
    """N default boxes, K logits a box; class 0 is the background for everybody.

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
    sizes: Sizes


def build_detector(config: Config) -> Detector:
    """The detector of a recipe; network and detections are not yet initialised, the network is cast to the recipe's
    dtype. UserError where settings do not fit each other, and where the number of classes is still to be counted."""
    model = config.model
    if not model.num_classes:
        raise UserError("num_classes is 0, to be counted from a data set, and there is none here: name --num-classes")
    size_rule, box_rule = BOX_RULES[config.default_boxes.rule]
    sizes = size_rule(config)
    boxes = box_rule(sizes)
    network = Network(config, sizes, BACKBONES[model.backbone], FEATURES[model.features], HEADS[model.head])
    network.cast(model.dtype)
    return Detector(
        network, boxes, tuple(cells * each for cells, each in sizes.grid),
        MATCHERS[config.default_boxes.matching](cxcywh_to_ltrb(boxes), config.default_boxes, sizes.grid),
        LOSSES[config.loss.loss](config.loss),
        DETECTIONS[config.detection.detections](boxes, model.num_classes, config.default_boxes, config.detection),
        sizes)


def describe(config: Config, sizes: Sizes) -> str:
    """One line: classes, feature maps and default boxes; another where default boxes lie outside the image."""
    height, width = sizes.image_size
    square = all(rows == columns for rows, columns in sizes.maps) and height == width
    maps = ", ".join(str(rows) if square else f"{rows}x{columns}" for rows, columns in sizes.maps)
    count = sum(cells * each for cells, each in sizes.grid)
    line = (f"{config.model.num_classes} classes with the background; images of {config.model.image_size} pixels: "
            f"feature maps of {maps} cells, {count:,} default boxes from {sizes.scales[0]:.4g} to "
            f"{sizes.scales[-1]:.4g} pixels")
    outside = sizes.outside() if config.default_boxes.steps else 0    # what is computed overhangs by a cell at most
    return line + (f"\nsteps: the centres of {outside:,} default boxes lie outside the image" if outside else "")
