"""`python -m ssd benchmark MODE`: the speed of a part of the program on this machine, and its
limit."""

from __future__ import annotations

import argparse
import json
import os

from ssd.commandline import add_settings, read_settings
from ssd.config import SETTINGS, nearest
from ssd.errors import UserError, UserErrorEverywhere
from ssd.runtime import start

HELP = "measure training, inference, data, scoring and allreduce, and their limits"
USAGE = "%(prog)s MODE [--data-dir DIR] [--recipe NAME] [flags]"
MODES = {
    "train": "training steps and their parts (synthetic batches without --data-dir; one rank or "
    "several)",
    "infer": "images to detections (synthetic images without --data-dir)",
    "data": "the training data's pipeline alone, by stages, and decoding alone",
    "score": "COCO's twelve numbers of synthetic detections",
    "allreduce": "averaging gradients over the ranks of horovodrun or mpirun",
}
TRACED = ("train", "infer", "allreduce")
DATA_FLAGS = {"data.data_dir", "data.train_annotations", "data.val_annotations"}
ON_RANKS = ("train", "allreduce")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument(
        "mode", metavar="MODE", help="; ".join(f"{mode}: {text}" for mode, text in MODES.items())
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps measured [default: train 10, infer 20, data 50, score 5, allreduce 20]",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="warm-up steps before them [default: train 2, infer 2, data prefetched batches, "
        "score 1, allreduce 3]",
    )
    parser.add_argument(
        "--json",
        metavar="FILE|-",
        help="write all numbers to this new file, or print them instead of the table (-)",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write a trace of two more steps, by operator, to this new file for chrome://tracing "
        f"({', '.join(TRACED)})",
    )
    group = parser.add_argument_group("score")
    group.add_argument(
        "--images",
        type=int,
        default=5000,
        metavar="N",
        help="images of the synthetic annotations [default: 5000]",
    )
    group.add_argument(
        "--detections",
        type=int,
        default=1000000,
        metavar="N",
        help="synthetic detections [default: 1000000]",
    )
    group.add_argument(
        "--categories",
        type=int,
        default=80,
        metavar="N",
        help="categories of the synthetic annotations [default: 80]",
    )
    group.add_argument(
        "--annotations",
        default="",
        metavar="FILE",
        help="COCO instances file instead of synthetic annotations",
    )
    group.add_argument(
        "--scorer",
        metavar="NAME",
        help="the scoring library, see `score --help` [default: the fastest one installed]",
    )
    group = parser.add_argument_group("settings")
    for name, metavar in (
        ("device", "{auto,cpu,gpu}"),
        ("weights", "PATH"),
        ("batch_size", "N"),
        ("eval_batch_size", "N"),
        ("check_finite_every", "N"),
        ("batch_norm_ranks", "N"),
    ):
        section, field = SETTINGS[name]
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=f"{section}.{name}",
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=field.metadata["help"],
        )
    add_settings(parser, ("data", "augmentation", "model", "detection"))


def run(args: argparse.Namespace) -> int:
    """Measure, and print on rank 0; returns the exit status 0. UserError for bad input."""
    from ssd.training.ranks import rank_from_environment

    request = read_request(args)
    try:
        result = _measure(request)
    except UserErrorEverywhere:
        if rank_from_environment():
            return 2  # rank 0 prints the error
        raise
    if result.pop("rank", 0):
        return 0
    result = dict(format=1, mode=request.mode, **result)
    if args.json and args.json != "-":
        from ssd.files import replace_file, write_errors

        with write_errors(f"--json {args.json}", args.json):
            replace_file(args.json, (json.dumps(result, indent=1) + "\n").encode())
    if args.json == "-":
        print(json.dumps(result))
    else:
        from ssd.benchmark.table import NAMES, format_result
        from ssd.terminal import fitted

        print(fitted(format_result(result), NAMES), flush=True)
    return 0


def read_request(args: argparse.Namespace):
    """The Request of the flags; UserError for bad ones."""
    from ssd.benchmark.request import Request
    from ssd.training.ranks import rank_from_environment

    mode = args.mode
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}{nearest(mode, MODES)} (modes: {', '.join(MODES)})")
    for flag, number, least in (("--steps", args.steps, 1), ("--warmup", args.warmup, 0)):
        if number is not None and number < least:
            raise UserError(f"{flag} {number}: must be at least {least}")
    if args.trace and mode not in TRACED:
        raise UserError(f"--trace {args.trace}: mode {mode} has no trace, only {', '.join(TRACED)}")
    rank = rank_from_environment()
    for flag, path in (("--json", args.json), ("--trace", args.trace)):
        if not path or path == "-" or rank:
            continue
        if os.path.lexists(path):
            raise UserError(f"{flag} {path}: exists already")
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise UserError(f"{flag} {path}: no such folder")
    if rank and mode not in ON_RANKS:
        raise UserError(f"benchmark {mode}: runs on one rank only")
    if args.annotations and not os.path.isfile(args.annotations):
        raise UserError(f"--annotations {args.annotations}: no such file")
    if mode != "score":  # the one mode without a network
        start()
    weights = getattr(args, "run.weights", "")
    if weights:
        from ssd.evaluation.saved_network import settings_of

        if not os.path.isfile(weights):
            raise UserError(f"--weights {weights}: no such file")
        config = settings_of(args, weights)[0]
    else:
        config = read_settings(args)
    if mode == "infer" and "evaluation.eval_batch_size" not in vars(args):
        config = config.with_values(eval_batch_size=config.training.batch_size)
    return Request(
        mode,
        config,
        args.steps,
        args.warmup,
        bool(DATA_FLAGS & set(vars(args))),
        args.trace or "",
        args.images,
        args.detections,
        args.annotations,
        args.scorer,
        args.categories,
    )


def _measure(request) -> dict:
    if request.mode == "train":
        from ssd.benchmark.training import measure
    elif request.mode == "infer":
        from ssd.benchmark.inference import measure
    elif request.mode == "data":
        from ssd.benchmark.loading import measure
    elif request.mode == "score":
        from ssd.benchmark.scoring import measure
    else:
        from ssd.benchmark.allreduce import measure
    return measure(request)
