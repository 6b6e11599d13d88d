"""Settings that only some kinds of a part use: `momentum` belongs to the optimizers sgd and
nesterov, not to adam.

All settings in this module are flat: 'section.name' -> value. `only` maps a setting's name to (name
of the setting that chooses the kind, the kinds that use it).
"""

from __future__ import annotations

import json
from typing import Any, Dict, Tuple

from ssd.errors import UserError

Only = Dict[str, Tuple[str, Tuple[str, ...]]]


def follow(
    only: Only, values: Dict[str, Any], changes: Dict[str, Any], source: str
) -> Dict[str, Any]:
    """`changes`, and None for each of `values` that the kinds chosen by both together do not use.

    values: the settings before, as far as known. UserError, naming `source`, if `changes` give a
    value to a setting that the chosen kind does not use.
    """
    result = dict(changes)
    for name, (chooser, kinds) in only.items():
        together = {**values, **result}
        kind = together.get(chooser)
        if chooser not in together or kind in kinds or together.get(name) is None:
            continue
        if changes.get(name) is not None:
            raise UserError(
                f"{source} {name}: {_shown(changes[name])}, but {chooser} is {kind}, which does "
                "not use it"
            )
        result[name] = None
    return result


def check(only: Only, values: Dict[str, Any], source: str) -> None:
    """UserError if a setting that a chosen kind needs has no value. values: all settings."""
    for name, (chooser, kinds) in only.items():
        if values[name] is None and values[chooser] in kinds:
            raise UserError(f"{source} {name} is missing: {chooser} is {values[chooser]}")


def complete(only: Only, before: Dict[str, Any], saved: Dict[str, Any]) -> Dict[str, Any]:
    """`saved` settings of an older version, completed with later ones, whose values are what that
    version always did.

    before: values of these settings. A setting that no kind in `saved` uses is None.
    """
    result = {**before, **saved}
    for name, (chooser, kinds) in only.items():
        if name not in result and chooser in result and result[chooser] not in kinds:
            result[name] = None
    return result


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
