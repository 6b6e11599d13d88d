"""Annotations of a COCO file: read into columns list by list, then checked, with every problem
counted by kind.

Ten million boxes take 65 bytes each in columns. They are checked in blocks, so that no array is in
memory twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ssd.datasets.annotation_causes import BoxForms
from ssd.datasets.annotation_checks import Images, Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.growing import Growing
from ssd.datasets.json_files import not_whole, whole_number

# Boxes may extend this far beyond their image, in pixels, and are clipped. COCO's own boxes end at
# the border at most; but other tools round to a decimal or to a whole pixel, or include the last
# pixel (w = r - l + 1), and each of these moves a border by at most one pixel. More is a mistake.
TOLERANCE = 1.0
# A side below this share of the image's vanishes in float32, and the offset of a box without width,
# log(0), would make the loss infinite.
MIN_PART = 1e-6
_ROWS = 1 << 14  # boxes that are checked at a time
_KEPT = 1000  # entries of each kind with values of a wrong type that are kept to be shown

# Bits of an entry's state.
_NO_OBJECT, _BAD_ID, _BAD_IMAGE, _BAD_CATEGORY, _BAD_CROWD, _BAD_BOX, _BAD_AREA, _CROWD = (
    1 << bit for bit in range(8)
)
_BAD = _CROWD - 1


class BoxReader:
    """Reads `annotations` from lists of entries into columns, the bad ones included."""

    def __init__(self):
        self._ids, self._images, self._categories = (Growing(np.int64) for _ in range(3))
        self._boxes, self._area, self._state = (
            Growing(np.float64, 4),
            Growing(np.float64),
            Growing(np.uint8),
        )
        self._raw, self._kept = {}, Counter()

    def add(self, entries: list) -> None:
        state, given = np.zeros(len(entries), np.uint8), entries
        if set(map(type, entries)) - {dict}:
            state[[type(entry) is not dict for entry in entries]] |= _NO_OBJECT
            entries = [entry if type(entry) is dict else {} for entry in entries]
        for column, name, bad_bit in (
            (self._ids, "id", _BAD_ID),
            (self._images, "image_id", _BAD_IMAGE),
            (self._categories, "category_id", _BAD_CATEGORY),
        ):
            numbers, bad = _whole_numbers([entry.get(name) for entry in entries])
            state[bad] |= bad_bit
            column.add(numbers)
        # Missing or null means no group, as in COCO's own loader of detections.
        crowd, bad = _whole_numbers(
            [
                0 if value is None or value is False else 1 if value is True else value
                for value in (entry.get("iscrowd") for entry in entries)
            ]
        )
        state[bad | ((crowd != 0) & (crowd != 1))] |= _BAD_CROWD
        state[crowd == 1] |= _CROWD
        boxes, bad = _four_numbers([entry.get("bbox") for entry in entries])
        state[bad] |= _BAD_BOX
        self._boxes.add(boxes)
        area, bad = _areas([entry.get("area") for entry in entries])
        state[bad] |= _BAD_AREA
        self._area.add(area)
        for index in np.flatnonzero(state & _BAD).tolist():
            first = int(state[index]) & -int(state[index])
            if self._kept[first] < _KEPT:
                self._kept[first] += 1
                self._raw[len(self._state) + index] = given[index]
        self._state.add(state)

    def boxes(self, images: Images, category_ids: tuple, problems: Problems) -> AnnotationBoxes:
        """All entries that were added, checked; to be called once."""
        return _Check(self._state.take(), images, problems.limit, self._raw).run(
            self._ids.take(),
            self._images.take(),
            self._categories.take(),
            self._boxes.take(),
            self._area.take(),
            category_ids,
            problems,
        )


@dataclass
class AnnotationBoxes:
    """xywh: (m, 4) float64 left, top, width, height in pixels, as in the file; area: (m,) float64
    px^2, width * height where the file has none; classes: (m,) int64, 1 to k; crowd: (m,) bool;
    image: (m,) int64 position of the image; good: (m,) bool; clipped: (m,) bool, would be moved by
    clipping to the image; forms: which other box formats the numbers fit."""

    xywh: np.ndarray
    area: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    image: np.ndarray
    good: np.ndarray
    clipped: np.ndarray
    forms: BoxForms


def clipped_ltrb(xywh: np.ndarray, sizes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(m, 4) float64 left, top, right, bottom inside the image. sizes: (n, 2) width and height of
    images; box i belongs to image[i]."""
    ltrb = xywh.copy()
    for first in range(0, len(ltrb), _ROWS):
        part = ltrb[first : first + _ROWS]
        part[:, 2:] += part[:, :2]
        np.clip(
            part, 0, np.tile(sizes[image[first : first + _ROWS]].astype(np.float64), 2), out=part
        )
    return ltrb


class _Check:
    """The checks, in a fixed order: an annotation is counted once, under its first problem."""

    def __init__(self, state: np.ndarray, images: Images, limit: int, raw: dict):
        self._state, self._images, self._limit, self._raw = state, images, limit, raw
        self._good, self._rejected = np.ones(len(state), bool), {}
        self._forms = BoxForms()

    def _reject(self, order: int, kind: str, detail, mask: np.ndarray, first: int = 0) -> None:
        """mask: of the annotations starting at `first`. order: the check's number, as blocks are
        checked one after the other."""
        good = self._good[first : first + len(mask)]
        bad = mask & good
        if bad.any():
            good[bad] = False
            entry = self._rejected.setdefault(order, [kind, detail, 0, []])
            entry[2] += int(bad.sum())
            for index in (first + np.flatnonzero(bad)[: self._limit - len(entry[3])]).tolist():
                shown = self._raw[index] if index in self._raw else self._entry(index)
                entry[3].append(f"{self._where(shown, index)}: {detail(shown)}")

    def _entry(self, index: int) -> dict:
        """The entry as in the file, rebuilt from the columns; valid if all values have the right
        types."""
        first, images, categories = self._part
        return dict(
            id=int(self._ids[index]),
            image_id=int(images[index - first]),
            category_id=int(categories[index - first]),
            iscrowd=int(self._state[index] & _CROWD > 0),
            bbox=[
                int(side) if side == int(side) and abs(side) < 1e15 else side
                for side in self._boxes[index].tolist()
            ]
            if np.isfinite(self._boxes[index]).all()
            else self._boxes[index].tolist(),
        )

    def run(self, ids, image, category, boxes, area, category_ids, problems) -> AnnotationBoxes:
        state, m = self._state, len(self._state)
        self._ids, self._boxes, self._part = ids, boxes, (0, image, category)
        self._reject(0, "annotation is not an object", show, state & _NO_OBJECT > 0)
        self._reject(
            1,
            "annotation id is not a 64-bit whole number",
            lambda entry: f"its id {_why(entry, 'id')}",
            state & _BAD_ID > 0,
        )
        self._reject(
            2,
            "duplicate annotation id",
            lambda entry: "an earlier annotation has its id",
            _repeated(ids, self._good),
        )
        known = np.array(category_ids, np.int64)
        order = np.argsort(known)
        clipped = np.zeros(m, bool)
        for first in range(0, m, _ROWS):
            part = slice(first, first + _ROWS)
            self._part = first, image[part].copy(), category[part].copy()
            image[part], category[part] = self._refer(*self._part, state[part], known[order], order)
            clipped[part] = self._fit(first, boxes[part], image[part], state[part])
            missing = np.isnan(area[part])
            area[part][missing] = boxes[part][missing, 2:].prod(axis=1)
        for _, (kind, detail, count, shown) in sorted(self._rejected.items()):
            problems.add(kind, *shown, count=count)
        return AnnotationBoxes(
            boxes, area, category, state & _CROWD > 0, image, self._good, clipped, self._forms
        )

    def _refer(self, first, image, category, state, known, order):
        """Positions of images and classes from 1, 0 where the id is unknown."""
        positions = self._images.find(image)
        positions[state & _BAD_IMAGE > 0] = -1
        self._reject(3, "annotation of an unknown image", _no_image, positions < 0, first)
        index = np.minimum(np.searchsorted(known, category), len(known) - 1)
        bad = (known[index] != category) | (state & _BAD_CATEGORY > 0)
        self._reject(
            4,
            "annotation of an unknown category",
            lambda entry: (
                f"category {show(entry.get('category_id'))}"
                + _unless_whole(entry.get("category_id"))
            ),
            bad,
            first,
        )
        self._reject(
            5,
            "iscrowd is neither 0 nor 1",
            lambda entry: f"iscrowd {show(entry['iscrowd'])}",
            state & _BAD_CROWD > 0,
            first,
        )
        return np.maximum(positions, 0), np.where(bad, 0, 1 + order[index])

    def _fit(self, first, boxes, image, state):
        """Mask of the boxes that extend slightly beyond their image and are to be clipped."""
        good = self._good[first : first + len(boxes)]
        self._reject(6, "box is not four numbers", _box, state & _BAD_BOX > 0, first)
        self._reject(7, "box with NaN or infinity", _box, ~np.isfinite(boxes).all(axis=1), first)
        numbers = good.copy()
        self._reject(8, "box of negative size", _box, (boxes[:, 2:] < 0).any(axis=1), first)
        self._reject(9, "empty box", _box, (boxes[:, 2:] == 0).any(axis=1), first)
        self._reject(
            10,
            "area is negative or not a number",
            lambda entry: (
                f"area {show(entry['area'])}"
                + (", which is text" if isinstance(entry["area"], str) else "")
            ),
            state & _BAD_AREA > 0,
            first,
        )
        if not len(self._images.sizes) or not self._images.sized:
            return np.zeros(len(boxes), bool)
        corner = self._images.sizes[image].astype(np.float64)
        # An image without a usable size is reported already; its annotations are left out
        # unchecked.
        sized = (corner > 0).all(axis=1)
        checked = good & sized
        with np.errstate(over="ignore", invalid="ignore"):
            ltrb = np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], axis=1)
            ltrb[~good] = 0
            outside = np.maximum(-ltrb[:, :2], ltrb[:, 2:] - corner).max(axis=1) > TOLERANCE
        self._forms.add(boxes[numbers & sized], corner[numbers & sized], TOLERANCE)
        self._reject(11, "box outside the image", self._outside, checked & outside, first)
        moved = (ltrb[:, :2] < 0).any(axis=1) | (ltrb[:, 2:] > corner).any(axis=1)
        np.clip(ltrb, 0, np.tile(corner, 2), out=ltrb)
        self._reject(
            12,
            "empty box",
            lambda entry: _box(entry) + " has almost no area inside the image",
            checked & (ltrb[:, 2:] - ltrb[:, :2] < MIN_PART * corner).any(axis=1),
            first,
        )
        return moved & good & checked

    def _outside(self, entry) -> str:
        width, height = self._images.sizes[
            self._images.find(np.array([whole_number(entry["image_id"])]))[0]
        ]
        return f"{_box(entry)} in {width} x {height} pixels"

    def _where(self, entry, index) -> str:
        if not isinstance(entry, dict):
            return f"annotations[{index}]"
        key = entry.get("image_id")
        number = whole_number(key)
        position = -1 if number is None else self._images.find(np.array([number]))[0]
        name = "" if position < 0 else f" ({show(self._images.names[position])})"
        return f"annotation {show(entry.get('id'))} of image {show(key)}{name}"


def _box(entry) -> str:
    return f"box {show(entry.get('bbox'))}"


def _why(entry: dict, key: str) -> str:
    return (
        f"{show(entry.get(key))} {not_whole(entry.get(key))}"
        if entry.get(key) is not None
        else "is missing"
    )


def _unless_whole(value) -> str:
    return "" if whole_number(value) is not None else f", which {not_whole(value)}"


def _no_image(entry) -> str:
    key = entry.get("image_id")
    return (
        "no image has this id"
        if whole_number(key) is not None
        else f"its image_id {_why(entry, 'image_id')}"
    )


def _repeated(ids: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Mask of the good entries whose id an earlier good one has."""
    repeated = np.zeros(len(ids), bool)
    if len(ids) and not (ids[1:] > ids[:-1]).all():
        candidates = np.flatnonzero(good)
        repeated[candidates] = True
        repeated[candidates[np.unique(ids[candidates], return_index=True)[1]]] = False
    return repeated


def _whole_numbers(values: list):
    """(int64 array, mask of the bad ones, which are 0) of any JSON values; see whole_number."""
    if not set(map(type, values)) - {int}:
        try:
            return np.array(values, np.int64), np.zeros(len(values), bool)
        except OverflowError:
            pass
    numbers = [whole_number(value) for value in values]
    return (
        np.array([number or 0 for number in numbers], np.int64),
        np.array([number is None for number in numbers], bool),
    )


def _four_numbers(values: list):
    """((m, 4) float64, mask of the bad ones) of any JSON values; a number too large for float64
    becomes infinite."""
    if not set(map(type, values)) - {list} and not set(map(len, values)) - {4}:
        flat = list(chain.from_iterable(values))
        if not set(map(type, flat)) - {int, float}:
            try:
                return np.array(flat, np.float64).reshape(-1, 4), np.zeros(len(values), bool)
            except OverflowError:
                pass
    boxes, bad = np.zeros((len(values), 4)), np.zeros(len(values), bool)
    for index, value in enumerate(values):
        if (
            type(value) is list
            and len(value) == 4
            and not {type(side) for side in value} - {int, float}
        ):
            boxes[index] = [_to_float(side) for side in value]
        else:
            bad[index] = True
    return boxes, bad


def _areas(values: list):
    """(float64 px^2, mask of the bad ones) of any JSON values; NaN where it is missing or null."""
    numbers = [
        float("nan") if value is None else _to_float(value) if type(value) in (int, float) else -1.0
        for value in values
    ]
    area = np.array(numbers, np.float64)
    given = np.array([value is not None for value in values], bool)
    bad = given & ~(np.isfinite(area) & (area >= 0))
    area[bad] = 0
    return area, bad


def _to_float(value) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
