"""Categories and images of a COCO annotation file, with every problem counted by kind."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from ssd.datasets.annotation_file import show
from ssd.datasets.growing import Growing
from ssd.datasets.json_files import not_whole, whole_number
from ssd.errors import UserError

# Integers up to this are exact in float32, in which DALI divides boxes by the image's size.
MAX_SIDE = 2**24


class Problems:
    """Counts problems by kind and keeps the first `limit` of each; false if there are none."""

    def __init__(self, limit: int = 1):
        self.limit, self.counts, self.examples = limit, {}, {}

    def add(self, kind: str, *examples: str, count: int = 1) -> None:
        """Adds `count` problems of a kind, of which `examples` are the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.examples.setdefault(kind, [])
        kept += examples[: self.limit - len(kept)]

    def __len__(self) -> int:
        return len(self.counts)

    def without(self, kind: str) -> Problems:
        """The problems of all other kinds."""
        others = Problems(self.limit)
        others.counts = {name: count for name, count in self.counts.items() if name != kind}
        others.examples = {name: self.examples[name] for name in others.counts}
        return others

    def lines(self) -> list:
        """One line per kind."""
        return [
            f"{count} x {kind}; the first: {self.examples[kind][0]}"
            for kind, count in self.counts.items()
        ]

    def summary(self, hint: str = "") -> str:
        """One line: the first problem, `hint`, and the counts of all kinds."""
        kind = next(iter(self.counts))
        counts = ", ".join(f"{count} x {name}" for name, count in self.counts.items())
        return f"{kind}: {self.examples[kind][0]}{hint} (in all: {counts})"


def read_categories(entries: list, path: str):
    """(ids, names), tuples in the file's order. Any problem raises UserError, as classes are
    numbered by them. Two categories of one name are accepted; see categories.same_names."""
    if not entries:
        raise UserError(f"annotation file {path} holds no category")
    ids = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        number = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or number is None:
            why = ""
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                why = f": its id {show(entry['id'])} is text, not a number"
            raise UserError(
                f"annotation file {path}: category {show(entry)} has no integer id or no name{why}"
            )
        if number in ids:
            raise UserError(
                f"annotation file {path}: duplicate category id {number} ({show(ids[number])} and "
                f"{show(name)})"
            )
        ids[number] = name
    return tuple(ids), tuple(ids.values())


@dataclass
class Images:
    """ids: (n,) int64; names: n strings; sizes: (n, 2) int64 width, height; good: (n,) bool;
    labels: what messages call the bad ones, by position; sized: whether the file gives sizes at
    all; leaving: file names that leave the image folder; text_ids: integer ids that are given as
    text."""

    ids: np.ndarray
    names: list
    sizes: np.ndarray
    good: np.ndarray
    labels: dict
    sized: bool
    leaving: list
    text_ids: list
    _sorted: np.ndarray  # the ids that boxes may refer to, each once
    _positions: np.ndarray  # of the images that have them, int64

    def bad_ids(self) -> list:
        """The ids that boxes and detections may refer to, of images that are not good."""
        return (
            self._sorted[~self.good[self._positions]].tolist()
            + np.setdiff1d(np.array(self.text_ids, np.int64), self._sorted).tolist()
        )

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Position of the first image that has each id, -1 for an id that no image has; int64."""
        if not len(self._sorted):
            return np.full(len(ids), -1, np.int64)
        index = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[index] == ids, self._positions[index], -1)


class ImageReader:
    """Reads `images` from lists of entries, the bad ones included (good = False)."""

    def __init__(self, problems: Problems, files: bool = True):
        """files: image files are to be read. If not, file names and sizes may be missing; but if
        some images have them, all must, as training leaves out those without."""
        self.problems, self._files = problems, files
        self._names, self._sides, self._good = [], Growing(np.int64, 2), Growing(bool)
        self._ids, self._by_id, self._seen, self._labels = Growing(np.int64), {}, {}, {}
        # Positions of images without it, and what messages call them
        self._without = {"file_name": {}, "size": {}}
        self._named = self._sized = False
        self._leaving, self._text_ids = [], []
        # Positions of images whose id another image has too, and what messages call them
        self._shared = {}

    def add(self, entries: list) -> None:
        rows = []
        for entry in entries:
            key, name, sides, good = self._read(len(self._names), entry)
            if not good:
                self._labels[len(self._names)] = _label(entry, len(self._names))
            self._names.append(name)
            rows.append((key, *sides, good))
        rows = np.array(rows, np.int64).reshape(-1, 4)
        self._ids.add(rows[:, 0])
        self._sides.add(rows[:, 1:3])
        self._good.add(rows[:, 3])

    def _read(self, index: int, entry):
        """(id, name, (width, height), whether it is good); 0, "", (0, 0) for unusable values."""
        problems = self.problems
        if not isinstance(entry, dict):
            problems.add("image entry is not an object", f"images[{index}]: {show(entry)}")
            return 0, "", _NO_SIZE, False
        key, name = whole_number(entry.get("id")), entry.get("file_name")
        if key is None:
            self._text_ids += _as_number(entry.get("id"))
            problems.add(
                "image id is not a 64-bit whole number",
                f"images[{index}]: {_image(entry.get('id'), name)}: its id "
                f"{not_whole(entry.get('id'))}",
            )
            return 0, _text(name), _NO_SIZE, False
        first = self._by_id.setdefault(key, index)
        if first != index:
            problems.add(
                SAME_ID, f"{_image(key, name)} and images[{first}] ({show(self._names[first])})"
            )
            if _text(name) != self._names[first]:
                self._shared[first] = (
                    f"{_image(key, self._names[first])}: it is unknown to which of the two "
                    "images the boxes belong"
                )
            return 0, _text(name), _NO_SIZE, False
        if name is None and not self._files:
            self._without["file_name"][index] = _image(key, name)
        else:
            self._named = True
            bad_name = _bad_file_name(name)
            if bad_name:
                problems.add(bad_name, _image(key, name))
                if bad_name == LEAVES:
                    self._leaving.append(name)
                return key, "", _NO_SIZE, False
            plain = os.path.normpath(name)
            other = self._seen.setdefault(name if plain == name else plain, key)
            if other != key:
                problems.add("duplicate file name", f"{_image(key, name)} and image {other}")
                return key, name, _NO_SIZE, False
        sides = entry.get("width"), entry.get("height")
        what = f"{_image(key, name)}: width {show(sides[0])}, height {show(sides[1])}"
        if sides == (None, None) and not self._files:
            self._without["size"][index] = what
            return key, name or "", _NO_SIZE, True
        self._sized = True
        width, height = map(_side, sides)
        if not width or not height:
            problems.add(NO_SIZE, what)
            return key, name or "", _NO_SIZE, False
        return key, name or "", (width, height), True

    def images(self) -> Images:
        """All images that were added; to be called once."""
        known = np.fromiter(self._by_id.keys(), np.int64, len(self._by_id))
        positions = np.fromiter(self._by_id.values(), np.int64, len(self._by_id))
        self._by_id = self._seen = None
        order, good = np.argsort(known, kind="stable"), self._good.take()
        for some, key, kind in (
            (self._named, "file_name", NO_NAME),
            (self._sized, "size", NO_SIZE),
        ):
            if some:
                for index, what in self._without[key].items():
                    self.problems.add(kind, what)
                    good[index], self._labels[index] = False, what
        for index, what in self._shared.items():
            if good[index]:
                self.problems.add(SAME_ID, what)
                good[index], self._labels[index] = False, self._names[index]
        return Images(
            self._ids.take(),
            self._names,
            self._sides.take(),
            good,
            self._labels,
            self._sized,
            self._leaving,
            self._text_ids,
            known[order],
            positions[order],
        )


_NO_SIZE = (0, 0)
NO_NAME, NO_SIZE = "image without a usable file name", "image without a usable size"
SAME_ID = "duplicate image id"
LEAVES = "file name leaves the image folder"


def _image(key, name) -> str:
    return f"image {show(key)} ({show(name)})"


def _label(entry, index: int) -> str:
    """What messages call a bad image."""
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if isinstance(name, str) and name.isprintable() and name:
        return name
    return (
        show(entry.get("id")) if isinstance(entry, dict) and "id" in entry else f"images[{index}]"
    )


def _as_number(value) -> list:
    """[64-bit integer of a text], [] for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    number = int(text) if re.fullmatch(r"-?\d{1,19}", text) else None
    return [] if whole_number(number) is None else [number]


def _text(name) -> str:
    return name if isinstance(name, str) else ""


def _side(value) -> int:
    value = whole_number(value)
    return value if value is not None and 1 <= value <= MAX_SIDE else 0


def _bad_file_name(name):
    if not isinstance(name, str) or not name.strip("/.") or name.endswith("/"):
        return NO_NAME
    try:
        if b"\0" in name.encode():
            return NO_NAME
    except UnicodeEncodeError:
        # A lone surrogate, legal in JSON: the name is not UTF-8, which DALI needs.
        return NO_NAME
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        return (
            f"image whose file the encoding of this locale, {error.encoding}, cannot name (set "
            "LC_ALL=C.UTF-8 or PYTHONUTF8=1)"
        )
    if os.path.isabs(name) or ".." in name.split("/"):
        return LEAVES
    return None
