#!/usr/bin/env python3
"""Downloads Open Images for the MLPerf benchmark: box annotations and images. Run it again to
resume.

    scripts/download_openimages.py data/openimages                          1,195,082 images, 352 GB
    scripts/download_openimages.py data/small --max-samples 500             500 images of each split
    scripts/download_openimages.py data/fruit --classes Apple Banana    images with boxes of these

Afterwards OUTPUT holds, for SPLIT train and validation: SPLIT/data/ID.jpg,
SPLIT/labels/openimages-mlperf.json (COCO annotations, made by prepare-json.py --from openimages),
and the sources of that: SPLIT/labels/detections.csv, SPLIT/metadata/classes.csv and sizes.csv.
See docs/openimages.md.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

NAME = "download_openimages"
try:
    from ssd.datasets.openimages_download import CSV_URL, IMAGE_URL
    from ssd.datasets.openimages_fetch import SPLITS, Download
    from ssd.datasets.web import checked_url
    from ssd.errors import UserError
except ImportError as missing:
    sys.exit(
        f"{NAME}: {missing} for {sys.executable}; the set-up's Python, .venv/bin/python, has it"
    )


def say(line: str) -> None:
    print(f"{NAME}: {line}", flush=True)


def _whole(least: int):
    def convert(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return convert


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return value


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{NAME}.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # No default: --classes NAME OUTPUT takes OUTPUT for a class; the parser then reports it.
    parser.add_argument("output", metavar="OUTPUT", help="folder; before --classes and --splits")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="[default: both]"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="classes to take [default: the 264 of the MLPerf subset]",
    )
    parser.add_argument(
        "--max-samples",
        type=_whole(1),
        metavar="N",
        help="of each split the N images with the smallest ids, which are random numbers "
        "[default: all]",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--mirror",
        metavar="URL",
        help=f"a server with v6/..., v5/..., train/ID.jpg, validation/ID.jpg [default: {CSV_URL} "
        f"and {IMAGE_URL}]",
    )
    source.add_argument(
        "--from-folder",
        metavar="DIR",
        help="files that exist here already, under these paths, or SPLIT/data/ID.jpg; they are "
        "linked, or copied to another disk",
    )
    parser.add_argument(
        "--jobs",
        type=_whole(1),
        default=32,
        metavar="N",
        help="images to download at a time [default: 32]",
    )
    parser.add_argument(
        "--retries", type=_whole(0), default=5, metavar="N", help="per file [default: 5]"
    )
    parser.add_argument(
        "--backoff",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="pause before the first retry, doubled for each further one [default: 1]",
    )
    parser.add_argument(
        "--max-missing",
        type=_whole(0),
        default=None,
        metavar="N",
        help="images of a split that may be missing on the server; more end the run "
        "[default: 1 in 1000, at least 10]",
    )
    parser.add_argument(
        "--ignore-space", action="store_true", help="start even if the disk is too small"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing openimages-mlperf.json",
    )
    return parser.parse_args(arguments)


def main(arguments=None) -> int:
    """Exit status: 0 complete; 1 incomplete, run again; 2 a mistake of the user's; 130 after
    Ctrl-C."""
    options = parse(arguments)
    csv_url, image_url = (CSV_URL, IMAGE_URL)
    try:
        if options.mirror:
            csv_url = image_url = checked_url(options.mirror, "--mirror")
        try:
            os.makedirs(options.output, exist_ok=True)
            lock = open(os.path.join(options.output, ".download.lock"), "w")
        except OSError as error:
            raise UserError(
                f"{options.output}: cannot be created or written: {error.strerror}"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"{options.output}: another download into this folder is running"
                ) from None
            return 0 if Download(options, csv_url, image_url, say).run() else 1
    except UserError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{NAME}: stopped; run the same command again to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
