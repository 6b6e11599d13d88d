"""The floors of the package: nothing imports upwards, and files stay small enough to read at a sitting."""
import ast
import os

import pytest

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ssd")
# The floor of each module, and of each folder where the module itself is not named.
FLOORS = {"errors": 0, "rules": 0, "sections": 0, "kinds": 0, "config": 1, "files": 1, "checkpoints": 2, "watchdog": 2,
          "commandline": 2, "drawing": 2, "page_cache": 2, "progress_bar": 2, "threads": 2, "runtime": 2, "mlperf": 3,
          "submission": 4, "model.boxes.ssd_sizes": 0, "model.boxes.formats": 0,
          "model": 3, "datasets": 4, "data": 5, "evaluation": 6, "report": 7, "tools": 8,
          "training": 8, "benchmark": 9, "commands": 10, "__main__": 11}


def floor(module):
    """Floor of 'ssd.datasets.coco' and the like."""
    name = module[len("ssd."):]
    return FLOORS[name] if name in FLOORS else FLOORS[name.split(".")[0]]


def modules():
    for folder, _, files in os.walk(ROOT):
        for name in sorted(files):
            if name.endswith(".py") and name != "__init__.py":
                path = os.path.join(folder, name)
                yield "ssd." + os.path.relpath(path, ROOT)[:-3].replace(os.sep, "."), path


def imports(path):
    """Names of this package that a file imports, at the top or inside a function."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ssd."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ssd":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = os.path.exists(os.path.join(ROOT, *full.split(".")[1:]) + ".py")
                yield full if is_module else node.module


@pytest.mark.parametrize("module, path", list(modules()))
def test_nothing_imports_upwards(module, path):
    for name in imports(path):
        assert floor(name) <= floor(module), f"{module} imports {name}"


@pytest.mark.parametrize("module, path", list(modules()))
def test_files_stay_readable(module, path):
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) <= 360
    assert max(map(len, lines), default=0) <= 120
