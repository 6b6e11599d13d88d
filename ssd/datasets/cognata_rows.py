"""Objects from Cognata's CSV files, one file per frame, and the size of the frame's PNG image.

Classes, filters and the four columns from the description of mlcommons/abtf-ssd-pytorch at 2d8ee7d.
No row of the data set is public, so nothing beyond these columns is assumed: they are found by
name, in any order, among others.
"""

from __future__ import annotations

import csv
import io
import math
import struct
import zlib
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ssd.datasets.annotation_boxes import TOLERANCE
from ssd.datasets.annotation_checks import MAX_SIDE
from ssd.datasets.annotation_file import show

# (object_class, its name) of the classes that are trained on; label = position from 1, 0 is the
# background.
CLASSES = (
    (28, "Traffic_light"),
    (29, "Props"),
    (33, "TrafficSign"),
    (8, "Car"),
    (36, "Van"),
    (13, "Rider"),
    (11, "Motorcycle"),
    (35, "Bicycle"),
    (14, "Pedestrian"),
    (9, "Truck"),
    (48, "PersonalMobility"),
    (10, "Bus"),
    (46, "Trailer"),
    (44, "Animal"),
)
# object_class of poles, parking spaces and fences.
IGNORED_CLASSES = (2, 25, 31)
# A box is kept if it has at least this area [square pixels] and these sides [pixels], and its
# centre is at most at this distance [metres].
MIN_AREA, MIN_SIDE, MAX_DISTANCE = 50.0, 8.0, 300.0

CLASS, NAME, BOX, DISTANCE = (
    "object_class",
    "object_class_name",
    "bounding_box_2D",
    "center_distance",
)
_NEEDED = (CLASS, BOX, DISTANCE)  # the name is checked if the column exists

UNREADABLE_CSV = "CSV file that cannot be read"
EMPTY_CSV = "CSV file that is empty"
NO_CSV = "CSV file that is no CSV of UTF-8 text"
NO_COLUMN = "CSV file without a column"
UNREADABLE_PNG = "image that cannot be read"
NO_PNG = "image that is no PNG with a size"

FIELDS = "row with too few or too many fields"
UNKNOWN_CLASS = "row with an unknown object_class"
BOX_TEXT = "box that is no list of four numbers"
NOT_FINITE = "box with NaN or infinity"
REVERSED = "box with xmin > xmax or ymin > ymax"
NO_AREA = "box without area"
BAD_DISTANCE = "row without a distance in metres"
OUTSIDE = "box outside the image"

# Why the filters leave a box out, in the order in which they are applied.
FILTERS = (
    "class that is not trained on",
    f"area below {MIN_AREA:g} square pixels",
    f"side below {MIN_SIDE:g} pixels",
    f"more than {MAX_DISTANCE:g} m away",
)
_FILTERED = len(FILTERS)

_LABELS: Dict[str, int] = {
    **{str(number): label for label, (number, _) in enumerate(CLASSES, start=1)},
    **{str(number): 0 for number in IGNORED_CLASSES},
}
_NAMES = ("",) + tuple(name for _, name in CLASSES)
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"


class Rows(NamedTuple):
    """Content of a CSV file: labels (from 1) and boxes (xmin, ymin, xmax, ymax, pixels) of the k
    objects that are kept, in the file's order; rows: number of its rows; filtered: number of those
    that each of FILTERS left out.

    problems: (kind, line and value) of bad rows, in order. renamed: line and value of rows whose
    class has another name than in CLASSES, which are kept.
    """

    labels: List[int]
    boxes: List[List[float]]
    rows: int
    filtered: List[int]
    problems: Sequence[Tuple[str, str]]
    renamed: Sequence[str]


class BadInput(Exception):
    """A file or row that cannot be used; args: kind of the problem, line and value."""


def png_size(path) -> Tuple[int, int]:
    """(width, height) in pixels from the first 33 bytes: signature and the IHDR chunk with its
    check sum, as PNG wants them (W3C, Portable Network Graphics, 5.2 and 11.2.2). BadInput."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(33)
    except OSError as error:
        raise BadInput(UNREADABLE_PNG, f"{path}: {error.strerror}") from None
    if (
        len(head) == 33
        and head[:16] == _PNG
        and zlib.crc32(head[12:29]) == int.from_bytes(head[29:], "big")
    ):
        width, height = struct.unpack(">II", head[16:24])
        if 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE:
            return width, height
    raise BadInput(NO_PNG, f"{path}: begins with {show(head[:24])}")


def read_rows(path, size: Tuple[int, int], clip: bool = False) -> Rows:
    """The objects of a CSV file whose image has `size` (width, height) [pixels].

    clip: cut a box that extends beyond the image, before the filters, instead of leaving it out; up
    to annotation_boxes.TOLERANCE pixels outside it is kept unchanged in any case. For classes that
    are not trained on, only the number of fields is checked. BadInput for an unusable file.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(reader, None)
        if header is None:
            raise BadInput(EMPTY_CSV, path)
        return _Reader(path, [name.strip() for name in header], size, clip).read(reader)
    except OSError as error:
        raise BadInput(UNREADABLE_CSV, f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(NO_CSV, f"{path}: {error}") from None


class _Reader:
    """Rows of one file."""

    def __init__(self, path, names: List[str], size, clip: bool):
        for name in _NEEDED:
            if names.count(name) != 1:
                raise BadInput(
                    NO_COLUMN,
                    f"{path}: column {name} occurs {names.count(name)} times, in "
                    f"{show(','.join(names))}",
                )
        self._path, self._width, self._size, self._clip = path, len(names), size, clip
        self._class, self._box, self._distance = map(names.index, _NEEDED)
        self._name = names.index(NAME) if names.count(NAME) == 1 else None

    def read(self, reader) -> Rows:
        labels, boxes, filtered, problems, renamed, rows = [], [], [0] * _FILTERED, [], [], 0
        for cells in reader:
            if not cells:  # an empty line
                continue
            rows += 1
            try:
                label, box, reason = self._row(cells)
            except BadInput as bad:
                kind, what = bad.args
                problems.append((kind, f"{self._path}:{reader.line_num}: {what}"))
                continue
            if reason is not None:
                filtered[reason] += 1
                continue
            labels.append(label)
            boxes.append(box)
            if self._name is not None and cells[self._name].strip() != _NAMES[label]:
                renamed.append(
                    f"{self._path}:{reader.line_num}: {cells[self._class].strip()} is named "
                    f"{show(cells[self._name])}, not {_NAMES[label]}"
                )
        return Rows(labels, boxes, rows, filtered, problems, renamed)

    def _row(self, cells: List[str]) -> Tuple[int, Optional[List[float]], Optional[int]]:
        """(label, box, None), or, instead of None, the index of the filter that leaves the row out.
        BadInput: kind, value."""
        if len(cells) != self._width:
            raise BadInput(
                FIELDS, f"{len(cells)} instead of {self._width}: {show(','.join(cells))}"
            )
        label = _LABELS.get(cells[self._class].strip())
        if label is None:
            raise BadInput(UNKNOWN_CLASS, show(cells[self._class]))
        if label == 0:
            return label, None, 0
        text, box = cells[self._box], parse_box(cells[self._box])
        if box is None:
            raise BadInput(BOX_TEXT, show(text))
        left, top, right, bottom = box
        if not all(map(math.isfinite, box)):
            raise BadInput(NOT_FINITE, show(text))
        if left > right or top > bottom:
            raise BadInput(REVERSED, show(text))
        if left == right or top == bottom:
            raise BadInput(NO_AREA, show(text))
        distance = _number(cells[self._distance])
        if not math.isfinite(distance):
            raise BadInput(BAD_DISTANCE, show(cells[self._distance]))
        wide, high = self._size
        outside = max(-left, -top, right - wide, bottom - high) > TOLERANCE
        if outside and self._clip:
            left, top, right, bottom = box = [
                max(left, 0.0),
                max(top, 0.0),
                min(right, float(wide)),
                min(bottom, float(high)),
            ]
            if left >= right or top >= bottom:
                raise BadInput(OUTSIDE, f"{show(text)} in {wide} x {high} pixels")
            outside = False
        width, height = right - left, bottom - top
        for reason, left_out in (
            (1, width * height < MIN_AREA),
            (2, min(width, height) < MIN_SIDE),
            (3, distance > MAX_DISTANCE),
        ):
            if left_out:
                return label, box, reason
        if outside:  # last: boxes that the filters leave out need not be right
            raise BadInput(OUTSIDE, f"{show(text)} in {wide} x {high} pixels")
        return label, box, None


def parse_box(text: str) -> Optional[List[float]]:
    """The numbers of "[xmin, ymin, xmax, ymax]"; None for any other text. Nothing in the text is
    ever executed."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or "_" in text:  # float() takes 1_0
        return None
    try:
        box = [float(part) for part in text[1:-1].split(",")]
    except ValueError:
        return None
    return box if len(box) == 4 else None


def _number(text: str) -> float:
    """NaN for text that is not a number."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return math.nan
