"""The images of a data set by name: files in a folder, or records (ssd.datasets.record_folder)."""

from __future__ import annotations

import functools
import os
from typing import Optional, Union

from ssd.datasets.record_folder import Records, is_records, refuse_without_manifest, state_of_files
from ssd.errors import UserError


class ImageFiles:
    """Image files in a folder, with the interface of Records: in_files, path, status, missing,
    read, state."""

    in_files = True  # whether path() is the path of an image file

    def __init__(self, folder: str):
        self.folder = folder

    def path(self, name: str) -> str:
        """The image's name in messages."""
        return os.path.join(self.folder, name)

    def status(self, name: str):
        """st_size [bytes], st_mtime_ns and st_mode of an image, which change with its content.
        OSError as of os.stat."""
        return os.stat(self.path(name))

    def missing(self, name: str) -> str:
        """Why there is no image of this name."""
        return f"no such file in {os.path.dirname(self.path(name))}"

    def read(self, name: str) -> bytes:
        """An image file's bytes. UserError where it cannot be read."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"image {path} cannot be read: {error.strerror}") from None

    def state(self):
        """A value for JSON that changes when a file is added or removed."""
        return os.stat(self.folder).st_mtime_ns


def open_images(folder) -> Union[ImageFiles, Records]:
    """The images of a folder, which need not exist. UserError for unusable records, see
    ssd.datasets.record_folder."""
    folder = os.fspath(folder)
    if is_records(folder):
        return _opened(os.path.abspath(folder), folder, state_of_files(folder))
    refuse_without_manifest(folder)
    return ImageFiles(folder)


def record_at(path: str) -> Optional[memoryview]:
    """The bytes of an image whose path consists of a folder of records and its name, as in
    messages; None if the path is a file or not in a folder of records. UserError as of Records."""
    if os.path.lexists(path):
        return None
    folder, name = os.path.split(path)
    while folder.strip(os.sep) and not os.path.isdir(folder):  # names may contain folders
        folder, part = os.path.split(folder)
        name = os.path.join(part, name)
    folder = folder or os.curdir
    return open_images(folder).read(name) if is_records(folder) else None


@functools.lru_cache(maxsize=4)  # checks, training and validation open the same folders
def _opened(path: str, folder: str, state) -> Records:
    return Records(folder)
