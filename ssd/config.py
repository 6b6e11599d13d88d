"""The settings of a run: one tree of frozen dataclasses, read from a recipe file and then from
flags.

A recipe is a YAML file with one section per dataclass of ssd.sections. `extends: NAME` takes every
value of another recipe first, so that a small recipe shows only what it changes. Flags override
recipes. Every value is checked when it is read; an unknown name is refused, with the nearest known
one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import operator
import os
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from ssd import kinds
from ssd.errors import UserError
from ssd.model.boxes import ssd_sizes
from ssd.model_sections import DefaultBoxConfig, DetectionConfig, LossConfig, ModelConfig
from ssd.recipe_file import read_sections
from ssd.rules import RULES
from ssd.sections import (
    AugmentationConfig,
    DataConfig,
    EvaluationConfig,
    RecoveryConfig,
    RunConfig,
    TrainingConfig,
)
from ssd.setting import ImageSize

RECIPE_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")


@dataclass(frozen=True)
class Config:
    """All settings of a run, by section."""

    recipe: str
    model: ModelConfig
    default_boxes: DefaultBoxConfig
    loss: LossConfig
    detection: DetectionConfig
    augmentation: AugmentationConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    run: RunConfig
    recovery: RecoveryConfig

    def with_values(self, **values) -> Config:
        """A copy with other settings, by their (unique) names, checked like a recipe's."""
        return apply_values(
            self, {sectioned(name): value for name, value in values.items()}, "setting"
        )


SECTIONS = {
    name: kind
    for name, kind in typing.get_type_hints(Config).items()
    if dataclasses.is_dataclass(kind)
}
SETTINGS = {
    field.name: (section, field)
    for section, kind in SECTIONS.items()
    for field in dataclasses.fields(kind)
}
_TYPES = {
    (section, name): hint
    for section, kind in SECTIONS.items()
    for name, hint in typing.get_type_hints(kind).items()
}
_ONLY, _BEFORE = (
    {
        f"{section}.{name}": field.metadata[key]
        for name, (section, field) in SETTINGS.items()
        if field.metadata[key] is not None
    }
    for key in ("only", "before")
)
assert len(SETTINGS) == len(_TYPES), (
    "the names of settings are unique across sections, since flags have no section"
)


def sectioned(name: str) -> str:
    """'batch_size' -> 'training.batch_size'."""
    return f"{SETTINGS[name][0]}.{name}" if name in SETTINGS else name


def nearest(name: str, known, cutoff: float = 0.5) -> str:
    """'; did you mean X?' for the most similar known name, or ''. cutoff: least similarity
    [0..1]."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, or UserError naming `where`."""
    origin = getattr(kind, "__origin__", None)
    if origin is typing.Union:  # Optional
        return None if value is None else _convert(kind.__args__[0], value, where)
    if kind is ImageSize:
        return _image_size(value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: a list is needed, not {value!r}")
        items = kind.__args__
        if len(items) == 2 and items[1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise UserError(f"{where}: {len(items)} values are needed, not {value!r}")
        return tuple(_convert(item, part, where) for item, part in zip(items, value))
    if (kind is bool and isinstance(value, bool)) or (kind is str and isinstance(value, str)):
        return value
    if (
        kind in (int, float)
        and isinstance(value, (int, float, str))
        and not isinstance(value, bool)
    ):
        try:  # YAML 1.1 reads 1e-4 as a string
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    raise UserError(f"{where}: {names[kind]} is needed, not {value!r}")


def _image_size(value: Any, where: str) -> ImageSize:
    """One number, 'HEIGHTxWIDTH', or both numbers."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    sides = list(sides) if isinstance(sides, (list, tuple)) else [sides]
    sides = sides * 2 if len(sides) == 1 else sides
    try:
        return ImageSize(
            *[
                _convert(int, side.strip() if isinstance(side, str) else side, where)
                for side in sides
            ]
        )
    except (TypeError, UserError):
        raise UserError(
            f"{where}: one whole number or HEIGHTxWIDTH is needed, not {value!r}"
        ) from None


def _check(metadata: Dict[str, Any], value: Any, where: str) -> None:
    parts = () if value is None else value if isinstance(value, tuple) else (value,)
    for part in parts:
        if metadata["choices"] and part not in metadata["choices"]:
            raise UserError(
                f"{where}: {part!r} is not one of {', '.join(metadata['choices'])}"
                f"{nearest(str(part), metadata['choices'])}"
            )
        for name, phrase, breaks in (
            ("minimum", "at least", operator.lt),
            ("above", "above", operator.le),
            ("maximum", "at most", operator.gt),
        ):
            limit = metadata[name]
            if limit is not None and breaks(part, limit):
                raise UserError(f"{where}: {part!r} must be {phrase} {limit}")


def checked(name: str, value: Any, where: str) -> Any:
    """`value` converted to the type of setting `name` ('section.name') and checked; UserError
    naming `where`."""
    section, _, key = name.partition(".")
    value = _convert(_TYPES[section, key], value, where)
    _check(SETTINGS[key][1].metadata, value, where)
    return value


def example(name: str) -> Any:
    """A value of the type of setting `name` ('section.name') that may be None."""
    kind = _TYPES[tuple(name.split("."))].__args__[0]
    return () if getattr(kind, "__origin__", None) is tuple else kind()


def apply_values(config: Config, values: Dict[str, Any], source: str) -> Config:
    """`config` with `values` ('section.name' -> value) set; errors name `source`."""
    for name in values:
        section, _, key = name.partition(".")
        if (section, key) not in _TYPES:
            raise UserError(
                f"{source}: unknown setting {name!r}{nearest(key or section, SETTINGS)}"
            )
    values = {
        name: checked(name, value, f"{source} {name.partition('.')[2]}")
        for name, value in values.items()
    }
    _check_size_follows({name: _get(config, name) for name in _SIZED}, values, source)
    values = kinds.follow(_ONLY, _flat(as_dict(config)), values, source)
    return _finished(_replace(config, values), source)


def _get(config: Config, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def _flat(sections: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    """'section.name' -> value."""
    return {
        f"{section}.{name}": value
        for section, part in sections.items()
        for name, value in part.items()
    }


def _replace(config: Config, values: Dict[str, Any]) -> Config:
    """`config` with `values` ('section.name' -> value, checked) set."""
    sections: Dict[str, Dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **part)
            for section, part in sections.items()
        },
    )


# ---- settings that follow from the image's size

_SIZED = ("model.image_size",) + ssd_sizes.SETTINGS


def _check_size_follows(values: Dict[str, Any], changes: Dict[str, Any], source: str) -> None:
    """UserError if `changes` give the image another size, but something was set by hand for the old
    one.

    values: the settings before, as far as known.
    """
    old, new = values.get("model.image_size"), changes.get("model.image_size")
    if None in (old, new) or old == new:
        return
    for name in ssd_sizes.SETTINGS[1:]:
        if values.get(name) and name not in changes:
            raise UserError(
                f"{source} image_size: {new}, but {name.partition('.')[2]} was set by hand for "
                f"{old}: set it for the new size too, or leave it empty to have it computed"
            )


def _without_computed(values: Dict[str, Any]) -> Dict[str, Any]:
    """`values` of a saved recipe, 'section.name' -> value, without those that an older version had
    computed."""
    size, backbone = values.get("model.image_size"), values.get("model.backbone")
    if size is None or not isinstance(backbone, str):
        return values
    size = checked("model.image_size", size, "model.image_size")
    return {**values, **ssd_sizes.without_computed(values, size, backbone)}


def _finished(config: Config, source: str) -> Config:
    """`config`, checked for the rules that span settings; UserError naming `source`."""
    kinds.check(_ONLY, _flat(as_dict(config)), source)
    _check_together(config, source)
    return config


def _check_together(config: Config, source: str) -> None:
    """Rules that span several settings."""
    if config.model.num_classes == 1:
        raise UserError(
            f"{source} num_classes: 1 is only the background; at least 2, or 0 to have them counted"
        )
    for name, allowed in RULES[config.run.rules].allowed.items():
        if _get(config, name) not in allowed:
            raise UserError(
                f"{source} {name.partition('.')[2]}: {_get(config, name)} is not "
                f"{' or '.join(map(str, allowed))}, the values that the benchmark's rules allow "
                f"(run.rules {config.run.rules})"
            )
    if config.training.batch_norm_ranks > 1 and config.model.batch_norm == "frozen":
        raise UserError(
            f"{source} batch_norm_ranks: {config.training.batch_norm_ranks}, but model.batch_norm "
            "is frozen, which does not use it"
        )
    decays = list(config.training.decay_epochs or ())
    if decays != sorted(set(decays)):
        raise UserError(f"{source} decay_epochs: {decays} must be ascending")


# ---- recipe files


def builtin_recipes() -> List[str]:
    """Names of the recipes in ssd/recipes."""
    return sorted(name[:-5] for name in os.listdir(RECIPE_FOLDER) if name.endswith(".yaml"))


def recipe_path(name: str) -> str:
    """File of the built-in recipe `name`, or `name` itself if it is a file."""
    path = os.path.join(RECIPE_FOLDER, name + ".yaml")
    if os.path.isfile(path):
        return path
    if os.path.isfile(name):
        return name
    raise UserError(
        f"no recipe {name!r}: neither a file nor one of {', '.join(builtin_recipes())}"
        f"{nearest(name, builtin_recipes())}"
    )


def _read_values(name: str, seen: Tuple[str, ...] = ()) -> Dict[str, Any]:
    """'section.name' -> value of a recipe and of those that it extends; 'recipe' -> the name in a
    run's saved copy; 'missing' -> the settings that the saved copy of an older version takes from
    the built-in recipe of that name."""
    path = recipe_path(name)
    if path in seen:
        raise UserError(f"recipe {path}: extends itself")
    content = read_sections(path)
    values, own = {}, {}
    parent = content.pop("extends", None)
    # Only in the saved copy of a run, which holds all settings
    saved_as = content.pop("recipe", None)
    is_copy = parent is None and isinstance(saved_as, str)
    if is_copy and saved_as in builtin_recipes():
        parent = saved_as
    if parent is not None:
        beside = os.path.join(os.path.dirname(path), str(parent))
        values.update(
            _read_values(beside if os.path.isfile(beside) else str(parent), seen + (path,))
        )
    values["recipe"] = (
        saved_as if isinstance(saved_as, str) else os.path.splitext(os.path.basename(path))[0]
    )
    for section, part in content.items():
        if section not in SECTIONS:
            raise UserError(
                f"recipe {path}: unknown section {section!r}{nearest(str(section), SECTIONS)}"
            )
        if not isinstance(part, dict):
            raise UserError(f"recipe {path}: section {section} holds no settings")
        for key, value in part.items():
            if (section, key) not in _TYPES:
                keys = [field.name for field in dataclasses.fields(SECTIONS[section])]
                raise UserError(
                    f"recipe {path}: unknown key {section}.{key}{nearest(str(key), keys)}"
                )
            own[f"{section}.{key}"] = value
    if is_copy:
        own = _without_computed(own)
        own = kinds.complete(_ONLY, _BEFORE, own)
    if is_copy and parent is not None:
        values["missing"] = [
            f"{section}.{key}" for section, key in _TYPES if f"{section}.{key}" not in own
        ]
    where = f"recipe {path}:"
    for chooser, _ in _ONLY.values():
        if chooser in own:
            own[chooser] = checked(chooser, own[chooser], f"{where} {chooser}")
    own = kinds.follow(_ONLY, values, own, where)
    typed = [
        {name: checked(name, part[name], f"{where} {name}") for name in _SIZED if name in part}
        for part in (values, own)
    ]
    _check_size_follows(*typed, where)
    return {**values, **own}


def load_recipe(name: str, report=lambda line: None) -> Config:
    """The settings of a built-in recipe or of a recipe file; UserError naming the file and the key.

    Settings that are missing from the recipe.yaml of an older version are taken from the built-in
    recipe of its name: `report` gets one line that lists them.
    """
    path = recipe_path(name)
    values = _read_values(name)
    sections: Dict[str, Dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            full = f"{section}.{field.name}"
            if full in values:
                sections[section][field.name] = checked(
                    full, values[full], f"recipe {path}: {full}"
                )
            elif full in _ONLY:
                sections[section][field.name] = None
            elif field.default is dataclasses.MISSING:
                raise UserError(f"recipe {path}: {full} is missing")
    config = Config(
        recipe=values["recipe"],
        **{section: kind(**sections[section]) for section, kind in SECTIONS.items()},
    )
    config = _finished(config, f"recipe {path}:")
    if values.get("missing"):
        report(
            f"recipe {path}: of an older version; missing settings are taken from {config.recipe}: "
            + ", ".join(
                f"{full} {json.dumps(_get(config, full))}"
                for full in values["missing"]
                if _get(config, full) is not None
            )
        )
    return config


def as_dict(config: Config) -> Dict[str, Any]:
    """Sections of plain values, as in a recipe file; None: the chosen kind does not use the
    setting."""

    def plain(value):
        if isinstance(value, ImageSize):
            return value.plain
        return [plain(part) for part in value] if isinstance(value, tuple) else value

    return {
        section: {
            field.name: plain(getattr(getattr(config, section), field.name))
            for field in dataclasses.fields(kind)
        }
        for section, kind in SECTIONS.items()
    }


def completed(saved: Dict[str, Dict[str, Any]], sections=None) -> Dict[str, Dict[str, Any]]:
    """Settings of an older version, by section, completed with later settings, whose values are
    what that version always did. sections: to be completed; default: all."""
    result = {section: dict(part) for section, part in saved.items()}
    for name, value in kinds.complete(_ONLY, _BEFORE, _without_computed(_flat(saved))).items():
        section, _, key = name.partition(".")
        if sections is None or section in sections or key in saved.get(section, {}):
            result.setdefault(section, {})[key] = value
    return result


def differences(config: Config, other: Config, sections=None) -> List[Tuple[str, Any, Any]]:
    """(section.name, value in `other`, value in `config`) of every setting that differs."""
    ours, theirs = as_dict(config), as_dict(other)
    return [
        (f"{section}.{name}", theirs[section][name], value)
        for section in (sections or SECTIONS)
        for name, value in ours[section].items()
        if value != theirs[section][name]
    ]


def to_yaml(config: Config) -> str:
    """The settings as a recipe file that `load_recipe` reads back."""
    import yaml

    return yaml.safe_dump(
        dict(recipe=config.recipe, **as_dict(config)),
        sort_keys=False,
        default_flow_style=None,
        width=110,
    )
