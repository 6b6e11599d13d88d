"""COCO's twelve box numbers by pycocotools.

Detections (from detections.py) and ScoringProcess (from scoring_process.py) can be had here too.
"""
from __future__ import annotations

import contextlib

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.detections import Detections, is_box, is_number, kind, read_json, whole_number
from ssd.evaluation.scoring_process import ScoringProcess

__all__ = ["STAT_NAMES", "STAT_SENTENCES", "Detections", "ScoringProcess", "format_table", "score_detections"]

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


def score_detections(annotation_file, detections: Detections, *, per_class: bool = False) -> dict[str, float]:
    """COCO's twelve box numbers of `detections` over all images of `annotation_file`, by pycocotools.

    annotation_file: path of a COCO instances file. Its images without boxes are scored too. An annotation
        without `area` counts as width * height (px^2), one without `iscrowd` as no crowd.
    per_class: add "AP/<category name>" for every category (-1 where it has no ground truth).

    Returns float64 in [0, 1] by STAT_NAMES; -1 where undefined (no ground truth of that size), COCO's
    convention. With no detections at all AP and AR are 0. Raises UserError for a file that is not COCO and
    for a detection of an image or category that the file does not have.

    Annotations are renumbered from 1: pycocotools counts one whose id is 0 as never found.
    """
    from pycocotools import coco, cocoeval

    dataset = _read_annotations(annotation_file)
    for name, known in (("image_id", dataset["images"]), ("category_id", dataset["categories"])):
        ids = getattr(detections, name)
        unknown = ~np.isin(ids, [entry["id"] for entry in known])
        if unknown.any():
            row = int(np.argmax(unknown))
            raise UserError("%s: row %d: %s %d is not in %s" % (
                detections.source, row, name, ids[row], annotation_file))
    # plain Python numbers, in the order given, as COCO.loadRes makes them; it cannot take an empty list
    rows = [{"id": number, "image_id": image, "category_id": category, "bbox": box, "score": score,
             "area": box[2] * box[3], "iscrowd": 0}
            for number, (image, category, box, score) in enumerate(
                zip(detections.image_id.tolist(), detections.category_id.tolist(),
                    detections.boxes_xywh.tolist(), detections.score.tolist()), start=1)]
    with _quiet(coco, cocoeval):
        truth, found = coco.COCO(), coco.COCO()
        truth.dataset = dataset
        found.dataset = dict(dataset, annotations=rows)
        truth.createIndex()
        found.createIndex()
        evaluation = cocoeval.COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = {name: float(value) for name, value in zip(STAT_NAMES, evaluation.stats)}
    if per_class:
        names = {category["id"]: category["name"] for category in dataset["categories"]}
        for index, category in enumerate(evaluation.params.catIds):
            # precision: (IoU thresholds, recall thresholds, classes, areas, detections per image)
            precision = evaluation.eval["precision"][:, :, index, 0, -1]
            key = "AP/" + names[category]
            key = "%s (%d)" % (key, category) if key in stats else key
            stats[key] = float(precision[precision > -1].mean()) if (precision > -1).any() else -1.0
    return stats


def _read_annotations(path):
    """The three lists of a COCO file, with what box scoring reads of them and no more (masks are large)."""
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
    annotations = []
    for number, row in enumerate(dataset["annotations"]):
        image, category = whole_number(row.get("image_id")), whole_number(row.get("category_id"))
        box = row.get("bbox")
        where = "%s: annotations: row %d (id %r)" % (path, number, row.get("id"))
        if image is None or category is None:
            raise UserError("%s: image_id %r, category_id %r: both must be whole numbers" % (
                where, row.get("image_id"), row.get("category_id")))
        if not (is_box(box) and np.isfinite(box).all()):
            raise UserError("%s: bbox %r: four finite numbers are needed" % (where, box))
        area, crowd = row.get("area"), row.get("iscrowd")
        area = box[2] * box[3] if area is None else area
        if not is_number(area):
            raise UserError("%s: area %r is not a number" % (where, area))
        if crowd not in (None, 0, 1):
            raise UserError("%s: iscrowd %r is neither 0 nor 1" % (where, crowd))
        annotations.append({"id": number + 1, "image_id": image, "category_id": category, "bbox": box,
                            "area": area, "iscrowd": int(crowd or 0)})
    return {"images": [{"id": whole_number(row["id"])} for row in dataset["images"]],
            "categories": [{"id": whole_number(row["id"]), "name": str(row.get("name", row["id"]))}
                           for row in dataset["categories"]],
            "annotations": annotations}


@contextlib.contextmanager
def _quiet(*modules):
    """Silence `print` in these modules alone: redirecting sys.stdout would swallow other threads' lines."""
    for module in modules:
        module.print = lambda *_, **__: None
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("print", None)
