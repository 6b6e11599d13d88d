"""`python -m ssd report`: makes a run's report again."""

from __future__ import annotations

import argparse
import os

from ssd.errors import UserError

HELP = "make the report of a run (report.html) again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="the output folder of `train`")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a new file [default: report.html in the run's folder, which is replaced]",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the data set's folder, if it was moved [default: the one of the training]",
    )


def run(args: argparse.Namespace) -> int:
    """Returns the exit status 0; UserError for a folder that is not a run's and for an output that
    exists."""
    if not os.path.isdir(args.run_folder):
        raise UserError(f"{args.run_folder}: no such folder")
    if args.output and os.path.lexists(args.output):
        raise UserError(f"--output {args.output}: exists already")
    if args.data_dir and not os.path.isdir(args.data_dir):
        raise UserError(f"--data-dir {args.data_dir}: no such folder")
    from ssd.report.run_report import report_run

    report_run(args.run_folder, print, output=args.output, data_dir=args.data_dir)
    return 0
