"""The likely format of an annotation file's boxes, if it is not left, top, width, height in pixels.
One line each, for people."""

from __future__ import annotations

import numpy as np

# Share of boxes outside their image above which another format is searched for.
SHARE = 0.1
CERTAIN = 6  # boxes outside that are enough in any file, if almost none contradicts the format
LEAST = 3  # with fewer boxes outside, no format can be recognised
FEW = 0.01  # share of all boxes that may contradict a format
MANY = 20  # with as many boxes, it is no accident that all lie in one part of their images
# Share of the image's side: a box that is farther outside is not just drawn carelessly.
FAR = 0.02
_STEP, _STEPS = 0.02, 500  # of the counts of how far boxes reach, in shares of their image


def _corners(one, two, three, four, width, height, margin):
    """Whether these numbers are left, top, right, bottom inside the image."""
    return (
        (one >= -margin)
        & (two >= -margin)
        & (three > one)
        & (four > two)
        & (three <= width + margin)
        & (four <= height + margin)
    )


def _centres(x, y, wide, high, width, height, margin):
    return (
        (x - wide / 2 >= -margin)
        & (y - high / 2 >= -margin)
        & (wide > 0)
        & (high > 0)
        & (x + wide / 2 <= width + margin)
        & (y + high / 2 <= height + margin)
    )


def _turned(top, left, high, wide, width, height, margin):
    return (
        (left >= -margin)
        & (top >= -margin)
        & (wide > 0)
        & (high > 0)
        & (left + wide <= width + margin)
        & (top + high <= height + margin)
    )


# What the four numbers could be, likely ones first, and whether a box fits. Formats of the first
# kind show in boxes that would extend far beyond the image; with the second kind, small objects lie
# outside only near the right or the lower edge.
_FAR_FORMS = (
    ("left, top, right, bottom", _corners),
    ("top, left, bottom, right", lambda a, b, c, d, *rest: _corners(b, a, d, c, *rest)),
    ("left, right, top, bottom", lambda a, b, c, d, *rest: _corners(a, c, b, d, *rest)),
)
_NEAR_FORMS = (
    ("centre x, centre y, width, height", _centres),
    ("top, left, height, width", _turned),
)


class BoxForms:
    """Counts which other formats the numbers of boxes fit."""

    def __init__(self):
        self.boxes = self.outside = self._far = self._shares = self._integer = self._percent = (
            self._thousand
        ) = 0
        self._fitting = dict.fromkeys((name for name, _ in _FAR_FORMS + _NEAR_FORMS), 0)
        self._reach = np.zeros((2, _STEPS + 1), np.int64)  # boxes by their right and lower edge
        self._start, self._end = (
            np.ones(2),
            np.zeros(2),
        )  # least, in shares; most, in the file's numbers
        self._least_side = np.inf

    def add(self, boxes: np.ndarray, sizes: np.ndarray, tolerance: float) -> None:
        """boxes: (m, 4) finite numbers of the file; sizes: (m, 2) width, height of their images;
        tolerance [pixels]."""
        if not len(boxes):
            return
        # Separate columns: reductions over rows of four numbers take ten times as long.
        one, two, three, four = columns = np.ascontiguousarray(boxes.T, np.float64)
        width, height = sides = np.ascontiguousarray(sizes.T, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            ends = columns[:2] + columns[2:]
            least, most = (
                np.minimum(one, two),
                np.maximum(np.maximum(one, two), np.maximum(three, four)),
            )
            outside = (
                (least < -tolerance)
                | (ends[0] > width + tolerance)
                | (ends[1] > height + tolerance)
            )
            self.outside += np.count_nonzero(outside)
            if outside.any():
                far, over = tolerance + FAR * sides, np.maximum(-columns[:2], ends - sides)
                self._far += np.count_nonzero((over[0] > far[0]) | (over[1] > far[1]))
            for name, fits in _FAR_FORMS + _NEAR_FORMS:
                self._fitting[name] += np.count_nonzero(fits(*columns, width, height, tolerance))
            for axis in (0, 1):
                steps = np.clip(ends[axis] * (1 / _STEP) / sides[axis], 0, _STEPS).astype(np.int64)
                self._reach[axis] += np.bincount(steps, minlength=_STEPS + 1)
                self._start[axis] = min(self._start[axis], (columns[axis] / sides[axis]).min())
                self._end[axis] = max(self._end[axis], ends[axis].max())
            least = np.minimum(least, np.minimum(three, four))
            if most.min() <= 1000.5:
                self._shares += np.count_nonzero(
                    (least >= -0.01) & (most <= 1.01) & (width > 2) & (height > 2)
                )
                self._percent += np.count_nonzero((least >= -0.5) & (most <= 100.5))
                self._thousand += np.count_nonzero((least >= -0.5) & (most <= 1000.5))
        integer = columns == np.floor(columns)
        self._integer += np.count_nonzero(integer[0] & integer[1] & integer[2] & integer[3])
        self._least_side = min(self._least_side, float(sides.min()))
        self.boxes += len(boxes)

    def cause(self) -> str:
        """The likely other format, with which boxes inside their image are wrong too; "" if there
        is none."""
        count, outside = self.boxes, self.outside
        least = (1 - FEW) * count
        if not count:
            return ""
        if self._shares >= least and (count >= MANY or self._integer < count):
            return (
                f"{_all(self._shares, count)} lie within the first pixel of their images: they "
                "seem to be shares of the image from 0 to 1, and pixels are needed"
            )
        if (
            count >= MANY
            and self._percent == count
            and self._end.max() > 80
            and self._least_side >= 200
            and self._integer < count
        ):
            return (
                f"all {count} boxes lie within the first 100 pixels of their images: they seem to "
                "be percent of the image, and pixels are needed"
            )
        if outside < LEAST:
            return ""
        for name, _ in _FAR_FORMS:
            if (
                outside >= SHARE * count
                and 2 * self._far >= outside
                and self._fitting[name] >= least
            ):
                return self._message(name)
        for name, _ in _NEAR_FORMS:
            against = count - self._fitting[name]
            if (outside >= CERTAIN and against <= outside // 20) or (
                outside >= 2.5 * SHARE * count and not against
            ):
                return self._message(name)
        if outside >= max(CERTAIN, SHARE * count):
            wide, high = self._largest()
            if min(wide, high) > 1.15 and max(wide, high) < 1.1 * min(wide, high):
                return (
                    f"{outside} of {count} boxes lie outside their images, and they reach to "
                    f"{wide:.2g} times the width and {high:.2g} times the height: they seem to "
                    "belong to images of another size"
                )
            if min(wide, high) > 1.05 and self._thousand == count and self._end.min() > 800:
                return (
                    f"{outside} of {count} boxes lie outside their images, and none beyond 1000: "
                    "they seem to be thousandths of the image, and pixels are needed"
                )
        return ""

    def note(self) -> str:
        """What may be wrong with boxes that all lie inside; "" if nothing is noticed."""
        wide, high = self._largest() if self.boxes >= MANY and not self.outside else (1.0, 1.0)
        if max(wide, high) > 0.6 or (self._start > 0.1).any():
            return ""
        return (
            f"all {self.boxes} boxes lie in the upper left {100 * wide:.0f} % x {100 * high:.0f} % "
            "of their images: do they belong to images of another size?"
        )

    def _largest(self):
        """How far boxes extend to the right and down, in shares of their image; 1 if few extend
        that far."""
        found = []
        for counts in self._reach:
            reached = np.cumsum(counts)
            last, most = np.flatnonzero(counts)[-1], np.searchsorted(reached, 0.9 * reached[-1])
            found.append((last + 1) * _STEP if last < _STEPS and most >= 0.8 * last else 1.0)
        return found

    def _message(self, form: str) -> str:
        return (
            f"{self.outside} of {self.boxes} boxes lie outside their images, and "
            f"{self._fitting[form]} would fit as {form}: the file seems to hold that, but left, "
            "top, width, height is needed"
        )


def _all(some: int, count: int) -> str:
    return f"all {count} boxes" if some == count else f"{some} of {count} boxes"
