"""The program of a ScoringProcess: scores a file, prints the numbers as JSON, and ends as soon as
its parent does."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading

from ssd.errors import UserError


def main(argv=None) -> int:
    """Returns the exit status, 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd.evaluation.scoring_child", allow_abbrev=False
    )
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="COCO instances file, or a file of ScoredSet.write",
    )
    parser.add_argument(
        "--detections", required=True, metavar="FILE", help="the arrays of Detections.to_npz"
    )
    args = parser.parse_args(argv)
    try:
        from ssd.evaluation.detections import Detections
        from ssd.evaluation.scoring import score_detections

        print(json.dumps(score_detections(args.annotations, Detections.from_npz(args.detections))))
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def end_with_parent() -> None:
    """End this process when the other end of its standard input closes: however the parent ends,
    kill -9 included.

    Linux can send a signal at the parent's death (PR_SET_PDEATHSIG), but sends it already when the
    thread that started this process ends.
    """

    def wait():
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
