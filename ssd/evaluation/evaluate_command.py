"""`python -m ssd evaluate`: saved weights on any data set in COCO's format."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import NamedTuple

from ssd.commandline import add_settings
from ssd.config import SETTINGS, Config
from ssd.errors import UserError
from ssd.evaluation.weight_files import WeightFile, find_weights
from ssd.files import replace_file

SECTIONS = ("data", "evaluation", "model", "detection")
TRAINING_ALONE = ("train_annotations", "train_images", "target", "eval_every", "batch_norm_momentum",
                  "skip_bad_annotations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument("--weights", nargs="+", metavar="PATH", default=[],
                        help="saved weights: .params files or a checkpoint's parameters.npz; patterns; a checkpoint's, "
                             "a run's or any folder of weights. Several are compared (required)")
    parser.add_argument("--annotations", metavar="FILE",
                        help="the data set's COCO instances file [default: that of --data-dir]")
    parser.add_argument("--images", metavar="FOLDER", help="the images of --annotations")
    parser.add_argument("--device", dest="run.device", default=argparse.SUPPRESS, metavar="{auto,cpu,gpu}",
                        help=SETTINGS["device"][1].metadata["help"] + " [default: auto]")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument("--json-output", metavar="FILE", help="write the same JSON to this new file")
    parser.add_argument("--save-detections", metavar="FILE",
                        help="write the detections as COCO results [new .json file]")
    parser.add_argument("--report", metavar="FOLDER",
                        help="write report.html: numbers, curves, confusion matrix, pictures [new or empty folder]")
    parser.add_argument("--sweep-output", metavar="FOLDER",
                        help="write the table (sweep.csv) and curve (sweep.png) of several weights [new or empty "
                             "folder]")
    parser.add_argument("--scorer", metavar="NAME", help="the library that counts, see `score --help` [default: the "
                                                         "fastest that is installed]")
    add_settings(parser, SECTIONS, leave_out=TRAINING_ALONE, default_recipe="the weights' own, or their run's "
                                                                            "recipe.yaml")


class Candidate(NamedTuple):
    """Weights to evaluate, with their settings and the data set's category id of each of their classes."""
    file: WeightFile
    config: Config
    category_ids: object    # (num_classes - 1,) int64


class Found(NamedTuple):
    """What was detected: Detections, of so many images, and the annotation file's rows of images that were not read."""
    detections: object
    images: int
    left_out: list


def run(args) -> int:
    """Exit status: 0, or 1 where images of the data set could not be read and the numbers are of the others."""
    from ssd.evaluation import saved_network, sweep
    from ssd.evaluation.per_class import evaluate
    from ssd.evaluation.scoring_backends import load_scorer
    scorer = load_scorer(args.scorer)
    candidates, annotations, images = _prepare(args)
    say(f"evaluating {candidates[0].file.path if len(candidates) == 1 else f'{len(candidates)} weights'} on "
        f"{annotations}, scored by {scorer}")
    results, unread = [], []
    for candidate in candidates:
        found = _detect(candidate, annotations, images)
        unread = unread or saved_network.file_names(found.left_out)
        evaluation = evaluate(annotations, found.detections, scorer=scorer.name,
                              left_out=[row["id"] for row in found.left_out])
        results.append(_as_dict(candidate, annotations, found, evaluation))
        if len(candidates) > 1:
            say(f"{candidate.file.name}: AP {evaluation.stats['AP']:.4f}, AP50 {evaluation.stats['AP50']:.4f}")
    result = results[0] if len(results) == 1 else dict(annotations=annotations, results=results)
    if args.json:    # before files, which a full disc may prevent
        print(json.dumps(result), flush=True)
    else:
        print(_format(evaluation) if len(results) == 1 else sweep.format_table(results), flush=True)
    if args.save_detections:
        _save(found.detections, args.save_detections)
    if args.json_output:
        _write_json(args.json_output, result)
    if args.sweep_output:
        sweep.write(args.sweep_output, results)
    if args.report:
        from ssd.report.report import write_report
        path = write_report(args.report, annotations=annotations, detections=found.detections, image_folder=images,
                            config=candidates[0].config, title=f"Evaluation of {candidates[0].file.path}",
                            evaluation=evaluation, left_out=unread)
        say(f"report: {path}")
    if unread:
        say(f"{len(unread)} of {len(unread) + found.images} images could not be used ({', '.join(unread[:3])}"
            f"{', ...' if len(unread) > 3 else ''}); the numbers are of the others")
    return 1 if unread else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepare(args):
    """(candidates, annotation file, image folder): everything of the user's that can be refused before long work."""
    from ssd.evaluation import saved_network
    from ssd.evaluation.scoring import read_ground_truth
    if not args.weights:
        raise UserError("--weights: name the file of saved weights")
    files = find_weights(args.weights)
    _check_outputs(args, len(files))
    settings = [saved_network.settings_of(args, file.path) for file in files]
    annotations, images = _data_set(args, settings[0][0])
    ids, names = saved_network.categories_of(annotations)
    read_ground_truth(annotations)    # refuses what could not be scored later
    candidates = []
    for file, (config, info) in zip(files, settings):
        if not config.model.num_classes:    # a recipe's "as many as the data set has"
            config = config.with_values(num_classes=len(ids) + 1)
        category_ids = saved_network.category_of_class(config, info, names, ids, file.path, annotations)
        candidates.append(Candidate(file, config, category_ids))
    return candidates, annotations, images


def _data_set(args, config: Config):
    from ssd.data.locate import dataset_paths
    if args.annotations is None and args.images is None:
        return dataset_paths(config, "val")
    if "data.data_dir" in vars(args):
        raise UserError("--annotations, --images: they name the data set, and so does --data-dir; give one of them")
    for flag, path, exists, kind in (("--annotations", args.annotations, os.path.isfile, "file"),
                                     ("--images", args.images, os.path.isdir, "folder")):
        if path is None:
            raise UserError(f"{flag}: --annotations and --images go together")
        if not exists(path):
            raise UserError(f"{flag} {path}: no such {kind}")
    return args.annotations, args.images


def _check_outputs(args, weights: int) -> None:
    for flag, path in (("--save-detections", args.save_detections), ("--json-output", args.json_output)):
        if path and os.path.exists(path):
            raise UserError(f"{flag} {path}: exists already")
        if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise UserError(f"{flag} {path}: no such folder")
    for flag, path in (("--report", args.report), ("--sweep-output", args.sweep_output)):
        if path and os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
            raise UserError(f"{flag} {path}: exists already; name a new or empty folder")
    for flag, path in (("--report", args.report), ("--save-detections", args.save_detections)):
        if path and weights > 1:
            raise UserError(f"{flag} {path}: is made of one file of weights, --weights names {weights}")


def _detect(candidate: Candidate, annotations: str, images: str) -> Found:
    from ssd.evaluation import saved_network
    dataset, left_out = saved_network.load_images(candidate.config, annotations, images)
    try:
        detections = _detect_shown(candidate, dataset)
    except UserError:
        # An image that was good when it was checked, or was not decoded then, may be bad: find all that are.
        again, left_out = saved_network.load_images(candidate.config, annotations, images, recheck=True)
        if again.num_images == dataset.num_images:
            raise
        dataset = again
        detections = _detect_shown(candidate, dataset)
    return Found(detections, dataset.num_images, left_out)


def _detect_shown(candidate: Candidate, dataset):
    from ssd.data.check_command import Progress
    from ssd.evaluation.saved_network import detect_all
    progress, start = Progress("detecting"), time.time()
    try:
        detections = detect_all(candidate.config, candidate.file.path, dataset, candidate.category_ids, progress)
    finally:
        progress.close()
    seconds = time.time() - start
    say(f"{len(detections)} detections on {dataset.num_images} images, {dataset.num_images / seconds:.1f} images/s")
    return detections


def _as_dict(candidate: Candidate, annotations: str, found: Found, evaluation) -> dict:
    """The result as plain values: see docs/evaluation.md."""
    from ssd.evaluation.saved_network import file_names
    file = candidate.file
    place = {} if file.step is None else dict(step=file.step, epoch=file.epoch)
    return dict(weights=file.path, **place, annotations=annotations, images=found.images,
                left_out=file_names(found.left_out), detections=len(found.detections), scorer=evaluation.scorer,
                **evaluation.stats, per_class=evaluation.per_class())


def _format(evaluation) -> str:
    from ssd.evaluation.per_class import format_classes
    from ssd.evaluation.scoring import format_table
    return format_table(evaluation.stats) + "\n\n" + format_classes(evaluation)


def _save(detections, path: str) -> None:
    try:
        detections.to_json(path)
    except OSError as error:
        raise UserError(f"--save-detections {path}: cannot be written: {error.strerror}") from None


def _write_json(path: str, content: dict) -> None:
    try:
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"--json-output {path}: cannot be written: {error.strerror}") from None
