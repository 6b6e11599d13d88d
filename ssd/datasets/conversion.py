"""What `prepare-json.py --from KIND` has in common for all kinds: flag types, messages, the limit
on bad entries."""

from __future__ import annotations

import os
import sys
import time

from ssd.datasets.annotation_checks import Problems
from ssd.errors import UserError

# : More bad entries than this share of all, and the input is taken for something else than it
# should be.
MAX_BAD = 0.01
_SECONDS = 10  # between two lines of progress


def whole(text: str) -> int:
    """A flag's value: 1 or more. ValueError."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def share(text: str) -> float:
    """A flag's value in [0, 1]. ValueError."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


whole.__name__, share.__name__ = (
    "whole number from 1",
    "share from 0 to 1",
)  # argparse's word for a bad value


def say(line: str) -> None:
    """Writes a line to standard error."""
    print(line, file=sys.stderr, flush=True)


class Lines:
    """A line of progress now and then: called with (done, of), it reports `WHAT: DONE of OF
    UNIT`."""

    def __init__(self, report, what, unit):
        self._report, self._what, self._unit, self._last = report, what, unit, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._last >= _SECONDS:
            self._last = time.monotonic()
            self._report(f"{self._what}: {done} of {of} {self._unit}")


def counted(number: int, what: str) -> str:
    """'1 frame', '2 frames'."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def refuse_bad(problems: Problems, of: int, what: str, max_bad: float, report) -> None:
    """Reports what was left out, one line a kind; UserError where it is more than the share max_bad
    of `of` entries, which `what` names in the plural."""
    count = sum(problems.counts.values())
    if count > max_bad * of:
        raise UserError(
            f"{problems.summary()}: {count} of {of} {what}, and --max-bad is {max_bad:g}"
        )
    for line in problems.lines():
        report(f"left out: {line}")


def check_output(output, overwrite: bool) -> None:
    """UserError for an output that exists already and must not be replaced."""
    if os.path.lexists(output) and not (
        overwrite and os.path.isfile(output) and not os.path.islink(output)
    ):
        raise UserError(
            f"output {output} exists already"
            + (" and is no regular file" if overwrite else "; --overwrite replaces it")
        )
