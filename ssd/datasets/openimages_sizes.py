"""Width and height of image files from their first bytes, and the CSV file that caches them."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Optional, Tuple

import numpy as np

from ssd.datasets.annotation_checks import MAX_SIDE, Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.image_checks import inspect_image
from ssd.datasets.in_threads import in_threads
from ssd.datasets.openimages_boxes import id_numbers, id_text
from ssd.datasets.openimages_classes import csv_rows
from ssd.errors import UserError
from ssd.files import replacing, write_errors

HEADER = ("ImageID", "Width", "Height")
MISSING, UNREADABLE = "image without a file", "image file without a readable size"
_LINES = 4096  # of the sizes file that are formatted at a time


def jpeg_size(path: str) -> Optional[Tuple[int, int]]:
    """(width, height) in pixels as stored, without the EXIF orientation; None if it is not a plain
    JPEG. OSError.

    Reads markers from one to the next up to the frame header (ISO/IEC 10918-1, B.1.1.3 and B.2.2):
    a few hundred bytes of a file, and a fifth of the time that Pillow takes to open it.
    """
    with open(path, "rb", buffering=2048) as file:
        if file.read(2) != b"\xff\xd8":
            return None
        while True:
            byte = file.read(1)
            if byte != b"\xff":
                return None
            while byte == b"\xff":  # a marker may be preceded by fill bytes
                byte = file.read(1)
            if not byte or byte[0] in (0x00, 0xD9, 0xDA) or 0xD0 <= byte[0] <= 0xD7:
                return None  # no frame header before the data
            start = file.read(7)
            if len(start) < 7:
                return None
            length, height, width = struct.unpack(">HxHH", start)
            if 0xC0 <= byte[0] <= 0xCF and byte[0] not in (
                0xC4,
                0xC8,
                0xCC,
            ):  # SOF0 to SOF15, not DHT, JPG, DAC
                return (width, height) if width and height else None
            if length < 2:
                return None
            file.seek(length - 7, os.SEEK_CUR)


def image_size(path: str) -> Optional[Tuple[int, int]]:
    """As jpeg_size, but for any format that training reads; None for others."""
    return jpeg_size(path) or inspect_image(path, "header").size


def files_of(folder) -> np.ndarray:
    """Ids of the files ID.jpg in a folder, ascending uint64. UserError."""

    def names():
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(entry.name) == 20 and entry.name.endswith(".jpg"):
                    yield entry.name[:16]

    try:
        found, good = id_numbers(list(names()))
    except OSError as error:
        raise UserError(f"image folder {folder}: cannot be read: {error.strerror}") from None
    return np.sort(found[good])


class KnownSizes:
    """Known sizes: ids, ascending uint64 (n,), and sides, int32 (n, 2) width and height in
    pixels."""

    def __init__(self, ids=(), sides=()):
        self.ids, self.sides = (
            np.asarray(ids, np.uint64),
            np.asarray(sides, np.int32).reshape(-1, 2),
        )

    @classmethod
    def read(cls, path) -> KnownSizes:
        """From a CSV file with the columns ImageID, Width, Height. UserError, naming file, line and
        value, for a bad row, and for an image with two sizes; an image that occurs twice with the
        same size counts once."""
        rows = csv_rows(path)
        header = next(rows, (1, []))[1]
        for name in HEADER:
            if name not in header:
                raise UserError(f"{path}:1: no column {name} in {show(','.join(header))}")
        columns = [header.index(name) for name in HEADER]
        names, sides, numbers = [], [], []
        for number, cells in rows:
            try:
                name, width, height = (cells[column] for column in columns)
                width, height = int(width), int(height)
            except (IndexError, ValueError):
                width = height = 0
            if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
                raise UserError(
                    f"{path}:{number}: {show(','.join(cells))} is no image id with width and height"
                )
            names.append(name)
            sides.append((width, height))
            numbers.append(number)
        ids, good = id_numbers(names)
        if not good.all():
            first = int(np.argmin(good))
            raise UserError(
                f"{path}:{numbers[first]}: image id {show(names[first])} is not 16 hexadecimal "
                "digits"
            )
        sides = np.array(sides, np.int32).reshape(-1, 2)
        order = np.argsort(ids, kind="stable")
        ids, sides = ids[order], sides[order]
        again = np.flatnonzero(ids[1:] == ids[:-1])
        differ = again[(sides[again] != sides[again + 1]).any(axis=1)]
        if len(differ):
            first = int(differ[0])
            raise UserError(
                f"{path}:{numbers[order[first + 1]]}: image {id_text(ids[first])} occurs twice, "
                "with {} x {} and {} x {} pixels".format(*sides[first], *sides[first + 1])
            )
        keep = np.ones(len(ids), bool)
        keep[again + 1] = False
        return cls(ids[keep], sides[keep])

    def write(self, path) -> None:
        """Replaces the file. UserError."""
        with write_errors(f"--sizes {path}", path), replacing(path) as partial:
            with open(partial, "x", encoding="ascii") as file:
                file.write(",".join(HEADER) + "\n")
                for start in range(0, len(self.ids), _LINES):
                    part = slice(start, start + _LINES)
                    file.writelines(
                        "%016x,%d,%d\n" % (name, *side)
                        for name, side in zip(self.ids[part].tolist(), self.sides[part].tolist())
                    )

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Sides of images, (n, 2); 0, 0 for an unknown one."""
        sides = np.zeros((len(ids), 2), np.int32)
        if len(self.ids):
            index = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            found = self.ids[index] == ids
            sides[found] = self.sides[index[found]]
        return sides

    def join(self, ids: np.ndarray, sides: np.ndarray) -> KnownSizes:
        """These sizes and others, which take precedence."""
        old = ~np.isin(self.ids, ids)
        ids, sides = np.concatenate([self.ids[old], ids]), np.concatenate([self.sides[old], sides])
        order = np.argsort(ids, kind="stable")
        return KnownSizes(ids[order], sides[order])


def image_sizes(
    ids: np.ndarray, folder, sizes_file, problems: Problems, threads: int = 0, progress=None
) -> np.ndarray:
    """Sides of images, int32 (n, 2) width and height; 0, 0 if there is none, which is counted in
    `problems`.

    ids: ascending uint64. folder: of the files ID.jpg; None if `sizes_file` must hold all.
    sizes_file: a CSV file of known sizes, to which new ones are added; None for none. With it no
    size is read twice, so it must be removed if an image is replaced by one of another size.
    progress: called with (images done, images). UserError.
    """
    known = (
        KnownSizes.read(sizes_file) if sizes_file and os.path.exists(sizes_file) else KnownSizes()
    )
    sides = known.of(ids)
    if folder is None:
        _add_problems(
            MISSING,
            ids[~sides.all(axis=1)],
            problems,
            lambda name: f"{name}, which {sizes_file} does not know",
        )
        return sides
    present = np.isin(ids, files_of(folder), assume_unique=True)
    sides[~present] = 0
    _add_problems(MISSING, ids[~present], problems, lambda name: f"{name}.jpg in {folder}")
    unread = np.flatnonzero(present & ~sides.all(axis=1))

    def read_size(number):
        index = unread[number]
        with contextlib.suppress(OSError):
            size = image_size(os.path.join(folder, id_text(ids[index]) + ".jpg"))
            if size is not None and max(size) <= MAX_SIDE:
                sides[index] = size

    try:
        # More threads than cores: on a network file system most of the time is spent waiting.
        in_threads(
            lambda: read_size,
            len(unread),
            threads or min(32, 4 * len(os.sched_getaffinity(0))),
            progress and (lambda done: progress(done, len(unread))),
        )
    finally:  # an interrupt keeps what was read
        read = unread[sides[unread].all(axis=1)]
        if sizes_file and len(read):
            known.join(ids[read], sides[read]).write(sizes_file)
    _add_problems(
        UNREADABLE,
        ids[unread[~sides[unread].all(axis=1)]],
        problems,
        lambda name: f"{name}.jpg in {folder}",
    )
    return sides


def _add_problems(kind, ids, problems, example) -> None:
    if len(ids):
        problems.add(
            kind, *(example(id_text(name)) for name in ids[: problems.limit]), count=len(ids)
        )
