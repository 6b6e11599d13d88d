"""Ground truth matched to default boxes on the CPU: the reference's matching in NumPy.

On a GPU, DALI's box_encoder does the same (ssd.data.graphs.encode_boxes); on a CPU it is several
times slower than this module. Ported by description from the MLPerf reference (mlcommons/training,
single_stage_detector/ssd, utils.py: Encoder.encode, calc_iou_tensor).
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.config import DefaultBoxConfig
from ssd.model.grid_pairs import grid_pairs

# Ground-truth boxes that are compared with all default boxes at a time: more would not fit the
# processor's cache.
BLOCK = 8
# Cost of the search in grid_pairs, counted in pairs of an object and a default box that could be
# compared in the same time: fixed, and per object. (5 ms and .2 ms, 11 ns a pair: one core at 2.5
# GHz.)
SEARCH, EACH = 500_000, 20_000


class Matches(NamedTuple):
    """The p matched default boxes of an image. positions: (p,) int64 of 0 to N - 1, ascending;
    offsets: (p, 4) float32, centre x and y, width and height, in units of the variances; classes:
    (p,) int32 from 1; ignored: (q,) int64, positions of those that are neither matched nor
    background."""

    positions: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray = np.zeros(0, np.int64)


class Matcher:
    """`matcher(boxes, labels)`: each default box is matched to the ground truth with which it has
    the highest IoU (the first of equals), if that is above `matching_iou`. But each ground truth
    claims its best default box in any case, and where two claim the same one, the later gets it.

    Among default boxes of equal IoU the best is the first in the reference's order: map, shape,
    row, column. Such ties are common: a small object lies inside several default boxes, and a map's
    square, 2:1 and 1:2 boxes have one area.

    default_boxes_ltrb: (N, 4) in shares of the image, not clipped, in this project's order: map,
    row, column, shape. maps: per feature map its cells and the default boxes of each; they add up
    to N. settings: matching_iou and the variances.
    """

    in_graph = True  # ssd.data.graphs.encode_boxes can do it in DALI's graph, on a GPU
    box_type = np.float32  # in which it is given boxes

    def __init__(
        self,
        default_boxes_ltrb: np.ndarray,
        settings: DefaultBoxConfig,
        maps: Sequence[Tuple[int, int]],
    ):
        # Kept in the order that breaks ties, so that the first of equals is the right one.
        self._take(default_boxes_ltrb, settings, maps, shapes_first(maps))

    def _take(self, default_boxes_ltrb, settings, maps, positions) -> None:
        self.default_boxes_ltrb = np.asarray(default_boxes_ltrb, np.float32)
        self.settings, self.maps = (
            settings,
            tuple((int(cells), int(shapes)) for cells, shapes in maps),
        )
        self._positions = positions
        assert len(self._positions) == len(self.default_boxes_ltrb), (
            "the maps do not add up to the default boxes"
        )
        self.boxes = len(self._positions)
        own = self.default_boxes_ltrb[self._positions]
        self._sides = np.ascontiguousarray(own.T)
        self._area = _area(self._sides)
        self._centres, self._sizes = _centres_and_sizes(own)
        rank = np.empty(self.boxes, np.int64)  # of each position in the matcher's order
        rank[positions] = np.arange(self.boxes)
        self._pairs = grid_pairs(
            self._sides, self._area, [rank[segment] for segment in by_shape(self.maps)], _iou
        )

    def __call__(self, boxes: np.ndarray, labels: np.ndarray) -> Matches:
        """`boxes`: (m, 4) float32 ltrb in [0, 1], m > 0; `labels`: (m,) from 1."""
        many = self._pairs is not None and len(boxes) * (self.boxes - EACH) > SEARCH
        owner = self._by_pairs(boxes) if many else self._by_all(boxes)
        [found] = np.nonzero(owner >= 0)
        found = found[np.argsort(self._positions[found])]
        owner = owner[found]
        centres, sizes = _centres_and_sizes(boxes[owner])
        own_sizes, settings = self._sizes[found], self.settings
        offsets = np.concatenate(
            [
                (centres - self._centres[found]) / own_sizes / settings.center_variance,
                np.log(sizes / own_sizes) / settings.size_variance,
            ],
            axis=1,
        )
        return Matches(
            self._positions[found], offsets.astype(np.float32), labels[owner].astype(np.int32)
        )

    def _by_all(self, boxes: np.ndarray) -> np.ndarray:
        """The ground truth of each default box, (N,) in the matcher's order, -1 without one."""
        best = np.zeros(len(self._area), np.float32)
        owner = np.full(len(best), -1)
        claims = []
        for first in range(0, len(boxes), BLOCK):
            overlaps = self._overlaps(boxes[first : first + BLOCK])
            claims.append(overlaps.argmax(1))
            higher = overlaps.max(0)
            [better] = np.nonzero(higher > np.maximum(best, self.settings.matching_iou))
            owner[better] = first + overlaps[:, better].argmax(0)
            best[better] = higher[better]
        self._claim(owner, np.concatenate(claims))
        return owner

    def _by_pairs(self, boxes: np.ndarray) -> np.ndarray:
        """The same, from the pairs that `grid_pairs` finds."""
        truth, box, overlap = self._pairs(boxes, self.settings.matching_iou)
        owner = np.full(len(self._area), -1)
        above = np.flatnonzero(overlap > self.settings.matching_iou)
        # Of a default box's pairs, the one of the highest IoU (the first of equals) is written
        # last.
        above = above[np.lexsort((-truth[above], overlap[above]))]
        owner[box[above]] = truth[above]
        # Of a ground truth's pairs, the one of the highest IoU (the first of equals); without any,
        # the first default box.
        order = np.lexsort((-box, overlap, truth))
        order = order[overlap[order] > 0]
        claims = np.zeros(len(boxes), np.int64)
        claims[truth[order]] = box[order]
        self._claim(owner, claims)
        return owner

    @staticmethod
    def _claim(owner: np.ndarray, best: np.ndarray) -> None:
        """Gives each ground truth its best default box, best (m,): of two that claim the same one,
        the later gets it."""
        owner[best] = np.arange(len(best))  # of equal positions NumPy keeps the last

    def _overlaps(self, boxes: np.ndarray) -> np.ndarray:
        """IoU of (m, 4) boxes with all default boxes, (m, N) float32."""
        return _iou(boxes.T[:, :, None], self._sides, self._area)


class FirstClaimMatcher(Matcher):
    """MindCV's: as Matcher, but where two ground truths claim the same default box, the earlier
    one gets it; and among default boxes of equal IoU the best is the first in this project's order.
    """

    in_graph = False  # DALI's box_encoder gives it to the later one

    def __init__(
        self,
        default_boxes_ltrb: np.ndarray,
        settings: DefaultBoxConfig,
        maps: Sequence[Tuple[int, int]],
    ):
        self._take(
            default_boxes_ltrb,
            settings,
            maps,
            np.arange(sum(cells * shapes for cells, shapes in maps)),
        )

    @staticmethod
    def _claim(owner: np.ndarray, best: np.ndarray) -> None:
        owner[best[::-1]] = np.arange(len(best))[::-1]


def shapes_first(maps: Sequence[Tuple[int, int]]) -> np.ndarray:
    """Positions (N,) int64 of default boxes listed map, cell, shape, in the order map, shape, cell.
    maps: per feature map its cells and the default boxes of each."""
    return np.concatenate(by_shape(maps))


def by_shape(maps: Sequence[Tuple[int, int]]) -> List[np.ndarray]:
    """The same as one array per shape of each map."""
    parts, start = [], 0
    for cells, shapes in maps:
        parts += list(start + np.arange(cells * shapes).reshape(cells, shapes).T)
        start += cells * shapes
    return parts


def iou_of_pairs(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of (p, 4) ltrb with (p, 4), row by row, (p,) float32: bit-identical to what a Matcher
    compares, if `others` are its default boxes."""
    others = np.ascontiguousarray(np.asarray(others, np.float32).T)
    return _iou(np.asarray(boxes, np.float32).T, others, _area(others))


def _iou(boxes, others, area_of_others) -> np.ndarray:
    """IoU of boxes and others, each left, top, right, bottom of shapes that broadcast."""
    left, top, right, bottom = boxes
    other_left, other_top, other_right, other_bottom = others
    width = np.minimum(right, other_right)
    width -= np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom)
    height -= np.maximum(top, other_top)
    common = np.maximum(width, 0, out=width)
    common *= np.maximum(height, 0, out=height)
    union = np.add(_area(boxes), area_of_others, out=height)
    union -= common
    return np.divide(common, union, out=common)


def _area(sides: np.ndarray) -> np.ndarray:
    """(n,) of boxes given as (4, n) left, top, right, bottom, or of any other shape after the
    four."""
    return (sides[2] - sides[0]) * (sides[3] - sides[1])


def _centres_and_sizes(ltrb: np.ndarray):
    """Centres (n, 2), sizes (n, 2) of boxes (n, 4)."""
    return (ltrb[:, :2] + ltrb[:, 2:]) / 2, ltrb[:, 2:] - ltrb[:, :2]
