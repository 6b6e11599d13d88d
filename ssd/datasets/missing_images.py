"""Why image files are not found: other spellings of their names. One line, for people."""

from __future__ import annotations

import os
import unicodedata
from typing import Dict, List, Optional, Tuple
from urllib.parse import unquote

from ssd.datasets.annotation_file import show

_TRIED = 200  # missing files whose names are tried in other spellings, at most
_LISTED = 500_000  # files below the folder that are listed, at most
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2", ".gif")


def cause_of_missing(images, names: List[str], all_names: int = 0) -> str:
    """Why image files are not found, if another spelling of their names finds most of them; "" if
    none does.

    images: of ssd.datasets.image_folder.open_images; names: as in the file, of the missing ones;
    all_names: how many the file has, 0 if unknown: if all are missing and nothing else explains it,
    the cause is another folder.
    """
    present, count = _list(images), len(names)
    folder = os.path.basename(os.path.abspath(images.folder))
    found = _another_spelling(names[:_TRIED], present, min(count, _TRIED))
    if found:
        return (
            f"{count} image files are missing: {found[0]} they are there "
            f"({show(f'{folder}/{found[1]}')[1:-1]})"
        )
    if count == all_names and count > 1:
        others = (
            f"which holds {len(present)} others: is it the right one?"
            if present
            else "which holds no image"
        )
        return f"none of the {count} images is in {images.folder}, {others}"
    return ""


def other_names(present: List[str], names: List[str]) -> str:
    """The same for the images `present` that are searched among the `names` of a file."""
    known, wanted = set(present), set(names)
    names, present = (
        [name for name in names if name not in known],
        [name for name in present if name not in wanted],
    )
    found = _another_spelling(names, present, len(present))
    return f"{found[0]} they are the same ({show(found[1])})" if found else ""


def _another_spelling(names: List[str], present: List[str], of: int) -> Optional[Tuple[str, str]]:
    """(what differs, the first of `present` that is found), or None if no spelling finds more than
    half of `of`."""
    for difference, of_name, of_file in _SPELLINGS:
        known: Dict[str, str] = {}
        for name in present:
            key = of_file(name)
            if key is not None:
                known[key] = "" if key in known else name  # ambiguous if there are several
        found = [known[key] for key in map(of_name, names) if known.get(key)]
        if 2 * len(found) > of:
            return difference.format(ending=os.path.splitext(found[0])[1]), found[0]
    return None


def _same(name: str) -> str:
    return name


def _slashes(name: str) -> str:
    name = name.replace("\\", "/")
    return name[2:] if name.startswith("./") else name


def _last(name: str) -> str:
    return _slashes(name).rpartition("/")[2]


def _stem(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in _ENDINGS else name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    return _stem(_composed(unquote(_last(name)))).casefold()


def _number(name: str) -> Optional[str]:
    """The number at the end of the name, before its extension."""
    stem = _stem(_last(name))
    digits = stem[len(stem.rstrip("0123456789")) :]
    return digits.lstrip("0") or "0" if digits else None


# What differs, and what is compared: for a name in the file, and for the name of a present image.
_SPELLINGS = (
    (
        "their names have backslashes, as Windows writes paths; with / instead",
        _slashes,
        _same,
    ),
    ("their names are coded as in web addresses (%20); decoded", unquote, _same),
    (
        "letters with accents are coded in two ways (NFC and NFD of Unicode); as the files have "
        "them",
        _composed,
        _composed,
    ),
    (
        "they differ in capital and small letters; as the files have them",
        str.casefold,
        str.casefold,
    ),
    ("their names have other endings; with {ending}", _stem, _stem),
    ("their names hold folders; without these", _last, _same),
    (
        "their names hold one folder more; without it",
        lambda name: _slashes(name).partition("/")[2] or None,
        _same,
    ),
    ("they lie in folders below; there", _same, _last),
    ("they lie in other folders; there", _last, _last),
    ("their names are written in another way; as the files have them", _plain, _plain),
    (
        "their names are numbers, and those of the files are written in another way; by number",
        _number,
        _number,
    ),
)


def _list(images) -> List[str]:
    """Names of the present images, relative to the folder, without hidden ones."""
    if not images.in_files:
        return list(images.names())
    found: List[str] = []
    for folder, folders, files in os.walk(images.folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, images.folder)
        found += [
            name if inside == os.curdir else f"{inside}/{name}"
            for name in sorted(files)
            if name.lower().endswith(_ENDINGS)
        ]
        if len(found) > _LISTED:
            break
    return found
