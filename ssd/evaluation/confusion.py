"""Which class is taken for which: detections matched to ground truth whatever their classes.

The usual convention (as in the confusion matrices of YOLO's and hotcoco's tools): in each image,
the surest detection first, each takes the free ground-truth box that it overlaps most, if their IoU
is at least .5. Which detections are matched above one score threshold is a part of what is matched
above a lower one, so one pass serves all thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssd.evaluation.scoring_backends import GroundTruth

IOU = 0.5
NOTHING, CROWD = -1, -2  # a detection's match where there is no box
THRESHOLDS = np.arange(5, 100, 5) / 100  # score thresholds that are tried


class Matches(NamedTuple):
    """Of m detections, in the order of their rows. Categories and images: places, as in the rows
    and the truth."""

    truth: GroundTruth
    rows: np.ndarray  # float64 (m, 7), see scoring_backends.score_by_hotcoco
    box: (
        np.ndarray
    )  # int64 (m,): row of the ground-truth box, NOTHING, or CROWD: on a crowd region, not counted


class Counts(NamedTuple):
    """What detections of at least `threshold` are worth."""

    threshold: float
    matrix: (
        np.ndarray
    )  # int64 (c + 1, c + 1): rows truth, columns predicted, the last one background
    missed: np.ndarray  # int64 (images,): boxes of ground truth that nothing was matched to
    confused: np.ndarray  # int64 (images,): boxes matched to a detection of another class
    spurious: np.ndarray  # int64 (images,): detections without a box

    @property
    def errors(self) -> np.ndarray:
        """Mistakes of each image, int64 (images,)."""
        return self.missed + self.confused + self.spurious


def match(
    truth: GroundTruth, rows: np.ndarray, iou: float = IOU, least_score: float = THRESHOLDS[0]
) -> Matches:
    """Matches of the detections of at least `least_score`, whose rows are kept. Equal scores keep
    their order."""
    rows = rows[rows[:, 5] >= least_score]
    box = np.full(len(rows), NOTHING, np.int64)
    by_image = _by_image(truth.image, truth.images)
    order = np.argsort(-rows[:, 5], kind="stable")
    for image, places in enumerate(_by_image(rows[order, 0].astype(np.int64), truth.images)):
        found, real = order[places], by_image[image]
        if not len(found) or not len(real):
            continue
        crowd = truth.crowd[real] == 1
        ious, inside = _overlaps(rows[found, 1:5], truth.boxes_xywh[real])
        ious[:, crowd] = 0
        free = np.ones(len(real), bool)
        for place in np.flatnonzero((ious >= iou).any(axis=1)):
            best = int(np.argmax(np.where(free, ious[place], 0)))
            if free[best] and ious[place, best] >= iou:
                free[best], box[found[place]] = False, real[best]
        if crowd.any():
            on_crowd = (inside[:, crowd] >= iou).any(axis=1) & (box[found] == NOTHING)
            box[found[on_crowd]] = CROWD
    return Matches(truth, rows, box)


def count(matches: Matches, threshold: float) -> Counts:
    """The confusion matrix, and the mistakes by image, of the detections of at least
    `threshold`."""
    truth, categories = matches.truth, matches.truth.categories
    sure = matches.rows[:, 5] >= threshold
    box, image, predicted = matches.box[sure], *(matches.rows[sure][:, [0, 6]].astype(np.int64).T)
    hit, alone = box >= 0, box == NOTHING
    real = truth.category[box[hit]]
    matrix = np.zeros((categories + 1, categories + 1), np.int64)
    np.add.at(matrix, (real, predicted[hit]), 1)
    np.add.at(matrix, (categories, predicted[alone]), 1)
    missed = truth.crowd == 0
    missed[box[hit]] = False
    np.add.at(matrix, (truth.category[missed], categories), 1)

    def per_image(images):
        return np.bincount(images, minlength=truth.images)

    return Counts(
        float(threshold),
        matrix,
        per_image(truth.image[missed]),
        per_image(image[hit][real != predicted[hit]]),
        per_image(image[alone]),
    )


def best_threshold(matches: Matches) -> float:
    """The score threshold of THRESHOLDS with the highest F1, the harmonic mean of precision and
    recall over all boxes, a box of another class being wrong; the lowest of equals, THRESHOLDS[0]
    where nothing is right."""
    truth = matches.truth
    objects, best = int((truth.crowd == 0).sum()), (0.0, THRESHOLDS[0])
    right = matches.box >= 0
    right[right] = truth.category[matches.box[right]] == matches.rows[right, 6]
    for threshold in THRESHOLDS:
        sure = (matches.rows[:, 5] >= threshold) & (matches.box != CROWD)
        score = 2 * (right & sure).sum() / max(1, objects + sure.sum())
        best = max(best, (score, threshold), key=lambda pair: pair[0])
    return float(best[1])


def _by_image(images: np.ndarray, number: int) -> list:
    """For each image 0 to number - 1 the places where it stands in `images`, in their order."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, number))) if number else []


def _overlaps(found: np.ndarray, real: np.ndarray):
    """IoU of each detection with each box, and the share of the detection that lies inside it, (d,
    g) each; boxes xywh in pixels."""
    low = np.maximum(found[:, None, :2], real[None, :, :2])
    high = np.minimum((found[:, :2] + found[:, 2:])[:, None], (real[:, :2] + real[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = found[:, 2:].prod(axis=1)[:, None], real[:, 2:].prod(axis=1)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = common / (areas[0] + areas[1] - common), common / areas[0]
    return tuple(np.nan_to_num(share, posinf=0) for share in shares)
