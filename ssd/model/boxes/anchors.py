"""RetinaNet's anchors: what follows from the size of the image, and the boxes themselves.

Ported by description from the PyTorch reference of MLPerf Training v2.0 to v5.1
(single_stage_detector/ssd/model, AnchorGenerator), whose anchors are of whole pixels. They are
listed feature map, row, column, ratio, size.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

from ssd.errors import UserError
from ssd.model.boxes.grid import GridSizes
from ssd.model.boxes.ssd_sizes import halved

LEVELS = (3, 4, 5, 6, 7)  # halvings of the image's sides that lead to the pyramid's maps, P3 to P7


class AnchorSizes(GridSizes):
    """steps: the first centres lie on the image's edge. scales: whole pixels. ratios: height /
    width."""

    __slots__ = ()

    def shapes(self) -> List[List[Tuple[float, float]]]:
        height, width = self.image_size
        return [
            [(2 * wide / width, 2 * high / height) for wide, high in half_sizes(sides, self.ratios)]
            for sides in self.scales
        ]


def anchor_sizes(config) -> AnchorSizes:
    """The sizes of a recipe; UserError for settings that do not fit each other, naming the
    setting."""
    model, boxes = config.model, config.default_boxes
    if len(boxes.anchor_sizes) != len(LEVELS):
        raise UserError(
            f"anchor_sizes: {len(LEVELS)} values are needed for {len(LEVELS)} feature maps, not "
            f"{len(boxes.anchor_sizes)}"
        )
    height, width = model.image_size
    maps = tuple(halved((height, width), times) for times in LEVELS)
    octave = boxes.anchors_per_octave
    scales = tuple(
        tuple(int(size * 2 ** (part / octave)) for part in range(octave))
        for size in boxes.anchor_sizes
    )
    steps = tuple((height // rows, width // columns) for rows, columns in maps)
    return AnchorSizes((height, width), maps, steps, scales, tuple(boxes.anchor_ratios))


def half_sizes(sides, ratios) -> np.ndarray:
    """(n, 2) float32 half widths and heights [whole pixels] of a cell's anchors, listed ratio,
    side."""
    root = np.sqrt(np.asarray(ratios, np.float32))
    sides = np.asarray(sides, np.float32)
    # Ties go to the even number, as PyTorch and NumPy round; MXNet's operators do not.
    wide, high = (np.round(np.outer(part, sides).ravel() / 2) for part in (1 / root, root))
    return np.stack([wide, high], axis=1)


def anchors_ltrb(sizes: AnchorSizes) -> np.ndarray:
    """All anchors, (N, 4) float32 ltrb, whole pixels; not clipped."""
    parts = []
    for (rows, columns), (row, column), sides in zip(sizes.maps, sizes.steps, sizes.scales):
        half = half_sizes(sides, sizes.ratios)
        y, x = np.meshgrid(np.arange(rows) * row, np.arange(columns) * column, indexing="ij")
        centres = np.stack([x, y], axis=-1).astype(np.float32).reshape(-1, 1, 2)
        parts.append(np.concatenate([centres - half, centres + half], axis=2).reshape(-1, 4))
    return np.concatenate(parts)


def anchors_cxcywh(sizes: AnchorSizes) -> np.ndarray:
    """All anchors, (N, 4) float32 cxcywh in whole pixels; not clipped."""
    ltrb = anchors_ltrb(sizes)
    return np.concatenate([(ltrb[:, :2] + ltrb[:, 2:]) / 2, ltrb[:, 2:] - ltrb[:, :2]], axis=1)


def shares_cxcywh(sizes: AnchorSizes) -> np.ndarray:
    """The same in shares of the image."""
    height, width = sizes.image_size
    return (anchors_cxcywh(sizes).astype(np.float64) / [width, height, width, height]).astype(
        np.float32
    )
