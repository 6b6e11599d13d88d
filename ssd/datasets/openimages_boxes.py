"""Boxes of some classes from Open Images' CSV files, block by block: for 14.6 million rows, neither
the complete text nor an object per row is in memory."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from operator import itemgetter
from typing import Dict, Iterator, List, Tuple

import numpy as np

from ssd.datasets.annotation_checks import Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.growing import Growing
from ssd.errors import UserError

_LTRB = ("XMin", "YMin", "XMax", "YMax")  # Open Images has XMax before YMin
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
GROUP = FLAGS.index("IsGroupOf")
COLUMNS = ("ImageID", "LabelName") + _LTRB + FLAGS
ID_DIGITS = 16
BLOCK = 1 << 22  # bytes that are read at a time

FIELDS = "row with too few or too many fields"
LABEL = "row with an unknown label"
BAD_ID = "row whose image id is not 16 hexadecimal digits"
NUMBER = "box with a coordinate that is no number"
OUTSIDE = "box with a coordinate outside [0, 1]"
REVERSED = "box with XMin > XMax or YMin > YMax"
EMPTY = "box without area"
BAD_FLAG = "box with a flag that is none of 1, 0, -1"

# Bit 0: true, bit 1: unknown, which the benchmark's own tools count as true
_FLAG_BITS = {"0": 0, "1": 1, "-1": 3}
_NO_FLAG = 4
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass
class OpenImagesBoxes:
    """m boxes in the order of the file. image: (m,) uint64, the id's 16 digits as a number; ltrb:
    (m, 4) float64 left, top, right, bottom in shares of the image; classes: (m,) int16 position of
    the class; flags: (m,) uint8, bit k is FLAGS[k]; unknown: number of boxes with a flag of -1;
    rows: all rows of the file, of other classes too."""

    image: np.ndarray
    ltrb: np.ndarray
    classes: np.ndarray
    flags: np.ndarray
    unknown: int = 0
    rows: int = 0


def read_boxes(
    path, positions: Dict[str, int], problems: Problems, progress=None
) -> OpenImagesBoxes:
    """The boxes of `path` whose label has a position >= 0; columns are found by their names.

    positions: every known label -> position of its class, -1 for a class that is not wanted. Bad
    rows are left out and counted in `problems` with line and value; for unwanted classes only the
    number of fields is checked. progress: called with (bytes read, bytes) after each block.

    UserError for a file that cannot be read, is empty, has no header or misses a column, is not
    UTF-8 text, or ends in the middle of a row, as an incomplete download does.
    """
    columns = Growing(np.uint64), Growing(np.float64, 4), Growing(np.int16), Growing(np.uint8)
    result = None
    for first, lines, broken, quoted in _blocks(path, progress):
        if result is None:
            result, parser = (
                OpenImagesBoxes(*(None,) * 4),
                _Parser(path, lines.pop(0), positions, problems),
            )
            first += 1
        if broken and lines and lines[-1].count(",") + 1 < parser.width:
            raise UserError(
                f"{path}:{first + len(lines) - 1}: the file ends in the middle of a row: "
                f"{show(lines[-1])}"
            )
        rows = _quoted(path, first, lines) if quoted else [line.split(",") for line in lines]
        parsed, rows, unknown = parser.parse(first, rows)
        result.rows, result.unknown = result.rows + rows, result.unknown + unknown
        for column, block in zip(columns, parsed):
            column.add(block)
    if result is None:
        raise UserError(f"{path}: the file is empty")
    result.image, result.ltrb, result.classes, result.flags = (column.take() for column in columns)
    return result


def _blocks(path, progress) -> Iterator[Tuple[int, List[str], bool, bool]]:
    """(number of the first line, from 1; lines; whether the last one has no line break; whether
    there are quotes) of a CSV file, a few megabytes at a time."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            rest, number = b"", 1
            while True:
                block = file.read(BLOCK)
                text = rest + block
                if number == 1 and text.startswith(b"\xef\xbb\xbf"):
                    text = text[3:]
                cut = text.rfind(b"\n") + 1 if block else len(text)
                text, rest = text[:cut], text[cut:]
                if text:
                    lines = text.replace(b"\r\n", b"\n").decode("utf-8").split("\n")
                    broken = bool(lines[-1].strip())
                    if not broken:
                        lines.pop()
                    first, number = number, number + len(lines)
                    if lines:
                        yield first, lines, broken, b'"' in text
                if progress is not None:
                    progress(file.tell(), size)
                if not block:
                    return
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {number} or later is not UTF-8 text: {error.reason}"
        ) from None


def _quoted(path, first: int, lines: List[str]) -> List[List[str]]:
    """Cells of lines with quotes; Open Images' own box files have none."""
    where = f"{path}: between line {first} and {first + len(lines) - 1}"
    try:
        rows = list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"{where}: {error}") from None
    if len(rows) != len(lines):
        raise UserError(f"{where} a quoted value spans lines")
    return rows


class _Parser:
    """Rows of one file to arrays."""

    def __init__(self, path, header: str, positions: Dict[str, int], problems: Problems):
        names = [name.strip().strip('"') for name in header.split(",")]
        if not set(names) & set(COLUMNS):
            raise UserError(
                f"{path}:1: the first line must name the columns ({', '.join(COLUMNS)}), and is "
                f"{show(header)}"
            )
        for name in COLUMNS:
            if names.count(name) != 1:
                raise UserError(
                    f"{path}:1: column {name} occurs {names.count(name)} times, in {show(header)}"
                    if name in names
                    else f"{path}:1: no column {name} in {show(header)}"
                )
        self._path, self.width, self._problems, self._table = path, len(names), problems, positions
        self._label, self._id = names.index("LabelName"), itemgetter(names.index("ImageID"))
        self._sides = itemgetter(*map(names.index, _LTRB))
        self._flags = itemgetter(*map(names.index, FLAGS))

    def parse(self, first: int, rows: List[List[str]]):
        """((ids, boxes, classes, flags) of the good rows of wanted classes, number of non-empty
        rows, number of boxes with an unknown flag). first: line number of the first row."""
        numbers, count = range(first, first + len(rows)), len(rows)
        if set(map(len, rows)) - {self.width}:
            # Empty lines do not count.
            filled = [index for index, row in enumerate(rows) if "".join(row).strip()]
            rows, numbers, count = (
                [rows[index] for index in filled],
                np.asarray(numbers)[filled],
                len(filled),
            )
            good = [len(row) == self.width for row in rows]
            numbers = self._keep(
                FIELDS,
                numbers,
                rows,
                good,
                lambda row: f"{len(row)} instead of {self.width}: {show(','.join(row))}",
            )
            rows = [row for row, is_good in zip(rows, good) if is_good]
        label = self._label
        classes = [self._table.get(row[label]) for row in rows]
        if None in classes:
            numbers = self._keep(
                LABEL,
                numbers,
                rows,
                [position is not None for position in classes],
                lambda row: show(row[label]),
            )
            rows = [row for row, position in zip(rows, classes) if position is not None]
            classes = [position for position in classes if position is not None]
        classes = np.array(classes, np.int16)
        wanted = np.flatnonzero(classes >= 0)
        rows, numbers = [rows[index] for index in wanted.tolist()], np.asarray(numbers)[wanted]
        ids, good = _ids([self._id(row) for row in rows])
        boxes = _numbers(list(itertools.chain.from_iterable(map(self._sides, rows))))
        flags = np.array(
            [
                _FLAG_BITS.get(flag, _NO_FLAG)
                for flag in itertools.chain.from_iterable(map(self._flags, rows))
            ],
            np.uint8,
        ).reshape(-1, len(FLAGS))

        def box_of(row):
            return ", ".join(f"{name} {show(side)}" for name, side in zip(_LTRB, self._sides(row)))

        def reject(kind, bad, detail):
            bad = bad & good
            if bad.any():
                self._keep(kind, numbers, rows, ~bad, detail)
                good[bad] = False

        bad_id, good = ~good, np.ones(len(rows), bool)
        reject(BAD_ID, bad_id, lambda row: show(self._id(row)))
        reject(NUMBER, ~np.isfinite(boxes).all(axis=1), box_of)
        reject(OUTSIDE, ((boxes < 0) | (boxes > 1)).any(axis=1), box_of)
        reject(REVERSED, (boxes[:, :2] > boxes[:, 2:]).any(axis=1), box_of)
        reject(EMPTY, (boxes[:, :2] == boxes[:, 2:]).any(axis=1), box_of)
        reject(
            BAD_FLAG,
            (flags == _NO_FLAG).any(axis=1),
            lambda row: ", ".join(
                f"{name} {show(flag)}" for name, flag in zip(FLAGS, self._flags(row))
            ),
        )
        unknown = int(((flags & 2) > 0)[good].any(axis=1).sum())
        packed = ((flags & 1) << np.arange(len(FLAGS), dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
        return (ids[good], boxes[good], classes[wanted][good], packed[good]), count, unknown

    def _keep(self, kind, numbers, rows, good, detail):
        """Counts the rows that are not `good`; returns the line numbers of the others."""
        good = np.asarray(good, bool)
        bad = np.flatnonzero(~good)
        if len(bad):
            self._problems.add(
                kind,
                *(
                    f"{self._path}:{numbers[index]}: {detail(rows[index])}"
                    for index in bad[: self._problems.limit].tolist()
                ),
                count=len(bad),
            )
        return np.asarray(numbers)[good]


def _numbers(texts: List[str]) -> np.ndarray:
    """(n, 4) float64; NaN for text that is not a number."""
    try:
        values = list(map(float, texts))
    except ValueError:
        values = [_number(text) for text in texts]
    return np.array(values, np.float64).reshape(-1, 4)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _ids(texts: List[str]) -> Tuple[np.ndarray, np.ndarray]:
    """(uint64 (n,), mask of the good ones) of 16 lower-case hexadecimal digits each, as Open Images
    names files."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    good = np.fromiter((len(text) == ID_DIGITS for text in encoded), bool, len(encoded))
    if not good.all():
        encoded = [text if ok else b"0" * ID_DIGITS for text, ok in zip(encoded, good.tolist())]
    digits = _HEX[np.frombuffer(b"".join(encoded), np.uint8).reshape(-1, ID_DIGITS)]
    good &= (digits < 16).all(axis=1)
    pairs = np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2] & 15)
    return pairs.view(">u8").ravel().astype(np.uint64), good


def id_numbers(names: List[str]) -> Tuple[np.ndarray, np.ndarray]:
    """(uint64 (n,), mask of the good ones) of image ids given as text."""
    return _ids(names)


def id_text(number) -> str:
    """An image id as Open Images writes it."""
    return f"{int(number):016x}"
