"""ssd.model.detections.per_level in ONNX: the best of each feature map, decoding, suppression per
class."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ssd.config import Config
from ssd.model.boxes.anchors import anchors_cxcywh
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.detections.per_level import MAX_LOG_SIZE
from ssd.tools.export_onnx import GraphBuilder


def add_per_level(
    builder: GraphBuilder,
    offsets: str,
    logits: str,
    default_boxes_cxcywh: np.ndarray,
    config: Config,
) -> Tuple[str, str, str]:
    """See ssd.tools.export_detections.add_detections. default_boxes_cxcywh is not used: the boxes
    are computed in pixels."""
    add, settings, classes = builder.add, config.detection, config.model.num_classes - 1
    sizes = sizes_of(config)
    best, parts, start = add("ReduceMax", logits, axes=[2], keepdims=0), [], 0
    for cells, each in sizes.grid:
        parts.append(
            _candidates(
                builder, logits, best, start, cells * each, classes, settings.candidates_per_map
            )
        )
        start += cells * each
    score, box, label = (add("Concat", *column, axis=1) for column in zip(*parts))  # (B, M)
    score = add("Sigmoid", score)
    chosen_offsets = add(
        "GatherND", offsets, add("Unsqueeze", box, builder.integers(2)), batch_dims=1
    )  # (B, M, 4)
    boxes = _decode(
        builder,
        chosen_offsets,
        add(
            "Gather",
            builder.constant(anchors_cxcywh(sizes), np.float32, "default_boxes"),
            box,
            axis=0,
        ),
        config,
    )
    # A candidate has a score for its class only, so that suppression stays within a class.
    numbers = builder.constant(np.arange(classes).reshape(1, -1, 1), np.int64, "classes")
    nothing = builder.number(-1)
    scores = add(
        "Where",
        add("Equal", add("Unsqueeze", label, builder.integers(1)), numbers),
        add("Unsqueeze", score, builder.integers(1)),
        nothing,
    )  # (B, classes, M)
    count = sum(
        min(settings.candidates_per_map, cells * each * classes) for cells, each in sizes.grid
    )
    chosen = add(
        "NonMaxSuppression",
        boxes,
        scores,
        builder.integers(count),
        builder.number([settings.nms_iou]),
        builder.number([settings.score_threshold]),
    )  # (found, 3) image, class, box
    kept = add(
        "ScatterND",
        add("ConstantOfShape", add("Shape", scores), value=builder.tensor(-1)),
        chosen,
        add("GatherND", scores, chosen),
    )
    kept, position = builder.add_several(
        "TopK",
        2,
        add("ReduceMax", kept, axes=[1], keepdims=0),
        builder.integers(min(settings.boxes_per_image, count)),
        axis=1,
        largest=1,
        sorted=1,
    )
    position, kept = (
        add("Unsqueeze", part, builder.integers(2)) for part in (position, kept)
    )  # (B, K, 1)
    found = add("Greater", kept, builder.number(0))
    ids = add(
        "Cast",
        add("GatherND", add("Unsqueeze", label, builder.integers(2)), position, batch_dims=1),
        to=1,
    )
    boxes = add("GatherND", boxes, position, batch_dims=1)
    return tuple(add("Where", found, part, nothing) for part in (ids, kept, boxes))


def _candidates(
    builder: GraphBuilder, logits: str, best: str, start: int, count: int, classes: int, most: int
):
    """Logits, boxes (from 0 over all maps) and classes (from 0) of a map's candidates, (B,
    candidates) each."""
    add, wanted = builder.add, min(most, count * classes)
    of_map = add(
        "Slice", best, builder.integers(start), builder.integers(start + count), builder.integers(1)
    )
    _, boxes = builder.add_several(
        "TopK", 2, of_map, builder.integers(min(wanted, count)), axis=1, largest=1, sorted=1
    )
    boxes = add(
        "Unsqueeze", add("Add", boxes, builder.integers(start)), builder.integers(2)
    )  # (B, boxes, 1)
    among = add("Reshape", add("GatherND", logits, boxes, batch_dims=1), builder.integers(0, -1))
    score, position = builder.add_several(
        "TopK", 2, among, builder.integers(wanted), axis=1, largest=1, sorted=1
    )
    row = add("Div", position, builder.integers(classes))
    box = add("GatherND", boxes, add("Unsqueeze", row, builder.integers(2)), batch_dims=1)
    return (
        score,
        add("Squeeze", box, builder.integers(2)),
        add("Sub", position, add("Mul", row, builder.integers(classes))),
    )


def _decode(builder: GraphBuilder, offsets: str, anchors: str, config: Config) -> str:
    """Encoded offsets (B, M, 4) from anchors (B, M, 4) cxcywh to ltrb (B, M, 4), clipped to the
    image [pixels]."""
    add, boxes = builder.add, config.default_boxes

    def columns(name, begin, end):
        return add(
            "Slice", name, builder.integers(begin), builder.integers(end), builder.integers(2)
        )

    size = columns(anchors, 2, 4)
    moved = add(
        "Mul", add("Mul", columns(offsets, 0, 2), builder.number(boxes.center_variance)), size
    )
    center = add("Add", moved, columns(anchors, 0, 2))
    grown = add(
        "Exp",
        add(
            "Min",
            add("Mul", columns(offsets, 2, 4), builder.number(boxes.size_variance)),
            builder.number(MAX_LOG_SIZE),
        ),
    )
    half = add("Mul", add("Mul", grown, size), builder.number(0.5))
    corners = add("Concat", add("Sub", center, half), add("Add", center, half), axis=2)
    height, width = config.model.image_size
    return add("Max", add("Min", corners, builder.number([width, height] * 2)), builder.number(0))
