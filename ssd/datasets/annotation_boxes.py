"""Annotations of a COCO file: read into columns list by list, then checked, every problem counted by kind.

Ten million boxes are 57 bytes each in columns, and are checked a part at a time, so that the arrays are there once.
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from ssd.datasets.annotation_checks import Images, Problems, is_id
from ssd.datasets.annotation_file import show
from ssd.datasets.growing import Growing

# Boxes may lie this far outside their image, in pixels, and are clipped. The original COCO boxes at hand
# end exactly at the border at most; but other tools round to a decimal or to a whole pixel, or count the
# last pixel in (w = r - l + 1), and each of these moves a border by one pixel at most. More is a mistake.
TOLERANCE = 1.0
# A side below this part of the image's is next to nothing in float32, and the offset of a box without
# width, log(0), would make the loss infinite.
MIN_PART = 1e-6
_ROWS = 1 << 19  # boxes that are checked at a time

# Bits of what an entry is.
_NO_OBJECT, _BAD_ID, _BAD_IMAGE, _BAD_CATEGORY, _BAD_CROWD, _BAD_BOX, _CROWD = (1 << bit for bit in range(7))


class BoxReader:
    """Reads `annotations` from lists of entries into columns, the bad ones included."""

    def __init__(self):
        self._ids, self._images, self._categories = (Growing(np.int64) for _ in range(3))
        self._boxes, self._state = Growing(np.float64, 4), Growing(np.uint8)

    def add(self, entries: list) -> None:
        state = np.zeros(len(entries), np.uint8)
        if set(map(type, entries)) - {dict}:
            state[[type(entry) is not dict for entry in entries]] |= _NO_OBJECT
            entries = [entry if type(entry) is dict else {} for entry in entries]
        for column, name, bad_bit in ((self._ids, "id", _BAD_ID), (self._images, "image_id", _BAD_IMAGE),
                                      (self._categories, "category_id", _BAD_CATEGORY)):
            numbers, bad = _whole_numbers([entry.get(name) for entry in entries])
            state[bad] |= bad_bit
            column.add(numbers)
        crowd, bad = _whole_numbers([entry.get("iscrowd", 0) for entry in entries])
        state[bad | ((crowd != 0) & (crowd != 1))] |= _BAD_CROWD
        state[crowd == 1] |= _CROWD
        boxes, bad = _four_numbers([entry.get("bbox") for entry in entries])
        state[bad] |= _BAD_BOX
        self._boxes.add(boxes)
        self._state.add(state)

    def boxes(self, images: Images, category_ids: tuple, problems: Problems, entries_at) -> Boxes:
        """All that was added, checked; to be called once.

        entries_at: gives the entries with some positions, {position: entry}; asked for those that are to be shown.
        """
        return _Check(self._state.take(), images, problems.limit).run(
            self._ids.take, self._images.take(), self._categories.take(), self._boxes.take(), category_ids, problems,
            entries_at)


@dataclass
class Boxes:
    """ltrb: (m, 4) float64 pixels, clipped to the image; classes: (m,) int64, 1 to k; crowd: (m,) bool;
    image: (m,) int64 position of the image; good: (m,) bool; clipped: (m,) bool, moved by the clipping."""

    ltrb: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    image: np.ndarray
    good: np.ndarray
    clipped: np.ndarray


class _Check:
    """The checks, in an order: an annotation is counted once, under the first thing that is wrong with it."""

    def __init__(self, state: np.ndarray, images: Images, limit: int):
        self._state, self._images, self._limit = state, images, limit
        self._good, self._rejected = np.ones(len(state), bool), {}

    def _reject(self, order: int, kind: str, detail, mask: np.ndarray, first: int = 0) -> None:
        """mask: of the annotations from `first` on. order: of the checks, as parts come one after the other."""
        good = self._good[first:first + len(mask)]
        bad = mask & good
        if bad.any():
            good[bad] = False
            entry = self._rejected.setdefault(order, [kind, detail, 0, []])
            entry[2] += int(bad.sum())
            entry[3] += (first + np.flatnonzero(bad)[:self._limit - len(entry[3])]).tolist()

    def run(self, take_ids, image, category, boxes, category_ids, problems, entries_at) -> Boxes:
        state, m = self._state, len(self._state)
        self._reject(0, "annotation is not an object", show, state & _NO_OBJECT > 0)
        self._reject(1, "annotation id is not a 64-bit whole number", lambda entry: "its id", state & _BAD_ID > 0)
        self._reject(2, "duplicate annotation id", lambda entry: "its id was there before",
                     _repeated(take_ids(), self._good))
        known = np.array(category_ids, np.int64)
        order = np.argsort(known)
        clipped = np.zeros(m, bool)
        for first in range(0, m, _ROWS):
            part = slice(first, first + _ROWS)
            image[part], category[part] = self._refer(first, image[part], category[part], state[part], known[order],
                                                      order)
            clipped[part] = self._clip(first, boxes[part], image[part], state[part])
        self._count(problems, entries_at)
        return Boxes(boxes, category, state & _CROWD > 0, image, self._good, clipped)

    def _refer(self, first, image, category, state, known, order):
        """Positions of images and classes from 1, 0 where the id is unknown."""
        positions = self._images.find(image)
        positions[state & _BAD_IMAGE > 0] = -1
        self._reject(3, "annotation of an unknown image", lambda entry: "no image has this id", positions < 0, first)
        place = np.minimum(np.searchsorted(known, category), len(known) - 1)
        bad = (known[place] != category) | (state & _BAD_CATEGORY > 0)
        self._reject(4, "annotation of an unknown category",
                     lambda entry: f"category {show(entry.get('category_id'))}", bad, first)
        self._reject(5, "iscrowd is neither 0 nor 1", lambda entry: f"iscrowd {show(entry['iscrowd'])}",
                     state & _BAD_CROWD > 0, first)
        return np.maximum(positions, 0), np.where(bad, 0, 1 + order[place])

    def _clip(self, first, boxes, image, state):
        """Boxes from left, top, width, height to left, top, right, bottom inside the image, in place; mask of those
        that were moved by that."""
        good = self._good[first:first + len(boxes)]
        self._reject(6, "box is not four numbers", _box, state & _BAD_BOX > 0, first)
        self._reject(7, "box with NaN or infinity", _box, ~np.isfinite(boxes).all(axis=1), first)
        boxes[~good] = 0
        self._reject(8, "box of negative size", _box, (boxes[:, 2:] < 0).any(axis=1), first)
        self._reject(9, "empty box", _box, (boxes[:, 2:] == 0).any(axis=1), first)
        with np.errstate(over="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        if not len(self._images.sizes):
            return np.zeros(len(boxes), bool)
        corner = self._images.sizes[image].astype(np.float64)
        # An image without a usable size is a problem already; its annotations go with it, unjudged.
        judged = good & (corner > 0).all(axis=1)
        outside = np.maximum(-boxes[:, :2], boxes[:, 2:] - corner).max(axis=1)
        self._reject(10, "box outside the image", self._outside, judged & (outside > TOLERANCE), first)
        before = boxes.copy()
        np.clip(boxes, 0, np.tile(corner, 2), out=boxes)
        self._reject(11, "empty box", lambda entry: _box(entry) + " has next to no area inside the image",
                     judged & (boxes[:, 2:] - boxes[:, :2] < MIN_PART * corner).any(axis=1), first)
        return (boxes != before).any(axis=1) & good & judged

    def _outside(self, entry) -> str:
        width, height = self._images.sizes[self._images.find(np.array([entry["image_id"]]))[0]]
        return f"{_box(entry)} in {width} x {height} pixels"

    def _count(self, problems: Problems, entries_at) -> None:
        wanted = {index for _, _, _, first in self._rejected.values() for index in first}
        entries = entries_at(wanted) if wanted else {}
        for _, (kind, detail, count, first) in sorted(self._rejected.items()):
            problems.add(kind, *(f"{self._where(entries[index], index)}: {detail(entries[index])}"
                                 if index in entries else f"annotations[{index}] (the file has changed meanwhile)"
                                 for index in first), count=count)

    def _where(self, entry, index) -> str:
        if not isinstance(entry, dict):
            return f"annotations[{index}]"
        key = entry.get("image_id")
        position = self._images.find(np.array([key]))[0] if is_id(key) else -1
        name = "" if position < 0 else f" ({show(self._images.names[position])})"
        return f"annotation {show(entry.get('id'))} of image {show(key)}{name}"


def _box(entry) -> str:
    return f"box {show(entry.get('bbox'))}"


def _repeated(ids: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Mask of the good entries whose id an earlier good one has."""
    repeated = np.zeros(len(ids), bool)
    if len(ids) and not (ids[1:] > ids[:-1]).all():
        candidates = np.flatnonzero(good)
        repeated[candidates] = True
        repeated[candidates[np.unique(ids[candidates], return_index=True)[1]]] = False
    return repeated


def _whole_numbers(values: list):
    """(int64 array, bad mask) of any JSON values; the bad ones are 0. True is no number."""
    if not set(map(type, values)) - {int}:
        try:
            return np.array(values, np.int64), np.zeros(len(values), bool)
        except OverflowError:
            pass
    bad = np.array([not is_id(value) for value in values], bool)
    return np.array([value if is_id(value) else 0 for value in values], np.int64), bad


def _four_numbers(values: list):
    """((m, 4) float64, bad mask) of any JSON values; a number too large for float64 becomes infinite."""
    if not set(map(type, values)) - {list} and not set(map(len, values)) - {4}:
        flat = list(chain.from_iterable(values))
        if not set(map(type, flat)) - {int, float}:
            try:
                return np.array(flat, np.float64).reshape(-1, 4), np.zeros(len(values), bool)
            except OverflowError:
                pass
    boxes, bad = np.zeros((len(values), 4)), np.zeros(len(values), bool)
    for index, value in enumerate(values):
        if type(value) is list and len(value) == 4 and not {type(side) for side in value} - {int, float}:
            boxes[index] = [_to_float(side) for side in value]
        else:
            bad[index] = True
    return boxes, bad


def _to_float(value) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
