"""The pages against the repository: links, commands, flags, tables of names. No command is run."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ssd import model_sections, sections
from ssd.__main__ import COMMANDS, build_parser
from ssd.config import SECTIONS, builtin_recipes
from ssd.rules import RULES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
README_WORDS = 900


@functools.lru_cache(maxsize=None)
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Without blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@functools.lru_cache(maxsize=None)
def anchors(path: Path):
    """What GitHub calls the headings of a page."""
    found = []
    for line in re.sub(r"^```.*?^```$", "", text_of(path), flags=re.M | re.S).splitlines():
        if re.match(r"#+ ", line):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
            found.append(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    page, broken = ROOT / name, []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or ROOT not in [file, *file.parents]:
            broken.append(target)
        elif anchor and anchor not in anchors(file):
            broken.append(target)
    assert broken == []


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").split()) <= README_WORDS


def test_every_page_has_one_line_in_the_index():
    index = ROOT / "docs" / "README.md"
    rows = re.findall(r"^\| \[[^]]*\]\(([^)#]+)\) \|", text_of(index), re.M)
    listed = sorted((index.parent / row).resolve() for row in rows)
    assert listed == [page for page in PAGES if page.parent != ROOT and page != index]


# ---- commands


def commands_of(text: str):
    """The lines of a page's blocks of code: continued ones joined, no prompts, no comments."""
    lines = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            lines.append(re.sub(r"\s#.*$", "", re.sub(r"^\$ ", "", line)).strip())
    return lines


def words_of(line: str):
    """A line's words up to a pipe or a redirection; none where it is not one of a shell."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    ends = [number for number, word in enumerate(words) if word in ("|", ">", "&&", ";", "2>", "&")]
    return words[: min(ends)] if ends else words


def used(text: str):
    """(command, flags) of each use of the command line in blocks and spans of code."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    for line in commands_of(text) + spans:
        match = re.search(r"(?:^|[ /])(?:python3? -m ssd|ssd) ([a-z][a-z-]*)(?= |$)(.*)$", line)
        # `ssd` alone is also an image's and a benchmark's name.
        if match and (" -m ssd " in line or line.startswith("ssd ")):
            words = words_of(match.group(2))
            yield match.group(1), [word.split("=")[0] for word in words if word.startswith("--")]


@functools.lru_cache(maxsize=None)
def flags_of(command: str):
    [sub] = [part.choices[command] for part in build_parser((command,))._actions if part.choices]
    return set(sub._option_string_actions)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_flag_exists(name):
    unknown = []
    for command, flags in used(text_of(ROOT / name)):
        if command not in COMMANDS:
            unknown.append(command)
        else:
            unknown += [f"{command} {flag}" for flag in flags if flag not in flags_of(command)]
    assert unknown == []


HAND_ON = (
    "scripts/quickstart.sh",
    "run_and_time.sh",
    "scripts/test.sh",
    "scripts/test_python.sh",
)


@functools.lru_cache(maxsize=None)
def reached(path: Path):
    """A script and all files that it names by import, in a string or, in a shell, by path."""
    found, waiting = {path}, [path]
    while waiting:
        text = text_of(waiting.pop())
        names = re.findall(r"\b(?:ssd|benchmarks)(?:\.\w+)+", text)
        for package, inside in re.findall(r"from ([\w.]+) import (\([^)]*|.*)", text):
            names += [f"{package}.{name}" for name in re.findall(r"\w+", inside)]
        # prepare-json.py chooses between these two by a name.
        names += [f"ssd.datasets.{name}" for name in re.findall(r'"(\w+_command)"', text)]
        paths = [name.replace(".", "/") + ".py" for name in names]
        if path.suffix == ".sh":
            paths += [f"scripts/{name}" for name in re.findall(r"\b[\w-]+\.sh\b", text)]
        for file in (ROOT / name for name in paths):
            if file.is_file() and file not in found:
                found.add(file)
                waiting.append(file)
    return found


@functools.lru_cache(maxsize=None)
def has_flag(script: str, flag: str) -> bool:
    """Whether the text of a script or of what it imports has a flag; some take those of `train`
    too. Its parser is not built: some import MXNet for it."""
    texts = [text_of(file) for file in reached(ROOT / script)]
    return flag in flags_of("train") or any(
        re.search(re.escape(flag) + r"(?![\w-])", text) for text in texts
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_script_exists_and_knows_its_flags(name):
    missing = []
    for line in commands_of(text_of(ROOT / name)):
        words = words_of(line)
        for number, word in enumerate(words):
            match = re.match(r"(?:\./)?((?:scripts/|benchmarks/)?[\w-]+\.(?:py|sh|sub))$", word)
            if not match or (
                "/" in word and not word.startswith(("./", "scripts/", "benchmarks/"))
            ):
                continue
            script = match.group(1)
            if not (ROOT / script).is_file():
                missing.append(script)
            elif script not in HAND_ON:  # to training or to pytest
                flags = [
                    other.split("=")[0]
                    for other in words[number + 1 :]
                    if re.match(r"--[a-z]", other)
                ]
                missing += [f"{script} {flag}" for flag in flags if not has_flag(script, flag)]
            break
    assert missing == []


def test_the_page_of_commands_has_all_of_them():
    text = text_of(ROOT / "docs" / "commands.md")
    rows = re.findall(r"^\| `([a-z-]+)[^|]*` \|", text[: text.index("## Scripts")], re.M)
    assert sorted(rows) == sorted(COMMANDS)
    examples = [
        command for command, _ in used("\n".join(re.findall(r"^```\n.*?^```$", text, re.M | re.S)))
    ]
    assert set(examples) == set(COMMANDS)
    listed = subprocess.run(
        ["git", "ls-files", "scripts/*.py", "*.sh", "*.sub", "prepare-json.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no git checkout: its files cannot be listed")
    scripts = [name for name in listed.stdout.split() if not name.startswith(("config_", "tests/"))]
    assert len(scripts) > 10
    assert [name for name in scripts if f"`{name}" not in text] == []


def test_every_recipe_that_is_named_exists():
    known = set(builtin_recipes())
    for page in PAGES:
        named = re.findall(r"--recipe ([\w-]+)(?![\w./-])", text_of(page))
        assert set(named) - known - {"NAME", "FILE", "RECIPE"} == set(), page


def test_every_section_of_a_recipe_is_listed():
    text = text_of(ROOT / "docs" / "commands.md")
    rows = re.findall(
        r"^\| `(\w+)` \|", text[text.index("| section |") : text.index("## What a run")], re.M
    )
    assert rows == list(SECTIONS)


# ---- docs/design.md

DESIGN = text_of(ROOT / "docs" / "design.md")


def test_every_path_of_the_design_exists():
    named = re.findall(r"`((?:ssd|tests|scripts|benchmarks)/[\w./-]+)`", DESIGN)
    assert len(named) > 50
    assert [name for name in named if not (ROOT / name).exists() and "COMMAND" not in name] == []
    listed = re.findall(r"^(ssd/\S+) |  (ssd/\S+) ", DESIGN, re.M)
    assert len(listed) > 15
    assert [name for pair in listed for name in pair if name and not (ROOT / name).exists()] == []


def test_the_layers_are_those_of_the_layout_test():
    tree = ast.parse((ROOT / "tests" / "test_layout.py").read_text(encoding="utf-8"))
    [floors] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "FLOORS"
    ]
    rows = re.findall(r"^\| (\d+) \| (`.*`) \|$", DESIGN, re.M)
    assert {
        name: int(floor) for floor, names in rows for name in re.findall(r"`([\w.]+)`", names)
    } == floors


def first_cells(heading: str):
    """The names in the first column of the table under a heading."""
    part = DESIGN[DESIGN.index(f"### {heading}\n") :]
    part = part[: part.index("\n##", 5)]
    return [
        name
        for row in re.findall(r"^\| (`[^|]*`) \|", part, re.M)
        for name in re.findall(r"`([^`]+)`", row)
    ]


@pytest.mark.parametrize(
    "heading, table",
    [
        ("Backbone", "BACKBONES"),
        ("Features", "FEATURES"),
        ("Head", "HEADS"),
        ("Default boxes", "BOX_RULES"),
        ("Matching", "MATCHERS"),
        ("Loss", "LOSSES"),
        ("Detections", "DETECTIONS"),
    ],
)
def test_every_kind_of_a_seam_is_listed(heading, table):
    assert sorted(first_cells(heading)) == sorted(getattr(model_sections, table))


def test_every_optimizer_schedule_and_warmup_is_listed():
    part = DESIGN[DESIGN.index("### Optimizer and schedule") : DESIGN.index("### Rules of the log")]
    for setting, table in (
        ("optimizer", "OPTIMIZERS"),
        ("schedule", "SCHEDULES"),
        ("warmup", "WARMUPS"),
    ):
        [kinds] = re.findall(rf"^\| `training\.{setting}` \| ([^|]*) \|", part, re.M)
        assert tuple(re.findall(r"`(\w+)`", kinds)) == getattr(sections, table)


def test_the_tables_are_where_the_design_says():
    named = re.findall(r"`([A-Z_]{4,})` (?:in|of) `(ssd/[\w/]+\.py)`", DESIGN)
    assert len(named) > 10
    for table, path in named:
        assert re.search(
            rf"^(?:\w+, )*{table}\b.*=", (ROOT / path).read_text(encoding="utf-8"), re.M
        ), (
            table,
            path,
        )
    assert {"ssd-1.1.0", "retinanet-2.0.0", "retinanet-5.1.0", "none"} <= set(RULES)
