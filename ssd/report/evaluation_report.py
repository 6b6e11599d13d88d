"""report.html: the evaluation of a detector on a data set, in one file that opens offline."""

from __future__ import annotations

import os
from typing import List, Optional, Sequence

from ssd.evaluation.confusion import best_threshold, count_confusion, match_any_class
from ssd.evaluation.detections import Detections
from ssd.evaluation.per_class import Evaluation, evaluate
from ssd.evaluation.scored_set import ScoredSet
from ssd.report import evaluation_sections
from ssd.report.example_images import ExampleImages
from ssd.report.page import Section, facts, fraction, page, write_page

NAMES = {"ssd": "SSD", "retinanet": "RetinaNet"}  # as they are written


def write_report(
    folder,
    *,
    annotations,
    detections: Detections,
    image_folder,
    config=None,
    run_folder=None,
    title: str,
    evaluation: Optional[Evaluation] = None,
    left_out: Sequence[str] = (),
    classes: str = "",
    ground_truth: Optional[ScoredSet] = None,
    name: str = "report.html",
) -> str:
    """Write `folder`/`name` and return its path.

    annotations: COCO instances file; detections: on its images; image_folder: of these images.
    config: the network's settings; run_folder: of a run whose curves, outcome and MLPerf check to
    include. evaluation: of these detections, if computed already; ground_truth: what they are
    scored against, instead of the whole annotation file; left_out: file names of images that could
    not be used; classes: a sentence on classes of the network that were left out.
    UserError for bad input, and if the file exists and is not a report.
    """
    from ssd.report.run_parts import read_run_parts

    path = os.path.join(os.fspath(folder), name)
    evaluation = evaluation or evaluate(annotations, detections, ground_truth=ground_truth)
    run = read_run_parts(os.fspath(run_folder)) if run_folder is not None else None
    tiles = (run.tiles if run else []) + data_tiles(evaluation)
    parts = [
        Section(
            "summary",
            "Summary",
            summary(annotations, evaluation, config, left_out, classes)
            + (run.summary if run else ""),
        )
    ]
    parts += run.curves if run else []
    parts += data_sections(evaluation, image_folder)
    parts += run.compliance if run else []
    subtitle = f"{os.path.basename(os.fspath(annotations))}: {evaluation.counts}"
    write_page(path, page(title, subtitle, tiles, parts))
    return path


def data_tiles(evaluation: Evaluation) -> list:
    """The numbers on top: AP at IoU .50:.95 and .50, images, objects."""
    return [
        (fraction(evaluation.stats["AP"]), "mAP (IoU .50:.95)", ""),
        (fraction(evaluation.stats["AP50"]), "AP50", ""),
        (f"{len(evaluation.image_ids):,}", "images", ""),
        (f"{int(evaluation.objects.sum()):,}", "objects", ""),
    ]


def summary(
    annotations, evaluation: Evaluation, config, left_out: Sequence[str], classes: str = ""
) -> str:
    """A table of the network, the data and the scorer."""
    network = ""
    if config is not None:
        model = config.model
        network = (
            f"{NAMES[model.detector]}, {model.backbone}, width {model.width:g}, "
            f"{model.image_size.height} x {model.image_size.width} pixels, {model.num_classes - 1} "
            "classes"
            f" ({config.recipe})"
        )
    missing = ""
    if left_out:
        names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        missing = (
            f"{len(left_out)} images could not be used: {names}. All numbers are for the others."
        )
    return facts(
        [
            ("network", network),
            ("annotations", os.fspath(annotations)),
            ("detections", f"{len(evaluation.rows):,} on {evaluation.counts}"),
            ("scored by", evaluation.scorer),
            ("classes", classes),
            ("left out", missing),
        ]
    )


def data_sections(evaluation: Evaluation, image_folder) -> List[Section]:
    """Numbers, classes, curves, confusion, example images."""
    matches = match_any_class(evaluation.truth, evaluation.rows)
    counts = count_confusion(matches, best_threshold(matches))
    images = ExampleImages(
        evaluation, evaluation.file_names, os.fspath(image_folder), counts.threshold
    )
    has_images = os.path.isdir(image_folder)
    missing = (
        ""
        if has_images
        else "<p>The image folder no longer exists: "
        f"{facts([('folder', os.fspath(image_folder))])}</p>"
    )
    worst = evaluation_sections.worst_images(images, counts) if has_images else ""
    return [
        Section("numbers", "The twelve numbers", evaluation_sections.numbers(evaluation.stats)),
        Section("classes", "By class", evaluation_sections.classes(evaluation)),
        Section(
            "curves-pr", "Precision and recall", evaluation_sections.precision_recall(evaluation)
        ),
        Section("confusion", "Confusion", evaluation_sections.confusion(evaluation, counts)),
        Section(
            "detections",
            "Detections",
            evaluation_sections.detections(images) if has_images else missing,
        ),
        Section("worst", "Worst images", worst),
    ]
