"""A folder of records: image files in a few RecordIO files, as `python -m ssd pack-data` writes
them.

    records.json       the manifest: what was packed, and size or hash of every file
    records.npz        the table: name, position, lengths and CRC-32 of each image; no pickle
    train-00000.rec    image records, with labels for other readers of RecordIO (docs/records.md)
    train-00000.idx    the index of that file, for such readers

Such a folder replaces a folder of image files. As with image files, boxes and classes come from the
annotation file: training and evaluation do not use the labels in the records, whose boxes are
rounded to float32.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import json
import os
import stat
import threading
import zlib
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ssd.datasets import recordio
from ssd.errors import UserError

MANIFEST, TABLE = "records.json", "records.npz"
KIND = "images in RecordIO files"
FORMAT = 1  # raise it whenever older folders cannot be read any more
# Per image, sorted by name: end of its name in the joined UTF-8 names; number of its file in the
# manifest; offset of the record in that file and its length on the disc [bytes]; length [bytes] of
# the image file; CRC-32 of the record's content, which is header, label and image file.
COLUMNS = {
    "name_end": np.uint32,
    "shard": np.uint16,
    "offset": np.int64,
    "stored": np.uint32,
    "size": np.uint32,
    "crc": np.uint32,
}


class Status(NamedTuple):
    """The fields of os.stat_result that are used for an image."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG | 0o444


class Names:
    """A sorted list of names as bytes, for bisect: for a million images a dictionary would take 150
    MB on every rank."""

    def __init__(self, joined: bytes, ends: np.ndarray):
        self._joined, self._ends = joined, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> bytes:
        return self._joined[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])]

    def find(self, name: str) -> Optional[int]:
        """The row of a name; None if it is not among them."""
        wanted = name_bytes(name)
        row = bisect.bisect_left(self, wanted)
        return row if row < len(self) and self[row] == wanted else None


class Records:
    """The images of a folder of records, by the names of their files. Any thread may read.

    Opening checks the sizes of all files, the hashes of the small ones and the first bytes of the
    large ones; reading checks each record. UserError names a file that is truncated, changed, or of
    other records.
    """

    in_files = False

    def __init__(self, folder: str):
        self.folder = folder
        self.manifest = read_record_manifest(folder)
        self._files: Dict[int, int] = {}  # shard -> descriptor
        self._lock = threading.Lock()
        shards = self.manifest["shards"]
        self._paths = [os.path.join(folder, shard["file"]) for shard in shards]
        for shard, path in zip(shards, self._paths):
            _check_size(path, shard["bytes"], folder)
            _check_first(path)
        for entry in [self.manifest["table"], *self.manifest["indices"]]:
            _check_hash(os.path.join(folder, entry["file"]), entry["sha256"], folder)
        self._table, joined = read_table(os.path.join(folder, TABLE))
        self._names = Names(joined, self._table["name_end"])
        if len(self._names) != self.manifest["images"]:
            raise UserError(
                f"{os.path.join(folder, TABLE)}: {len(self._names)} images, and "
                f"{self.manifest['images']} in {MANIFEST} beside it"
            )
        self._times = [os.stat(path).st_mtime_ns for path in self._paths]

    def __len__(self) -> int:
        return len(self._names)

    def names(self):
        """The images' names (str), sorted by their UTF-8 bytes."""
        return (self._names[row].decode("utf-8", "surrogatepass") for row in range(len(self)))

    def path(self, name: str) -> str:
        """The image's name in messages."""
        return os.path.join(self.folder, name)

    def status(self, name: str) -> Status:
        """Size [bytes] of an image file, and a time [ns] that changes with its content and with the
        file of records. FileNotFoundError."""
        row = self._names.find(name)
        if row is None:
            raise FileNotFoundError(self.path(name))
        table = self._table
        return Status(
            int(table["size"][row]), self._times[table["shard"][row]] + int(table["crc"][row])
        )

    def missing(self, name: str) -> str:
        """Why there is no image of this name."""
        return f"no record of it in {self.folder}"

    def read(self, name: str) -> memoryview:
        """The bytes of an image file. UserError if there is no such image, or its record was
        changed."""
        row = self._names.find(name)
        if row is None:
            raise UserError(f"image {self.path(name)} cannot be read: {self.missing(name)}")
        shard, offset, stored, size, crc = (
            int(self._table[key][row]) for key in ("shard", "offset", "stored", "size", "crc")
        )
        try:
            content = recordio.decode(self._bytes(shard, offset, stored))
            image = recordio.image_of(content)
            if len(image) != size or zlib.crc32(content) != crc:
                raise recordio.Damaged(
                    "the record is not the one that was packed (its CRC-32 differs)"
                )
            return image
        except recordio.Damaged as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror
        raise UserError(
            f"image {self.path(name)} cannot be read: {self._paths[shard]}, byte {offset}: {reason}"
        )

    def state(self):
        """A value for JSON that changes with any file of the folder."""
        return state_of_files(self.folder)

    def _bytes(self, shard: int, offset: int, count: int) -> bytes:
        descriptor = self._files.get(shard)
        if descriptor is None:
            with self._lock:
                if shard not in self._files:
                    self._files[shard] = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
                descriptor = self._files[shard]
        content = os.pread(descriptor, count, offset)
        while len(content) < count:  # network file systems may return less
            more = os.pread(descriptor, count - len(content), offset + len(content))
            if not more:
                raise recordio.Damaged("the file is truncated")
            content += more
        return content

    # `close` is a default as the module's names may be gone at the end of Python.
    def __del__(self, close=os.close):
        for descriptor in self.__dict__.pop("_files", {}).values():
            close(descriptor)


# ---- the files of the folder


def is_records(folder: str) -> bool:
    """Whether a folder holds records, complete or not."""
    return os.path.lexists(os.path.join(folder, MANIFEST))


def refuse_without_manifest(folder: str) -> None:
    """UserError for a folder that seems to hold RecordIO files without a manifest. Looks at a few
    names only: a folder of image files may have a million."""
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, 8):
                if entry.name.endswith(".rec"):
                    raise UserError(
                        f"{os.path.join(folder, entry.name)}: a RecordIO file without {MANIFEST} "
                        "beside it; only complete folders of `python -m ssd pack-data` can be read"
                    )
    except OSError:
        pass  # reported when an image is read


def state_of_files(folder: str) -> Tuple[Tuple[str, int, int], ...]:
    """(name, size [bytes], time [ns]) of every file of a folder of records. UserError where it
    cannot be read."""
    try:
        with os.scandir(folder) as entries:
            status = [
                (entry.name, entry.stat()) for entry in entries if not entry.name.startswith(".")
            ]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return tuple(
        sorted(
            (name, entry.st_size, entry.st_mtime_ns)
            for name, entry in status
            if stat.S_ISREG(entry.st_mode)
        )
    )


def read_record_manifest(folder: str, complete: bool = True) -> Dict[str, Any]:
    """The manifest of a folder of records. UserError for any other file, and, if `complete`, for a
    folder whose packing has not finished."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a manifest of records: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path}: not a manifest of records (its kind is not {KIND!r})")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: records of format {content.get('format')!r}, this version reads format "
            f"{FORMAT}; pack them again with `python -m ssd pack-data`"
        )
    if complete and not content.get("whole"):
        raise UserError(
            f"{path}: the packing was interrupted; repeat the same `python -m ssd pack-data` to "
            "finish it"
        )
    if complete and not _is_manifest(content):
        raise UserError(
            f"{path}: not a manifest of records: an entry is missing or of another type"
        )
    return content


def _is_manifest(content: Dict[str, Any]) -> bool:
    def entries(value, keys) -> bool:
        return isinstance(value, list) and all(
            isinstance(entry, dict)
            and all(isinstance(entry.get(key), kind) for key, kind in keys.items())
            for entry in value
        )

    hashed = {"file": str, "sha256": str}
    return (
        isinstance(content.get("images"), int)
        and entries([content.get("table")], hashed)
        and content["table"]["file"] == TABLE
        and entries(content.get("indices"), hashed)
        and entries(content.get("shards"), {"file": str, "bytes": int})
        and isinstance(content.get("splits"), list)
    )


def read_table(path: str) -> Tuple[Dict[str, np.ndarray], bytes]:
    """(COLUMNS, names joined) of a table. UserError for any other file."""
    try:
        with open(path, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as kept:
            table, joined = {key: kept[key] for key in COLUMNS}, kept["names"].tobytes()
    except Exception as error:  # NumPy raises nearly anything on bad data
        raise UserError(f"{path}: not a table of records: {' '.join(str(error).split())}") from None
    rows = len(table["name_end"])
    if any(
        table[key].dtype != kind or table[key].shape != (rows,) for key, kind in COLUMNS.items()
    ):
        raise UserError(f"{path}: not a table of records: its columns have other types or lengths")
    return table, joined


def name_bytes(name: str) -> bytes:
    """A name as the bytes by which tables are sorted."""
    return name.encode("utf-8", "surrogatepass")  # JSON allows lone surrogates


def _check_size(path: str, size: int, folder: str) -> None:
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; {os.path.join(folder, MANIFEST)} names it"
        ) from None
    if found != size:
        raise UserError(
            f"{path}: {'truncated' if found < size else 'not the file that was packed'}: {found} "
            f"bytes, and {size} in {MANIFEST} beside it"
        )


def _check_first(path: str) -> None:
    try:
        with open(path, "rb") as file:
            first = file.read(len(recordio.MAGIC))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if first != recordio.MAGIC:
        raise UserError(f"{path}: not a RecordIO file: it does not start with the magic number")


def _check_hash(path: str, wanted: str, folder: str) -> None:
    try:
        with open(path, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; {os.path.join(folder, MANIFEST)} names it"
        ) from None
    if found != wanted:
        raise UserError(
            f"{path}: not the file that {MANIFEST} beside it names: its SHA-256 differs"
        )
