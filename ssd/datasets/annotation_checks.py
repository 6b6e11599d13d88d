"""The entries of a COCO annotation file, as arrays, with every problem counted by kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ssd.datasets.annotation_file import show
from ssd.errors import UserError

# Boxes may lie this far outside their image, in pixels, and are clipped. The original COCO boxes at hand
# end exactly at the border at most; but other tools round to a decimal or to a whole pixel, or count the
# last pixel in (w = r - l + 1), and each of these moves a border by one pixel at most. More is a mistake.
TOLERANCE = 1.0
# Whole numbers up to here are exact in float32, in which DALI divides boxes by the image's size.
MAX_SIDE = 2 ** 24
# A side below this part of the image's is next to nothing in float32, and the offset of a box without
# width, log(0), would make the loss infinite.
MIN_PART = 1e-6


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


def _is_id(value) -> bool:
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def read_categories(entries: list, path: str):
    """(ids, names), tuples in the file's order. Any problem raises UserError: classes are
    numbered by them."""
    if not entries:
        raise UserError(f"annotation file {path} holds no category")
    ids = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _is_id(entry.get("id")):
            raise UserError(f"annotation file {path}: category {show(entry)} lacks a whole id or a name")
        if entry["id"] in ids:
            raise UserError(f"annotation file {path}: duplicate category id {entry['id']} "
                            f"({show(ids[entry['id']])} and {show(name)})")
        ids[entry["id"]] = name
    return tuple(ids), tuple(ids.values())


@dataclass
class Images:
    """ids: (n,) int64; names: n strings; sizes: (n, 2) int64 width, height; good: (n,) bool; by_id: dict
    from id to position, of the first image that has the id."""

    ids: np.ndarray
    names: list
    sizes: np.ndarray
    good: np.ndarray
    by_id: dict


def read_images(entries: list, problems: Problems) -> Images:
    """Reads `images`, the bad ones included (good = False)."""
    n = len(entries)
    images = Images(np.zeros(n, np.int64), [""] * n, np.zeros((n, 2), np.int64), np.zeros(n, bool), {})
    seen_names = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problems.add("image entry is not an object", f"images[{index}]: {show(entry)}")
            continue
        key, name = entry.get("id"), entry.get("file_name")
        where = f"image {show(key)} ({show(name)})"
        if not _is_id(key):
            problems.add("image id is not a 64-bit whole number", f"images[{index}]: {where}")
            continue
        if key in images.by_id:
            first = images.by_id[key]
            problems.add("duplicate image id", f"{where} and images[{first}] ({show(images.names[first])})")
            continue
        images.by_id[key], images.ids[index] = index, key
        bad_name = _bad_file_name(name)
        if bad_name:
            problems.add(bad_name, where)
            continue
        images.names[index] = name
        plain = os.path.normpath(name)
        if plain in seen_names:
            problems.add("duplicate file name", f"{where} and image {seen_names[plain]}")
            continue
        seen_names[plain] = key
        width, height = _side(entry.get("width")), _side(entry.get("height"))
        if not width or not height:
            problems.add("image without a usable size",
                         f"{where}: width {show(entry.get('width'))}, height {show(entry.get('height'))}")
            continue
        images.sizes[index] = width, height
        images.good[index] = True
    return images


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


def read_boxes(entries: list, images: Images, category_ids: tuple, problems: Problems) -> Boxes:
    """Reads `annotations`, the bad ones included (good = False)."""
    m = len(entries)
    good = np.ones(m, bool)

    def reject(mask, kind, detail):
        """An annotation is counted once, under the first thing that is wrong with it."""
        mask = mask & good
        if mask.any():
            first = np.flatnonzero(mask)[:problems.limit].tolist()
            problems.add(kind, *(_where(entries[index], index, images) + ": " + detail(entries[index])
                                 for index in first), count=int(mask.sum()))
            good[mask] = False

    if set(map(type, entries)) - {dict}:
        reject(np.array([type(entry) is not dict for entry in entries], bool),
               "annotation is not an object", show)
        table = [entry if type(entry) is dict else {} for entry in entries]
    else:
        table = entries

    ids, bad = _whole_numbers([entry.get("id") for entry in table])
    reject(bad, "annotation id is not a 64-bit whole number", lambda entry: "its id")
    repeated = np.ones(m, bool)
    candidates = np.flatnonzero(good)
    repeated[candidates[np.unique(ids[candidates], return_index=True)[1]]] = False
    reject(repeated, "duplicate annotation id", lambda entry: "its id was there before")

    image, bad = _positions([entry.get("image_id") for entry in table], images.by_id)
    reject(bad, "annotation of an unknown image", lambda entry: "no image has this id")
    position = {key: 1 + index for index, key in enumerate(category_ids)}
    classes, bad = _positions([entry.get("category_id") for entry in table], position)
    reject(bad, "annotation of an unknown category",
           lambda entry: f"category {show(entry.get('category_id'))}")
    crowd, bad = _positions([entry.get("iscrowd", 0) for entry in table], {0: 0, 1: 1})
    reject(bad, "iscrowd is neither 0 nor 1", lambda entry: f"iscrowd {show(entry['iscrowd'])}")

    def box_of(entry):
        return f"box {show(entry.get('bbox'))}"

    boxes, bad = _four_numbers([entry.get("bbox") for entry in table])
    reject(bad, "box is not four numbers", box_of)
    reject(~np.isfinite(boxes).all(axis=1), "box with NaN or infinity", box_of)
    boxes[~good] = 0
    reject((boxes[:, 2:] < 0).any(axis=1), "box of negative size", box_of)
    reject((boxes[:, 2:] == 0).any(axis=1), "empty box", box_of)
    with np.errstate(over="ignore"):
        ltrb = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    # An image without a usable size is a problem already; its annotations go with it, unjudged.
    judged = good & (images.sizes[image] > 0).all(axis=1)
    corner = np.tile(images.sizes[image], 2).astype(np.float64)
    outside = np.maximum(-ltrb[:, :2], ltrb[:, 2:] - corner[:, 2:]).max(axis=1)

    def outside_of(entry):
        width, height = images.sizes[images.by_id[entry["image_id"]]]
        return f"{box_of(entry)} in {width} x {height} pixels"

    reject(judged & (outside > TOLERANCE), "box outside the image", outside_of)
    clipped = np.clip(ltrb, 0, corner)
    reject(judged & (clipped[:, 2:] - clipped[:, :2] < MIN_PART * corner[:, 2:]).any(axis=1), "empty box",
           lambda entry: box_of(entry) + " has next to no area inside the image")
    moved = (clipped != ltrb).any(axis=1) & good & judged
    return Boxes(clipped, classes, crowd.astype(bool), image, good, moved)


def _where(entry, index, images) -> str:
    if not isinstance(entry, dict):
        return f"annotations[{index}]"
    key = entry.get("image_id")
    position = images.by_id.get(key) if _is_id(key) else None
    name = "" if position is None else f" ({show(images.names[position])})"
    return f"annotation {show(entry.get('id'))} of image {show(key)}{name}"


def _whole_numbers(values: list):
    """(int64 array, bad mask) of any JSON values; the bad ones are 0. True is no number."""
    if not set(map(type, values)) - {int}:
        try:
            return np.array(values, np.int64), np.zeros(len(values), bool)
        except OverflowError:
            pass
    bad = np.array([not _is_id(value) for value in values], bool)
    return np.array([value if _is_id(value) else 0 for value in values], np.int64), bad


def _positions(values: list, table: dict):
    """(table[value] as int64, mask of the values that the table does not hold); those are 0."""
    numbers, bad = _whole_numbers(values)
    found = np.array([table.get(number, -1) for number in numbers.tolist()], np.int64)
    bad = bad | (found < 0)
    found[bad] = 0
    return found, bad


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
