"""`python -m ssd summary`: layers, cost and default boxes of a network, and how the boxes cover a
data set."""

from __future__ import annotations

import argparse
import json
import os

from ssd.commandline import add_max_left_out, add_settings, read_settings
from ssd.errors import UserError, log_line

SIZES = 6  # default boxes on a line, to fit a terminal of 80 columns
HELP = "list a network's layers, cost and default boxes, and how they cover a data set"
USAGE = "%(prog)s [--recipe NAME|FILE] [--annotations FILE] [flags]"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--weights", metavar="FILE", help="describe the network of these saved weights"
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--annotations",
        metavar="FILE",
        help="show how the default boxes cover the objects of this COCO annotation file",
    )
    data.add_argument(
        "--data-dir",
        dest="data.data_dir",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the same for the recipe's training annotations in this folder",
    )
    add_max_left_out(parser, "bad annotations and images are left out; ")
    parser.add_argument(
        "--layers",
        action="store_true",
        help="list every operator, not only the parts of the network",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_settings(parser, ("model",))


def run(args) -> int:
    base = None
    if args.weights:
        from ssd.model.weights import read_info

        info = read_info(args.weights)
        if info is None:
            raise UserError(
                f"--weights {args.weights}: the file does not state its network; name its --recipe"
            )
        base = info.config
    config = read_settings(args, base=base)
    path = args.annotations
    if "data.data_dir" in vars(args):
        path = os.path.join(config.data.data_dir, config.data.train_annotations)
    truth = None
    if path:
        from ssd.tools.summary import read_object_boxes

        truth = read_object_boxes(path, args.max_left_out)
        from ssd.data.resolve import resolve

        config = resolve(config, truth)
        for line in truth.lines:
            log_line(line)
        if truth.left_out:
            log_line(
                f"{path}: left out: {truth.left_out} bad annotations; `python -m ssd check-data` "
                "lists them"
            )
    from ssd.tools.summary import summarise

    summary = summarise(config, truth)
    if args.json:
        print(json.dumps(summary))
    else:
        print("\n\n".join(format_summary(summary, args.layers)))
    return 0


def format_summary(summary: dict, layers: bool):
    """The parts of the text."""
    size = " x ".join((str(summary["image_size"]).split("x") * 2)[:2])
    yield (
        f"{summary['recipe']}: {summary['detector']}, {summary['backbone']} of width "
        f"{summary['width']:g}, {size} pixels, {summary['num_classes']} classes with the background"
    )
    entries = summary["layers"] if layers else summary["blocks"]
    rows = [
        (
            entry["name"],
            " x ".join(map(str, entry["output_shape"][1:] if layers else entry["output"])),
            f"{entry['parameters']:,}",
            _millions(entry["multiply_adds"]),
        )
        for entry in entries
    ]
    rows.append(("all", "", f"{summary['parameters']:,}", _millions(summary["multiply_adds"])))
    yield "\n".join(
        _table(
            ("layer" if layers else "part", "output", "parameters", "million multiply-adds"), rows
        )
    )
    yield (
        f"A multiply-add is two operations: {2e-9 * summary['multiply_adds']:.1f} GFLOP for an "
        f"image forward, {2e-9 * summary['training_multiply_adds']:.1f} with its gradients in "
        "training"
    )
    rows = []
    for entry in summary["maps"]:
        sizes = [f"{width:.0f}x{height:.0f}" for width, height in entry["shapes"]]
        rows.append(
            (
                _pair(entry["cells"], "d"),
                _pair(entry["step"], ".4g"),
                f"{entry['boxes']:,}",
                "  ".join(sizes[:SIZES]),
            )
        )
        rows += [
            ("", "", "", "  ".join(sizes[first : first + SIZES]))
            for first in range(SIZES, len(sizes), SIZES)
        ]
    rows.append(("all", "", f"{summary['default_boxes']:,}", ""))
    yield "\n".join(
        _table(
            ("map", "step", "boxes", "sizes of its default boxes [pixels of the input]"),
            rows,
            left=(3,),
        )
    )
    if summary["default_boxes_outside"]:
        yield (
            f"The centres of {summary['default_boxes_outside']:,} default boxes lie outside the "
            "image: the given steps are larger than its cells"
        )
    if "coverage" in summary:
        yield _format_coverage(summary["coverage"])


def _pair(value, form: str) -> str:
    """'38 x 38' for cells; a step as one number if rows and columns agree."""
    pair = value if isinstance(value, list) else [value] * (2 if form == "d" else 1)
    return " x ".join(format(one, form) for one in pair)


def _format_coverage(found: dict) -> str:
    rows = []
    for name, part in found["sizes"].items():
        count = part["boxes"]
        rows.append(
            (name, f"{count:,}")
            + (
                (
                    f"{100 * part['covered'] / count:.1f} %",
                    f"{part['mean_iou']:.3f}",
                    f"{part['matched_mean']:.1f}",
                    f"{part['matched_median']:.0f}",
                    f"{part['unmatched']:,}",
                )
                if count
                else ("-",) * 5
            )
        )
    return "\n".join(
        [
            f"{found['annotations']}: {found['images']:,} images. Objects by the area of their box "
            "in the file's pixels, COCO's limits:"
        ]
        + list(
            _table(
                (
                    "objects",
                    "number",
                    f"IoU above {found['iou']:g}",
                    "mean best IoU",
                    "matched, mean",
                    "median",
                    "none matched",
                ),
                rows,
            )
        )
        + [
            "matched: default boxes that learn an object, where images are not cropped. Each "
            "object claims its best one even below",
            "that IoU, unless another object claims the same one.",
        ]
    )


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f}"


def _table(head, rows, left=()):
    """Lines of a table: the first column and those in `left` aligned left, the others right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        yield "  ".join(
            text.ljust(width) if column in (0, *left) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
