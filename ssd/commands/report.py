"""`python -m ssd report`: a run's report, again."""

from __future__ import annotations

import argparse
import os

from ssd.errors import UserError

HELP = "make the report of a run (report.html) again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="where `train` wrote")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a new file [default: report.html in the run's folder, made again if it is there]",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where the data set lies now [default: where it lay in training]",
    )


def run(args: argparse.Namespace) -> int:
    """Returns the exit status 0; raises UserError for a folder of no run and for an output that
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
