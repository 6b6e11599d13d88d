"""Ground truth matched to default boxes on the CPU: the reference's matching in NumPy.

On a GPU, DALI's box_encoder does the same there (ssd.data.graphs.encode_boxes); on a CPU it is several times slower
than this. Ported by description from the MLPerf reference (mlcommons/training, single_stage_detector/ssd, utils.py:
Encoder.encode, calc_iou_tensor).
"""
from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from ssd.config import DefaultBoxConfig

# Boxes of the ground truth that are compared with all default boxes in one go: more would leave the processor's cache.
BLOCK = 8


class Matches(NamedTuple):
    """The p matched default boxes of an image. positions: (p,) int64 of 0 to N - 1, ascending; offsets: (p, 4) float32,
    centre x and y, width and height, in units of the variances; classes: (p,) int32 from 1."""
    positions: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray


class Matcher:
    """`matcher(boxes, labels)`: each default box takes the ground truth of the highest IoU, if that is above
    `matching_iou`, among equals the first; but each ground truth has its own best default box, among equals the first,
    and where two have the same, the later one gets it.

    `default_boxes_ltrb` is (N, 4) in units of the image, not clipped.
    """

    def __init__(self, default_boxes_ltrb: np.ndarray, settings: DefaultBoxConfig):
        default_boxes_ltrb = np.asarray(default_boxes_ltrb, np.float32)
        self._sides = np.ascontiguousarray(default_boxes_ltrb.T)
        self._area = _area(self._sides)
        self._centres, self._sizes = _centres_and_sizes(default_boxes_ltrb)
        self._settings = settings

    def __call__(self, boxes: np.ndarray, labels: np.ndarray) -> Matches:
        """`boxes`: (m, 4) float32 ltrb in [0, 1], m > 0; `labels`: (m,) from 1."""
        best = np.zeros(len(self._area), np.float32)
        owner = np.full(len(best), -1)
        claims = []
        for first in range(0, len(boxes), BLOCK):
            overlaps = self._overlaps(boxes[first:first + BLOCK])
            claims.append(overlaps.argmax(1))
            higher = overlaps.max(0)
            [better] = np.nonzero(higher > np.maximum(best, self._settings.matching_iou))
            owner[better] = first + overlaps[:, better].argmax(0)
            best[better] = higher[better]
        owner[np.concatenate(claims)] = np.arange(len(boxes))  # of equal positions NumPy keeps the last
        [positions] = np.nonzero(owner >= 0)
        owner = owner[positions]
        centres, sizes = _centres_and_sizes(boxes[owner])
        own_sizes, settings = self._sizes[positions], self._settings
        offsets = np.concatenate([(centres - self._centres[positions]) / own_sizes / settings.center_variance,
                                  np.log(sizes / own_sizes) / settings.size_variance], axis=1)
        return Matches(positions, offsets.astype(np.float32), labels[owner].astype(np.int32))

    def _overlaps(self, boxes: np.ndarray) -> np.ndarray:
        """IoU of (m, 4) boxes with all default boxes, (m, N) float32."""
        left, top, right, bottom = boxes.T[:, :, None]
        own_left, own_top, own_right, own_bottom = self._sides
        width = np.minimum(right, own_right)
        width -= np.maximum(left, own_left)
        height = np.minimum(bottom, own_bottom)
        height -= np.maximum(top, own_top)
        common = np.maximum(width, 0, out=width)
        common *= np.maximum(height, 0, out=height)
        union = np.add(_area(boxes.T)[:, None], self._area, out=height)
        union -= common
        return np.divide(common, union, out=common)


def dense_targets(matches: Sequence[Matches], boxes: int):
    """Of a batch: offsets (batch, boxes, 4) float32 and classes (batch, boxes) int32, MXNet arrays in main memory, 0
    where unmatched."""
    from ssd.data.bridge import new_array
    arrays = []
    for name, shape, dtype in (("offsets", (boxes, 4), np.float32), ("classes", (boxes,), np.int32)):
        array, memory = new_array((len(matches),) + shape, dtype)
        memory[:] = 0
        for sample, found in zip(memory, matches):
            sample[found.positions] = getattr(found, name)
        arrays.append(array)
    return arrays


def _area(sides: np.ndarray) -> np.ndarray:
    """(n,) of boxes given as (4, n) left, top, right, bottom."""
    return (sides[2] - sides[0]) * (sides[3] - sides[1])


def _centres_and_sizes(ltrb: np.ndarray):
    """Centres (n, 2), sizes (n, 2) of boxes (n, 4)."""
    return (ltrb[:, :2] + ltrb[:, 2:]) / 2, ltrb[:, 2:] - ltrb[:, :2]
