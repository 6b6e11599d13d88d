"""`python -m ssd score`: COCO's twelve numbers of a detection file."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "score a file of detections against COCO annotations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    from ssd.commandline import add_max_left_out

    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="COCO instances file; all images are scored, including those without boxes; for "
        "detections of a run (.npz), only the images that the run read (required)",
    )
    parser.add_argument(
        "--detections",
        required=True,
        metavar="FILE",
        help="COCO's results format (.json) or the arrays that evaluate writes (.npz); "
        "boxes are x, y, width, height in pixels of the original image (required)",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="check the image files too, as evaluate does; with --skip-bad-annotations, unreadable "
        "images are not scored (default: no image is read)",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        action="store_true",
        help="leave out bad annotations and images, as in training (default: refuse the file)",
    )
    add_max_left_out(parser)
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="also print the average precision of every category (default: off)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON, all digits, fractions from 0 to 1, -1 where undefined "
        "(default: COCO's table, three decimals)",
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="the scoring library: hotcoco, faster-coco-eval or pycocotools, fastest first; all "
        "give the same numbers (default: the first one installed; standard error names it)",
    )


def run(args: argparse.Namespace) -> int:
    """Score, and print to standard output; returns the exit status 0. UserError for bad input."""
    from ssd.datasets.check_report import name_of
    from ssd.evaluation.detections import Detections
    from ssd.evaluation.scoring import STAT_NAMES, format_stats, score_detections
    from ssd.evaluation.scoring_backends import load_scorer

    scorer = load_scorer(args.scorer)
    read = Detections.from_npz if args.detections.lower().endswith(".npz") else Detections.from_json
    detections = read(args.detections)
    truth = _ground_truth(args, detections)
    left_out = len(detections) - len(detections.without_images(truth.left_out))
    if left_out:
        text = f"{left_out} detection{'' if left_out == 1 else 's'}"
        print(f"{args.detections}: left out: {text} on images that are left out", file=sys.stderr)
    stats = score_detections(
        args.annotations, detections, per_class=args.per_class, scorer=scorer.name, truth=truth
    )
    print(f"scored by {scorer}, on {truth}", file=sys.stderr)
    if args.json:
        print(json.dumps(stats))
        return 0
    print(format_stats(stats))
    for name, value in stats.items():
        if name not in STAT_NAMES:
            print(f"AP/{name_of(name[3:])} = {value:.3f}")
    return 0


def _ground_truth(args, detections):
    """The ground truth to score against: an ssd.evaluation.scored_set.ScoredSet."""
    from ssd.errors import log_line
    from ssd.evaluation.scored_set import scored_set
    from ssd.evaluation.scoring import read_ground_truth

    options = dict(
        skip_bad=args.skip_bad_annotations, max_left_out=args.max_left_out, report=log_line
    )
    if args.images is None:
        truth = read_ground_truth(args.annotations, images=detections.images, **options)
    else:
        from ssd.datasets.coco import load_coco

        truth = scored_set(load_coco(args.annotations, args.images, require_boxes=False, **options))
        if detections.images is not None:
            truth = truth.of_images(detections.images)
    if not truth.objects:
        log_line(f"{args.annotations}: no object to score: every number is -1, undefined")
    return truth
