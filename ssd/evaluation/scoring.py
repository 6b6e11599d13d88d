"""COCO's twelve box numbers, by the libraries of scoring_backends.py."""
from __future__ import annotations

import math

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.detections import Detections, is_box, is_number, kind, read_json, whole_number
from ssd.evaluation.scoring_backends import GroundTruth, load_scorer

# name, then what pycocotools prints of it: title, type, IoU, area, detections per image
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
STAT_SENTENCES = {stat[0]: " {:<18} {} @[ IoU={:<9} | area={:>6s} | maxDets={:>3d} ]".format(*stat[1:])
                  for stat in _STATS}


def format_table(stats) -> str:
    """The twelve lines that pycocotools' `summarize` prints, character for character, without a last newline.

    stats: mapping from each of STAT_NAMES to a number in [0, 1], or -1 where undefined.
    """
    return "\n".join("{} = {:0.3f}".format(STAT_SENTENCES[name], stats[name]) for name in STAT_NAMES)


def score_detections(annotation_file, detections: Detections, *, per_class: bool = False,
                     scorer: str | None = None) -> dict[str, float]:
    """COCO's twelve box numbers of `detections` over all images of `annotation_file`, as pycocotools counts them.

    annotation_file: path of a COCO instances file. Its images without boxes are scored too. An annotation
        without `area` counts as width * height (px^2), one without `iscrowd` as no crowd; one of an image or
        category that the file does not list is no part of the score.
    per_class: add "AP/<category name>" for every category (-1 where it has no ground truth).
    scorer: the library that counts, one of scoring_backends.SCORERS; None for the fastest that is installed.

    Returns float64 in [0, 1] by STAT_NAMES; -1 where undefined (no ground truth of that size), COCO's
    convention. With no detections at all AP and AR are 0. Raises UserError for a file that is not COCO,
    for a detection of an image or category that the file does not have, and for a scorer that is not there.
    """
    score = load_scorer(scorer).score
    truth, images, categories = read_ground_truth(annotation_file)
    numbers = score(truth, scored_rows(detections, images, categories, annotation_file))
    stats = dict(zip(STAT_NAMES, numbers.stats.tolist()))
    if per_class:
        for (category, name), precision in zip(categories.items(), numbers.class_precision.tolist()):
            key = "AP/" + name
            stats["%s (%d)" % (key, category) if key in stats else key] = precision
    return stats


def scored_rows(detections: Detections, images, categories, annotation_file):
    """What a scorer takes: float64 (n, 7), see scoring_backends.score_by_hotcoco.

    images, categories: sorted ids, as read_ground_truth gives them. UserError for an id that is not among them.
    """
    image, category = (_places(name, known, detections, annotation_file)
                       for name, known in (("image_id", images), ("category_id", list(categories))))
    return np.column_stack([image, detections.boxes_xywh, detections.score, category])


def _places(name, known, detections, annotation_file):
    """Where each detection's id stands in the sorted list `known`."""
    ids, known = getattr(detections, name), np.array(known, np.int64)
    places = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    unknown = known[places] != ids if len(known) else np.ones(len(ids), bool)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise UserError("%s: row %d: %s %d is not in %s" % (detections.source, row, name, ids[row], annotation_file))
    return places


def read_ground_truth(path):
    """GroundTruth of a COCO file, its sorted image ids, and its categories' names by their sorted ids.

    Raises UserError for a file that is not COCO.
    """
    dataset = read_json(path)
    if not isinstance(dataset, dict):
        raise UserError("%s: not a COCO annotation file but %s" % (path, kind(dataset)))
    for name in ("images", "annotations", "categories"):
        if not (isinstance(dataset.get(name), list) and all(isinstance(row, dict) for row in dataset[name])):
            raise UserError("%s: not a COCO annotation file: no list of %s" % (path, name))
    if not dataset["images"]:
        raise UserError("%s: no images" % path)
    for name in ("images", "categories"):
        for number, row in enumerate(dataset[name]):
            if whole_number(row.get("id")) is None:
                raise UserError("%s: %s: row %d: id %r is not a whole number" % (
                    path, name, number, row.get("id")))
    images = sorted({whole_number(row["id"]) for row in dataset["images"]})
    names = {whole_number(row["id"]): str(row.get("name", row["id"])) for row in dataset["categories"]}
    categories = {category: names[category] for category in sorted(names)}
    places = [{known: place for place, known in enumerate(ids)} for ids in (images, categories)]
    columns = [], [], [], [], []
    for number, row in enumerate(dataset["annotations"]):
        try:
            image, category, *values = _read_annotation(row)
        except UserError as error:
            raise UserError("%s: annotations: row %d (id %r): %s" % (path, number, row.get("id"), error)) from None
        if image in places[0] and category in places[1]:
            for column, value in zip(columns, (places[0][image], places[1][category], *values)):
                column.append(value)
    image, category, boxes, area, crowd = columns
    truth = GroundTruth(len(images), len(categories), np.array(image, np.int64), np.array(category, np.int64),
                        np.array(boxes, np.float64).reshape(-1, 4), np.array(area, np.float64),
                        np.array(crowd, np.int64))
    return truth, images, categories


def _read_annotation(row):
    image, category = whole_number(row.get("image_id")), whole_number(row.get("category_id"))
    if image is None or category is None:
        raise UserError("image_id %r, category_id %r: both must be whole numbers" % (
            row.get("image_id"), row.get("category_id")))
    box, area, crowd = row.get("bbox"), row.get("area"), row.get("iscrowd")
    if not (is_box(box) and all(map(math.isfinite, box))):
        raise UserError("bbox %r: four finite numbers are needed" % (box,))
    area = box[2] * box[3] if area is None else area
    if not (is_number(area) and math.isfinite(area)):
        raise UserError("area %r is not a finite number" % (area,))
    if crowd not in (None, 0, 1):
        raise UserError("iscrowd %r is neither 0 nor 1" % (crowd,))
    return image, category, box, area, int(crowd or 0)
