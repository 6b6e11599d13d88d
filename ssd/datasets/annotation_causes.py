"""What is likely the cause where much of an annotation file is wrong: boxes in another form, names written for another
place. One line each, for people."""
from __future__ import annotations

import os
from typing import List

import numpy as np

SHARE = 0.1    # of all boxes outside their image from which on another form is looked for
FEW = 0.01     # of all boxes may contradict a form
_LOOKED_AT = 200    # missing files whose names are tried in other ways
_ENDINGS = (".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".bmp")


class BoxForms:
    """Counts which other meanings the numbers of boxes could have."""

    def __init__(self):
        self.boxes = self.outside = self._corners = self._centres = self._shares = 0

    def add(self, boxes: np.ndarray, sizes: np.ndarray, tolerance: float) -> None:
        """boxes: (m, 4) finite numbers of the file; sizes: (m, 2) width, height of their images; tolerance [pixels]."""
        first, second = boxes[:, :2], boxes[:, 2:]
        with np.errstate(over="ignore"):
            inside = (first >= -tolerance).all(axis=1)
            self.outside += int((~inside | (first + second > sizes + tolerance).any(axis=1)).sum())
            self._corners += int((inside & (second > first).all(axis=1)
                                  & (second <= sizes + tolerance).all(axis=1)).sum())
            self._centres += int(((first - second / 2 >= -tolerance).all(axis=1) & (second > 0).all(axis=1)
                                  & (first + second / 2 <= sizes + tolerance).all(axis=1)).sum())
        self._shares += int(((boxes >= 0) & (boxes <= 1)).all(axis=1).sum() - (sizes <= 2).any(axis=1).sum())
        self.boxes += len(boxes)

    def cause(self) -> str:
        """The likely other form, "" where there is none."""
        if not self.boxes:
            return ""
        if self._shares == self.boxes:
            return (f"all {self.boxes} boxes lie within the first pixel of their images: they seem to be shares of the "
                    "image from 0 to 1, and pixels are needed")
        least = (1 - FEW) * self.boxes
        if self.outside < SHARE * self.boxes:
            return ""
        if self._corners >= least:
            return self._words(self._corners, "left, top, right, bottom")
        if self._centres >= least:
            return self._words(self._centres, "centre x, centre y, width, height")
        return ""

    def _words(self, fitting: int, form: str) -> str:
        return (f"{self.outside} of {self.boxes} boxes lie outside their images, and {fitting} would fit as {form}: "
                "the file seems to give that, and left, top, width, height is needed")


def cause_of_missing(images, names: List[str]) -> str:
    """Why image files are not found, if another way of writing their names finds them; "" if none does.

    images: of ssd.datasets.images.open_images; names: as in the file, of the missing ones.
    """
    missing, names = len(names), names[:_LOOKED_AT]
    ways = (("their names have backslashes, as Windows writes paths; with / in their place",
             lambda name: name.replace("\\", "/") if "\\" in name else None),
            ("their names hold folders; without these", lambda name: _last(name) if _last(name) != name else None),
            *((f"their names have other endings; with {ending}", _ending(ending)) for ending in _ENDINGS))
    for words, way in ways:
        others = [other for other in map(way, names) if other and _is_there(images, other)]
        if 2 * len(others) > len(names):
            return (f"{missing} image files are missing: {words} they are there "
                    f"({os.path.basename(images.folder.rstrip(os.sep))}/{others[0]})")
    return ""


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _ending(ending: str):
    return lambda name: os.path.splitext(name)[0] + ending if os.path.splitext(name)[1] != ending else None


def _is_there(images, name: str) -> bool:
    if name.startswith("/") or ".." in name.split("/"):
        return False
    try:
        images.status(name)
        return True
    except (OSError, ValueError):
        return False
