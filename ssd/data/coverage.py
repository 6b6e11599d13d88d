"""How well default boxes cover the ground truth of a data set, before anything is trained.

A default box overlaps a ground truth most if both its row and its column are the nearest ones: the
overlaps in x and in y are independent of each other. So each ground truth is compared with few
boxes of each shape, chosen in float64; the chosen ones are then compared as in training
(ssd.model.matching), ties included.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.model.boxes.ssd_sizes import SsdSizes
from ssd.model.matching import Matcher, iou_of_pairs, shapes_first

CHUNK = 20000  # ground truths at a time: about 100 MB
COMPARED = 4_000_000  # pairs of a ground truth and a default box at a time: about as much
ROUNDING = 1e-5  # above the difference of an IoU in float32 and in float64
SIZES = (
    ("small", 0, 32**2),
    ("medium", 32**2, 96**2),
    ("large", 96**2, np.inf),
)  # COCO's, in pixels^2


class Grid(NamedTuple):
    """The default boxes of one shape of a feature map, in shares of the image's sides."""

    size: np.ndarray  # (2,) width, height
    step: Tuple[float, float]  # between columns, between rows
    centers: Tuple[np.ndarray, np.ndarray]  # of the columns, of the rows
    first: int  # position of its box at row 0, column 0
    spacing: int  # from one column to the next


def grids(sizes: SsdSizes) -> Iterator[Grid]:
    """The default boxes of a recipe; their positions are those of ssd.model.boxes.default_boxes."""
    height, width = sizes.image_size
    first = 0
    for (rows, columns), (row, column), shapes in zip(sizes.maps, sizes.steps, sizes.shapes()):
        step = column / width, row / height
        centers = tuple(
            np.clip((np.arange(count) + 0.5) * each, 0, 1)
            for count, each in zip((columns, rows), step)
        )
        for index, shape in enumerate(shapes):
            yield Grid(np.minimum(shape, 1.0), step, centers, first + index, len(shapes))
        first += rows * columns * len(shapes)


def coverage(
    sizes, matcher, boxes_ltrb: np.ndarray, image: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """For m ground truths: the best IoU with a default box, (m,) [0, 1], and the number of default
    boxes that are matched to each, (m,) int64, as in training (without crops).

    sizes, matcher: of the detector. boxes_ltrb: (m, 4) in shares of the image. image: (m,)
    integers, ascending; the boxes of one image compete. A default box is matched to the ground
    truth of its highest IoU above matching_iou, and each ground truth has its best default box in
    any case: see ssd.model.matching.Matcher. Another matcher applies its own rules, image by image.
    """
    if not isinstance(matcher, Matcher):
        return _image_by_image(matcher, boxes_ltrb, image)
    all_grids = list(grids(sizes))
    best, matched = np.zeros(len(image)), np.zeros(len(image), np.int64)
    start = 0
    while start < len(image):
        end = min(start + CHUNK, len(image))
        end = int(np.searchsorted(image, image[end - 1], side="right"))  # to the end of an image
        part = slice(start, end)
        best[part], matched[part] = _cover(
            all_grids, matcher, boxes_ltrb[part].astype(np.float32), image[part] - image[start]
        )
        start = end
    return best, matched


def _image_by_image(
    matcher, boxes_ltrb: np.ndarray, image: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """`coverage` by the matcher's `cover`."""
    best, matched = np.zeros(len(image)), np.zeros(len(image), np.int64)
    starts = (
        np.flatnonzero(np.append(True, image[1:] != image[:-1])) if len(image) else np.zeros(0, int)
    )
    for start, end in zip(starts, np.append(starts[1:], len(image))):
        best[start:end], matched[start:end] = matcher.cover(boxes_ltrb[start:end])
    return best, matched


def _cover(all_grids: Sequence[Grid], matcher: Matcher, truths: np.ndarray, image: np.ndarray):
    owner, box = _candidates(all_grids, truths.astype(np.float64), matcher.settings.matching_iou)
    iou = iou_of_pairs(truths[owner], matcher.default_boxes_ltrb[box])
    best = np.zeros(len(truths), np.float32)
    np.maximum.at(best, owner, iou)
    # Each ground truth claims its best box (of equals, the first in the matcher's order).
    order = shapes_first(matcher.maps)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    claim = np.full(len(truths), len(order))
    equal = (iou == best[owner]) & (iou > 0)
    np.minimum.at(claim, owner[equal], rank[box[equal]])
    claim = order[np.where(best > 0, claim, 0)]  # one that overlaps no box claims the first
    above = iou > matcher.settings.matching_iou
    # A box is matched to the last claim; without a claim, to the highest IoU (of equals, the first
    # ground truth).
    count = np.arange(len(truths))
    owner, box = np.concatenate([owner[above], count]), np.concatenate([box[above], claim])
    priority = np.concatenate([iou[above].astype(np.float64), 2.0 + count])
    key = image[owner] * len(order) + box
    winners = np.lexsort((-owner, priority, key))
    last = np.append(key[winners][1:] != key[winners][:-1], True)
    return best, np.bincount(owner[winners[last]], minlength=len(truths))


def _candidates(all_grids: Sequence[Grid], truths: np.ndarray, threshold: float):
    """(ground truths, positions of default boxes), (p,) each: all pairs that may be above the
    threshold or a ground truth's best; a pair may occur twice."""
    best = np.zeros(len(truths))
    nearest = []
    for grid in all_grids:
        nearest.append(_iou(grid, truths, _cells(grid, truths, (0, 0)))[:, 0, 0])
        best = np.maximum(best, nearest[-1])
    size = truths[:, 2:] - truths[:, :2]
    pairs = []
    for grid, iou in zip(all_grids, nearest):
        # Above the threshold: no overlap exceeds that of the smaller sides, which excludes most
        # shapes.
        most = np.minimum(size, grid.size).prod(1)
        limit = threshold - ROUNDING
        near = np.flatnonzero(most > limit * (size.prod(1) + grid.size.prod() - most))
        pairs += _pairs(grid, truths, near, np.full(len(near), limit))
        # The best pair of a ground truth without any above the threshold.
        near = np.flatnonzero((best < threshold) & (iou > best - ROUNDING))
        pairs += _pairs(grid, truths, near, np.maximum(best[near] - ROUNDING, 0))
    owner, box = (
        (np.concatenate(column) for column in zip(*pairs))
        if pairs
        else (np.zeros(0, np.int64),) * 2
    )
    return owner, box


def _pairs(grid: Grid, truths: np.ndarray, chosen: np.ndarray, limits: np.ndarray):
    """[(ground truths, positions)] of IoUs of at least `limits` (n,) between truths[chosen] (n,)
    and the grid."""
    found, start = [], 0
    size = (truths[:, 2:] - truths[:, :2])[chosen]
    # At an IoU of t the centres are no farther apart than (w + w') (1 - t) / (1 + t) / 2, and than
    # (w + w') / 2.
    reach = ((size + grid.size) / 2 * ((1 - limits) / (1 + limits))[:, None] / grid.step).astype(
        np.int64
    ) + 1
    reach = np.minimum(reach, [len(centers) for centers in grid.centers])
    by_reach = np.argsort(reach.prod(1), kind="stable")  # ground truths of similar reach together
    while start < len(chosen):
        end = len(chosen)
        while end - start > 1:
            widest = reach[by_reach[start:end]].max(0)
            if (end - start) * (2 * widest + 1).prod() <= COMPARED:
                break
            end = start + (end - start) // 2
        rows = by_reach[start:end]
        cells = _cells(grid, truths[chosen[rows]], reach[rows].max(0))
        iou = _iou(grid, truths[chosen[rows]], cells)
        hits = np.nonzero((iou >= limits[rows][:, None, None]) & (iou > 0))
        found.append((chosen[rows][hits[0]], _positions(grid, cells, hits)))
        start = end
    return found


def _cells(grid: Grid, truths: np.ndarray, reach: Sequence[int]):
    """(columns (m, 2 reach[0] + 1), rows (m, 2 reach[1] + 1)): the nearest one and `reach` on both
    sides; -1 outside the grid."""
    result = []
    for axis, (step, centers) in enumerate(zip(grid.step, grid.centers)):
        middle = (truths[:, axis] + truths[:, axis + 2]) / 2
        nearest = np.clip(np.rint(middle / step - 0.5).astype(np.int64), 0, len(centers) - 1)
        cells = nearest[:, None] + np.arange(-reach[axis], reach[axis] + 1)
        result.append(np.where((cells < 0) | (cells >= len(centers)), -1, cells))
    return result


def _iou(grid: Grid, truths: np.ndarray, cells) -> np.ndarray:
    """(m, rows, columns); 0 outside the grid."""
    overlaps = []
    for axis, side in enumerate(grid.size):
        center = grid.centers[axis][cells[axis]]
        low, high = truths[:, axis, None], truths[:, axis + 2, None]
        overlap = np.minimum(center + side / 2, high) - np.maximum(center - side / 2, low)
        overlaps.append(np.where(cells[axis] < 0, 0, np.maximum(overlap, 0)))
    common = overlaps[1][:, :, None] * overlaps[0][:, None, :]
    area = (truths[:, 2:] - truths[:, :2]).prod(1)[:, None, None]
    return common / (area + grid.size.prod() - common)


def _positions(grid: Grid, cells, hits) -> np.ndarray:
    """(p,) positions of the default boxes at the hits (ground truth, row, column) among `cells`; no
    hit is outside."""
    columns, rows = cells
    column, row = columns[hits[0], hits[2]], rows[hits[0], hits[1]]
    return grid.first + grid.spacing * (row * len(grid.centers[0]) + column)
