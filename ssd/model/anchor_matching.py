"""RetinaNet's matching of anchors to ground truth, in NumPy: positives, background, and what is
ignored between them.

Ported by description from the PyTorch reference of MLPerf Training v2.0 to v5.1
(single_stage_detector/ssd/model: box IoU, Matcher, BoxCoder). Which anchors a small object gets can
depend on whether two floats are equal, so all IoUs are computed by the reference's formula, in its
order of operations, in float32.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import numpy as np

from ssd.config import DefaultBoxConfig
from ssd.model.boxes.anchors import AnchorSizes, half_sizes
from ssd.model.matching import Matches

ROUNDING = 1e-5  # above the rounding error of a bound and of an IoU in float32
MARGIN = 1.0  # pixels: above the rounding error of a box's centre
COMPARED = 1 << 20  # pairs of an object and an anchor whose IoUs are in memory at a time


class AnchorMatcher:
    """`matcher(boxes, labels)`: each anchor is assigned the ground truth with which it has the
    highest IoU (the first of equals). It is positive if that IoU is at least `matching_iou`,
    background if it is below `background_iou`, and ignored in between. In addition, every anchor
    whose IoU with some ground truth equals that ground truth's highest IoU with any anchor is
    positive, for the anchor's **own** best ground truth.

    sizes: of the anchors. settings: the two thresholds and the variances.
    """

    # DALI's box_encoder supports neither ignored anchors nor several claims by one object.
    in_graph = False
    box_type = np.float64  # the product that turns them into pixels is rounded once

    def __init__(self, sizes: AnchorSizes, settings: DefaultBoxConfig):
        self.settings, self.sizes = settings, sizes
        height, width = sizes.image_size
        self._size = np.array([width, height, width, height], np.float64)
        self._levels, start = [], 0
        for (rows, columns), (row, column), sides in zip(sizes.maps, sizes.steps, sizes.scales):
            level = _Level(
                np.arange(columns, dtype=np.float32) * np.float32(column),
                np.arange(rows, dtype=np.float32) * np.float32(row),
                half_sizes(sides, sizes.ratios),
                start,
            )
            self._levels.append(level)
            start += rows * columns * len(level.half)
        self.boxes = start

    def __call__(self, boxes: np.ndarray, labels: np.ndarray) -> Matches:
        """`boxes`: (m, 4) float64 ltrb in [0, 1], m >= 0; `labels`: (m,) from 1."""
        return self._match((np.asarray(boxes, np.float64) * self._size).astype(np.float32), labels)[
            0
        ]

    def cover(self, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """For the (m, 4) boxes of an image: the best IoU with an anchor, (m,) float32, and the
        number of positive anchors of each, (m,) int64."""
        matches, best = self._match(
            (np.asarray(boxes, np.float64) * self._size).astype(np.float32),
            1 + np.arange(len(boxes)),
        )
        return best, np.bincount(matches.classes - 1, minlength=len(boxes))

    def _match(self, boxes: np.ndarray, labels: np.ndarray) -> Tuple[Matches, np.ndarray]:
        """For boxes in pixels: Matches, and the best IoU of each box."""
        least = np.float32(self.settings.background_iou)
        owner, position, overlap = self._pairs(
            boxes, np.minimum(least, self._reached(boxes)) - ROUNDING
        )
        most = np.zeros(len(boxes), np.float32)
        np.maximum.at(most, owner, overlap)
        best_of_its_own = overlap == most[owner]
        # Anchors at an object's highest IoU where that is below the threshold, which is rare. Pairs
        # below the threshold decide to which object they belong, and `_pairs` has not found all of
        # those: these anchors are compared with all boxes.
        low = np.unique(position[best_of_its_own & (overlap < least)])
        by_low = self._assign_all(boxes, low, most)
        chosen = np.flatnonzero((overlap >= least) & ~np.isin(position, low))
        by_pairs = _assign(
            owner[chosen], position[chosen], overlap[chosen], best_of_its_own[chosen]
        )
        position, owner, best, claimed = (np.concatenate(pair) for pair in zip(by_low, by_pairs))
        order = np.argsort(position)
        position, owner, best, claimed = position[order], owner[order], best[order], claimed[order]
        positive = (best >= np.float32(self.settings.matching_iou)) | claimed
        ignored = position[~positive & (best >= least)]
        position, owner = position[positive], owner[positive]
        return Matches(
            position,
            self.encode(boxes[owner], self._anchors(position)),
            labels[owner].astype(np.int32),
            ignored,
        ), most

    def _pairs(self, boxes: np.ndarray, least: np.ndarray):
        """Objects (p,) int64, positions (p,) int64 and IoUs (p,) float32 of all pairs of at least
        `least` (m,)."""
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        for level, bound in zip(self._levels, self._bounds(boxes)):
            # Only anchors that may pass a threshold, or be an object's best, need an IoU.
            objects = np.flatnonzero(bound >= least)
            windows, hits, values = level.windows(boxes[objects], least[objects]), [], []
            for number, window in zip(objects, windows.tolist()):
                overlaps = level.overlaps(boxes[number], *window).ravel()
                hits.append(np.flatnonzero(overlaps >= least[number]))
                values.append(overlaps[hits[-1]])
            if len(objects):
                counts = list(map(len, hits))
                found.append(
                    (
                        np.repeat(objects, counts),
                        level.positions(np.concatenate(hits), np.repeat(windows, counts, axis=0)),
                        np.concatenate(values),
                    )
                )
        return tuple(np.concatenate(column) for column in zip(*found))

    def _assign_all(self, boxes: np.ndarray, position: np.ndarray, most: np.ndarray):
        """`_assign` of the anchors at `position` (p,), ascending, by their IoUs with all boxes."""
        parts = [(position[:0], position[:0], most[:0], np.zeros(0, bool))]
        block = max(1, COMPARED // max(1, len(boxes)))
        for start in range(0, len(position), block):
            part = position[start : start + block]
            overlaps = iou(boxes, self._anchors(part))  # (m, p)
            parts.append(
                (part, overlaps.argmax(0), overlaps.max(0), (overlaps == most[:, None]).any(0))
            )
        return tuple(np.concatenate(column) for column in zip(*parts))

    def _anchors(self, position: np.ndarray) -> np.ndarray:
        """(p, 4) ltrb [pixels] of the anchors at `position`."""
        ends = np.array([level.start for level in self._levels[1:]])
        number = np.searchsorted(ends, position, side="right")
        result = np.empty((len(position), 4), np.float32)
        for index, level in enumerate(self._levels):
            own = number == index
            result[own] = level.anchors(position[own])
        return result

    def encode(self, boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
        """Offsets of boxes (p, 4) ltrb [pixels] from anchors (p, 4), (p, 4) float32: centre x and
        y, width and height, in units of the variances."""
        own, size = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
        moved = (boxes[:, :2] + 0.5 * size) - (anchors[:, :2] + 0.5 * own)
        return np.concatenate(
            [
                moved / own / np.float32(self.settings.center_variance),
                np.log(size / own) / np.float32(self.settings.size_variance),
            ],
            axis=1,
        )

    def _bounds(self, boxes: np.ndarray) -> List[np.ndarray]:
        """Per level: the highest IoU that each box could have with one of its anchors if their
        centres coincided, (m,)."""
        size = boxes[:, None, 2:] - boxes[:, None, :2]
        bounds = []
        for level in self._levels:
            common = np.minimum(size, 2 * level.half).prod(2)
            bounds.append((common / (size.prod(2) + level.area - common)).max(1))
        return bounds

    def _reached(self, boxes: np.ndarray) -> np.ndarray:
        """The highest IoU of each box with the anchors at the cell nearest to its centre, (m,): a
        lower bound of its highest IoU."""
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        best = np.zeros(len(boxes), np.float32)
        for level in self._levels:
            x, y = (
                line[np.clip(np.rint(centre[:, axis] / step).astype(int), 0, len(line) - 1)]
                for axis, (line, step) in enumerate(zip((level.x, level.y), level.steps))
            )
            near = np.stack([x, y], 1)[:, None]
            common = np.clip(
                np.minimum(boxes[:, None, 2:], near + level.half)
                - np.maximum(boxes[:, None, :2], near - level.half),
                0,
                None,
            ).prod(2)
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
            best = np.maximum(best, (common / (area + level.area - common)).max(1))
        return best


class _Level(NamedTuple):
    """The anchors of a feature map: centres x (columns,) and y (rows,), half sizes (shapes, 2) of a
    cell's, and the position of the first."""

    x: np.ndarray
    y: np.ndarray
    half: np.ndarray
    start: int

    @property
    def steps(self) -> Tuple[float, float]:
        return tuple(max(1.0, float(line[-1]) / max(1, len(line) - 1)) for line in (self.x, self.y))

    @property
    def area(self) -> np.ndarray:
        """(shapes,), equal to what `iou` computes: all numbers are integers."""
        return (2 * self.half).prod(1)

    def anchors(self, position: np.ndarray) -> np.ndarray:
        """(p, 4) ltrb of those at `position`."""
        cell, shape = np.divmod(position - self.start, len(self.half))
        row, column = np.divmod(cell, len(self.x))
        centre = np.stack([self.x[column], self.y[row]], 1)
        return np.concatenate([centre - self.half[shape], centre + self.half[shape]], 1)

    def windows(self, boxes: np.ndarray, least: np.ndarray) -> np.ndarray:
        """(m, 4) int64: for each of the (m, 4) boxes the first and last row, first and last column
        (last exclusive) that hold all anchors of an IoU of at least `least` (m,) with it."""
        sides = []
        for axis, line in ((1, self.y), (0, self.x)):
            low, high = boxes[:, axis].astype(np.float64), boxes[:, axis + 2].astype(np.float64)
            # At an IoU of t the centres are no farther apart than (w + w') (1 - t) / (1 + t) / 2.
            share = np.where(least > 0, (1 - least) / (1 + least), np.inf)
            reach = (high - low + 2 * self.half[:, axis].max()) / 2 * share + MARGIN
            middle = (low + high) / 2
            sides += [
                np.searchsorted(line, middle - reach),
                np.searchsorted(line, middle + reach, side="right"),
            ]
        return np.stack(sides, 1)

    def positions(self, hits: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """(p,) int64, positions of the anchors at `hits` (p,), indices into the flattened overlaps
        of the windows (p, 4)."""
        cell, shape = np.divmod(hits, len(self.half))
        row, column = np.divmod(cell, windows[:, 3] - windows[:, 2])
        return (
            self.start
            + ((row + windows[:, 0]) * len(self.x) + column + windows[:, 2]) * len(self.half)
            + shape
        )

    def overlaps(self, box: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """IoU of a box (4,) with the anchors of these rows and columns, (rows, columns, shapes):
        bit-identical to `iou`, in fewer operations, as the overlap in x depends on the column alone
        and that in y on the row."""
        sides = []
        for axis, line in ((0, self.x[left:right]), (1, self.y[top:bottom])):
            low = np.maximum(box[axis], line[:, None] - self.half[:, axis])
            high = np.minimum(box[axis + 2], line[:, None] + self.half[:, axis])
            sides.append(np.maximum(high - low, np.float32(0)))
        common = sides[0] * sides[1][:, None]
        union = ((box[2] - box[0]) * (box[3] - box[1]) + self.area) - common
        return np.divide(common, union, out=union)


def _assign(
    owner: np.ndarray, position: np.ndarray, overlap: np.ndarray, best_of_its_own: np.ndarray
):
    """For pairs (p,) that include each anchor's best one: positions of the anchors (q,), ascending;
    the object of the highest IoU (the first of equals); that IoU; whether the anchor is some
    object's best."""
    order = np.lexsort((owner, -overlap, position))
    position, owner, overlap = position[order], owner[order], overlap[order]
    first = np.flatnonzero(np.append(True, position[1:] != position[:-1])[: len(position)])
    claimed = (
        np.logical_or.reduceat(best_of_its_own[order], first) if len(first) else np.zeros(0, bool)
    )
    return position[first], owner[first], overlap[first], claimed


def iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of (m, 4) ltrb boxes with (p, 4), (m, p) float32: common / (area + area - common)."""
    low = np.maximum(boxes[:, None, :2], anchors[:, :2])
    high = np.minimum(boxes[:, None, 2:], anchors[:, 2:])
    sides = np.maximum(high - low, np.float32(0))
    common = sides[:, :, 0] * sides[:, :, 1]
    areas = [(part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1]) for part in (boxes, anchors)]
    return common / (areas[0][:, None] + areas[1] - common)
