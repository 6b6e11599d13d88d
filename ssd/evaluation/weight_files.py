"""Finds the weight files named on a command line: files, globs, and folders of runs and
checkpoints."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import List, NamedTuple, Optional

from ssd.errors import UserError

_STEP = re.compile(r"step-(\d+)")


class WeightFile(NamedTuple):
    """path: a .params file or a checkpoint's parameters.npz. step: updates made; epoch: the same in
    epochs. Both are known for checkpoints only."""

    path: str
    step: Optional[int] = None
    epoch: Optional[float] = None

    @property
    def name(self) -> str:
        """The file's name; for a checkpoint the folder's, as its files all have the same name."""
        folder, name = os.path.split(os.path.abspath(self.path))
        return os.path.basename(folder) if name == "parameters.npz" else name


def find_weights(names, flag: str = "--weights") -> List[WeightFile]:
    """The files that `names` stand for, each once; by step if all have one, else in the order
    given.

    A name is a file; a pattern with * ? or [; a checkpoint's folder; a folder of checkpoints; a
    run's folder (its checkpoints, or without any its weights.params); or a folder of .params files.
    UserError for anything else.
    """
    paths = []
    for name in names:
        paths += [path for path in _expand(name, flag) if path not in paths]
    found = [WeightFile(path, *_step_and_epoch(path)) for path in paths]
    if all(one.step is not None for one in found):
        found.sort(key=lambda one: one.step)
    return found


def _expand(name: str, flag: str) -> List[str]:
    if os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        for pattern in (
            "parameters.npz",
            "step-*/parameters.npz",
            "checkpoints/step-*/parameters.npz",
            "weights.params",
            "*.params",
        ):
            inside = sorted(glob.glob(os.path.join(glob.escape(name), pattern)))
            if inside:
                return inside
        raise UserError(f"{flag} {name}: a folder without weights (no *.params, no checkpoints)")
    matching = [path for one in sorted(glob.glob(name)) for path in _expand(one, flag)]
    if not matching:
        raise UserError(
            f"{flag} {name}: no such file" + (" matches" if glob.has_magic(name) else "")
        )
    return matching


def _step_and_epoch(path: str):
    """(step, epoch) of weights, None if unknown."""
    folder = os.path.dirname(os.path.abspath(path))
    found = _STEP.fullmatch(os.path.basename(folder))
    if not found:
        return None, None
    step = int(found.group(1))
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            return step, step / json.load(file)["steps_per_epoch"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return step, None
