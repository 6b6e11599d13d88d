"""The default boxes of a single-shot detector.

Ported from the PyTorch reference of MLPerf Training v1.1, utils.py (DefaultBoxes), but listed cell by cell:
feature map, row, column, shape; this is the order in which the heads emit their predictions. For images that are not
square as in mlcommons/abtf-ssd-pytorch: sides in pixels, by the image's width and height.
"""
from __future__ import annotations

from typing import List, Tuple

import numpy as np

from ssd.model.boxes.ssd_sizes import Sizes


def box_shapes(sizes: Sizes) -> List[List[Tuple[float, float]]]:
    """Per feature map the (width, height) of its default boxes, in shares of the image's width and height.

    The square of the map's scale, the square of the geometric mean with the next scale, then for each aspect
    ratio a the boxes a:1 and 1:a of the first square's area.
    """
    height, width = sizes.image_size
    shapes = []
    for scale, following, ratios in zip(sizes.scales, sizes.scales[1:], sizes.aspect_ratios):
        wide, high, between = scale / width, scale / height, (scale * following) ** 0.5
        shapes.append([(wide, high), (between / width, between / height)])
        for root in (ratio ** 0.5 for ratio in ratios):
            shapes[-1] += [(wide * root, high / root), (wide / root, high * root)]
    return shapes


def default_boxes(sizes: Sizes) -> np.ndarray:
    """All default boxes, (N, 4) float32 cxcywh in [0, 1].

    Centre and size are each clipped to [0, 1]; ltrb that is derived from them (`formats.cxcywh_to_ltrb`) may leave the
    image and is not clipped.
    """
    image_height, image_width = sizes.image_size
    parts = []
    for (height, width), (row, column), shapes in zip(sizes.maps, sizes.steps, box_shapes(sizes)):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centers = np.stack([(columns + 0.5) * column / image_width, (rows + 0.5) * row / image_height], axis=-1)
        cells = np.empty((height, width, len(shapes), 4))
        cells[..., :2] = centers[:, :, None]
        cells[..., 2:] = np.asarray(shapes)
        parts.append(np.clip(cells.reshape(-1, 4), 0, 1).astype(np.float32))
    return np.concatenate(parts)
