"""ssd.model.detections in ONNX; this module has the per-class kinds: scores, decoding, suppression
per class, the best of the image."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ssd.config import Config
from ssd.model.detections.per_class import MAX_LOG_SIZE
from ssd.tools.export_onnx import GraphBuilder
from ssd.tools.export_per_level import add_per_level


def add_detections(
    builder: GraphBuilder,
    offsets: str,
    logits: str,
    default_boxes_cxcywh: np.ndarray,
    config: Config,
) -> Tuple[str, str, str]:
    """Add the nodes from offsets (B, N, 4) and logits (B, N, K) to detections, best score first.

    Returns the names of ids (B, K, 1), scores (B, K, 1) and boxes (B, K, 4) ltrb in pixels of the
    network's input; ids count from 0; rows without a detection are -1 throughout.
    """
    return DETECTIONS[config.detection.detections](
        builder, offsets, logits, default_boxes_cxcywh, config
    )


def _add_per_class(
    builder: GraphBuilder,
    offsets: str,
    logits: str,
    default_boxes_cxcywh: np.ndarray,
    config: Config,
) -> Tuple[str, str, str]:
    add, settings = builder.add, config.detection
    count, classes = len(default_boxes_cxcywh), config.model.num_classes - 1
    per_class = min(settings.boxes_per_class, count)
    per_image = min(settings.boxes_per_image, per_class * classes)
    boxes = _decode(builder, offsets, default_boxes_cxcywh, config)

    scores = add(
        "Transpose",
        add(
            "Slice",
            add("Softmax", logits, axis=-1),
            builder.integers(1),
            builder.integers(classes + 1),
            builder.integers(2),
        ),
        perm=(0, 2, 1),
    )
    # Only the best of each class enter suppression, including all that tie with the last one; MXNet
    # cuts ties off.
    best, _ = builder.add_several(
        "TopK", 2, scores, builder.integers(per_class), axis=2, largest=1, sorted=1
    )
    last = add(
        "Slice",
        best,
        builder.integers(per_class - 1),
        builder.integers(per_class),
        builder.integers(2),
    )
    nothing = builder.number(-1)
    entering = add("Where", add("GreaterOrEqual", scores, last), scores, nothing)
    # ONNX drops IoU > threshold; the reference drops IoU >= threshold. ONNX takes any two opposite
    # corners of a box.
    threshold = float(np.nextafter(np.float32(settings.nms_iou), np.float32(0)))
    chosen = add(
        "NonMaxSuppression",
        boxes,
        entering,
        builder.integers(per_class),
        builder.number([threshold]),
        builder.number([settings.score_threshold]),
    )  # (M, 3) image, class, box
    kept = add(
        "ScatterND",
        add("ConstantOfShape", add("Shape", scores), value=builder.tensor(-1)),
        chosen,
        add("GatherND", scores, chosen),
    )  # (B, classes, N)
    best, position = builder.add_several(
        "TopK",
        2,
        add("Reshape", kept, builder.integers(0, -1)),
        builder.integers(per_image),
        axis=1,
        largest=1,
        sorted=1,
    )
    position = add("Unsqueeze", position, builder.integers(2))  # (B, K, 1): class * count + box
    best = add("Unsqueeze", best, builder.integers(2))
    found = add("Greater", best, builder.number(0))
    all_boxes = builder.integers(count)
    label = add("Div", position, all_boxes)
    ids = add("Cast", label, to=1)
    index = add("Sub", position, add("Mul", label, all_boxes))
    height, width = config.model.image_size
    size = config.model.image_size.height if height == width else [width, height] * 2
    pixels = add("Mul", add("GatherND", boxes, index, batch_dims=1), builder.number(size))
    return tuple(add("Where", found, part, nothing) for part in (ids, best, pixels))


def _decode(
    builder: GraphBuilder, offsets: str, default_boxes_cxcywh: np.ndarray, config: Config
) -> str:
    """Encoded offsets (B, N, 4) to ltrb (B, N, 4) as fractions of the image size."""
    add, boxes = builder.add, config.default_boxes

    def columns(name, begin, end):
        return add(
            "Slice", name, builder.integers(begin), builder.integers(end), builder.integers(2)
        )

    centers = builder.constant(default_boxes_cxcywh[None, :, :2], np.float32, "default_box_centers")
    sizes = builder.constant(default_boxes_cxcywh[None, :, 2:], np.float32, "default_box_sizes")
    moved = add("Mul", columns(offsets, 0, 2), builder.number(boxes.center_variance))
    center = add("Add", add("Mul", moved, sizes), centers)
    grown = add(
        "Exp",
        add(
            "Min",
            add("Mul", columns(offsets, 2, 4), builder.number(boxes.size_variance)),
            builder.number(MAX_LOG_SIZE),
        ),
    )
    half = add("Mul", add("Mul", grown, sizes), builder.number(0.5))
    return add("Concat", add("Sub", center, half), add("Add", center, half), axis=2)


def _add_per_class_sigmoid(
    builder: GraphBuilder,
    offsets: str,
    logits: str,
    default_boxes_cxcywh: np.ndarray,
    config: Config,
) -> Tuple[str, str, str]:
    """As ssd.model.detections.per_class_sigmoid for an image of the network's input size."""
    add, settings = builder.add, config.detection
    count, classes = len(default_boxes_cxcywh), config.model.num_classes - 1
    entering = min(settings.boxes_per_class, count)
    kept = min(settings.kept_per_class, entering)
    height, width = config.model.image_size
    boxes = _decode(builder, offsets, default_boxes_cxcywh, config)
    boxes = add("Max", add("Min", boxes, builder.number(1)), builder.number(0))
    pixels = add("Mul", boxes, builder.number([width, height] * 2))
    scores = add(
        "Transpose",
        add(
            "Sigmoid",
            add(
                "Slice",
                logits,
                builder.integers(1),
                builder.integers(classes + 1),
                builder.integers(2),
            ),
        ),
        perm=(0, 2, 1),
    )
    best, _ = builder.add_several(
        "TopK", 2, scores, builder.integers(entering), axis=2, largest=1, sorted=1
    )
    last = add(
        "Slice",
        best,
        builder.integers(entering - 1),
        builder.integers(entering),
        builder.integers(2),
    )
    nothing = builder.number(-1)
    scores = add("Where", add("GreaterOrEqual", scores, last), scores, nothing)
    larger = add(
        "Add", pixels, builder.number([0, 0, 1, 1])
    )  # a box from 3 to 5 is three pixels wide
    chosen = add(
        "NonMaxSuppression",
        larger,
        scores,
        builder.integers(kept),
        builder.number([settings.nms_iou]),
        builder.number([settings.score_threshold]),
    )
    left = add(
        "ScatterND",
        add("ConstantOfShape", add("Shape", scores), value=builder.tensor(-1)),
        chosen,
        add("GatherND", scores, chosen),
    )
    most = builder.integers(min(settings.boxes_per_image, kept * classes))
    best, position = builder.add_several(
        "TopK", 2, add("Reshape", left, builder.integers(0, -1)), most, axis=1, largest=1, sorted=1
    )
    position, best = (
        add("Unsqueeze", position, builder.integers(2)),
        add("Unsqueeze", best, builder.integers(2)),
    )
    found, all_boxes = add("Greater", best, builder.number(0)), builder.integers(count)
    label = add("Div", position, all_boxes)
    index = add("Sub", position, add("Mul", label, all_boxes))
    return tuple(
        add("Where", found, part, nothing)
        for part in (add("Cast", label, to=1), best, add("GatherND", pixels, index, batch_dims=1))
    )


# By detection.detections.
DETECTIONS = {
    "per_class": _add_per_class,
    "per_class_sigmoid": _add_per_class_sigmoid,
    "per_level": add_per_level,
}
