"""The floors of the package: nothing imports upwards or in a circle, and files stay small enough to
read."""

import ast
import os
from typing import Dict, Set

import pytest

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ssd")
# The floor of each module, and of each folder where the module itself is not named.
FLOORS = {
    "ends": 0,
    "errors": 0,
    "flag_types": 0,
    "rules": 0,
    "sections": 0,
    "model_sections": 0,
    "setting": 0,
    "kinds": 0,
    "recipe_file": 0,
    "terminal": 0,
    "lock_wait": 0,
    "machine_load": 0,
    "mxnet_import": 0,
    "model.boxes": 0,
    "config": 1,
    "files": 1,
    "checkpoints": 2,
    "watchdog": 2,
    "commandline": 2,
    "drawing": 2,
    "fonts": 2,
    "matplotlib_cache": 2,
    "page_cache": 2,
    "progress_bar": 2,
    "threads": 2,
    "runtime": 2,
    "mlperf": 3,
    "submission": 4,
    "model": 3,
    "datasets": 4,
    "data": 5,
    "evaluation": 6,
    "report": 7,
    "tools": 8,
    "training": 8,
    "benchmark": 9,
    "commands": 10,
    "__main__": 11,
    "console": 12,
}
# Folders that may import less than what is below them: apart from their own modules, these alone.
ONLY = {
    "checkpoints": {"errors", "files"},
    "watchdog": {"errors", "files"},
    "datasets": {"errors", "files", "config", "sections", "flag_types"},
}


def floor(module):
    """Floor of 'ssd.datasets.coco' and the like."""
    name = module[len("ssd.") :]
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def part(module):
    """'datasets' of 'ssd.datasets.coco', 'errors' of 'ssd.errors'."""
    return module.split(".")[1]


def modules(root=ROOT):
    for folder, _, files in os.walk(root):
        for name in sorted(files):
            if name.endswith(".py") and name != "__init__.py":
                path = os.path.join(folder, name)
                yield "ssd." + os.path.relpath(path, root)[:-3].replace(os.sep, "."), path


def imports(path, known):
    """Those of the modules `known` that a file imports, at the top or inside a function, or names
    in a string: such is run by `python -m`."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found = {
                name
                for alias in node.names
                for name in (node.module, f"{node.module}.{alias.name}")
            } & known
            version = node.module == "ssd" and [one.name for one in node.names] == ["__version__"]
            assert found or version or node.module.split(".")[0] != "ssd", (
                f"{path}: {node.module} is no module"
            )
            yield from found
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            yield node.value


def graph(root=ROOT) -> Dict[str, Set[str]]:
    """What each module imports."""
    paths = dict(modules(root))
    return {module: set(imports(path, paths.keys())) - {module} for module, path in paths.items()}


def reached(links, start) -> Set[str]:
    """All that `start` leads to, itself only by a circle."""
    found, waiting = set(), [start]
    while waiting:
        for name in links[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def circles(links):
    """The modules that import each other by some way, each such group once."""
    after = {module: reached(links, module) for module in links}
    groups = {
        tuple(sorted({module} | {other for other in after[module] if module in after[other]}))
        for module in links
        if module in after[module]
    }
    return sorted(groups)


LINKS = graph()


@pytest.mark.parametrize("module", sorted(LINKS))
def test_nothing_imports_upwards(module):
    for name in LINKS[module]:
        assert floor(name) <= floor(module), f"{module} imports {name}"
        own = part(name) == part(module)
        assert own or part(module) not in ONLY or part(name) in ONLY[part(module)], (
            f"{module} imports {name}"
        )
        # __main__ imports a command by its name, which is no import that one sees here.
        assert part(name) != "commands", (
            f"{module} imports {name}, and a command is for __main__ alone"
        )


def test_nothing_imports_in_a_circle():
    found = circles(LINKS)
    assert not found, "these import each other: " + "; ".join(", ".join(group) for group in found)


def test_circles_are_seen(tmp_path):
    """Inside a function, through `python -m`, over three modules, and not where there is none."""
    for name, text in (
        ("a", "def f():\n    from ssd import b"),
        ("b", "import ssd.c"),
        ("c", "RUN = ('-m', 'ssd.a')"),
        ("d", "from ssd.a import f\nfrom ssd.e import g"),
        ("e", "g = 1"),
        ("deep/f", "from ssd.deep.g import x"),
        ("deep/g", "from ssd.deep import f"),
    ):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert circles(graph(str(tmp_path))) == [
        ("ssd.a", "ssd.b", "ssd.c"),
        ("ssd.deep.f", "ssd.deep.g"),
    ]


@pytest.mark.parametrize("module, path", list(modules()))
def test_files_stay_readable(module, path):
    with open(path, encoding="utf-8") as file:
        assert len(file.read().splitlines()) <= 500
