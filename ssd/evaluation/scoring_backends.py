"""The libraries that count COCO's twelve box numbers, one function each; by default the fastest
one installed is used.

All give pycocotools' numbers (tests/evaluation/test_fast_scoring.py: equal to 1e-9); they differ
only in time and memory (benchmarks/scoring.md). hotcoco takes arrays, but has no wheel for Python
below 3.10; faster-coco-eval has one for the Python 3.8 of NVIDIA's container; pycocotools is the
reference, and always installed.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from importlib import metadata
from typing import Callable, NamedTuple, Optional

import numpy as np

from ssd.errors import UserError

STATS = 12


class GroundTruth(NamedTuple):
    """Boxes of an annotation file, in its order. Images and categories are numbered from 0 in the
    order of their ids."""

    images: int
    categories: int
    image: np.ndarray  # int64 (n,), 0 to images - 1
    category: np.ndarray  # int64 (n,), 0 to categories - 1
    boxes_xywh: np.ndarray  # float64 (n, 4), pixels
    area: np.ndarray  # float64 (n,), px^2: the object's, which need not be width * height
    crowd: np.ndarray  # int64 (n,), 0 or 1


class Numbers(NamedTuple):
    """The result of a scorer. -1 where undefined: no ground truth of that size or category."""

    stats: np.ndarray  # float64 (12,), in pycocotools' order
    class_precision: np.ndarray  # float64 (categories,): average precision of each
    # float64 (10, 101, categories): IoU .50 to .95, recall 0 to 1; all sizes, 100 detections
    precision: np.ndarray


@dataclass(frozen=True)
class Scorer:
    """A library that scores. score(truth, found): see score_by_hotcoco."""

    name: str
    version: str
    score: Callable

    def __str__(self):
        return f"{self.name} {self.version}"


def load_scorer(name: Optional[str] = None) -> Scorer:
    """The scorer `name` (one of SCORERS), or without a name the fastest that can be imported.

    UserError if `name` is unknown or cannot be imported.
    """
    if name is not None and name not in SCORERS:
        raise UserError(f"scorer {name}: not one of {', '.join(SCORERS)}")
    failed = []
    for one in (name,) if name else SCORERS:
        module, score = SCORERS[one]
        try:
            importlib.import_module(module)
        except ImportError as error:
            failed.append(f"{one} cannot be imported ({str(error).splitlines()[0]})")
            continue
        return Scorer(one, _version(one), score)
    raise UserError(f"no scorer: {'; '.join(failed)}")


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def score_by_hotcoco(truth: GroundTruth, found: np.ndarray):
    """COCO's Numbers of the detections `found` on `truth`.

    found: float64 (n, 7) of image index, left, top, width, height in pixels, score, category index;
    indices as in truth.
    """
    import hotcoco

    boxes = hotcoco.COCO.from_arrays(
        *_images_and_categories(truth),
        truth.image,
        truth.category,
        truth.boxes_xywh,
        area=truth.area,
        iscrowd=truth.crowd,
    )
    evaluation = hotcoco.COCOeval(boxes, boxes.load_res(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # what summarize() does, but nothing is printed
    return _numbers(evaluation)


def score_by_faster_coco_eval(truth: GroundTruth, found: np.ndarray):
    """See score_by_hotcoco."""
    from faster_coco_eval import COCO, COCOeval_faster

    def evaluation_of(truth, found):
        return COCOeval_faster(truth, found, "bbox", print_function=lambda *_, **__: None)

    return _score_by_dicts(truth, found, COCO, evaluation_of)


def score_by_pycocotools(truth: GroundTruth, found: np.ndarray):
    """See score_by_hotcoco."""
    from pycocotools import coco, cocoeval

    with _quiet(coco, cocoeval):
        return _score_by_dicts(
            truth, found, coco.COCO, lambda *sides: cocoeval.COCOeval(*sides, "bbox")
        )


# project name: (module, scoring function); fastest first
SCORERS = {
    "hotcoco": ("hotcoco", score_by_hotcoco),
    "faster-coco-eval": ("faster_coco_eval", score_by_faster_coco_eval),
    "pycocotools": ("pycocotools.cocoeval", score_by_pycocotools),
}


def _score_by_dicts(truth, found, make_coco, make_evaluation):
    """Score with a library that has pycocotools' interface: a dict per box."""
    images, categories = _images_and_categories(truth)
    # Ids from 1: pycocotools never matches a box with id 0.
    boxes = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
        for number, (image, category, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in truth[2:])), start=1
        )
    ]
    rows = [
        {
            "id": number,
            "image_id": int(image),
            "category_id": int(category),
            "bbox": box,
            "score": score,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image, *box, score, category) in enumerate(found.tolist(), start=1)
    ]
    sides = []
    for entries in (boxes, rows):
        side = make_coco()
        side.dataset = {"images": images, "categories": categories, "annotations": entries}
        side.createIndex()  # loadRes cannot take an empty list
        sides.append(side)
    evaluation = make_evaluation(*sides)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return _numbers(evaluation)


def _images_and_categories(truth):
    return (
        [{"id": number} for number in range(truth.images)],
        [{"id": number, "name": str(number)} for number in range(truth.categories)],
    )


def _numbers(evaluation):
    stats = np.asarray(evaluation.stats, np.float64)[:STATS]
    assert stats.shape == (STATS,), stats.shape
    # (IoU thresholds, recall thresholds, categories, areas, detections per image); a copy, because
    # the full array is 12 times as large
    precision = np.array(np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1], np.float64)
    return Numbers(stats, mean_defined(np.moveaxis(precision, 2, 0)), precision)


def mean_defined(values):
    """COCO's mean of each of `values`, (n, ...): over defined numbers (above -1); -1 if there are
    none. float64 (n,)."""
    rows = np.ascontiguousarray(values, np.float64).reshape(
        len(values), int(np.prod(values.shape[1:]))
    )
    defined = rows > -1
    means, complete = np.full(len(rows), -1.0), defined.all(axis=1)
    if rows.shape[1]:
        means[complete] = rows[complete].mean(axis=1)
    for index in np.flatnonzero(defined.any(axis=1) & ~complete):
        means[index] = rows[index, defined[index]].mean()
    return means


@contextlib.contextmanager
def _quiet(*modules):
    """Silence `print` in these modules only: redirecting sys.stdout would swallow the lines of
    other threads."""
    for module in modules:
        module.print = lambda *_, **__: None
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("print", None)
