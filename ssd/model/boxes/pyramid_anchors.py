"""MindCV's anchors on a feature pyramid: what follows from the size of the image.

Listed feature map, row, column, ratio, octave. Ported by description from mindspore-lab/mindcv,
examples/det/ssd.
"""

from __future__ import annotations

from typing import List, Tuple

from ssd.errors import UserError
from ssd.model.boxes.grid import GridSizes

STEPS = (8, 16, 32, 64, 128)  # between centres [pixels], P3 to P7
BASE = 4  # side of the smallest square anchor, in steps


class PyramidSizes(GridSizes):
    """ratios: width / height."""

    __slots__ = ()

    def shapes(self) -> List[List[Tuple[float, float]]]:
        height, width = self.image_size
        return [
            [
                (side * ratio**0.5 / width, side / ratio**0.5 / height)
                for ratio in self.ratios
                for side in sides
            ]
            for sides in self.scales
        ]


def pyramid_sizes(config) -> PyramidSizes:
    """The sizes of a recipe; UserError for settings that do not fit."""
    height, width = config.model.image_size
    boxes = config.default_boxes
    if not boxes.anchor_ratios:
        raise UserError("anchor_ratios: none given")
    octaves = boxes.anchors_per_octave
    maps = tuple((-(-height // step), -(-width // step)) for step in STEPS)
    scales = tuple(
        tuple(BASE * step * 2 ** (part / octaves) for part in range(octaves)) for step in STEPS
    )
    steps = tuple((step, step) for step in STEPS)
    return PyramidSizes((height, width), maps, steps, scales, tuple(boxes.anchor_ratios))
