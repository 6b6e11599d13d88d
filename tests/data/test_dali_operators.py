"""docs/dali.md lists every DALI operator and argument of the code: nothing else may be used."""

import ast
import os
import re

import pytest
from nvidia.dali import fn

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "ssd", "data")


def listed():
    """{'fn.hsv': {'hue', 'saturation'}, ...} from the table of docs/dali.md."""
    with open(os.path.join(ROOT, "docs", "dali.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| `((?:fn|math)\.[\w.]+)` \|([^|]*)\|", file.read(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {name: set(re.findall(r"`(\w+)`", arguments)) for name, arguments in rows}


def dotted(node):
    """'fn.readers.coco' for the syntax tree of that name, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    before = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return before and f"{before}.{node.attr}"


def used(source):
    """[(operator, argument)] of DALI's calls in `source`; `**name` stands for the dict(...) given
    that name."""
    tree = ast.parse(source)
    if not any(
        isinstance(node, ast.ImportFrom) and node.module == "nvidia.dali" for node in ast.walk(tree)
    ):
        return []
    found = []
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        dictionaries = {
            node.targets[0].id: [keyword.arg for keyword in node.value.keywords]
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
            and dotted(node.value.func) == "dict"
        }
        for call in [node for node in ast.walk(function) if isinstance(node, ast.Call)]:
            name = dotted(call.func) or ""
            if name.startswith(("fn.", "math.")):
                found.append((name, None))
                for keyword in call.keywords:
                    if keyword.arg:
                        found.append((name, keyword.arg))
                    else:
                        assert (
                            isinstance(keyword.value, ast.Name) and keyword.value.id in dictionaries
                        ), (
                            f"{name}(**{ast.dump(keyword.value)}): not a dict(...) of the same "
                            "function"
                        )
                        found += [(name, argument) for argument in dictionaries[keyword.value.id]]
    return found


def test_only_listed_operators_and_arguments_are_used():
    table, seen = listed(), set()
    for name in sorted(os.listdir(DATA)):
        if name.endswith(".py"):
            with open(os.path.join(DATA, name), encoding="utf-8") as file:
                for operator, argument in used(file.read()):
                    assert operator in table, f"{name}: {operator} is not in docs/dali.md"
                    assert argument is None or argument in table[operator], (
                        f"{name}: {operator}({argument}=) is not in docs/dali.md"
                    )
                    seen |= {(operator, argument)}
    assert seen == {
        (operator, argument)
        for operator, arguments in table.items()
        for argument in {None, *arguments}
    }


def test_the_walk_sees_what_it_should():
    source = """
from nvidia.dali import fn, math
def graph(images):
    more = dict(two=2)
    return fn.readers.thing(math.clamp(images, 0, 1), one=1, **more)
"""
    assert sorted(used(source), key=str) == sorted(
        [
            ("fn.readers.thing", None),
            ("fn.readers.thing", "one"),
            ("fn.readers.thing", "two"),
            ("math.clamp", None),
        ],
        key=str,
    )
    assert used("import math\ndef area(x):\n    return math.sqrt(x)") == []
    with pytest.raises(AssertionError, match="not a dict"):
        used(
            "from nvidia.dali import fn\ndef graph(images, more):\n    return fn.thing(images, "
            "**more)"
        )


def test_the_table_knows_no_operator_that_dali_does_not():
    for operator in listed():
        node = fn
        for part in operator.split(".")[1:] if operator.startswith("fn.") else ():
            node = getattr(node, part)
