"""Findings about image files, kept between runs by file size and time, in .npz files without
pickles."""

from __future__ import annotations

import hashlib
import json
import os
import struct

import numpy as np

from ssd.datasets.image_checks import LEVELS, ImageFinding
from ssd.files import remove_leftovers, replacing

FORMAT = 3  # raise it whenever the checks of image files change
# size [bytes], time [ns], level, width, height, notes, time of the check [s]: packed, since tuples
# of these for a million images would be half a gigabyte
_ENTRY = struct.Struct("=7q")
_FIELDS = 7


class ImageCache:
    """Findings about the good files of one image folder; bad ones are checked again each time.

    cache_dir: the folder where it is kept, or None for a cache that keeps nothing. A cache that
    cannot be read counts as empty.
    """

    def __init__(self, cache_dir, folder):
        self._dir, self._entries, self._changed = cache_dir, {}, False
        if cache_dir is not None:
            name = hashlib.sha256(
                json.dumps([FORMAT, os.path.abspath(folder)]).encode()
            ).hexdigest()[:32]
            self._path = os.path.join(os.fspath(cache_dir), f"images-{name}.npz")
            self._entries = _read(self._path)

    def find(self, name: str, status: os.stat_result, level: str):
        """(ImageFinding, when [seconds since the epoch]) of an unchanged file that was checked at
        this level or a deeper one."""
        packed = self._entries.get(name)
        if packed is None:
            return None
        entry = _ENTRY.unpack(packed)
        if entry[:2] != (status.st_size, status.st_mtime_ns) or entry[2] < LEVELS.index(level):
            return None
        return ImageFinding(None, entry[3:5], entry[5]), entry[6]

    def keep(
        self, name: str, status: os.stat_result, level: str, finding: ImageFinding, when: int
    ) -> None:
        """`status` is from before the check, so that a file written meanwhile counts as changed."""
        self._entries[name] = _ENTRY.pack(
            status.st_size,
            status.st_mtime_ns,
            LEVELS.index(level),
            *finding.size,
            finding.notes,
            when,
        )
        self._changed = True

    def save(self, report=print) -> None:
        """Writes new findings. If the cache cannot be written, one line is reported."""
        if self._dir is None or not self._changed:
            return
        names = json.dumps(list(self._entries)).encode()
        table = np.frombuffer(b"".join(self._entries.values()), np.int64).reshape(-1, _FIELDS)
        try:
            os.makedirs(self._dir, exist_ok=True)
            remove_leftovers(self._dir)
            with replacing(self._path) as partial, open(partial, "wb") as file:
                np.savez(file, names=np.frombuffer(names, np.uint8), table=table)
        except OSError as error:
            report(f"checked images not kept in {os.fspath(self._dir)}: {error.strerror}")
        self._changed = False


def _read(path) -> dict:
    try:
        with np.load(path, allow_pickle=False) as kept:
            names, table = json.loads(kept["names"].tobytes()), kept["table"]
        if table.dtype == np.int64 and table.shape == (len(names), _FIELDS):
            content = table.tobytes()
            return {
                name: content[offset : offset + _ENTRY.size]
                for name, offset in zip(names, range(0, len(content), _ENTRY.size))
            }
    except Exception:  # whatever is wrong with a cache file, checking again repairs it
        pass
    return {}
