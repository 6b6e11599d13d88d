"""RetinaNet's matching of anchors to ground truth, in NumPy: positives, background, and what is ignored between them.

Ported by description from the PyTorch reference of MLPerf Training v2.0 to v5.1 (single_stage_detector/ssd/model: box
IoU, Matcher, BoxCoder). Two floats that are equal or not decide which anchors a small object gets, so that IoUs are
computed by one formula, in its order, in float32.
"""
from __future__ import annotations

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.config import DefaultBoxConfig
from ssd.model.boxes.anchors import AnchorSizes, half_sizes
from ssd.model.matching import Matches

ROUNDING = 1e-5    # more than a bound and an IoU in float32 are off


class AnchorMatcher:
    """`matcher(boxes, labels)`: each anchor has the ground truth of its highest IoU, of equals the first. From
    `matching_iou` on it is positive, below `background_iou` background, and ignored between the two. Besides, all
    anchors whose IoU with a ground truth is exactly the highest that this one has with any are positive, each for its
    **own** best ground truth.

    sizes: of the anchors. settings: the two thresholds and the variances.
    """

    in_graph = False          # DALI's box_encoder knows neither ignored anchors nor several claims of one object
    box_type = np.float64     # pixels come of them by a product that is rounded once

    def __init__(self, sizes: AnchorSizes, settings: DefaultBoxConfig):
        self.settings, self.sizes = settings, sizes
        height, width = sizes.image_size
        self._size = np.array([width, height, width, height], np.float64)
        self._levels, start = [], 0
        for (rows, columns), (row, column), sides in zip(sizes.maps, sizes.steps, sizes.scales):
            level = _Level(np.arange(columns, dtype=np.float32) * np.float32(column),
                           np.arange(rows, dtype=np.float32) * np.float32(row), half_sizes(sides, sizes.ratios), start)
            self._levels.append(level)
            start += rows * columns * len(level.half)
        self.boxes = start

    def __call__(self, boxes: np.ndarray, labels: np.ndarray) -> Matches:
        """`boxes`: (m, 4) float64 ltrb in [0, 1], m >= 0; `labels`: (m,) from 1."""
        return self._match((np.asarray(boxes, np.float64) * self._size).astype(np.float32), labels)[0]

    def cover(self, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Of the (m, 4) boxes of an image the best IoU with an anchor, (m,) float32, and the number of anchors that are
        positive for each, (m,) int64."""
        matches, best = self._match((np.asarray(boxes, np.float64) * self._size).astype(np.float32),
                                    1 + np.arange(len(boxes)))
        return best, np.bincount(matches.classes - 1, minlength=len(boxes))

    def _match(self, boxes: np.ndarray, labels: np.ndarray) -> Tuple[Matches, np.ndarray]:
        """Of boxes in pixels: Matches, and each one's best IoU."""
        least, chosen = self.settings.background_iou, []
        most = np.zeros(len(boxes), np.float32)
        bounds = self._bounds(boxes)
        reached = self._reached(boxes)
        for level, bound in zip(self._levels, bounds):
            # Only anchors that may pass a threshold, or be an object's best, need an IoU.
            objects = np.flatnonzero(bound >= np.minimum(least, reached) - ROUNDING)
            if not len(objects):
                continue
            overlaps = level.overlaps(boxes[objects])                     # (objects, rows, columns, shapes)
            most[objects] = np.maximum(most[objects], overlaps.max((1, 2, 3)))
            chosen.append((level, objects, overlaps))
        positions: List[np.ndarray] = []
        for level, objects, overlaps in chosen:
            flat = overlaps.reshape(len(objects), -1)
            best = flat.max(0)
            wanted = best >= np.float32(least)
            # An object's highest IoU, wherever it is reached; below the threshold it is rare.
            low = np.flatnonzero(most[objects] < np.float32(least))
            if len(low):
                wanted |= (flat[low] == most[objects[low], None]).any(0)
            positions.append(level.start + np.flatnonzero(wanted))
        position = np.concatenate(positions) if positions else np.zeros(0, np.int64)
        return self._judge(boxes, labels, position, most), most

    def _judge(self, boxes, labels, position, most) -> Matches:
        """Matches among the anchors at `position` (p,), ascending, against all boxes."""
        if not len(position):
            return Matches(position, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), position)
        anchors = self._anchors(position)
        overlaps = iou(boxes, anchors)                                   # (m, p)
        owner, best = overlaps.argmax(0), overlaps.max(0)
        positive = (best >= np.float32(self.settings.matching_iou)) | (overlaps == most[:, None]).any(0)
        ignored = position[~positive & (best >= np.float32(self.settings.background_iou))]
        owner, anchors = owner[positive], anchors[positive]
        return Matches(position[positive], self._encode(boxes[owner], anchors), labels[owner].astype(np.int32), ignored)

    def _anchors(self, position: np.ndarray) -> np.ndarray:
        """(p, 4) ltrb [pixels] of the anchors at `position`."""
        ends = np.array([level.start for level in self._levels[1:]])
        number = np.searchsorted(ends, position, side="right")
        result = np.empty((len(position), 4), np.float32)
        for index, level in enumerate(self._levels):
            own = number == index
            result[own] = level.anchors(position[own])
        return result

    def _encode(self, boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
        """(p, 4) float32: centre x and y, width and height, in units of the variances."""
        own, size = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
        moved = (boxes[:, :2] + 0.5 * size) - (anchors[:, :2] + 0.5 * own)
        return np.concatenate([moved / own / np.float32(self.settings.center_variance),
                               np.log(size / own) / np.float32(self.settings.size_variance)], axis=1)

    def _bounds(self, boxes: np.ndarray) -> List[np.ndarray]:
        """Per level the highest IoU that each box could have with an anchor of it, wherever it lay, (m,)."""
        size = boxes[:, None, 2:] - boxes[:, None, :2]
        bounds = []
        for level in self._levels:
            common = np.minimum(size, 2 * level.half).prod(2)
            bounds.append((common / (size.prod(2) + level.area - common)).max(1))
        return bounds

    def _reached(self, boxes: np.ndarray) -> np.ndarray:
        """The highest IoU of each box with the anchors at the cell nearest to its centre, (m,): no more than its
        highest of all."""
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        best = np.zeros(len(boxes), np.float32)
        for level in self._levels:
            x, y = (line[np.clip(np.rint(centre[:, axis] / step).astype(int), 0, len(line) - 1)]
                    for axis, (line, step) in enumerate(zip((level.x, level.y), level.steps)))
            near = np.stack([x, y], 1)[:, None]
            common = np.clip(np.minimum(boxes[:, None, 2:], near + level.half)
                             - np.maximum(boxes[:, None, :2], near - level.half), 0, None).prod(2)
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
            best = np.maximum(best, (common / (area + level.area - common)).max(1))
        return best


class _Level(NamedTuple):
    """The anchors of a feature map: centres x (columns,) and y (rows,), half sizes (shapes, 2) of a cell's, and the
    position of the first."""
    x: np.ndarray
    y: np.ndarray
    half: np.ndarray
    start: int

    @property
    def steps(self) -> Tuple[float, float]:
        return tuple(max(1.0, float(line[-1]) / max(1, len(line) - 1)) for line in (self.x, self.y))

    @property
    def area(self) -> np.ndarray:
        """(shapes,), as `iou` has it: all numbers are whole."""
        return (2 * self.half).prod(1)

    def anchors(self, position: np.ndarray) -> np.ndarray:
        """(p, 4) ltrb of those at `position`."""
        cell, shape = np.divmod(position - self.start, len(self.half))
        row, column = np.divmod(cell, len(self.x))
        centre = np.stack([self.x[column], self.y[row]], 1)
        return np.concatenate([centre - self.half[shape], centre + self.half[shape]], 1)

    def overlaps(self, boxes: np.ndarray) -> np.ndarray:
        """IoU with (m, 4) boxes, (m, rows, columns, shapes): bit for bit what `iou` gives, but in fewer operations, as
        the overlap in x depends on the column alone and that in y on the row."""
        sides = []
        for axis, line in ((0, self.x), (1, self.y)):
            low = np.maximum(boxes[:, axis, None, None], line[:, None] - self.half[:, axis])
            high = np.minimum(boxes[:, axis + 2, None, None], line[:, None] + self.half[:, axis])
            sides.append(np.maximum(high - low, np.float32(0)))
        common = sides[0][:, None] * sides[1][:, :, None]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        union = (area[:, None] + self.area)[:, None, None] - common
        return np.divide(common, union, out=union)


def iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of (m, 4) ltrb boxes with (p, 4), (m, p) float32: common / (area + area - common)."""
    low = np.maximum(boxes[:, None, :2], anchors[:, :2])
    high = np.minimum(boxes[:, None, 2:], anchors[:, 2:])
    sides = np.maximum(high - low, np.float32(0))
    common = sides[:, :, 0] * sides[:, :, 1]
    areas = [(part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1]) for part in (boxes, anchors)]
    return common / (areas[0][:, None] + areas[1] - common)
