"""A COCO annotation file split into training and validation, reproducibly; images are not read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ssd.config import nearest
from ssd.datasets.annotation_file import show
from ssd.datasets.annotations import check_content, read_annotations
from ssd.datasets.json_files import whole_number
from ssd.datasets.left_out import good_entries
from ssd.errors import UserError
from ssd.files import replace_file, write_errors

FILES = ("train.json", "val.json")


def split_file(
    path: str,
    folder: str,
    val_fraction: float,
    seed: int = 0,
    categories: Optional[Sequence[str]] = None,
    skip_bad: bool = False,
    max_left_out: float = 0.5,
) -> List[str]:
    """Writes FILES to `folder`, which must not hold them yet; returns lines about their content.
    skip_bad: leave out bad entries, at most the share `max_left_out` of the images or boxes.
    UserError, also for a file that training would refuse."""
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction {val_fraction:g}: must be between 0 and 1")
    targets = [os.path.join(folder, name) for name in FILES]
    for target in targets:
        if os.path.lexists(target):
            raise UserError(f"--output {folder}: {target} exists already")
    content, left_out = read_checked(path, categories, skip_bad, max_left_out)
    parts = split(content, val_fraction, seed, path)
    if categories:  # after the split, so that no image changes sides with the chosen categories
        parts = [keep_categories(part, categories, path) for part in parts]
        for part, target in zip(parts, targets):
            if not part["images"]:
                raise UserError(
                    f"--categories {' '.join(categories)}: no image of {target} would hold one; "
                    "try another --seed or a larger --val-fraction"
                )
    with write_errors(f"--output {folder}", targets[0]):
        os.makedirs(folder, exist_ok=True)
        for target, part in zip(targets, parts):
            replace_file(target, (json.dumps(part, separators=(",", ":")) + "\n").encode("ascii"))
    return (
        left_out
        + [f"{target}: {_summary(part)}" for target, part in zip(targets, parts)]
        + _missing_categories(parts, targets)
    )


def read_checked(
    path: str, categories: Optional[Sequence[str]], skip_bad: bool, max_left_out: float
) -> Tuple[Dict[str, Any], List[str]]:
    """(an annotation file as JSON has it, lines about what was left out of it), checked as for
    training, except for the image files. If only some categories are asked for, only their entries
    are checked."""
    content: Dict[str, Any] = {}
    found = read_annotations(path, raw=content)
    if not found.problems or skip_bad or not categories:
        return good_entries(content, found, path, skip_bad=skip_bad, max_left_out=max_left_out)
    kept = keep_categories(content, categories, path)
    if kept["images"]:
        good_entries(kept, check_content(kept, path), path, max_left_out=max_left_out)
    return content, [
        f"{path}: of other categories, and so not checked: {line}"
        for line in found.problems.lines()
    ]


def keep_categories(content: Dict[str, Any], names: Sequence[str], path: str) -> Dict[str, Any]:
    """Only the categories of these names, in the file's order, their annotations, and the images
    with such annotations."""
    known = [entry.get("name") for entry in content["categories"] if isinstance(entry, dict)]
    for name in names:
        if name not in known:
            raise UserError(
                f"--categories {name}: not a category of {path}{nearest(name, map(str, known))}"
            )
    categories = [
        entry
        for entry in content["categories"]
        if isinstance(entry, dict) and entry.get("name") in names
    ]
    ids = {_key(entry.get("id")) for entry in categories}
    annotations = [
        entry
        for entry in content["annotations"]
        if isinstance(entry, dict) and _key(entry.get("category_id")) in ids
    ]
    images = {_key(entry.get("image_id")) for entry in annotations}
    return dict(
        content,
        categories=categories,
        annotations=annotations,
        images=[entry for entry in content["images"] if _key(_id_of(entry)) in images],
    )


def split(
    content: Dict[str, Any], val_fraction: float, seed: int, path: str
) -> List[Dict[str, Any]]:
    """[training, validation]: val_fraction of the images, rounded to the nearest integer, and their
    annotations go to validation. Everything else is in both; order is kept.

    The choice depends only on the image ids and the seed, not on the order in the file.
    """
    keys = [_key(_id_of(image)) for image in content["images"]]
    if len(set(keys)) < len(keys):
        raise UserError(
            f"annotation file {path}: image id {Counter(keys).most_common(1)[0][0]} occurs twice"
        )
    wanted = math.floor(val_fraction * len(keys) + 0.5)
    if not 0 < wanted < len(keys):
        raise UserError(
            f"--val-fraction {val_fraction:g}: of the {len(keys)} images of {path}, {wanted} would "
            "be for validation and the rest for training; both need one"
        )
    chosen = set(
        sorted(keys, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())[:wanted]
    )
    parts = []
    for validation in (False, True):
        images = [
            image for image, key in zip(content["images"], keys) if (key in chosen) == validation
        ]
        annotations = [
            entry
            for entry in content["annotations"]
            if (_key(entry.get("image_id") if isinstance(entry, dict) else None) in chosen)
            == validation
        ]
        parts.append(dict(content, images=images, annotations=annotations))
    return parts


def _id_of(entry) -> Any:
    return entry.get("id") if isinstance(entry, dict) else None


def _key(value) -> str:
    """An id as text, 3.0 as 3."""
    number = whole_number(value)
    return json.dumps(value if number is None else number)


def _summary(part: Dict[str, Any]) -> str:
    names = {
        _key(_id_of(entry)): entry.get("name")
        for entry in part["categories"]
        if isinstance(entry, dict)
    }
    boxes = Counter(
        _key(entry.get("category_id")) for entry in part["annotations"] if isinstance(entry, dict)
    )
    shown = ", ".join(f"{show(name)} {boxes[key]}" for key, name in list(names.items())[:8])
    more = f", {len(names) - 8} categories more" if len(names) > 8 else ""
    return f"{len(part['images'])} images, {len(part['annotations'])} boxes ({shown}{more})"


def _missing_categories(parts, targets) -> List[str]:
    """A warning for each part in which categories have no box."""
    lines = []
    for part, target in zip(parts, targets):
        found = {
            _key(entry.get("category_id"))
            for entry in part["annotations"]
            if isinstance(entry, dict)
        }
        names = [
            str(entry.get("name"))
            for entry in part["categories"]
            if isinstance(entry, dict) and _key(_id_of(entry)) not in found
        ]
        if names:
            lines.append(
                f"warning: {target}: no box of {', '.join(names[:5])}"
                + (f" and {len(names) - 5} categories more" if len(names) > 5 else "")
            )
    return lines
