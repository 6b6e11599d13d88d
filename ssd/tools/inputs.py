"""What a command line names: pictures and videos, and what is made of each is called."""

from __future__ import annotations

import glob
import os
from typing import Iterable, List, NamedTuple, Tuple

from ssd.datasets.images import open_images
from ssd.datasets.records import is_records
from ssd.errors import UserError
from ssd.files import is_output
from ssd.tools import image_input, videos


class Input(NamedTuple):
    """path: as it was named; for records, the folder and the image's name. inside: the path below
    the named folder, or the file's name. video: or else a picture, as it seems."""

    path: str
    inside: str
    video: bool


def find_inputs(names: Iterable[str]) -> Tuple[List[Input], int]:
    """(pictures and videos, each once, in the order named; files in folders that are neither).

    A name is a file; a folder, searched with all folders below it for files with a picture's or a
    video's ending (hidden ones are passed by, and folders that this program has drawn pictures
    into), or one of records; or a pattern with * ? or [, ** being any folders, which passes by
    drawn pictures too. UserError for a name that gives nothing.
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
                    continue  # its files match too
                inside, rest = (
                    (list(open_images(one).names()), 0) if is_records(one) else _walk(one)
                )
                others += rest
                for path in inside:
                    add(os.path.join(one, path), path)
                if not inside and one == name:
                    raise UserError(f"{name}: a folder without a picture or a video")
            elif os.path.isfile(one):
                add(one, os.path.basename(one))
            else:
                raise UserError(f"{one}: neither a file nor a folder")
    if not found:
        raise UserError("no picture and no video in what was named")
    return found, others


def _is_drawn(path: str, pattern: str) -> bool:
    """Whether a match of a pattern is, or lies in, a folder of drawn pictures that the pattern does
    not name."""
    named = next(part for part in _parents(pattern) if not glob.has_magic(part))
    while path and path != named and len(path) > len(named):
        if os.path.isdir(path) and is_output(path):
            return True
        path = os.path.dirname(path)
    return False


def _parents(path: str) -> Iterable[str]:
    """The folder of a path, its folder, and so on; "" at last."""
    while path:
        above = os.path.dirname(path)
        path = above if above != path else ""
        yield path


def _walk(folder: str) -> Tuple[List[str], int]:
    """(paths below `folder` of pictures and videos, sorted; number of other files)."""
    inside, others = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not is_output(os.path.join(place, name))
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            if _has_ending(name, image_input.ENDINGS + videos.ENDINGS):
                inside.append(os.path.relpath(os.path.join(place, name), folder))
            else:
                others += 1
    return inside, others


def _is_video(path: str) -> bool:
    """By the ending, and by the content of a file that has none of ours."""
    if _has_ending(path, image_input.ENDINGS) or not os.path.isfile(
        path
    ):  # one in records is an image
        return False
    return _has_ending(path, videos.ENDINGS + videos.SOUND_ENDINGS) or not image_input.is_image(
        path
    )


def _has_ending(path: str, endings: Tuple[str, ...]) -> bool:
    return os.path.splitext(path)[1].lower() in endings


class OutputNames:
    """Names in one folder, none given twice: a.jpg, a-2.jpg, ..."""

    def __init__(self):
        self._taken, self._last = (
            set(),
            {},
        )  # last: by name, in small letters, the highest number that was given

    def new(self, inside: str, ending: str) -> str:
        """A path for what is made of the input `inside`, with another ending."""
        stem = os.path.splitext(inside)[0]
        key = (stem.lower(), ending.lower())
        # Numbers up to the last one stay taken: of a thousand inputs of one name each is not
        # compared with all others.
        number = self._last.get(key, 0) + 1
        while True:
            path = f"{stem}-{number}{ending}" if number > 1 else stem + ending
            if path.lower() not in self._taken:
                break
            number += 1
        self._last[key] = number
        self._taken.add(path.lower())
        return path
