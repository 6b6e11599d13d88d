"""The table of commands, and the modules of the commands."""

import os
import subprocess
import sys

from ssd import commands
from ssd.__main__ import COMMANDS, build_parser, command_module
from tests.training.tiny import ROOT


def test_each_module_is_a_command():
    files = {name[:-3] for name in os.listdir(commands.__path__[0]) if name.endswith(".py")} - {
        "__init__"
    }
    assert files == {name.replace("-", "_") for name in COMMANDS} and len(COMMANDS) == len(files)
    for name in COMMANDS:
        module = command_module(name)
        assert module.HELP and callable(module.add_arguments) and callable(module.run)
        assert f"    {name}" in build_parser([name], flags=False).format_help()


def test_a_command_imports_no_other():
    code = (
        "import sys; from ssd.__main__ import main\ntry:\n    main(['plan', '--help'])\nexcept "
        "SystemExit:\n"
        "    sys.exit(sorted(name for name in sys.modules if name.startswith('ssd.commands.'))"
        " != ['ssd.commands.plan'])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode
        == 0
    )
