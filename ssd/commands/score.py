"""`python -m ssd score`: COCO's twelve numbers of a detection file."""
from __future__ import annotations

import argparse
import json
import sys

HELP = "score a file of detections against COCO annotations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument("--annotations", required=True, metavar="FILE",
                        help="COCO instances file; every image is scored, those without boxes too (required)")
    parser.add_argument("--detections", required=True, metavar="FILE",
                        help="COCO's results format (.json) or the arrays that evaluate writes (.npz); "
                             "boxes are x, y, width, height in pixels of the original image (required)")
    parser.add_argument("--per-class", action="store_true",
                        help="the average precision of every category too (default: off)")
    parser.add_argument("--json", action="store_true",
                        help="print one line of JSON, all digits, fractions from 0 to 1, -1 where undefined "
                             "(default: COCO's table, three decimals)")
    parser.add_argument("--scorer", metavar="NAME",
                        help="the library that counts: hotcoco, faster-coco-eval or pycocotools, fastest first; all "
                             "give the same numbers (default: the first that is installed; standard error names it)")


def run(args: argparse.Namespace) -> int:
    """Score and print to standard output; returns the exit status 0. Raises UserError for bad input."""
    from ssd.evaluation.detections import Detections
    from ssd.evaluation.scoring import STAT_NAMES, format_table, score_detections
    from ssd.evaluation.scoring_backends import load_scorer

    scorer = load_scorer(args.scorer)
    read = Detections.from_npz if args.detections.lower().endswith(".npz") else Detections.from_json
    stats = score_detections(args.annotations, read(args.detections), per_class=args.per_class, scorer=scorer.name)
    print("scored by %s" % scorer, file=sys.stderr)
    if args.json:
        print(json.dumps(stats))
        return 0
    print(format_table(stats))
    for name, value in stats.items():
        if name not in STAT_NAMES:
            print("%s = %.3f" % (name, value))
    return 0
