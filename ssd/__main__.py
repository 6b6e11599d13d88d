"""`python -m ssd COMMAND`. Imports only the module of the command, which imports MXNet if it needs
it."""

from __future__ import annotations

import sys

from ssd import ends

if __name__ == "__main__":
    ends.begin(" ".join([ends.program(), *sys.argv[1:2]]))  # before slow imports

import importlib

from ssd import __version__, commandline
from ssd.commandline import Parser
from ssd.config import nearest
from ssd.threads import use_all_cores

# Each has a module in ssd.commands, with _ for -, that defines HELP, add_arguments and run.
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "report",
    "score",
    "check-data",
    "plan",
    "summary",
    "show-data",
    "split-data",
    "pack-data",
    "make-shapes",
    "quantize",
    "benchmark",
)
# The commands that run the network.
NETWORK = ("train", "evaluate", "predict", "export", "show-data", "quantize", "benchmark")
DESCRIPTION = (
    "Trains, evaluates and scores single-shot detectors: an MLPerf benchmark on MXNet, DALI and "
    "Horovod."
)


def command_module(name: str):
    return importlib.import_module("ssd.commands." + name.replace("-", "_"))


def versions() -> str:
    """What --version prints. MXNet's is its package's, which needs no import of it; a container's
    may have none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"ssd {__version__}, MXNet {version('mxnet')}"
    except PackageNotFoundError:
        return f"ssd {__version__}"


def build_parser(commands=COMMANDS, flags: bool = True) -> Parser:
    """The parser of the named commands. flags: with their flags, whose help texts need the
    recipe."""
    parser = Parser(prog=ends.program(), description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=versions())
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in commands:
        module = command_module(name)
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            usage=getattr(module, "USAGE", None),
        )
        sub.set_defaults(run=module.run)
        if flags:
            module.add_arguments(sub)
            sub.set_defaults(known_flags=list(sub._option_string_actions))
    return parser


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in NETWORK:
        use_all_cores()  # before NumPy is imported; ssd.runtime.start does the rest
    if argv and argv[0] in COMMANDS:
        return commandline.run(build_parser(argv[:1]), argv)
    parser = build_parser(flags=False)
    if not argv:
        parser.print_help()
        return 2
    if not argv[0].startswith("-"):
        parser.error(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    return commandline.run(parser, argv)


if __name__ == "__main__":
    ends.run(main)
