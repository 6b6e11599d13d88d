"""The exceptions for mistakes of the user, and how to print a user's text on one line."""

import sys
import unicodedata

# They change the direction of the text that follows, up to the end of the line; numbers too.
_DIRECTION_CONTROLS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UserError(ValueError):
    """The user asked for something that cannot be done.

    The message is one line that names the thing and its value. The command line prints it without a
    traceback and exits with status 2. Every other exception is a bug of ours and keeps its
    traceback.
    """


class UserErrorEverywhere(UserError):
    """A UserError that is raised on every rank, so that only rank 0 prints it."""


def log_line(line: str) -> None:
    """Print a message on standard error; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def breaks_lines(letter: str) -> bool:
    """Whether a character would disturb the line it is printed on: controls, line ends, lone
    surrogates, and those that change the direction of the text around them."""
    return letter in _DIRECTION_CONTROLS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def on_a_line(text: str) -> str:
    """A name from a user's file, ready to print: with escapes (\\n, \\u202e) for characters that
    break lines."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if breaks_lines(letter) else letter
        for letter in text
    )
