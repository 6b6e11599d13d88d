"""Settings that follow from the data set, and in words what follows from the image's size."""
from __future__ import annotations

from ssd.config import Config
from ssd.model.default_boxes import boxes_per_cell
from ssd.model.geometry import feature_sizes


def resolve(config: Config, dataset) -> Config:
    """`config` with nothing left open: num_classes 0 becomes that of `dataset` (a CocoDataset), background included.

    What follows from the image's size needs no data and is computed in ssd.config.
    """
    return config if config.model.num_classes else config.with_values(num_classes=dataset.num_classes)


def describe(config: Config) -> str:
    """One line: classes, feature maps and default boxes."""
    model, boxes = config.model, config.default_boxes
    sizes = feature_sizes(model.image_size, model.extra_strides, model.extra_pads)
    count = sum(size * size * shapes for size, shapes in zip(sizes, boxes_per_cell(boxes)))
    return (f"{model.num_classes} classes with the background; images of {model.image_size} pixels: feature maps of "
            f"{', '.join(map(str, sizes))} cells, {count:,} default boxes from {boxes.scales[0]:.4g} to "
            f"{boxes.scales[-1]:.4g} pixels")
