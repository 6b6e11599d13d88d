"""docs/launch.md against the scripts: every variable in its table, every file and flag that it
names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scripts.package_submission import build_parser as package_parser
from ssd.__main__ import build_parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
SCRIPTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in [
        ROOT / "run.sub",
        ROOT / "run_with_docker.sh",
        ROOT / "run_and_time.sh",
        *sorted(ROOT.glob("config_*.sh")),
        *sorted((ROOT / "scripts").glob("*.sh")),
    ]
}
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines()
]


def table():
    rows = TEXT[TEXT.index("## Every variable") :].splitlines()
    return {
        name
        for row in rows
        if row.startswith("| `")
        for name in re.findall(r"`([A-Z0-9_]+)`", row.split("|")[1])
    }


def test_every_variable_of_the_configs_is_in_the_table():
    exported = {
        name
        for script, text in SCRIPTS.items()
        if script.startswith("config_")
        for name in re.findall(r"^export ([A-Z0-9_]+)=", text, re.M)
    }
    assert len(exported) > 10 and exported - table() == set()


@pytest.mark.parametrize("script", ["run.sub", "run_with_docker.sh", "run_and_time.sh"])
def test_every_variable_that_a_script_wants_is_in_the_table(script):
    wanted = set()
    for names in re.findall(r"for name in ((?:[A-Z0-9_]+|\\|\s)+?)(?:\\?\$|;)", SCRIPTS[script]):
        wanted |= set(re.findall(r"[A-Z0-9_]+", names))
    wanted |= set(re.findall(r"^([A-Z][A-Z0-9_]+)=\$\{\1:-", SCRIPTS[script], re.M))
    if script == "run_and_time.sh":
        wanted |= set(re.findall(r'^optional \S+ "\$\{([A-Z_]+):-', SCRIPTS[script], re.M))
    wanted -= {"OMP_NUM_THREADS"}  # under OMP_*
    assert len(wanted) > 4 and wanted - table() == set()


def test_no_variable_of_the_table_is_made_up():
    text = "\n".join(SCRIPTS.values())
    assert [name for name in sorted(table()) if not re.search(rf"\b{name}\b", text)] == []


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"(?:\./)?((?:scripts/)?[a-z_A-Z0-9-]+\.(?:sh|sub|py))\b", TEXT))
    assert {"run.sub", "config_PG.sh", "scripts/package_submission.py"} <= named
    missing = [
        name
        for name in named
        if not (ROOT / name).is_file() and not (ROOT / "scripts" / name).is_file()
    ]
    assert missing == []


def test_the_commands_parse():
    parsed = []
    for line in COMMANDS:
        for start, parser in (
            ("python3 -m ssd ", build_parser()),
            (".venv/bin/python scripts/package_submission.py ", package_parser()),
        ):
            if start in line:
                arguments = shlex.split(line[line.index(start) + len(start) :].split(" > ")[0])
                parser.parse_args(arguments)
                parsed.append(arguments[0])
    assert parsed == ["make-shapes", "check-data", "--describe", "--output"]
