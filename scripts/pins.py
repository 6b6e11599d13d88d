#!/usr/bin/env python3
"""Print the pinned requirements of pyproject.toml, for scripts/setup.sh.

    pins.py requirements [--extra NAME]... [--only-extras] [--without PROJECT]...
    pins.py version PROJECT

Needs the standard library alone (and pip's own TOML reader before Python 3.11).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.8 to 3.10
    from pip._vendor import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def project_name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;@]", requirement.strip(), maxsplit=1)[0].lower()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("requirements")
    listing.add_argument("--extra", action="append", default=[])
    listing.add_argument("--only-extras", action="store_true")
    listing.add_argument("--without", action="append", default=[])
    version = commands.add_parser("version")
    version.add_argument("project")
    args = parser.parse_args()

    with PYPROJECT.open("rb") as file:
        project = tomllib.load(file)["project"]

    if args.command == "version":
        pins = [line for line in project["dependencies"] if project_name(line) == args.project]
        if len(pins) != 1 or ";" in pins[0] or "==" not in pins[0]:
            print(f"pins.py: {PYPROJECT} has no single pin of {args.project}", file=sys.stderr)
            return 1
        print(pins[0].split("==")[1].strip())
        return 0

    lines = [] if args.only_extras else list(project["dependencies"])
    for extra in args.extra:
        lines += project["optional-dependencies"][extra]
    for line in lines:
        if project_name(line) not in args.without:
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
