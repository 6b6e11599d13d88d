"""Finds the images and videos named on a command line, and names the output file of each."""

from __future__ import annotations

import glob
import os
from typing import Iterable, List, NamedTuple, Tuple

from ssd.datasets.image_folder import open_images
from ssd.datasets.record_folder import is_records
from ssd.errors import UserError
from ssd.files import is_output
from ssd.tools import image_input, videos


class Input(NamedTuple):
    """path: as named; for records, the folder and the image's name. inside: the path below the
    named folder, or the file's name. video: whether it looks like a video, else an image."""

    path: str
    inside: str
    video: bool


def find_inputs(names: Iterable[str]) -> Tuple[List[Input], int]:
    """(images and videos, each once, in the order named; number of other files in the folders).

    A name is a file; a folder, searched recursively for files with an image or video extension
    (hidden files and this program's output folders are skipped), or one of records; or a pattern
    with * ? or [, where ** matches any folders; output folders are skipped here too. UserError for
    a name that matches nothing.
    """
    found, seen, others = [], set(), 0

    def add(path: str, inside: str) -> None:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            found.append(Input(path, inside, _is_video(path)))

    for name in names:
        matching = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matching:
            raise UserError(
                f"{name}: no such file or folder" + (" matches" if glob.has_magic(name) else "")
            )
        for one in matching:
            if one != name and _is_drawn(one, name):
                continue
            if os.path.isdir(one):
                if "**" in name and one != name:
                    continue  # its files match the pattern as well
                inside, rest = (
                    (list(open_images(one).names()), 0) if is_records(one) else _walk(one)
                )
                others += rest
                for path in inside:
                    add(os.path.join(one, path), path)
                if not inside and one == name:
                    raise UserError(f"{name}: a folder without images or videos")
            elif os.path.isfile(one):
                add(one, os.path.basename(one))
            else:
                raise UserError(f"{one}: neither a file nor a folder")
    if not found:
        raise UserError("no images or videos found in the inputs")
    return found, others


def _is_drawn(path: str, pattern: str) -> bool:
    """Whether a match of a pattern is, or lies in, an output folder that the pattern does not
    name."""
    named = next(part for part in _parents(pattern) if not glob.has_magic(part))
    while path and path != named and len(path) > len(named):
        if os.path.isdir(path) and is_output(path):
            return True
        path = os.path.dirname(path)
    return False


def _parents(path: str) -> Iterable[str]:
    """The folder of a path, its parent, and so on; finally ""."""
    while path:
        above = os.path.dirname(path)
        path = above if above != path else ""
        yield path


def _walk(folder: str) -> Tuple[List[str], int]:
    """(paths of images and videos below `folder`, sorted; number of other files)."""
    inside, others = [], 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not is_output(os.path.join(parent, name))
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            if _has_ending(name, image_input.ENDINGS + videos.ENDINGS):
                inside.append(os.path.relpath(os.path.join(parent, name), folder))
            else:
                others += 1
    return inside, others


def _is_video(path: str) -> bool:
    """By the extension; for unknown extensions by the content."""
    if _has_ending(path, image_input.ENDINGS) or not os.path.isfile(
        path
    ):  # one in records is an image
        return False
    return _has_ending(path, videos.ENDINGS + videos.AUDIO_ENDINGS) or not image_input.is_image(
        path
    )


def _has_ending(path: str, endings: Tuple[str, ...]) -> bool:
    return os.path.splitext(path)[1].lower() in endings


class OutputNames:
    """Unique names for output files: a.jpg, a-2.jpg, ..."""

    def __init__(self):
        self._taken = set()
        self._last = {}  # by name in lower case, the highest number so far

    def new(self, inside: str, ending: str) -> str:
        """A new path for the output of the input `inside`, with this extension."""
        stem = os.path.splitext(inside)[0]
        key = (stem.lower(), ending.lower())
        # Start after the last number: a thousand inputs of one name must not each try all numbers.
        number = self._last.get(key, 0) + 1
        while True:
            path = f"{stem}-{number}{ending}" if number > 1 else stem + ending
            if path.lower() not in self._taken:
                break
            number += 1
        self._last[key] = number
        self._taken.add(path.lower())
        return path
