"""`ssd COMMAND`, the command that pip installs: `python -m ssd COMMAND` from any folder."""

from __future__ import annotations

import sys

from ssd import ends


def main() -> None:
    """Runs the command line of this process and ends it."""
    ends.begin(" ".join([ends.program(), *sys.argv[1:2]]))  # before anything that takes time
    from ssd import __main__

    ends.run(__main__.main)
