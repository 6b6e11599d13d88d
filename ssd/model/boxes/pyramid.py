"""MindCV's anchors on a feature pyramid: what follows from the size of the image.

Listed feature map, row, column, ratio, octave. Ported by description from mindspore-lab/mindcv, examples/det/ssd.
"""
from __future__ import annotations

from typing import List, NamedTuple, Tuple

from ssd.errors import UserError
from ssd.model.boxes.ssd_sizes import Shape

STEPS = (8, 16, 32, 64, 128)    # between centres [pixels], P3 to P7
BASE = 4                        # side of the smallest square anchor, in steps


class PyramidSizes(NamedTuple):
    """What follows from an image of (height, width) pixels.

    maps: (height, width) of each feature map [cells]. steps: per map the distances of neighbouring (rows, columns) of
    centres [pixels]. scales: per map the sides of its square anchors [pixels]. ratios: width / height.
    """
    image_size: Shape
    maps: Tuple[Shape, ...]
    steps: Tuple[Tuple[float, float], ...]
    scales: Tuple[Tuple[float, ...], ...]
    ratios: Tuple[float, ...]

    @property
    def per_cell(self) -> Tuple[int, ...]:
        """Per feature map the number of anchors at each of its cells."""
        return tuple(len(sides) * len(self.ratios) for sides in self.scales)

    @property
    def grid(self) -> Tuple[Tuple[int, int], ...]:
        """Per feature map its cells and the anchors of each."""
        return tuple((height * width, boxes) for (height, width), boxes in zip(self.maps, self.per_cell))

    @property
    def span(self) -> Tuple[float, float]:
        """Side of the smallest and of the largest square anchor [pixels]."""
        return self.scales[0][0], self.scales[-1][-1]

    clipped = False    # whether boxes are cut to the image's size

    def outside(self) -> int:
        """Number of anchors whose centre lies beyond the image, which rounding up brings about: not counted."""
        return 0

    def shapes(self) -> List[List[Tuple[float, float]]]:
        """Per feature map the (width, height) of its anchors, in shares of the image's width and height."""
        height, width = self.image_size
        return [[(side * ratio ** 0.5 / width, side / ratio ** 0.5 / height) for ratio in self.ratios for side in sides]
                for sides in self.scales]


def pyramid_sizes(config) -> PyramidSizes:
    """The sizes of a recipe; UserError for settings that do not fit."""
    height, width = config.model.image_size
    boxes = config.default_boxes
    if not boxes.anchor_ratios:
        raise UserError("anchor_ratios: none given")
    octaves = boxes.anchors_per_octave
    maps = tuple((-(-height // step), -(-width // step)) for step in STEPS)
    scales = tuple(tuple(BASE * step * 2 ** (part / octaves) for part in range(octaves)) for step in STEPS)
    steps = tuple((step, step) for step in STEPS)
    return PyramidSizes((height, width), maps, steps, scales, tuple(boxes.anchor_ratios))
