"""`python -m ssd evaluate`: saved weights on a data set in COCO's format."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import NamedTuple

from ssd.commandline import add_settings
from ssd.config import SETTINGS, Config
from ssd.errors import UserError, log_line
from ssd.evaluation.weight_files import WeightFile, find_weights
from ssd.files import replace_file, write_errors
from ssd.runtime import start

HELP = "evaluate saved weights on a data set: COCO's twelve numbers, AP per class, a report"
USAGE = (
    "%(prog)s --weights PATH [PATH ...]\n"
    "           (--data-dir DIR | --annotations FILE --images FOLDER) [flags]"
)
SECTIONS = ("data", "evaluation", "model", "detection")
TRAINING_ONLY = (
    "train_annotations",
    "train_images",
    "target",
    "eval_every",
    "batch_norm_momentum",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="PATH",
        default=[],
        help="saved weights: .params files or a checkpoint's parameters.npz; patterns; a "
        "checkpoint's, a run's or any folder of weights. Several are compared (required)",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="the data set's COCO instances file [default: that of --data-dir]",
    )
    parser.add_argument("--images", metavar="FOLDER", help="the images of --annotations")
    parser.add_argument(
        "--device",
        dest="run.device",
        default=argparse.SUPPRESS,
        metavar="{auto,cpu,gpu}",
        help=SETTINGS["device"][1].metadata["help"] + " [default: auto]",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument(
        "--json-output", metavar="FILE", help="write the same JSON to this new file"
    )
    parser.add_argument(
        "--save-detections",
        metavar="FILE",
        help="write the detections as COCO results [new .json file]",
    )
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="write report.html: numbers, curves, confusion matrix, images [new or empty folder]",
    )
    parser.add_argument(
        "--sweep-output",
        metavar="FOLDER",
        help="write the table (sweep.csv) and plot (sweep.png) of several weights [new or empty "
        "folder]",
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="the scoring library, see `score --help` [default: the fastest one installed]",
    )
    add_settings(
        parser,
        SECTIONS,
        leave_out=TRAINING_ONLY,
        default_recipe="the settings stored with the weights, or their run's recipe.yaml",
    )


class Candidate(NamedTuple):
    """Weights to evaluate, with their settings, and with the data set's category id for each of
    their classes."""

    file: WeightFile
    config: Config
    category_ids: tuple  # num_classes - 1, see saved_network.category_of_class
    left_out: list  # names of the classes that the data set does not have


def run(args) -> int:
    """Exit status: 0, or 1 if images of the data set could not be read and the numbers are only
    for the others."""
    from ssd.evaluation import sweep
    from ssd.evaluation.per_class import evaluate
    from ssd.evaluation.scoring_backends import load_scorer

    scorer = load_scorer(args.scorer)
    candidates, images = _prepare(args)
    what = candidates[0].file.path if len(candidates) == 1 else f"{len(candidates)} weights"
    log_line(f"evaluating {what} on {images.annotations}, scored by {scorer}")
    for line in images.lines:
        log_line(line)
    _log_left_out(candidates)
    results = []
    for candidate in candidates:
        detections = images.detect(candidate)
        evaluation = evaluate(
            images.annotations, detections, scorer=scorer.name, ground_truth=images.ground_truth
        )
        results.append(_as_dict(candidate, images, detections, evaluation))
        if len(candidates) > 1:
            log_line(
                f"{candidate.file.name}: AP {evaluation.stats['AP']:.4f}, AP50 "
                f"{evaluation.stats['AP50']:.4f} on {evaluation.counts}"
            )
    unread = images.left_out
    result = (
        results[0] if len(results) == 1 else dict(annotations=images.annotations, results=results)
    )
    if args.json:  # before writing files, which may fail on a full disk
        print(json.dumps(result), flush=True)
    else:
        print(_format(evaluation) if len(results) == 1 else sweep.format_sweep(results), flush=True)
    log_line(f"on {evaluation.counts}")
    if args.save_detections:
        _save(detections, args.save_detections)
        if unread:
            log_line(
                f"{args.save_detections}: of {images.count} images; `score --images "
                f"{images.folder} --skip-bad-annotations` counts only these"
            )
    if args.json_output:
        _write_json(args.json_output, result)
    if args.sweep_output:
        sweep.write_sweep(args.sweep_output, results)
    if args.report:
        from ssd.report.evaluation_report import write_report

        path = write_report(
            args.report,
            annotations=images.annotations,
            detections=detections,
            image_folder=images.folder,
            config=candidate.config,
            title=f"Evaluation of {candidate.file.path}",
            evaluation=evaluation,
            left_out=unread,
            classes=_left_out_text(candidate),
        )
        log_line(f"report: {path}")
    if unread:
        log_line(
            f"{len(unread)} of {len(unread) + images.count} images could not be used "
            f"({', '.join(unread[:3])}"
            f"{', ...' if len(unread) > 3 else ''}); the numbers are for the others"
        )
    return 1 if unread and not vars(args).get("data.skip_bad_annotations") else 0


def _prepare(args):
    """(candidates, EvaluationImages). Refuses bad input before any long work."""
    from ssd.evaluation import saved_network

    if not args.weights:
        raise UserError("--weights: the file of saved weights is needed")
    files = find_weights(args.weights)
    _check_outputs(args, len(files))
    start()
    settings = [saved_network.settings_of(args, file.path) for file in files]
    annotations, folder = _data_set(args, settings[0][0])
    candidates = []

    def fit(ids, names):
        for file, (config, info) in zip(files, settings):
            if not config.model.num_classes:  # 0: as many as the data set has
                config = config.with_values(num_classes=len(ids) + 1)
            category_ids = saved_network.category_of_class(
                config, info, names, ids, file.path, annotations
            )
            candidates.append(
                Candidate(
                    file, config, category_ids, saved_network.left_out_classes(category_ids, info)
                )
            )

    images = EvaluationImages(settings[0][0], annotations, folder, fit)
    return candidates, images


def _left_out_text(candidate: Candidate) -> str:
    from ssd.evaluation.saved_network import describe_left_out

    return describe_left_out(candidate.left_out, len(candidate.category_ids))


def _log_left_out(candidates) -> None:
    """Log the classes that are left out; the same line only once."""
    for line in dict.fromkeys(filter(None, map(_left_out_text, candidates))):
        log_line(line)


def _data_set(args, config: Config):
    from ssd.datasets.locate import dataset_paths, named_paths

    return named_paths(
        args.annotations, args.images, "data.data_dir" in vars(args)
    ) or dataset_paths(config, "val")


def _check_outputs(args, weights: int) -> None:
    for flag, path in (
        ("--save-detections", args.save_detections),
        ("--json-output", args.json_output),
    ):
        if path and os.path.exists(path):
            raise UserError(f"{flag} {path}: exists already")
        if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise UserError(f"{flag} {path}: no such folder")
    for flag, path in (("--report", args.report), ("--sweep-output", args.sweep_output)):
        if path and os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
            raise UserError(f"{flag} {path}: exists already; name a new or empty folder")
    for flag, path in (("--report", args.report), ("--save-detections", args.save_detections)):
        if path and weights > 1:
            raise UserError(
                f"{flag} {path}: works for one file of weights, --weights names {weights}"
            )


class EvaluationImages:
    """The data set's images and their ground truth, read and checked once for all weights.

    count: number of readable images; left_out: file names of the others; ground_truth: an
    ssd.evaluation.scored_set.ScoredSet; lines: messages of reading.
    """

    def __init__(self, config: Config, annotations: str, folder: str, check_categories):
        """config: how to check them; check_categories: see ssd.datasets.coco.load_coco. UserError
        for a data set that cannot be evaluated."""
        self._config, self.annotations, self.folder = config, annotations, folder
        self.lines = []
        self._load(report=self.lines.append, check_categories=check_categories)
        if not self.ground_truth.objects:
            self.lines.append(
                f"{annotations}: no object to score: every number will be -1, undefined"
            )

    def _load(self, recheck: bool = False, **options) -> None:
        from ssd.evaluation.saved_network import load_images
        from ssd.evaluation.scored_set import scored_set

        self._loaded = load_images(self._config, self.annotations, self.folder, recheck, **options)
        self.left_out, self.count = list(self._loaded.found.left_out), self._loaded.num_images
        self.ground_truth = scored_set(self._loaded)

    def detect(self, candidate: Candidate):
        """Detections of a candidate on all readable images."""
        from ssd.datasets.coco import is_stream

        try:
            return _detect_shown(candidate, self._loaded)
        except UserError:
            # An image may have become bad since the check, or the check did not decode it: find all
            # bad ones.
            if is_stream(self.annotations):
                raise
            before = self.count
            self._load(recheck=True)
            if self.count == before:
                raise
            return _detect_shown(candidate, self._loaded)


def _detect_shown(candidate: Candidate, dataset):
    from ssd.evaluation.saved_network import detect_all
    from ssd.progress_bar import ProgressBar

    progress, start = ProgressBar("detecting"), time.time()
    try:
        detections = detect_all(
            candidate.config, candidate.file.path, dataset, candidate.category_ids, progress
        )
    finally:
        progress.close()
    seconds = time.time() - start
    log_line(
        f"{len(detections)} detections on {dataset.num_images} images, "
        f"{dataset.num_images / seconds:.1f} images/s"
    )
    return detections


def _as_dict(candidate: Candidate, images: EvaluationImages, detections, evaluation) -> dict:
    """The result as plain values, see docs/evaluation.md."""
    file = candidate.file
    step = {} if file.step is None else dict(step=file.step, epoch=file.epoch)
    classes = dict(classes_left_out=candidate.left_out) if candidate.left_out else {}
    return dict(
        weights=file.path,
        **step,
        annotations=images.annotations,
        images=images.count,
        objects=images.ground_truth.objects,
        left_out=images.left_out,
        **classes,
        detections=len(detections),
        scorer=evaluation.scorer,
        **evaluation.stats,
        per_class=evaluation.per_class(),
    )


def _format(evaluation) -> str:
    from ssd.evaluation.per_class import format_classes
    from ssd.evaluation.scoring import format_stats

    return format_stats(evaluation.stats) + "\n\n" + format_classes(evaluation)


def _save(detections, path: str) -> None:
    with write_errors(f"--save-detections {path}", path):
        detections.to_json(path)


def _write_json(path: str, content: dict) -> None:
    with write_errors(f"--json-output {path}", path):
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
