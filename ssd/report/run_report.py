"""The report of a run, made at its end or later."""

from __future__ import annotations

import glob
import os
from html import escape
from typing import Callable, Optional, Tuple

from ssd.config import Config, load_recipe
from ssd.datasets.locate import dataset_paths
from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scored_set import KEPT, ScoredSet
from ssd.report import evaluation_sections
from ssd.report.evaluation_report import write_report
from ssd.report.page import Section, page, write_page
from ssd.report.run_parts import extent_text, newest_part, read_evaluations, read_run_parts


def report_run(
    run_folder: str,
    log_line: Callable[[str], None],
    *,
    output: Optional[str] = None,
    data_dir: Optional[str] = None,
) -> str:
    """Writes the report of a run and returns its path.

    run_folder: the output folder of `train`. log_line: called with lines to print. output: the
    file, by default report.html in the run's folder, which may replace an older report. data_dir:
    the data set's folder, if it is not the one in recipe.yaml. The report states what it leaves out
    because files have disappeared. UserError for a folder that is not a run's.
    """
    run_folder = os.fspath(run_folder)
    recipe = newest_part(run_folder, "recipe.yaml")
    if recipe is None:
        raise UserError(f"{run_folder}: not the folder of a run (no recipe.yaml)")
    output = output or os.path.join(run_folder, "report.html")
    title = f"Run {os.path.basename(os.path.normpath(run_folder))}"
    try:
        config = _settings(recipe, data_dir)
        truth, images, detections = _scored(run_folder, config)
        path = write_report(
            os.path.dirname(output) or ".",
            annotations=truth.path,
            detections=detections,
            ground_truth=truth,
            image_folder=images,
            config=config,
            run_folder=run_folder,
            title=title,
            name=os.path.basename(output),
        )
    except MissingData as reason:
        path = _write_without_data(output, title, run_folder, str(reason))
        log_line(f"report without the validation set: {reason}")
    log_line(f"report: {path}")
    return path


class MissingData(Exception):
    """A part of a run's data is missing: deleted, or not written yet."""


def _settings(recipe: str, data_dir: Optional[str]) -> Config:
    try:
        config = load_recipe(recipe)
    except UserError as error:  # written by another version, or edited
        raise MissingData(str(error)) from None
    return config if data_dir is None else config.with_values(data_dir=data_dir)


def _scored(run_folder: str, config: Config) -> Tuple[ScoredSet, str, Detections]:
    """(ground truth, image folder, detections) of the run's last evaluation; the ground truth
    saved by the run, else that of its annotation file. MissingData if one is not available."""
    from ssd.evaluation.scored_set import read_scored_set
    from ssd.evaluation.scoring import read_ground_truth, scored_rows

    found = last_detections(run_folder)
    if found is None:
        raise MissingData("the run has no saved detections of an evaluation")
    try:
        annotations, images = _paths(config)
        detections, kept = Detections.from_npz(found), os.path.join(run_folder, KEPT)
        truth = (
            read_scored_set(kept)._replace(path=annotations)
            if os.path.isfile(kept)
            else read_ground_truth(
                annotations, skip_bad=config.data.skip_bad_annotations, images=detections.images
            )
        )
        detections = detections.without_images(truth.left_out)
        # Refuses detections of other images.
        scored_rows(detections, truth.images, truth.categories, annotations)
    except UserError as error:
        raise MissingData(str(error)) from None
    return truth, images, detections


def _paths(config: Config) -> Tuple[str, str]:
    """Annotation file and image folder of the validation set; the folder need not exist here."""
    data = config.data
    annotations = os.path.join(data.data_dir, data.val_annotations)
    if os.path.isfile(annotations):
        return annotations, os.path.join(data.data_dir, data.val_images)
    return dataset_paths(config, "val")


def last_detections(run_folder: str) -> Optional[str]:
    """The detections file of the last scored epoch; of a resumed run, the newest of that epoch."""
    for row in reversed(read_evaluations(run_folder)):
        stem = os.path.join(glob.escape(run_folder), f"detections-epoch-{row['epoch']:.0f}")
        found = glob.glob(stem + ".npz") + glob.glob(stem + "-again-at-step-*.npz")
        if found:
            return max(found, key=os.path.getmtime)
    return None


def _write_without_data(path: str, title: str, run_folder: str, reason: str) -> str:
    run, scores = read_run_parts(run_folder), read_evaluations(run_folder)
    parts = [
        Section(
            "summary",
            "Summary",
            f'<p class="bad">Everything that depends on the validation set is missing: '
            f"{escape(reason)}</p>{run.summary}",
        ),
        *run.curves,
    ]
    if scores:
        stats = {
            name: value
            for name, value in scores[-1].items()
            if name in evaluation_sections.SENTENCES
        }
        if len(stats) == len(evaluation_sections.SENTENCES):
            heading = "The twelve numbers" + extent_text(scores[-1])
            parts.append(Section("numbers", heading, evaluation_sections.numbers(stats)))
    write_page(path, page(title, "without its validation set", run.tiles, parts + run.compliance))
    return path
