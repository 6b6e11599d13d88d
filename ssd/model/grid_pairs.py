"""Pairs of objects and default boxes that are worth comparing, where boxes of one shape are
arranged in rows and columns.

Of 778,198 default boxes (2160x3840) few can reach an object: those of similar size, around it. The
search costs as much as comparing those, not objects times default boxes.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

# Above the rounding error of an IoU in float32, and of a centre in shares of the image.
ROUNDING = 1e-5


class _Grid(NamedTuple):
    """Default boxes of one shape on one feature map. sides: (4, rows, columns) ltrb; area: (rows,
    columns); x, y: the centres of columns and rows, ascending; size: (2,) width, height of the
    largest; position: (rows, columns) int64 of each box among all default boxes."""

    sides: np.ndarray
    area: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    position: np.ndarray


class GridPairs:
    """`pairs(boxes, iou)`; made by `grid_pairs`."""

    def __init__(self, grids: List[_Grid], iou: Callable):
        self._grids, self._iou = grids, iou

    def __call__(
        self, boxes: np.ndarray, threshold: float
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For boxes (m, 4) float32 ltrb: objects (p,) int64, default boxes (p,) int64 and IoUs (p,)
        float32 of all pairs above the threshold, of each object's pairs of highest IoU, and of some
        more."""
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        least = np.minimum(threshold, self._reached(boxes, centre)) - ROUNDING
        share = np.where(least > 0, (1 - least) / (1 + least), np.inf)
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        for grid in self._grids:
            # The highest IoU that an object could have with a box of this size, anywhere.
            common = np.minimum(size, grid.size).prod(1)
            objects = np.flatnonzero(
                common >= least * (size.prod(1) + grid.size.prod() - common) * (1 - ROUNDING)
            )
            # At an IoU of t the centres are no farther apart than (w + w') (1 - t) / (1 + t) / 2.
            reach = (size[objects] + grid.size) / 2 * share[objects, None] + ROUNDING
            low, high = centre[objects] - reach, centre[objects] + reach
            (left, right), (top, bottom) = (
                (
                    np.searchsorted(line, low[:, axis]).tolist(),
                    np.searchsorted(line, high[:, axis], "right").tolist(),
                )
                for axis, line in enumerate((grid.x, grid.y))
            )
            for number, *window in zip(objects, top, bottom, left, right):
                window = slice(*window[:2]), slice(*window[2:])
                ious = self._iou(
                    boxes[number], [side[window] for side in grid.sides], grid.area[window]
                )
                hits = ious >= least[number]
                positions = grid.position[window][hits]
                found.append((np.full(len(positions), number), positions, ious[hits]))
        return tuple(np.concatenate(column) for column in zip(*found))

    def _reached(self, boxes: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The highest IoU of each box with the default boxes at the cells nearest to its centre,
        (m,)."""
        best = np.zeros(len(boxes), np.float32)
        for grid in self._grids:
            column, row = (
                np.searchsorted((line[1:] + line[:-1]) / 2, centre[:, axis])
                for axis, line in enumerate((grid.x, grid.y))
            )
            best = np.maximum(
                best, self._iou(boxes.T, grid.sides[:, row, column], grid.area[row, column])
            )
        return best


def grid_pairs(
    sides: np.ndarray, area: np.ndarray, segments: Sequence[np.ndarray], iou: Callable
) -> Optional[GridPairs]:
    """The search in default boxes: sides (4, N) ltrb, area (N,); segments: positions of the boxes
    of one shape on one map, row by row; iou(box, sides, area): as of ssd.model.matching. None where
    some are not arranged in rows and columns."""
    grids = []
    for positions in segments:
        own = sides[:, positions]
        columns = int(np.argmax(np.append(own[1] != own[1, 0], True)))  # up to the second row
        if len(positions) % columns:
            return None
        own, shape = own.reshape(4, -1, columns), (-1, columns)
        if not all(
            (own[side] == (own[side, :1] if side in (0, 2) else own[side, :, :1])).all()
            for side in range(4)
        ):
            return None
        x, y = (own[0, 0] + own[2, 0]) / 2, (own[1, :, 0] + own[3, :, 0]) / 2
        if (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
            return None
        size = np.array([(own[2] - own[0]).max(), (own[3] - own[1]).max()])
        grids.append(
            _Grid(own, area[positions].reshape(shape), x, y, size, positions.reshape(shape))
        )
    return GridPairs(grids, iou)
