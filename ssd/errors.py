"""The exceptions for a mistake of the user's, and how lines for people are printed."""

import sys
import unicodedata

# They turn the direction of what follows them, to the end of the line: of numbers too.
_TURNS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UserError(ValueError):
    """The user asked for something that cannot be done.

    The message is one line that names the thing and its value. The command line prints it without a
    traceback and exits with status 2; every other exception is our own defect and keeps its
    traceback.
    """


class UserErrorEverywhere(UserError):
    """A UserError that is raised on every rank, so that rank 0 alone says it."""


def print_line(line: str) -> None:
    """Prints a line for people to standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def breaks_lines(letter: str) -> bool:
    """Whether a character does something else to a line than to stand on it: controls, ends of
    lines, lone surrogates, and those that turn the direction of the text around them."""
    return letter in _TURNS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def on_a_line(text: str) -> str:
    """A name from a user's file as it may be printed, with escapes (\\n, \\u202e) for what breaks
    lines."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if breaks_lines(letter) else letter
        for letter in text
    )
