"""Text laid out in the columns of a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata


def columns(text: str) -> int:
    """How many columns a line takes: Chinese, Japanese and Korean letters take two, combining
    accents none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, to `width` columns."""
    return text + " " * (width - columns(text))


def fitted(text: str, hanging: int) -> str:
    """The text for standard output: on a terminal, lines that are too wide are broken at spaces,
    and what follows begins in column `hanging` (from 0). Elsewhere unchanged, for scripts."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or width < hanging + 20:
        return text
    lines = []
    for line in text.split("\n"):
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [line]
    return "\n".join(lines)
