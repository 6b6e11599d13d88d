"""`python -m ssd pack-data`: packs a data set's image files into a few RecordIO files."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys

from ssd import config as settings
from ssd.errors import UserError, log_line
from ssd.flag_types import positive

HELP = "pack image files into a few RecordIO files, which --data-dir accepts like image folders"
USAGE = "%(prog)s --data-dir DIR --output FOLDER [flags]"
PATHS = (
    "data_dir",
    "cache_dir",
    "train_annotations",
    "train_images",
    "val_annotations",
    "val_images",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    help_of = {
        field.name: field.metadata["help"]
        for field in dataclasses.fields(settings.SECTIONS["data"])
    }
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where records and annotations go, laid out as --data-dir is: new or empty, or one "
        "whose packing was interrupted, to finish it (required)",
    )
    parser.add_argument(
        "--recipe",
        default=None,
        metavar="NAME|FILE",
        help="settings to start from: paths of the data set's files",
    )
    for name in PATHS:
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest="data." + name,
            default=argparse.SUPPRESS,
            metavar="PATH",
            help=help_of[name],
        )
    parser.add_argument(
        "--split",
        choices=("train", "val", "both"),
        default="both",
        help="what to pack [default: both]",
    )
    parser.add_argument(
        "--check-images",
        dest="data.check_images",
        default=argparse.SUPPRESS,
        metavar="{exists,header,decode}",
        help=help_of["check_images"] + " [default: the recipe's]",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        dest="data.skip_bad_annotations",
        action="store_true",
        default=argparse.SUPPRESS,
        help="as in training: leave out bad images instead of refusing the data set",
    )
    parser.add_argument(
        "--max-left-out",
        dest="data.max_left_out",
        default=argparse.SUPPRESS,
        metavar="X",
        help=help_of["max_left_out"] + " [default: the recipe's]",
    )
    parser.add_argument(
        "--shard-size",
        type=float,
        metavar="GB",
        help="the most that a file of records holds [10^9 bytes; default: 1, or more where that "
        "makes over 128 files]",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=0,
        metavar="N",
        help="threads; each writes a file of records [default: one per core]",
    )


def run(args: argparse.Namespace) -> int:
    """Pack, and print what was written; returns 0. UserError for data that cannot be packed."""
    from ssd.commandline import read_settings
    from ssd.datasets.packing import pack
    from ssd.progress_bar import ProgressBar

    size = args.shard_size
    if size is not None and not (math.isfinite(size) and size > 0):
        raise UserError(f"--shard-size {size:g}: must be above 0")
    config, progress = read_settings(args), ProgressBar("packing")
    try:
        lines = pack(
            config,
            args.output,
            ("train", "val") if args.split == "both" else (args.split,),
            shard_bytes=None if size is None else max(1, int(size * 1e9)),
            threads=args.jobs,
            report=log_line,
            progress=progress,
        )
    finally:
        progress.close()
    print("\n".join(lines), file=sys.stdout)
    return 0
