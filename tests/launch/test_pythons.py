"""NVIDIA's container has Python 3.8: no newer syntax, no newer names, and the tests themselves
where one is set up."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for folder in ("ssd", "scripts", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
) + sorted(ROOT.glob("*.py"))
SCRIPT = ROOT / "scripts" / "test_python.sh"
# Of the standard library from 3.9 on: what a project like this one would reach for.
NEW_NAMES = {
    "removeprefix",
    "removesuffix",
    "is_relative_to",
    "with_stem",
    "hardlink_to",
    "lcm",
    "pairwise",
    "batched",
    "randbytes",
    "BooleanOptionalAction",
    "EncodingWarning",
    "unparse",
    "bit_count",
    "StrEnum",
    "to_thread",
    "TaskGroup",
    "ExceptionGroup",
    "add_note",
    "cancel_futures",
    "file_digest",
    "waitstatus_to_exitcode",
    "pidfd_open",
    "aclosing",
    "chdir_context",
    "get_annotations",
}
NEW_MODULES = {"zoneinfo", "graphlib", "tomllib"}
NEW_KEYWORDS = {
    ("zip", "strict"),
    ("dataclass", "slots"),
    ("dataclass", "kw_only"),
    ("shutdown", "cancel_futures"),
    ("TemporaryDirectory", "ignore_cleanup_errors"),
    ("rmtree", "onexc"),
    ("bisect", "key"),
    ("ArgumentParser", "exit_on_error"),
    ("Popen", "process_group"),
    ("run", "process_group"),
    ("md5", "usedforsecurity"),
    ("sha256", "usedforsecurity"),
    ("walk", "follow_symlinks"),
}
GENERIC = {
    "list",
    "dict",
    "tuple",
    "set",
    "frozenset",
    "type",
    "deque",
    "defaultdict",
    "OrderedDict",
    "Popen",
    "CompletedProcess",
    "PathLike",
    "Queue",
}
BEYOND_38 = {
    "tests/scripts/test_packaging.py": {"tomllib"}
}  # in a try, with pip's own reader instead


def new_things(tree):
    """What Python 3.8 does not have, of a parsed file: (line, what)."""
    annotations = set()
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                annotations.update(map(id, ast.walk(getattr(node, name))))
    lazy = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )
    for node in ast.walk(tree):
        runtime = not lazy or id(node) not in annotations
        if isinstance(node, ast.Attribute) and node.attr in NEW_NAMES:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in NEW_NAMES or (node.module, alias.name) == ("functools", "cache"):
                    yield node.lineno, alias.name
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "cache"
            and getattr(node.value, "id", "") == "functools"
        ):
            yield node.lineno, "functools.cache"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            for name in names:
                if name.split(".")[0] in NEW_MODULES:
                    yield node.lineno, name
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            for keyword in node.keywords:
                if (called, keyword.arg) in NEW_KEYWORDS:
                    yield node.lineno, f"{called}({keyword.arg}=)"
        if runtime and isinstance(node, ast.Subscript):
            name = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if name in GENERIC and isinstance(node.value, (ast.Name, ast.Attribute)):
                yield node.lineno, f"{name}[...] at run time"
        if runtime and isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            for side in (node.left, node.right):
                if (
                    isinstance(side, (ast.Dict, ast.DictComp))
                    or getattr(side, "value", 0) is None
                    or getattr(getattr(side, "func", None), "id", "") == "dict"
                    or getattr(side, "id", "")
                    in ("int", "str", "float", "bool", "list", "dict", "tuple")
                ):
                    yield node.lineno, "| of types or dicts"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_nothing_newer_than_38(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))
    allowed = BEYOND_38.get(str(path.relative_to(ROOT)), ())
    assert [thing for thing in new_things(tree) if thing[1] not in allowed] == []


@pytest.mark.parametrize(
    "code, found",
    [
        ("x = 'a'.removeprefix('b')", 1),
        ("import tomllib", 1),
        ("from functools import cache", 1),
        ("import functools\n@functools.cache\ndef f(): pass", 1),
        ("zip(a, b, strict=True)", 1),
        ("x = list[int]", 1),
        ("def f(x: list[int]): pass", 1),
        ("from __future__ import annotations\ndef f(x: list[int], y: int | None = None): pass", 0),
        ("from __future__ import annotations\nx: int | None = None", 0),
        ("isinstance(x, int | str)", 2),
        ("x = {} | other", 1),
        ("x = a | b", 0),
        ("x = list[1:2][0]", 1),
        ("mask = numbers[0] | 1", 0),
    ],
)
def test_the_check_finds_what_it_is_for(code, found):
    assert len(list(new_things(ast.parse(code)))) == found


@pytest.mark.parametrize(
    "code",
    [
        "match x:\n    case 1: pass",
        "try:\n    pass\nexcept* ValueError:\n    pass",
        "with (open('a') as a, open('b') as b):\n    pass",
    ],
)
def test_the_grammar_is_that_of_38(code):
    with pytest.raises(SyntaxError):
        ast.parse(code, feature_version=(3, 8))


def ready():
    done = subprocess.run(
        [str(SCRIPT), "3.8", "--ready"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode().strip()


def python38():
    """A Python 3.8 of this machine; skips without one."""
    if ready() == "no Python 3.8":
        pytest.skip("no Python 3.8 here")
    found = subprocess.run(
        [str(ROOT / "scripts/setup.sh"), "--python", "3.8"], stdout=subprocess.PIPE, check=True
    )
    return found.stdout.decode().strip()


def test_python38_compiles_everything():
    # In the interpreter's memory: nothing is written into the repository.
    code = (
        "import sys\nfor path in sys.stdin.read().splitlines(): compile(open(path, 'rb').read(), "
        "path, 'exec')\n"
    )
    done = subprocess.run(
        [python38(), "-c", code],
        input="\n".join(map(str, FILES)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_python38_alone_runs_what_needs_no_library(tmp_path):
    source = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
        "categories": [],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(source))
    done = subprocess.run(
        [
            python38(),
            "-B",
            str(ROOT / "prepare-json.py"),
            str(tmp_path / "a.json"),
            str(tmp_path / "b.json"),
        ],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert done.stdout == "%s: 1 images, 1 annotations, 0 categories\n" % (tmp_path / "b.json")


@pytest.mark.slow
def test_data_and_model_on_python38():
    # Of the slow ones; .ci/run runs the quick ones there.
    if ready() != "ready":
        pytest.skip(f"{ready()}: scripts/test_python.sh 3.8 makes one")
    done = subprocess.run(
        [
            str(SCRIPT),
            "3.8",
            "tests/test_config.py",
            "tests/test_mlperf.py",
            "tests/model",
            "tests/datasets/test_coco.py",
            "tests/data/test_bridge.py",
            "tests/data/test_graphs.py",
            "tests/data/test_pipeline.py",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
