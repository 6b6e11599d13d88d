"""`python -m ssd check-data`: decodes every image of a data set, checks every annotation."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json

from ssd import config as settings
from ssd.flag_types import positive

DATA = "data"  # the name of the data set of --annotations and --images
HELP = "check a data set: decode every image, check every annotation"


def add_arguments(parser) -> None:
    help_of = {
        field.name: field.metadata["help"]
        for field in dataclasses.fields(settings.SECTIONS["data"])
    }
    parser.add_argument(
        "--recipe",
        default=None,
        metavar="NAME|FILE",
        help="settings to start from; if given, the number of categories must match the recipe",
    )
    for name in (
        "data_dir",
        "cache_dir",
        "train_annotations",
        "train_images",
        "val_annotations",
        "val_images",
    ):
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest="data." + name,
            default=argparse.SUPPRESS,
            metavar="PATH",
            help=help_of[name],
        )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="check this file instead of those of --data-dir, as evaluate uses it",
    )
    parser.add_argument("--images", metavar="FOLDER", help="the images of --annotations")
    parser.add_argument(
        "--split",
        choices=("train", "val", "both"),
        default="both",
        help="what to check [default: both]",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        dest="data.skip_bad_annotations",
        action="store_true",
        default=argparse.SUPPRESS,
        help="as in training: leave out bad entries instead of reporting errors",
    )
    parser.add_argument(
        "--decode",
        dest="data.decode",
        choices=("cpu", "gpu", "cache"),
        default=argparse.SUPPRESS,
        help="as in training; a GPU's decoder cannot read some kinds of images",
    )
    parser.add_argument(
        "--max-left-out",
        dest="data.max_left_out",
        default=argparse.SUPPRESS,
        metavar="X",
        help=help_of["max_left_out"] + " [default: 0.5]",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--examples", type=positive, default=5, metavar="N", help="examples per kind [default: 5]"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=None,
        metavar="N",
        help="decoding threads [default: one per core]",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="check every image, and save no results [default: only new and changed images]",
    )


def run(args) -> int:
    """Exit status: 0 if training would accept the data set, else 1; UserError if there is none to
    check."""
    from ssd.commandline import read_settings
    from ssd.datasets.check_report import format_split
    from ssd.datasets.locate import cache_folder, dataset_paths, named_paths
    from ssd.terminal import fitted

    config = read_settings(args)
    named = named_paths(args.annotations, args.images, "data.data_dir" in vars(args))
    splits = (DATA,) if named else ("train", "val") if args.split == "both" else (args.split,)
    paths = {split: named or dataset_paths(config, split) for split in splits}
    cache_dir = None if args.no_cache else cache_folder(config)
    reports, sets = {}, {}
    for split in splits:
        reports[split], sets[split] = _check_split(config, split, *paths[split], cache_dir, args)
    _check_categories(config, sets, reports, args.recipe)

    skip = config.data.skip_bad_annotations
    errors = sum(entry["count"] for report in reports.values() for entry in report["errors"])
    refused = any(
        not (skip and entry["left_out"])
        for report in reports.values()
        for entry in report["errors"]
    )
    if args.json:
        print(
            json.dumps(
                {
                    "data_dir": config.data.data_dir,
                    "skip_bad_annotations": skip,
                    "errors": errors,
                    "refused": refused,
                    "splits": reports,
                }
            )
        )
        return int(refused)
    for split in splits:
        print(fitted("\n".join(format_split(split, reports[split])), 6))
    count = f"{errors} error{'' if errors == 1 else 's'}" if errors else "no errors"
    if refused:
        count += ": training would refuse this data set"
        if not skip and all(
            entry["left_out"] for report in reports.values() for entry in report["errors"]
        ):
            count += " (--skip-bad-annotations leaves out bad entries)"
    elif errors:
        count += ", left out in training with --skip-bad-annotations"
    print(count)
    return int(refused)


def _check_split(config, split: str, annotations: str, images: str, cache_dir, args):
    """(report of check_report, CocoDataset of what is good); keeps the result for training's
    start."""
    from ssd.datasets import coco
    from ssd.datasets.check_report import report_split
    from ssd.datasets.coco_cache import forget_cache
    from ssd.datasets.image_check_cache import ImageCache
    from ssd.datasets.image_checks import LEVELS
    from ssd.datasets.locate import decodes_on_gpu, has_objects, nothing_to_score
    from ssd.errors import UserError, log_line
    from ssd.progress_bar import ProgressBar

    skip, require_boxes = config.data.skip_bad_annotations, split == "train"
    on_gpu, pipe = decodes_on_gpu(config), coco.is_stream(annotations)
    fingerprint = (
        None
        if pipe
        else coco.result_fingerprint(
            annotations, images, config.data.check_images, skip, require_boxes, on_gpu
        )
    )
    image_cache, progress = ImageCache(cache_dir, images), ProgressBar(split)
    try:
        found = coco.inspect_coco(
            annotations,
            images,
            check_images="decode",
            threads=args.jobs or 0,
            image_cache=image_cache,
            examples=args.examples,
            progress=progress,
            on_gpu=on_gpu,
        )
    finally:
        progress.close()
        image_cache.save(log_line)
    data, lines = coco.select_good(found)
    report = report_split(found, data, args.examples)
    for entry in report["errors"]:
        entry["left_out"] = True
    problem = coco.nothing_left(data, found, require_boxes)
    if split == "val" and not problem and not has_objects(data):
        problem = nothing_to_score(data)
    if problem and (skip or not found.problems):
        add_error(
            report,
            "nothing left to train on" if require_boxes else "nothing left to evaluate",
            problem,
        )
    if not problem and (skip or not found.problems):
        try:
            coco.check_left_out(data, config.data.max_left_out, skip)
        except UserError as error:
            problem = str(error)
            add_error(
                report, "too much left out" if found.problems else "boxes in another form", problem
            )
    if cache_dir is not None and not pipe:
        if found.files.problems:  # load_coco's cached result does not notice overwritten files
            for level in LEVELS:
                for options in itertools.product((False, True), repeat=3):
                    forget_cache(
                        cache_dir, coco.result_fingerprint(annotations, images, level, *options)
                    )
        elif not problem and (skip or not found.problems):
            coco.keep_result(cache_dir, fingerprint, found, data, lines, log_line)
    return report, data


def add_error(report: dict, kind: str, example: str) -> None:
    """Add an error of the entire data set, which cannot be left out."""
    report["errors"].append({"kind": kind, "count": 1, "examples": [example], "left_out": False})


def _check_categories(config, sets: dict, reports: dict, recipe) -> None:
    """Add the errors about classes that training refuses: a number that is not the recipe's, and
    classes that differ between train and val."""
    from ssd.datasets.categories import align_categories
    from ssd.datasets.locate import check_classes
    from ssd.errors import UserError

    if len(sets) == 2:
        try:
            sets["val"], reports["val"]["categories_mapped"] = align_categories(
                sets["val"], sets["train"]
            )
        except UserError as error:
            add_error(reports["val"], "categories differ", str(error))
    for split, data in sets.items():
        try:
            if recipe is not None:  # else the user has not chosen a recipe yet
                check_classes(data, config, split)
        except UserError as error:
            add_error(reports[split], "number of categories", str(error))
