"""Anchors of the same few shapes at every cell of a feature map: what RetinaNet's and MindCV's
rules have in common."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

from ssd.model.boxes.ssd_sizes import Shape


class _Values(NamedTuple):
    image_size: Shape
    maps: Tuple[Shape, ...]
    steps: Tuple[Tuple[float, float], ...]
    scales: Tuple[Tuple[float, ...], ...]
    ratios: Tuple[float, ...]


class GridSizes(_Values):
    """What follows from an image of (height, width) pixels.

    maps: (height, width) of each feature map [cells]. steps: per map the distances of neighbouring
    (rows, columns) of centres [pixels]. scales: per map the sides of its square anchors [pixels].
    ratios: aspect ratios of the anchors.
    """

    __slots__ = ()
    clipped = False  # whether boxes are cut to the image's size

    @property
    def per_cell(self) -> Tuple[int, ...]:
        """Per feature map the number of anchors at each of its cells."""
        return tuple(len(sides) * len(self.ratios) for sides in self.scales)

    @property
    def grid(self) -> Tuple[Tuple[int, int], ...]:
        """Per feature map its cells and the anchors of each."""
        return tuple(
            (height * width, boxes) for (height, width), boxes in zip(self.maps, self.per_cell)
        )

    @property
    def span(self) -> Tuple[float, float]:
        """Side of the smallest and of the largest square anchor [pixels]."""
        return self.scales[0][0], self.scales[-1][-1]

    def outside(self) -> int:
        """Number of anchors whose centre lies outside the image; those that are outside because the
        map's size is rounded up are not counted."""
        return 0

    def shapes(self) -> List[List[Tuple[float, float]]]:
        """Per feature map the (width, height) of its anchors, in shares of the image's width and
        height."""
        raise NotImplementedError
