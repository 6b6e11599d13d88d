"""The metadata of a weight file: the network's settings, the normalisation of its input, its
classes.

The file holds it as a uint8 array named `metadata`, JSON in UTF-8:

    {"format": 1, "recipe": NAME, "settings": {section: {name: value}}, "category_ids": [...],
     "category_names": [...], "sizes": {...}}
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np

from ssd.config import Config, apply_values, as_dict, builtin_recipes, completed, load_recipe
from ssd.errors import UserError
from ssd.model.boxes.box_rules import sizes_of

METADATA = "metadata"  # no tensor has this name: their names have a dot
INT8 = "int8"  # the array of ranges, see ssd.model.int8
FORMAT = 1  # to be raised whenever an older program could misread a file
SECTIONS = ("model", "default_boxes", "detection")
INPUT = ("pixel_mean", "pixel_std", "antialias")  # of section data
BASE_RECIPE = "ssd-resnet34-coco"


@dataclass(frozen=True)
class WeightsInfo:
    """How weights were trained.

    config: the run's settings. A file keeps those of model, default_boxes, loss and detection, and
    of data those in INPUT; the others are taken from its recipe, or, if that is not built in, from
    ssd-resnet34-coco without its benchmark's rules.
    category_ids, category_names: of classes 1 to num_classes - 1, in this order, as in the training
    annotations.
    """

    config: Config
    category_ids: Tuple[int, ...]
    category_names: Tuple[str, ...]

    def __post_init__(self):
        classes = self.config.model.num_classes - 1
        assert len(self.category_ids) == len(self.category_names) == classes, (
            f"{len(self.category_ids)} category ids, {len(self.category_names)} names, {classes} "
            "classes"
        )


def pack_info(info: WeightsInfo) -> np.ndarray:
    """The array `metadata`: (bytes,) uint8; deterministic."""
    settings = as_dict(info.config)
    kept = {section: settings[section] for section in SECTIONS}
    kept["loss"] = settings["loss"]  # part of the detector too
    kept["data"] = {name: settings["data"][name] for name in INPUT}
    content = dict(
        format=FORMAT,
        recipe=info.config.recipe,
        settings=kept,
        category_ids=[int(number) for number in info.category_ids],
        category_names=[str(name) for name in info.category_names],
        sizes=sizes_of(info.config)._asdict(),
    )  # for readers that do not compute them
    return np.frombuffer(json.dumps(content, separators=(",", ":")).encode(), np.uint8)


def unpack_info(array: np.ndarray, path: str) -> WeightsInfo:
    """What `pack_info` packed. UserError naming the file `path` and what is wrong."""
    where = f"weights {path}: metadata"
    if array.dtype != np.uint8 or array.ndim != 1:
        raise UserError(f"{where}: not bytes but {array.dtype} of shape {array.shape}")
    try:
        content = json.loads(array.tobytes().decode())
    except (ValueError, RecursionError):
        raise UserError(
            f"{where}: not JSON; the file was changed or is another program's"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: {content!r:.60} instead of an object")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{where}: format {content.get('format')!r:.60}; this program knows {FORMAT}"
        )
    config = _config(content, where)
    ids, names = (content.get(name) for name in ("category_ids", "category_names"))
    for name, values, kind in (("category_ids", ids, int), ("category_names", names, str)):
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise UserError(f"{where}: {name}: {values!r:.60} is no list of {kind.__name__}")
        if len(values) != config.model.num_classes - 1:
            raise UserError(
                f"{where}: {len(values)} {name} for {config.model.num_classes} classes with the "
                "background"
            )
    if len(set(ids)) != len(ids):
        raise UserError(
            f"{where}: category_ids: {min(n for n in ids if ids.count(n) > 1)} occurs twice"
        )
    return WeightsInfo(config, tuple(ids), tuple(names))


def pack_ranges(ranges: dict) -> np.ndarray:
    """The array `int8`: (bytes,) uint8, JSON of {"format": 1, "ranges": {tensor: [least,
    greatest]}}."""
    content = dict(
        format=FORMAT,
        ranges={name: list(map(float, pair)) for name, pair in sorted(ranges.items())},
    )
    return np.frombuffer(json.dumps(content, separators=(",", ":")).encode(), np.uint8)


def unpack_ranges(array: np.ndarray, path: str) -> dict:
    """What `pack_ranges` packed. UserError naming the file `path`."""
    try:
        content = json.loads(array.astype(np.uint8).tobytes().decode())
        ranges = {
            str(name): (float(least), float(greatest))
            for name, (least, greatest) in content["ranges"].items()
        }
        good = content["format"] == FORMAT and all(
            -math.inf < least <= greatest < math.inf for least, greatest in ranges.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise UserError(
            f"weights {path}: {INT8}: no ranges that quantize has written; the file was changed or "
            "is another program's"
        )
    return ranges


def _config(content: Any, where: str) -> Config:
    recipe, settings = content.get("recipe"), content.get("settings")
    if (
        not isinstance(recipe, str)
        or not isinstance(settings, dict)
        or any(not isinstance(part, dict) for part in settings.values())
    ):
        raise UserError(f"{where}: no recipe's name and settings by section")
    known = recipe in builtin_recipes()
    # No benchmark's rules are known for a recipe that is not built in.
    base = load_recipe(recipe) if known else load_recipe(BASE_RECIPE).with_values(rules="none")
    values = {"data.antialias": True}  # what every version did before it was a setting
    values.update(
        (f"{section}.{name}", value)
        for section, part in completed(settings, SECTIONS).items()
        for name, value in part.items()
    )
    if not known:  # the file must hold all settings except those that `completed` adds
        wanted = [
            f"{section}.{field.name}"
            for section in SECTIONS
            for field in dataclasses.fields(getattr(base, section))
            if field.default is dataclasses.MISSING
        ]
        missing = [
            name for name in wanted + [f"data.{name}" for name in INPUT] if name not in values
        ]
        if missing:
            raise UserError(f"{where}: {missing[0]} is missing")
    return dataclasses.replace(apply_values(base, values, where), recipe=recipe)
