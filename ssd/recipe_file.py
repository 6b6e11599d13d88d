"""Reading a recipe's YAML; repeated keys are refused."""

from __future__ import annotations

from typing import Any, Dict, Set

from ssd.errors import UserError


def read_sections(path: str) -> Dict[str, Any]:
    """The mapping in a YAML file. UserError naming the file, if it cannot be read, is not YAML,
    holds something else, or repeats a key, of which YAML's readers silently take the last.
    """
    import yaml

    try:
        with open(path, encoding="utf-8-sig") as file:
            node = yaml.compose(file, Loader=yaml.SafeLoader)
        _refuse_twice(node, path, "", set())
        loader = yaml.SafeLoader("")
        content = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read: {error.strerror}") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: not UTF-8, or 2020-13-45 for a date
        raise UserError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: sections are needed, not {type(content).__name__}")
    return content


def _refuse_twice(node, path: str, section: str, seen: Set[int]) -> None:
    """UserError, with both line numbers, for a key that a mapping, or one inside it, holds twice.
    seen: nodes already checked, as an alias (*name) repeats them."""
    import yaml

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _refuse_twice(part, path, section, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: Dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = f"{section}.{key.value}" if section else str(key.value)
        if isinstance(key, yaml.ScalarNode):
            if key.value in lines:
                raise UserError(
                    f"recipe {path}: {name} occurs twice, in lines {lines[key.value]} and {line}"
                )
            lines[key.value] = line
        _refuse_twice(value, path, name, seen)
