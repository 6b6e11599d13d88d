"""Checked data sets kept between runs, as .npz files that hold no pickles."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np

from ssd.datasets.image_folder import open_images
from ssd.errors import UserError
from ssd.files import remove_leftovers, replacing

FORMAT = 4  # raise it whenever the checks or the arrays change
_ARRAYS = {
    "image_ids": (np.int64, 1),
    "sizes": (np.int64, 2),
    "boxes_ltrb": (np.float64, 2),
    "boxes_xywh": (np.float64, 2),
    "box_area": (np.float64, 1),
    "box_classes": (np.int64, 1),
    "box_crowd": (np.bool_, 1),
    "box_image": (np.int64, 1),
}
_LISTS = ("file_names", "category_ids", "category_names", "found")


def dataset_fingerprint(annotation_file, image_folder, options) -> str:
    """A hexadecimal name for the current state of a data set, from stat alone.

    Changes with the path, size and modification time (ns) of the annotation file, the path and
    modification time of the image folder (of records: those of its files), and `options` (anything
    that JSON holds). Raises UserError if one of the two does not exist or is of the wrong kind.
    """
    annotation_file, image_folder = os.path.abspath(annotation_file), os.path.abspath(image_folder)
    try:
        file, _ = os.stat(annotation_file), os.stat(image_folder)
    except FileNotFoundError as error:
        what = "annotation file" if error.filename == annotation_file else "image folder"
        raise UserError(f"{what} {error.filename} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"data set {annotation_file!r}, {image_folder!r}: {error}") from None
    if not os.path.isdir(image_folder):
        raise UserError(f"image folder {image_folder} is not a folder")
    if not os.path.isfile(annotation_file):
        raise UserError(f"annotation file {annotation_file} is not a file")
    state = [
        FORMAT,
        annotation_file,
        file.st_size,
        file.st_mtime_ns,
        image_folder,
        open_images(image_folder).state(),
        options,
    ]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _cache_path(cache_dir, fingerprint):
    return os.path.join(os.fspath(cache_dir), f"coco-{fingerprint[:32]}.npz")


def write_cache(cache_dir, fingerprint: str, fields: dict, lines: list, report=print) -> None:
    """Keeps CocoDataset's fields and the report's lines. If the cache cannot be written, one line
    is reported."""
    path = _cache_path(cache_dir, fingerprint)
    text = json.dumps(
        {"fingerprint": fingerprint, "lines": lines, **{key: fields[key] for key in _LISTS}}
    )
    arrays = {key: fields[key] for key in _ARRAYS}
    try:
        os.makedirs(cache_dir, exist_ok=True)
        remove_leftovers(cache_dir)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **arrays)
    except OSError as error:
        report(f"checked data set not kept in {os.fspath(cache_dir)}: {error.strerror}")


def forget_cache(cache_dir, fingerprint: str) -> None:
    """Removes what is kept under a fingerprint, if anything."""
    try:
        os.unlink(_cache_path(cache_dir, fingerprint))
    except OSError:
        pass


def read_cache(cache_dir, fingerprint: str):
    """(fields of CocoDataset, report's lines), or None if no intact cache file exists."""
    path = _cache_path(cache_dir, fingerprint)
    try:
        with np.load(path, allow_pickle=False) as kept:
            fields = {key: kept[key] for key in _ARRAYS}
            text = json.loads(kept["text"].tobytes())
        lines = [str(line) for line in text["lines"]]
        fields.update({key: tuple(text[key]) for key in _LISTS})
        intact = text["fingerprint"] == fingerprint and all(
            fields[key].dtype == dtype and fields[key].ndim == ndim
            for key, (dtype, ndim) in _ARRAYS.items()
        )
        intact = (
            intact
            and len(fields["image_ids"]) == len(fields["sizes"]) == len(fields["file_names"])
            and len(fields["boxes_ltrb"])
            == len(fields["box_classes"])
            == len(fields["box_crowd"])
            == len(fields["box_image"])
            and len(fields["category_ids"]) == len(fields["category_names"])
        )
    except Exception:  # whatever is wrong with a cache file, checking again repairs it
        return None
    return (fields, lines) if intact else None
