"""A summary of a detector: its layers and their cost, its default boxes, and their coverage of a
data set."""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np

from ssd.config import Config
from ssd.data.coverage import SIZES, coverage
from ssd.datasets.coco import check_left_out, inspect_coco, nothing_left, select_good
from ssd.errors import UserError
from ssd.model.boxes.ssd_sizes import SsdSizes

# (pattern of operator names, title) of each part of the network, in the order of the table.
BLOCKS = (
    (r"{backbone}(conv\d|batchnorm|pool|convnorm0_)", "backbone stem"),
    (r"{backbone}stage(\d+)", "backbone stage {{}}"),
    (r"{backbone}block(\d+)", "backbone block {{}}"),
    (r"{backbone}(convnorm1)_", "backbone, last"),
    (r"ssd\d+_(tap)_", "first map, widened"),
    (r"expand_(?:trans_)?(?:conv|batchnorm)(\d+)", "extra block {{}}"),
    (r"ssd\d+_extra(\d+)_", "extra block {{}}"),
    (r"fpn_(\w+?)\d", "pyramid, {{}}"),
    (r"convpredictor(\d+)", "head {{}}"),
    (r"ssd\d+_head(\d+)_", "head {{}}"),
    (r"head_(classification|regression|loc|conf)_", "head, {{}}"),
)

PARTS = ("lateral", "smooth", "coarser", "down", "classification", "regression", "loc", "conf")


class ObjectBoxes(NamedTuple):
    """Positions and sizes of an annotation file's boxes, sorted by image."""

    path: str
    categories: Tuple[str, ...]
    images: int
    left_out: int  # number of bad annotations
    lines: Tuple[str, ...]  # messages on what was left out and what is odd
    ltrb: np.ndarray  # (m, 4), fractions of the image size
    areas: np.ndarray  # (m,) pixels^2 of the image file
    image: np.ndarray  # (m,) index of the image, ascending

    @property
    def num_classes(self) -> int:
        return 1 + len(self.categories)


def read_object_boxes(path: str, max_left_out: float = 0.5) -> ObjectBoxes:
    """The boxes of a COCO annotation file, without bad entries; no image is read. UserError if the
    file is not COCO, has no box, or would be refused in training even with
    --skip-bad-annotations."""
    found = inspect_coco(path, None)
    data, lines = select_good(found)
    problem = nothing_left(data, found, True)
    if problem:
        raise UserError(problem)
    check_left_out(data, max_left_out, True)
    ltrb, image = data.boxes_ltrb, data.box_image
    return ObjectBoxes(
        path,
        data.category_names,
        data.num_images,
        data.found.boxes - len(image),
        tuple(lines[:-1]),
        ltrb / np.tile(data.sizes[image], 2),
        (ltrb[:, 2:] - ltrb[:, :2]).prod(1),
        image,
    )


def summarise(config: Config, truth: ObjectBoxes = None) -> Dict[str, Any]:
    """Everything about the network of a recipe, as plain values; docs/summary.md explains the
    keys."""
    from ssd.model.detector import build_detector
    from ssd.model.operations import operations, training_multiply_adds

    model, detector = config.model, build_detector(config)
    network = detector.network
    layers = operations(network)
    maps = _maps(detector.sizes)
    result = dict(
        recipe=config.recipe,
        detector=model.detector,
        backbone=model.backbone,
        width=model.width,
        image_size=model.image_size.plain,
        num_classes=model.num_classes,
        parameters=sum(layer.parameters for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        training_multiply_adds=training_multiply_adds(network),
        default_boxes=sum(entry["boxes"] for entry in maps),
        maps=maps,
        default_boxes_outside=detector.sizes.outside() if config.default_boxes.steps else 0,
        blocks=_blocks(layers, model.layout, network.backbone.prefix),
        layers=[
            dict(
                name=layer.name,
                op=layer.op,
                output_shape=list(layer.output_shape),
                parameters=layer.parameters,
                multiply_adds=layer.multiply_adds,
            )
            for layer in layers
        ],
    )
    if truth is not None:
        result["coverage"] = _coverage(config, detector, truth)
    return result


def _blocks(layers, layout: str, backbone: str) -> List[Dict[str, Any]]:
    """Parameters and multiply-adds by part of the network; output: channels, height, width."""
    found: Dict[Tuple[int, int], Dict[str, Any]] = {}
    for layer in layers:
        for kind, (pattern, title) in enumerate(BLOCKS):
            match = re.search(pattern.format(backbone=re.escape(backbone)), layer.name)
            if match:
                number = match.group(1)
                key = (
                    kind,
                    int(number)
                    if number.isdigit()
                    else PARTS.index(number)
                    if number in PARTS
                    else 0,
                )
                block = found.setdefault(
                    key, dict(name=title.format().format(number), parameters=0, multiply_adds=0)
                )
                block["parameters"] += layer.parameters
                block["multiply_adds"] += layer.multiply_adds
                if layer.op in ("Convolution", "Pooling"):
                    shape = layer.output_shape
                    block["output"] = list(
                        shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
                    )
    return [found[key] for key in sorted(found)]


def _maps(sizes: SsdSizes) -> List[Dict[str, Any]]:
    """The feature maps. cells, step: one number if rows and columns agree, else [rows, columns];
    shapes: [width, height] in pixels."""
    height, width = sizes.image_size

    most = 1.0 if sizes.clipped else np.inf

    def short(pair):
        return pair[0] if pair[0] == pair[1] else list(pair)

    return [
        dict(
            cells=short(cells),
            step=short(step),
            boxes=cells[0] * cells[1] * len(shapes),
            shapes=[
                [round(min(wide, most) * width, 2), round(min(high, most) * height, 2)]
                for wide, high in shapes
            ],
        )
        for cells, step, shapes in zip(sizes.maps, sizes.steps, sizes.shapes())
    ]


def _coverage(config: Config, detector, truth: ObjectBoxes) -> Dict[str, Any]:
    best, matched = coverage(detector.sizes, detector.matcher, truth.ltrb, truth.image)
    threshold = config.default_boxes.matching_iou
    result: Dict[str, Any] = dict(
        annotations=truth.path,
        images=truth.images,
        left_out=truth.left_out,
        iou=threshold,
        sizes={},
    )
    for name, low, high in (("all", 0, np.inf),) + SIZES:
        chosen = (truth.areas >= low) & (truth.areas < high)
        count = int(chosen.sum())
        result["sizes"][name] = dict(
            boxes=count,
            covered=int((best[chosen] > threshold).sum()),
            mean_iou=round(float(best[chosen].mean()), 4) if count else None,
            matched_mean=round(float(matched[chosen].mean()), 3) if count else None,
            matched_median=float(np.median(matched[chosen])) if count else None,
            unmatched=int((matched[chosen] == 0).sum()),
        )
    return result
