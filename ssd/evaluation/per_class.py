"""What a score is made of: COCO's numbers by class, and its precision-recall curves."""
from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES, scored_rows, read_ground_truth
from ssd.evaluation.scoring_backends import GroundTruth, load_scorer, mean_defined

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)    # COCO's, and its recalls
RECALLS = np.linspace(0, 1, 101)


class Evaluation(NamedTuple):
    """COCO's judgement of detections on c categories, in the order of their ids. -1 is undefined, as in COCO."""
    stats: dict                   # name (scoring.STAT_NAMES) to number in [0, 1]
    category_ids: tuple           # c
    category_names: tuple         # c
    ap: np.ndarray                # float64 (c,): mean over IoU .50 to .95
    ap50: np.ndarray              # float64 (c,)
    ap75: np.ndarray              # float64 (c,)
    objects: np.ndarray           # int64 (c,): boxes of ground truth, without crowd regions
    found: np.ndarray             # int64 (c,): detections
    precision: np.ndarray         # float64 (10, 101, c): at IOU_THRESHOLDS and RECALLS
    image_ids: np.ndarray         # int64 (n,), ascending: the images that were scored
    truth: GroundTruth            # of these images, numbered by their place in image_ids and category_ids
    rows: np.ndarray              # float64 (m, 7): the detections, see scoring_backends.score_by_hotcoco
    scorer: str                   # name and version

    def per_class(self) -> list:
        """One dict of plain values per category: id, name, AP, AP50, AP75, objects, detections."""
        columns = (self.category_ids, self.category_names, self.ap.tolist(), self.ap50.tolist(), self.ap75.tolist(),
                   self.objects.tolist(), self.found.tolist())
        return [dict(zip(("id", "name", "AP", "AP50", "AP75", "objects", "detections"), row))
                for row in zip(*columns)]

    def mean_curve(self, iou: Optional[float] = None, category: Optional[int] = None) -> np.ndarray:
        """Precision at RECALLS, (101,); nan where undefined. iou: one of IOU_THRESHOLDS, None: the mean over all;
        category: its place, None: the mean over those with ground truth."""
        chosen = self.precision if iou is None else self.precision[[int(np.argmin(abs(IOU_THRESHOLDS - iou)))]]
        chosen = chosen if category is None else chosen[:, :, [category]]
        defined = mean_defined(np.moveaxis(chosen, 1, 0))
        return np.where(defined < 0, np.nan, defined)


def evaluate(annotation_file, detections: Detections, *, scorer: Optional[str] = None,
             left_out=(), ground_truth: Optional[tuple] = None) -> Evaluation:
    """COCO's judgement of `detections` on the images of `annotation_file`, but for those with ids `left_out`.

    scorer: see scoring.score_detections, which gives the same twelve numbers. ground_truth: what read_ground_truth
    gives of the file, where it was read before. UserError as there, and where no image is left.
    """
    counted_by = load_scorer(scorer)
    truth, images, names = ground_truth or read_ground_truth(annotation_file)
    if len(left_out):
        truth, images = without_images(truth, images, left_out)
        if not images:
            raise UserError(f"{annotation_file}: no image is left to score")
    rows = scored_rows(detections, images, names, annotation_file)
    numbers = counted_by.score(truth, rows)
    objects = np.bincount(truth.category[truth.crowd == 0], minlength=truth.categories)
    return Evaluation(
        dict(zip(STAT_NAMES, numbers.stats.tolist())), tuple(names), tuple(names.values()), numbers.class_precision,
        *(mean_defined(numbers.precision[place].T) for place in (0, 5)), objects,
        np.bincount(rows[:, 6].astype(np.int64), minlength=truth.categories), numbers.precision,
        np.array(images, np.int64), truth, rows, str(counted_by))


def without_images(truth: GroundTruth, images: list, left_out):
    """(GroundTruth, sorted image ids) of the images whose ids are not in `left_out`."""
    kept = ~np.isin(np.array(images, np.int64), np.array(sorted(left_out), np.int64))
    boxes = kept[truth.image]
    return GroundTruth(int(kept.sum()), truth.categories, (np.cumsum(kept) - 1)[truth.image[boxes]],
                       *(column[boxes] for column in truth[3:])), [i for i, keep in zip(images, kept) if keep]


def format_classes(evaluation: Evaluation) -> str:
    """A table of the classes, best AP first; "-" where there is no ground truth. Classes without any box are counted
    alone."""
    every = evaluation.per_class()
    table = sorted((row for row in every if row["objects"] or row["detections"]), key=lambda row: -row["AP"])
    width = max([len("class")] + [len(row["name"]) for row in table])
    lines = [f"{'class':<{width}}     AP   AP50   AP75  objects  detections"]
    for row in table:
        numbers = "".join(f"  {'-' if row[name] < 0 else format(row[name], '.3f'):>5}"
                          for name in ("AP", "AP50", "AP75"))
        lines.append(f"{row['name']:<{width}}{numbers}  {row['objects']:7d}  {row['detections']:10d}")
    if len(table) < len(every):
        lines.append(f"({len(every) - len(table)} more without objects and detections)")
    return "\n".join(lines)
