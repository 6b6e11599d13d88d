"""The details of a score: COCO's numbers per class, and its precision-recall curves."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from ssd.errors import on_a_line
from ssd.evaluation.detections import Detections
from ssd.evaluation.scored_set import ScoredSet, images_and_objects
from ssd.evaluation.scoring import STAT_NAMES, read_ground_truth, scored_rows
from ssd.evaluation.scoring_backends import GroundTruth, load_scorer, mean_defined
from ssd.terminal import columns, padded

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's, and its recalls
RECALLS = np.linspace(0, 1, 101)


class Evaluation(NamedTuple):
    """COCO's evaluation of detections on c categories, in the order of their ids. -1 is undefined,
    as in COCO."""

    stats: dict  # name (scoring.STAT_NAMES) to number in [0, 1]
    category_ids: tuple  # c
    category_names: tuple  # c
    ap: np.ndarray  # float64 (c,): mean over IoU .50 to .95
    ap50: np.ndarray  # float64 (c,)
    ap75: np.ndarray  # float64 (c,)
    objects: np.ndarray  # int64 (c,): ground-truth boxes, without crowd regions
    found: np.ndarray  # int64 (c,): detections
    precision: np.ndarray  # float64 (10, 101, c): at IOU_THRESHOLDS and RECALLS
    image_ids: np.ndarray  # int64 (n,), ascending: the images that were scored
    truth: GroundTruth  # of these images, numbered by their index in image_ids and category_ids
    rows: np.ndarray  # float64 (m, 7): the detections, see scoring_backends.score_by_hotcoco
    scorer: str  # name and version
    file_names: list  # n: of the images

    def per_class(self) -> list:
        """One dict of plain values per category: id, name, AP, AP50, AP75, objects, detections."""
        columns = (
            self.category_ids,
            self.category_names,
            self.ap.tolist(),
            self.ap50.tolist(),
            self.ap75.tolist(),
            self.objects.tolist(),
            self.found.tolist(),
        )
        return [
            dict(zip(("id", "name", "AP", "AP50", "AP75", "objects", "detections"), row))
            for row in zip(*columns)
        ]

    @property
    def counts(self) -> str:
        """The numbers of images and objects behind the scores, as text."""
        return images_and_objects(len(self.image_ids), int(self.objects.sum()))

    def mean_curve(self, iou: Optional[float] = None, category: Optional[int] = None) -> np.ndarray:
        """Precision at RECALLS, (101,); nan where undefined. iou: one of IOU_THRESHOLDS, or None
        for the mean over all; category: its index, or None for the mean over those with ground
        truth."""
        index = int(np.argmin(abs(IOU_THRESHOLDS - iou))) if iou is not None else None
        # Slices, not index lists: with many classes, each curve would copy the numbers of all.
        chosen = self.precision[
            slice(None) if index is None else slice(index, index + 1),
            :,
            slice(None) if category is None else slice(category, category + 1),
        ]
        chosen = chosen[
            :, :, (chosen > -1).any(axis=(0, 1))
        ]  # a class without ground truth is undefined throughout
        defined = mean_defined(np.moveaxis(chosen, 1, 0))
        return np.where(defined < 0, np.nan, defined)


def evaluate(
    annotation_file,
    detections: Detections,
    *,
    scorer: Optional[str] = None,
    ground_truth: Optional[ScoredSet] = None,
) -> Evaluation:
    """COCO's evaluation of `detections` on the images of `annotation_file`.

    scorer: see scoring.score_detections, which gives the same twelve numbers and raises the same
    UserErrors. ground_truth: what to score against, instead of the whole file.
    """
    loaded_scorer = load_scorer(scorer)
    scored = ground_truth or read_ground_truth(annotation_file, images=detections.images)
    truth, names = scored.boxes, scored.categories
    rows = scored_rows(
        detections.without_images(scored.left_out), scored.images, names, annotation_file
    )
    numbers = loaded_scorer.score(truth, rows)
    objects = np.bincount(truth.category[truth.crowd == 0], minlength=truth.categories)
    return Evaluation(
        dict(zip(STAT_NAMES, numbers.stats.tolist())),
        tuple(names),
        tuple(names.values()),
        numbers.class_precision,
        *(mean_defined(numbers.precision[index].T) for index in (0, 5)),  # IoU .50 and .75
        objects,
        np.bincount(rows[:, 6].astype(np.int64), minlength=truth.categories),
        numbers.precision,
        np.array(scored.images, np.int64),
        truth,
        rows,
        str(loaded_scorer),
        [scored.names[number] for number in scored.images],
    )


def format_classes(evaluation: Evaluation) -> str:
    """A table of the classes, best AP first; "-" without ground truth. Classes without objects and
    detections are only counted."""
    every = evaluation.per_class()
    table = sorted(
        (row for row in every if row["objects"] or row["detections"]), key=lambda row: -row["AP"]
    )
    classes = [on_a_line(row["name"]) or "''" for row in table]
    width = max([len("class")] + list(map(columns, classes)))
    lines = [f"{'class':<{width}}     AP   AP50   AP75  objects  detections"]
    for shown, row in zip(classes, table):
        numbers = "".join(
            f"  {'-' if row[name] < 0 else format(row[name], '.3f'):>5}"
            for name in ("AP", "AP50", "AP75")
        )
        lines.append(
            f"{padded(shown, width)}{numbers}  {row['objects']:7d}  {row['detections']:10d}"
        )
    if len(table) < len(every):
        lines.append(f"({len(every) - len(table)} more without objects and detections)")
    return "\n".join(lines)
