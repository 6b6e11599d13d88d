"""`python -m ssd plan` in tests."""

import json

from ssd.commandline import Parser
from ssd.commandline import run as run_command
from ssd.commands import plan as plan_command


def command(*arguments):
    """Runs `python -m ssd plan ARGUMENTS` in this process; returns its exit status."""
    parser = Parser(prog="python -m ssd")
    sub = parser.add_subparsers(dest="command").add_parser("plan")
    plan_command.add_arguments(sub)
    sub.set_defaults(run=plan_command.run)
    return run_command(parser, ["plan", *map(str, arguments)])


def planned(capsys, *arguments):
    """The plan that it prints with --json."""
    assert command(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)
