"""How well default boxes cover the ground truth of a data set, before anything is trained.

A default box at some cell overlaps a ground truth most where both its row and its column are the nearest: the overlaps
in x and in y are independent of each other. So each ground truth is compared with few boxes of each shape.
"""
from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.config import Config
from ssd.model.default_boxes import box_shapes
from ssd.model.geometry import feature_sizes

CHUNK = 20000    # ground truths at a time: some 100 MB
SIZES = (("small", 0, 32 ** 2), ("medium", 32 ** 2, 96 ** 2), ("large", 96 ** 2, np.inf))    # COCO's, in pixels^2


class Grid(NamedTuple):
    """The default boxes of one shape of a feature map, in shares of the image's side."""
    width: float
    height: float
    step: float
    centers: np.ndarray     # (n,) of the columns, and of the rows
    first: int              # number of its box at row 0, column 0
    apart: int              # from one column to the next


def grids(config: Config) -> Iterator[Grid]:
    """The default boxes of a recipe; their numbers are those of ssd.model.default_boxes."""
    model, boxes = config.model, config.default_boxes
    first = 0
    for size, step, shapes in zip(feature_sizes(model.image_size, model.extra_strides, model.extra_pads), boxes.steps,
                                  box_shapes(boxes, model.image_size)):
        centers = np.clip((np.arange(size) + 0.5) * step / model.image_size, 0, 1)
        for place, (width, height) in enumerate(shapes):
            yield Grid(min(width, 1.0), min(height, 1.0), step / model.image_size, centers, first + place, len(shapes))
        first += size * size * len(shapes)


def coverage(config: Config, boxes_ltrb: np.ndarray, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Of m ground truths the best IoU with a default box, (m,) [0, 1], and the number of default boxes that are
    matched to each, (m,) int64, as in training (without crops).

    boxes_ltrb: (m, 4) in shares of the image. image: (m,) whole numbers, ascending; the boxes of one image compete. A
    default box goes to the ground truth of its highest IoU above matching_iou, and each ground truth has its best
    default box in any case.
    """
    all_grids = list(grids(config))
    best, matched = np.zeros(len(image)), np.zeros(len(image), np.int64)
    start = 0
    while start < len(image):
        end = min(start + CHUNK, len(image))
        end = int(np.searchsorted(image, image[end - 1], side="right"))    # whole images
        part = slice(start, end)
        best[part], matched[part] = _cover(all_grids, boxes_ltrb[part], image[part] - image[start],
                                           config.default_boxes.matching_iou)
        start = end
    return best, matched


def _cover(all_grids: Sequence[Grid], truths: np.ndarray, image: np.ndarray, threshold: float):
    m = len(truths)
    size = truths[:, 2:] - truths[:, :2]
    best, best_box = np.full(m, -1.0), np.zeros(m, np.int64)
    pairs = []    # (ground truth, default box, IoU above the threshold)
    for grid in all_grids:
        nearest = _cells(grid, truths, 0)
        iou = _iou(grid, truths, nearest)[:, 0, 0]
        better = iou > best
        best[better] = iou[better]
        best_box[better] = _numbers(grid, nearest)[better, 0, 0]
        # The overlap at the best place is no less than at any; most shapes are out by that.
        most = np.minimum(size, (grid.width, grid.height)).prod(1)
        near = np.flatnonzero(most > threshold * (size.prod(1) + grid.width * grid.height - most))
        # At an IoU above t the centres are nearer than (w + w') (1 - t) / (1 + t) / 2, and w' is below w / t.
        reach = max(grid.width, grid.height) * (1 - threshold) / threshold / 2
        cells = _cells(grid, truths[near], int(reach / grid.step) + 1)
        iou = _iou(grid, truths[near], cells)
        found = np.nonzero(iou > threshold)
        pairs.append((near[found[0]], _numbers(grid, cells)[found], iou[found]))
    owner, box, priority = (np.concatenate(column) for column in zip(*pairs))
    # Each claims its best box, the later one where two claim the same.
    owner, box = np.concatenate([owner, np.arange(m)]), np.concatenate([box, best_box])
    priority = np.concatenate([priority, 2.0 + np.arange(m)])
    key = image[owner] * (1 + int(box.max())) + box
    order = np.lexsort((priority, key))
    last = np.append(key[order][1:] != key[order][:-1], True)
    return best, np.bincount(owner[order[last]], minlength=m)


def _cells(grid: Grid, truths: np.ndarray, reach: int) -> np.ndarray:
    """(2, m, 2 reach + 1): columns and rows from the nearest one to `reach` to both sides; -1 where there is none."""
    count = len(grid.centers)
    middle = (truths[:, :2] + truths[:, 2:]).T / 2
    nearest = np.clip(np.rint(middle / grid.step - 0.5).astype(np.int64), 0, count - 1)
    cells = nearest[:, :, None] + np.arange(-reach, reach + 1)
    return np.where((cells < 0) | (cells >= count), -1, cells)


def _iou(grid: Grid, truths: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(m, rows, columns)."""
    overlaps = []
    for axis, side in ((0, grid.width), (1, grid.height)):
        center = grid.centers[cells[axis]]
        low, high = truths[:, axis, None], truths[:, axis + 2, None]
        overlap = np.minimum(center + side / 2, high) - np.maximum(center - side / 2, low)
        overlaps.append(np.where(cells[axis] < 0, 0, np.maximum(overlap, 0)))
    common = overlaps[1][:, :, None] * overlaps[0][:, None, :]
    area = (truths[:, 2:] - truths[:, :2]).prod(1)[:, None, None]
    return common / (area + grid.width * grid.height - common)


def _numbers(grid: Grid, cells: np.ndarray) -> np.ndarray:
    """(m, rows, columns): numbers of the default boxes."""
    columns, rows = cells
    return grid.first + grid.apart * (rows[:, :, None] * len(grid.centers) + columns[:, None, :])
