"""Categories and images of a COCO annotation file, with every problem counted by kind."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ssd.datasets.annotation_file import show
from ssd.datasets.growing import Growing
from ssd.errors import UserError

# Whole numbers up to here are exact in float32, in which DALI divides boxes by the image's size.
MAX_SIDE = 2 ** 24


class Problems:
    """Counts problems by kind and keeps the first `limit` of each; false where there are none."""

    def __init__(self, limit: int = 1):
        self.limit, self.counts, self.examples = limit, {}, {}

    def add(self, kind: str, *examples: str, count: int = 1) -> None:
        """Adds `count` problems of a kind, of which `examples` are the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.examples.setdefault(kind, [])
        kept += examples[:self.limit - len(kept)]

    def __len__(self) -> int:
        return len(self.counts)

    def lines(self) -> list:
        """One line per kind."""
        return [f"{count} x {kind}; the first: {self.examples[kind][0]}" for kind, count in self.counts.items()]

    def summary(self, hint: str = "") -> str:
        """One line: the first problem, `hint`, and the counts of all kinds."""
        kind = next(iter(self.counts))
        counts = ", ".join(f"{count} x {name}" for name, count in self.counts.items())
        return f"{kind}: {self.examples[kind][0]}{hint} (in all: {counts})"


def is_id(value) -> bool:
    """Whether a JSON value can be an id: a whole number of 64 bits. True is none."""
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def read_categories(entries: list, path: str):
    """(ids, names), tuples in the file's order. Any problem raises UserError: classes are
    numbered by them."""
    if not entries:
        raise UserError(f"annotation file {path} holds no category")
    ids = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not is_id(entry.get("id")):
            raise UserError(f"annotation file {path}: category {show(entry)} lacks a whole id or a name")
        if entry["id"] in ids:
            raise UserError(f"annotation file {path}: duplicate category id {entry['id']} "
                            f"({show(ids[entry['id']])} and {show(name)})")
        ids[entry["id"]] = name
    return tuple(ids), tuple(ids.values())


@dataclass
class Images:
    """ids: (n,) int64; names: n strings; sizes: (n, 2) int64 width, height; good: (n,) bool."""

    ids: np.ndarray
    names: list
    sizes: np.ndarray
    good: np.ndarray
    _sorted: np.ndarray     # the ids that boxes may refer to, each once
    _positions: np.ndarray  # of the images that have them, int64

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Position of the first image that has each id, -1 for an id that no image has; int64."""
        if not len(self._sorted):
            return np.full(len(ids), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[place] == ids, self._positions[place], -1)


class ImageReader:
    """Reads `images` from lists of entries, the bad ones included (good = False)."""

    def __init__(self, problems: Problems):
        self.problems = problems
        self._names, self._sides, self._good = [], Growing(np.int64, 2), Growing(bool)
        self._ids, self._by_id, self._seen = Growing(np.int64), {}, {}

    def add(self, entries: list) -> None:
        rows = []
        for entry in entries:
            key, name, sides, good = self._read(len(self._names), entry)
            self._names.append(name)
            rows.append((key, *sides, good))
        rows = np.array(rows, np.int64).reshape(-1, 4)
        self._ids.add(rows[:, 0])
        self._sides.add(rows[:, 1:3])
        self._good.add(rows[:, 3])

    def _read(self, index: int, entry):
        """(id, name, (width, height), whether it is good); 0, "", (0, 0) for what cannot be used."""
        problems = self.problems
        if not isinstance(entry, dict):
            problems.add("image entry is not an object", f"images[{index}]: {show(entry)}")
            return 0, "", _NO_SIZE, False
        key, name = entry.get("id"), entry.get("file_name")
        if not is_id(key):
            problems.add("image id is not a 64-bit whole number", f"images[{index}]: {_image(key, name)}")
            return 0, "", _NO_SIZE, False
        first = self._by_id.setdefault(key, index)
        if first != index:
            problems.add("duplicate image id", f"{_image(key, name)} and images[{first}] ({show(self._names[first])})")
            return 0, "", _NO_SIZE, False
        bad_name = _bad_file_name(name)
        if bad_name:
            problems.add(bad_name, _image(key, name))
            return key, "", _NO_SIZE, False
        plain = os.path.normpath(name)
        other = self._seen.setdefault(name if plain == name else plain, key)
        if other != key:
            problems.add("duplicate file name", f"{_image(key, name)} and image {other}")
            return key, name, _NO_SIZE, False
        width, height = _side(entry.get("width")), _side(entry.get("height"))
        if not width or not height:
            problems.add("image without a usable size", f"{_image(key, name)}: width {show(entry.get('width'))}, "
                                                        f"height {show(entry.get('height'))}")
            return key, name, _NO_SIZE, False
        return key, name, (width, height), True

    def images(self) -> Images:
        """All that was added; to be called once."""
        known = np.fromiter(self._by_id.keys(), np.int64, len(self._by_id))
        positions = np.fromiter(self._by_id.values(), np.int64, len(self._by_id))
        self._by_id = self._seen = None
        order = np.argsort(known, kind="stable")
        return Images(self._ids.take(), self._names, self._sides.take(), self._good.take(), known[order],
                      positions[order])


_NO_SIZE = (0, 0)


def _image(key, name) -> str:
    return f"image {show(key)} ({show(name)})"


def _side(value) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 1 <= value <= MAX_SIDE else 0


def _bad_file_name(name):
    if not isinstance(name, str) or not name.strip("/.") or name.endswith("/"):
        return "image without a usable file name"
    try:
        if b"\0" in os.fsencode(name) + name.encode():
            return "image without a usable file name"
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON: of a name that is no UTF-8, which DALI cannot be told
        return "image without a usable file name"
    if os.path.isabs(name) or ".." in name.split("/"):
        return "file name leaves the image folder"
    return None
