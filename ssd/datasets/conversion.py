"""What `prepare-json.py --from KIND` has in common for all kinds: progress, checks of the output,
the limit on bad entries."""

from __future__ import annotations

import os
import time

from ssd.datasets.annotation_checks import Problems
from ssd.errors import UserError

# With more bad entries than this share of all, the input is assumed to be something else.
MAX_BAD = 0.01
_SECONDS = 10  # between two progress lines


class ProgressLines:
    """Progress lines every so often: called with (done, of), it reports `WHAT: DONE of OF UNIT`."""

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
    """Reports what was left out, one line per kind; UserError if it is more than the share max_bad
    of `of` entries. what: name of the entries, plural."""
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
