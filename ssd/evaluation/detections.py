"""Detected boxes of a data set: arrays, their checks, and files (COCO's JSON and .npz)."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ssd.datasets.json_files import load_json, whole_number
from ssd.errors import UserError
from ssd.files import replacing

ROWS = 10000  # rows of a JSON file formatted at a time
_COLUMNS = ("image_id", "boxes_xywh", "score", "category_id")


@dataclass
class Detections:
    """Detected boxes of any number of images, one row each, in any order; n = 0 is legal.

    image_id: int64 (n,), image ids of the annotation file.
    boxes_xywh: float64 (n, 4), left, top, width, height in pixels of the original image; finite,
    sizes >= 0.
    score: float64 (n,), finite; higher is more confident. Rows of equal score keep their order.
    category_id: int64 (n,), category ids of the annotation file (not class numbers 1 to C).
    source: the name of these detections in errors: a file's path, or "detections".
    images: int64 (k,), ids of the images that went through the network, including those without a
        detection; None if unknown.

    Raises UserError for arrays of other shapes or values; it names the first bad row (from 0).
    """

    image_id: np.ndarray
    boxes_xywh: np.ndarray
    score: np.ndarray
    category_id: np.ndarray
    source: str = "detections"
    images: Optional[np.ndarray] = None

    def __post_init__(self):
        self.image_id = _as_array(self.image_id, "image_id", np.int64, self.source)
        self.score = _as_array(self.score, "score", np.float64, self.source)
        self.category_id = _as_array(self.category_id, "category_id", np.int64, self.source)
        boxes = _as_array(self.boxes_xywh, "boxes_xywh", np.float64, self.source)
        self.boxes_xywh = boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise UserError(f"{self.source}: arrays differ in length: {text}")
        for name, dimensions in (
            ("image_id", 1),
            ("score", 1),
            ("category_id", 1),
            ("boxes_xywh", 2),
        ):
            shape = getattr(self, name).shape
            if len(shape) != dimensions or (dimensions == 2 and shape[1] != 4):
                raise UserError(f"{self.source}: {name} has shape {shape}")
        bad = ~(
            np.isfinite(boxes).all(axis=1)
            & np.isfinite(self.score)
            & (boxes[:, 2:] >= 0).all(axis=1)
        )
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(
                f"{self.source}: row {row}: bbox {boxes[row].tolist()}, score {self.score[row]}: "
                "all must be finite, sizes at least 0"
            )

        if self.images is not None:
            self.images = np.unique(_as_array(self.images, "images", np.int64, self.source))
            unknown = ~np.isin(self.image_id, self.images)
            if unknown.any():
                row = int(np.argmax(unknown))
                raise UserError(
                    f"{self.source}: row {row}: image_id {self.image_id[row]} is not among its "
                    "images"
                )

    def __len__(self):
        return len(self.score)

    def without_images(self, ids) -> Detections:
        """The detections that are not on these images."""
        kept = ~np.isin(self.image_id, np.asarray(ids, np.int64))
        if kept.all():
            return self
        images = (
            None if self.images is None else np.setdiff1d(self.images, np.asarray(ids, np.int64))
        )
        return Detections(
            *(getattr(self, name)[kept] for name in _COLUMNS), source=self.source, images=images
        )

    @classmethod
    def concatenate(cls, parts, source: str = "detections") -> Detections:
        """The rows of all `parts` (an iterable of Detections, possibly empty), in order."""
        parts = list(parts) or [cls([], [], [], [])]
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS),
            source=source,
        )

    def to_json(self, path) -> None:
        """Write COCO's results format: a list of {image_id, category_id, bbox [x, y, w, h],
        score}."""
        with replacing(path) as partial, open(partial, "xb") as file:
            file.write(b"[")
            for start in range(0, len(self), ROWS):  # a dict for each row is half a kilobyte
                part = slice(start, start + ROWS)
                rows = [
                    {"image_id": image, "category_id": category, "bbox": box, "score": score}
                    for image, category, box, score in zip(
                        *(
                            getattr(self, name)[part].tolist()
                            for name in ("image_id", "category_id", "boxes_xywh", "score")
                        )
                    )
                ]
                file.write(
                    b"," * (start > 0) + json.dumps(rows, separators=(",", ":"))[1:-1].encode()
                )
            file.write(b"]")

    @classmethod
    def from_json(cls, path) -> Detections:
        """Read COCO's results format. UserError names the file and the first bad row (from 0)."""
        rows = read_json(path)
        if not isinstance(rows, list):
            is_truth = isinstance(rows, dict) and "annotations" in rows
            hint = ", like COCO's annotations" if is_truth else ""
            raise UserError(f"{path}: not a list of detections but {json_type(rows)}{hint}")
        images, boxes, scores, categories = [], [], [], []
        for number, row in enumerate(rows):
            try:
                image, category, box, score = (
                    row["image_id"],
                    row["category_id"],
                    row["bbox"],
                    row["score"],
                )
            except TypeError:
                raise UserError(
                    f"{path}: row {number}: not a detection but {json_type(row)}"
                ) from None
            except KeyError as missing:
                raise UserError(f"{path}: row {number}: no {missing}") from None
            if whole_number(image) is None or whole_number(category) is None:
                raise UserError(
                    f"{path}: row {number}: image_id {_json(image)}, category_id "
                    f"{_json(category)}: both must be whole numbers"
                )
            if not (is_box(box) and is_number(score)):
                raise UserError(
                    f"{path}: row {number}: bbox {_json(box)}, score {_json(score)}: four numbers "
                    "and one number are needed"
                )
            images.append(whole_number(image))
            boxes.append(box)
            scores.append(score)
            categories.append(whole_number(category))
        return cls(images, boxes, scores, categories, source=str(path))

    def to_npz(self, path) -> None:
        """Write the four arrays, and `images` if known, to `path` under their names: uncompressed,
        not rounded."""
        images = {} if self.images is None else dict(images=self.images)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(
                file,
                image_id=self.image_id,
                boxes_xywh=self.boxes_xywh,
                score=self.score,
                category_id=self.category_id,
                **images,
            )

    @classmethod
    def from_npz(cls, path) -> Detections:
        """Read a file of `to_npz` (never a pickle). UserError names the file and what is wrong."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    arrays["image_id"],
                    arrays["boxes_xywh"],
                    arrays["score"],
                    arrays["category_id"],
                    source=str(path),
                    images=arrays["images"] if "images" in arrays.files else None,
                )
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            # NumPy's message for a file that is no archive takes several lines and suggests pickle.
            missing = isinstance(error, KeyError)
            reason = f"an array is missing: {error}" if missing else "not an .npz of arrays"
            raise UserError(f"{path}: {reason}") from None


def read_json(path):
    """The parsed content of the JSON file `path`. UserError names the file."""
    try:
        return load_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {str(error).splitlines()[0]}") from None


def is_number(value) -> bool:
    """Whether this JSON value is a number that fits float64 (NaN and infinities do, true and false
    are none)."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def is_box(value) -> bool:
    """Whether this JSON value is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def json_type(value) -> str:
    """JSON's name for the type of `value`, with its article, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a truth value",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def _json(value) -> str:
    """A value as JSON, shortened to 100 characters."""
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _as_array(values, name, dtype, source):
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iuf":
        raise UserError(f"{source}: {name} is not an array of numbers ({array.dtype})")
    if dtype is np.int64 and array.dtype.kind == "f":
        bad = ~(np.isfinite(array) & (np.floor(array) == array) & (np.abs(array) < 2.0**63)).ravel()
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(
                f"{source}: row {row}: {name} {array.ravel()[row]} is not a whole number"
            )
    return np.ascontiguousarray(array, dtype)
