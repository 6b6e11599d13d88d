"""COCO's twelve box numbers, by the libraries of scoring_backends.py."""

from __future__ import annotations

import os
from typing import Dict, Optional

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scored_set import ScoredSet, read_scored_set, scored_set
from ssd.evaluation.scoring_backends import load_scorer

# name, then pycocotools' columns: title, type, IoU, area, detections per image
_STATS = (
    ("AP", "Average Precision", "(AP)", "0.50:0.95", "all", 100),
    ("AP50", "Average Precision", "(AP)", "0.50", "all", 100),
    ("AP75", "Average Precision", "(AP)", "0.75", "all", 100),
    ("APs", "Average Precision", "(AP)", "0.50:0.95", "small", 100),
    ("APm", "Average Precision", "(AP)", "0.50:0.95", "medium", 100),
    ("APl", "Average Precision", "(AP)", "0.50:0.95", "large", 100),
    ("AR1", "Average Recall", "(AR)", "0.50:0.95", "all", 1),
    ("AR10", "Average Recall", "(AR)", "0.50:0.95", "all", 10),
    ("AR100", "Average Recall", "(AR)", "0.50:0.95", "all", 100),
    ("ARs", "Average Recall", "(AR)", "0.50:0.95", "small", 100),
    ("ARm", "Average Recall", "(AR)", "0.50:0.95", "medium", 100),
    ("ARl", "Average Recall", "(AR)", "0.50:0.95", "large", 100),
)
STAT_NAMES = tuple(stat[0] for stat in _STATS)
STAT_SENTENCES = {
    stat[0]: " {:<18} {} @[ IoU={:<9} | area={:>6s} | maxDets={:>3d} ]".format(*stat[1:])
    for stat in _STATS
}


def format_stats(stats) -> str:
    """The twelve lines of pycocotools' `summarize`, character for character, without the final
    newline.

    stats: mapping from each of STAT_NAMES to a number in [0, 1], or -1 where undefined.
    """
    return "\n".join(f"{STAT_SENTENCES[name]} = {stats[name]:0.3f}" for name in STAT_NAMES)


def score_detections(
    annotation_file,
    detections: Detections,
    *,
    per_class: bool = False,
    scorer: Optional[str] = None,
    skip_bad: bool = False,
    truth: Optional[ScoredSet] = None,
) -> Dict[str, float]:
    """COCO's twelve box numbers of `detections` over all images of `annotation_file`, as
    pycocotools counts them.

    annotation_file: path of a COCO instances file, read and checked as for training (ssd.datasets).
        If the detections know their images (Detections.images), only these are scored. Images
        without boxes are scored too. An annotation without `area` counts as width * height (px^2),
        one without `iscrowd` as no crowd. Detections on images that are left out are left out.
    per_class: add "AP/<category name>" for every category (-1 where it has no ground truth).
    scorer: the library that counts, one of scoring_backends.SCORERS; None for the fastest one
        installed.
    skip_bad: leave out bad entries of the file, as training does with --skip-bad-annotations.
    truth: the result of read_ground_truth, if the file was read before.

    Returns float64 in [0, 1] by STAT_NAMES; -1 where undefined (no ground truth of that size),
    COCO's convention. Without any detection AP and AR are 0. Raises UserError for a file that
    training would refuse, for a detection of an image or category that the file does not have, and
    for a scorer that is not installed.
    """
    score = load_scorer(scorer).score
    truth = truth or read_ground_truth(annotation_file, skip_bad=skip_bad, images=detections.images)
    detections = detections.without_images(truth.left_out)
    numbers = score(
        truth.boxes, scored_rows(detections, truth.images, truth.categories, annotation_file)
    )
    stats = dict(zip(STAT_NAMES, numbers.stats.tolist()))
    if per_class:
        for (category, name), precision in zip(
            truth.categories.items(), numbers.class_precision.tolist()
        ):
            key = "AP/" + name
            stats[f"{key} ({category})" if key in stats else key] = precision
    return stats


def scored_rows(detections: Detections, images, categories, annotation_file):
    """The input of a scorer: float64 (n, 7), see scoring_backends.score_by_hotcoco.

    images, categories: sorted ids, as in a ScoredSet. UserError for an id that is not among them.
    """
    image, category = (
        _indices(name, known, detections, annotation_file)
        for name, known in (("image_id", images), ("category_id", list(categories)))
    )
    return np.column_stack([image, detections.boxes_xywh, detections.score, category])


def _indices(name, known, detections, annotation_file):
    """The index of each detection's id in the sorted list `known`."""
    ids, known = getattr(detections, name), np.array(known, np.int64)
    indices = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    unknown = known[indices] != ids if len(known) else np.ones(len(ids), bool)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise UserError(
            f"{detections.source}: row {row}: {name} {ids[row]} is not in {annotation_file}"
        )
    return indices


def read_ground_truth(
    path,
    *,
    skip_bad: bool = False,
    max_left_out: float = 1.0,
    images=None,
    report=lambda line: None,
) -> ScoredSet:
    """The ground truth of a COCO file, or of a file of ScoredSet.write.

    The file is checked as for training, with the same flags (ssd.datasets.coco.load_ground_truth);
    no image file is read. images: ids of the images to score, None for all. Raises UserError for a
    file that training would refuse, and for images that it does not have.
    """
    path = os.fspath(path)
    if path.endswith(".npz"):
        return read_scored_set(path)
    from ssd.datasets.coco import load_ground_truth

    truth = scored_set(
        load_ground_truth(path, skip_bad=skip_bad, max_left_out=max_left_out, report=report)
    )
    if images is None:
        return truth
    foreign = np.setdiff1d(images, truth.images + list(truth.left_out))
    if len(foreign):
        raise UserError(f"{path}: has no image {foreign[0]}, which the detections cover")
    return truth.of_images(images)
