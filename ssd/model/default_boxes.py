"""The default boxes of a single-shot detector.

Ported from the PyTorch reference of MLPerf Training v1.1, utils.py (DefaultBoxes), but listed cell by cell:
feature map, row, column, shape; this is the order in which the heads emit their predictions.
"""
from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from ssd.config import DefaultBoxConfig
from ssd.errors import UserError


def box_shapes(config: DefaultBoxConfig, image_size: int) -> List[List[Tuple[float, float]]]:
    """Per feature map the (width, height) of its default boxes, in shares of the image's side.

    The square of the map's scale, the square of the geometric mean with the next scale, then for each aspect
    ratio a the boxes a:1 and 1:a of the first square's area.
    """
    shapes = []
    for scale, following, ratios in zip(config.scales, config.scales[1:], config.aspect_ratios):
        side, between = scale / image_size, (scale * following) ** 0.5 / image_size
        shapes.append([(side, side), (between, between)])
        for ratio in ratios:
            shapes[-1] += [(side * ratio ** 0.5, side / ratio ** 0.5), (side / ratio ** 0.5, side * ratio ** 0.5)]
    return shapes


def boxes_per_cell(config: DefaultBoxConfig) -> List[int]:
    """Per feature map the number of default boxes at each of its cells."""
    return [2 + 2 * len(ratios) for ratios in config.aspect_ratios]


def boxes_per_map(feature_sizes: Sequence[Tuple[int, int]], config: DefaultBoxConfig) -> List[Tuple[int, int]]:
    """Per feature map its cells and the default boxes of each. feature_sizes: (height, width) of each map."""
    return [(height * width, shapes) for (height, width), shapes in zip(feature_sizes, boxes_per_cell(config))]


def default_boxes(feature_sizes: Sequence[Tuple[int, int]], config: DefaultBoxConfig, image_size: int) -> np.ndarray:
    """All default boxes, (N, 4) float32 cxcywh in [0, 1].

    `feature_sizes`: (height, width) of each feature map. Centre and size are each clipped to [0, 1]; ltrb that
    is derived from them (`boxes.cxcywh_to_ltrb`) may leave the image and is not clipped.
    """
    if len(feature_sizes) != len(config.steps):
        raise UserError(f"default boxes: {len(config.steps)} steps for {len(feature_sizes)} feature maps")
    parts = []
    for (height, width), step, shapes in zip(feature_sizes, config.steps, box_shapes(config, image_size)):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centers = np.stack([(columns + 0.5) * step / image_size, (rows + 0.5) * step / image_size], axis=-1)
        cells = np.empty((height, width, len(shapes), 4))
        cells[..., :2] = centers[:, :, None]
        cells[..., 2:] = np.asarray(shapes)
        parts.append(cells.reshape(-1, 4))
    return np.clip(np.concatenate(parts), 0, 1).astype(np.float32)
