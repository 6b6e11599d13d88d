"""Confusion between classes: detections matched to ground truth regardless of class.

The usual convention (as in the confusion matrices of YOLO's and hotcoco's tools): in each image, in
descending order of score, each detection takes the unmatched ground-truth box that it overlaps
most, if their IoU is at least .5. The matches above one score threshold are a subset of those above
a lower one, so one pass serves all thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssd.evaluation.scoring_backends import GroundTruth

IOU = 0.5
NOTHING, CROWD = -1, -2  # what a detection without a ground-truth box matches
THRESHOLDS = np.arange(5, 100, 5) / 100  # candidate score thresholds


class ConfusionMatches(NamedTuple):
    """The matches of m detections, in the order of their rows. Images and categories are indices,
    as in rows and truth."""

    truth: GroundTruth
    rows: np.ndarray  # float64 (m, 7), see scoring_backends.score_by_hotcoco
    # int64 (m,): index of the ground-truth box; NOTHING; or CROWD, on a crowd region: not counted
    box: np.ndarray


class ConfusionCounts(NamedTuple):
    """Right and wrong detections among those that score at least `threshold`."""

    threshold: float
    # int64 (c + 1, c + 1): rows are the truth, columns the prediction; the last is the background
    matrix: np.ndarray
    missed: np.ndarray  # int64 (images,): ground-truth boxes without a match
    confused: np.ndarray  # int64 (images,): boxes matched to a detection of another class
    spurious: np.ndarray  # int64 (images,): detections without a box

    @property
    def errors(self) -> np.ndarray:
        """Mistakes in each image, int64 (images,)."""
        return self.missed + self.confused + self.spurious


def match_any_class(
    truth: GroundTruth, rows: np.ndarray, iou: float = IOU, least_score: float = THRESHOLDS[0]
) -> ConfusionMatches:
    """Match the detections that score at least `least_score`; only their rows are kept. Equal
    scores keep their order."""
    rows = rows[rows[:, 5] >= least_score]
    box = np.full(len(rows), NOTHING, np.int64)
    by_image = _by_image(truth.image, truth.images)
    order = np.argsort(-rows[:, 5], kind="stable")
    for image, ranks in enumerate(_by_image(rows[order, 0].astype(np.int64), truth.images)):
        found, real = order[ranks], by_image[image]
        if not len(found) or not len(real):
            continue
        crowd = truth.crowd[real] == 1
        ious, inside = _overlaps(rows[found, 1:5], truth.boxes_xywh[real])
        ious[:, crowd] = 0
        free = np.ones(len(real), bool)
        for index in np.flatnonzero((ious >= iou).any(axis=1)):
            best = int(np.argmax(np.where(free, ious[index], 0)))
            if free[best] and ious[index, best] >= iou:
                free[best], box[found[index]] = False, real[best]
        if crowd.any():
            on_crowd = (inside[:, crowd] >= iou).any(axis=1) & (box[found] == NOTHING)
            box[found[on_crowd]] = CROWD
    return ConfusionMatches(truth, rows, box)


def count_confusion(matches: ConfusionMatches, threshold: float) -> ConfusionCounts:
    """The confusion matrix, and the mistakes per image, of the detections that score at least
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

    return ConfusionCounts(
        float(threshold),
        matrix,
        per_image(truth.image[missed]),
        per_image(image[hit][real != predicted[hit]]),
        per_image(image[alone]),
    )


def best_threshold(matches: ConfusionMatches) -> float:
    """The score threshold of THRESHOLDS with the highest F1 (harmonic mean of precision and
    recall) over all boxes; a match with the wrong class counts as wrong. Of equal thresholds the
    lowest; THRESHOLDS[0] if nothing is right."""
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
    """For each image from 0 to number - 1, its indices in `images`, ascending."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, number))) if number else []


def _overlaps(found: np.ndarray, real: np.ndarray):
    """(IoU of each detection with each box, fraction of the detection inside the box), (d, g)
    each; boxes xywh in pixels."""
    low = np.maximum(found[:, None, :2], real[None, :, :2])
    high = np.minimum((found[:, :2] + found[:, 2:])[:, None], (real[:, :2] + real[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = found[:, 2:].prod(axis=1)[:, None], real[:, 2:].prod(axis=1)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = common / (areas[0] + areas[1] - common), common / areas[0]
    return tuple(np.nan_to_num(share, posinf=0) for share in shares)
