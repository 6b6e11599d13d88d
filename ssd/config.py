"""The settings of a run: one tree of frozen dataclasses, read from a recipe file and then from flags.

A recipe is a YAML file with one section per dataclass below. `extends: NAME` takes every value of another
recipe first, so that a small recipe shows just what it changes. Later wins: recipe < flag. Every value is
checked where it is read; an unknown name is refused with the nearest one that exists.
"""
from __future__ import annotations

import dataclasses
import difflib
import math
import os
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from ssd.errors import UserError

RECIPE_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")


def _setting(help: str, *, choices=None, minimum=None, above=None, maximum=None, flag=True, **default):
    """A field with its help text (with the unit), its allowed values, and whether it has a flag of its own."""
    return dataclasses.field(metadata=dict(help=help, choices=choices, minimum=minimum, above=above,
                                           maximum=maximum, flag=flag), **default)


@dataclass(frozen=True)
class ModelConfig:
    """What the network is. Channel counts are those of the full network; `width` scales them all."""
    detector: str = _setting("detector family", choices=("ssd",))
    backbone: str = _setting("backbone", choices=("resnet34",))
    width: float = _setting("factor on every channel count of backbone and extra features", above=0, maximum=4)
    image_size: int = _setting("side of the square input [pixels]", minimum=32)
    num_classes: int = _setting("classes, background included", minimum=2)
    layout: str = _setting("memory layout of activations (NHWC needs a GPU)", choices=("NCHW", "NHWC"))
    dtype: str = _setting("type of weights and activations (float16 needs a GPU)", choices=("float32", "float16"))
    batch_norm_epsilon: float = _setting("added to the variance in BatchNorm", above=0)
    batch_norm_momentum: float = _setting("share of the old running statistics kept per step", minimum=0, maximum=1)
    extra_channels: Tuple[Tuple[int, int], ...] = _setting(
        "per extra block: channels of its 1x1 and of its 3x3 convolution", flag=False)
    extra_strides: Tuple[int, ...] = _setting("per extra block: stride of its 3x3 convolution", flag=False)
    extra_pads: Tuple[int, ...] = _setting("per extra block: padding of its 3x3 convolution", flag=False)


@dataclass(frozen=True)
class DefaultBoxConfig:
    """Default boxes, their matching to ground truth, and the scale of encoded offsets."""
    steps: Tuple[float, ...] = _setting("per feature map: distance of neighbouring centres [pixels]", flag=False)
    scales: Tuple[float, ...] = _setting("per feature map and one more: side of the square box [pixels]", flag=False)
    aspect_ratios: Tuple[Tuple[float, ...], ...] = _setting(
        "per feature map: ratios a; each gives a box a:1 and a box 1:a", flag=False)
    center_variance: float = _setting("unit of encoded centre offsets", above=0)
    size_variance: float = _setting("unit of encoded log sizes", above=0)
    matching_iou: float = _setting("a default box is positive above this IoU", above=0, maximum=1)


@dataclass(frozen=True)
class LossConfig:
    negatives_per_positive: float = _setting("hard negatives kept per positive box", minimum=0)


@dataclass(frozen=True)
class DetectionConfig:
    """From the network's output to detections."""
    score_threshold: float = _setting("boxes of at most this score are dropped", minimum=0, maximum=1)
    boxes_per_class: int = _setting("best boxes of each class that enter suppression", minimum=1)
    nms_iou: float = _setting("a box of at least this IoU with a better one of its class is dropped",
                              above=0, maximum=1)
    boxes_per_image: int = _setting("best detections of an image that are kept", minimum=1)


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images, in the order in which they are applied."""
    augment: bool = _setting("apply the random changes of this section at all")
    crop_min_iou: Tuple[float, ...] = _setting("choices of the least IoU of a box with the crop (0: any)", flag=False)
    crop_scale: Tuple[float, float] = _setting("side of the crop, least and greatest share of the image's", flag=False)
    crop_aspect: Tuple[float, float] = _setting("aspect ratio of the crop, least and greatest", flag=False)
    crop_attempts: int = _setting("crops tried per choice (the log's max_samples: 1 or 50)", minimum=1)
    flip_probability: float = _setting("probability of a horizontal flip", minimum=0, maximum=1)
    brightness: float = _setting("brightness factor drawn from 1 +- this", minimum=0, maximum=1)
    contrast: float = _setting("contrast factor drawn from 1 +- this", minimum=0, maximum=1)
    saturation: float = _setting("saturation factor drawn from 1 +- this", minimum=0, maximum=1)
    hue: float = _setting("hue turned by +- this [degrees]", minimum=0, maximum=180)


@dataclass(frozen=True)
class DataConfig:
    """Where the data set lies (COCO's folder layout) and how it is read."""
    train_annotations: str = _setting("training annotations [file, relative to --data-dir]")
    train_images: str = _setting("training images [folder, relative to --data-dir]")
    val_annotations: str = _setting("validation annotations [file, relative to --data-dir]")
    val_images: str = _setting("validation images [folder, relative to --data-dir]")
    pixel_mean: Tuple[float, float, float] = _setting("mean of R, G, B [0..1]", flag=False)
    pixel_std: Tuple[float, float, float] = _setting("standard deviation of R, G, B [0..1]", flag=False)
    decode: str = _setting("where JPEGs are decoded: cpu; gpu; cache = gpu, each image once, kept in GPU memory",
                           choices=("cpu", "gpu", "cache"))
    cache_size: int = _setting("decoded-image cache per GPU, with --decode cache [MiB]", minimum=0)
    data_threads: int = _setting("CPU threads of the data pipeline per rank", minimum=1)
    prefetch: int = _setting("batches the data pipeline works ahead", minimum=1)
    check_images: str = _setting("how image files are checked before training: exists; header; decode them once",
                                 choices=("exists", "header", "decode"))
    skip_bad_annotations: bool = _setting("leave out bad annotations and images instead of refusing the data set")
    data_dir: str = _setting("the data set [folder]", default="data/coco")
    cache_dir: str = _setting("results of data set checks are kept here [folder]; default: the user's cache folder",
                              default="")


@dataclass(frozen=True)
class TrainingConfig:
    """SGD with momentum: m = momentum m + lr (gradient + weight_decay w); w -= m."""
    batch_size: int = _setting("images per rank and step", minimum=1)
    epochs: int = _setting("epochs at most", minimum=1)
    base_lr: float = _setting("learning rate per `lr_batch` images of the global batch", above=0)
    lr_batch: int = _setting("global batch at which the learning rate is base_lr [images]", minimum=1)
    momentum: float = _setting("momentum", minimum=0, maximum=1)
    weight_decay: float = _setting("weight decay, on every parameter", minimum=0)
    warmup_epochs: float = _setting("linear warm-up [epochs]", minimum=0)
    warmup_factor: float = _setting("warm-up starts at (1 - 2^-this) of the full rate", minimum=0)
    decay_epochs: Tuple[int, ...] = _setting("the rate is multiplied after each of these epochs [epochs]")
    decay_factor: float = _setting("factor on the rate at each decay", above=0, maximum=1)
    loss_scale: float = _setting("static factor on the loss before backward, with float16", above=0)


@dataclass(frozen=True)
class EvaluationConfig:
    target: float = _setting("training stops at this mAP [0..1]", minimum=0, maximum=1)
    eval_every: int = _setting("epochs between evaluations, the first after as many", minimum=1)
    eval_batch_size: int = _setting("images per rank and evaluation step", minimum=1)


@dataclass(frozen=True)
class RunConfig:
    """What changes from run to run but not the result that is sought."""
    seed: int = _setting("seed of everything random; -1: drawn at start and logged",
                         minimum=-1, maximum=2 ** 31 - 1, default=-1)
    device: str = _setting("where the network runs; auto: gpu where there is one",
                           choices=("auto", "cpu", "gpu"), default="auto")
    output: str = _setting("folder of the run, new or empty; default: runs/RECIPE-TIME", default="")
    pretrained_backbone: str = _setting("ImageNet weights of the backbone [ONNX file]; default: random", default="")
    weights: str = _setting("start from these weights of the whole network [.params file]", default="")
    log_interval: int = _setting("steps between progress lines; the loss is read as often", minimum=1, default=20)
    max_steps: int = _setting("end after so many steps, 0: no limit (for trials)", minimum=0, default=0)
    clear_cache: bool = _setting("drop the file cache before the run and log it", default=False)
    submission_org: str = _setting("organisation in the MLPerf log", default="unnamed")
    submission_platform: str = _setting("system in the MLPerf log", default="unnamed")
    submission_division: str = _setting("division in the MLPerf log", choices=("closed", "open"), default="closed")
    submission_status: str = _setting("status in the MLPerf log", default="onprem",
                                      choices=("cloud", "onprem", "preview", "research"))


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

    def with_values(self, **values) -> "Config":
        """A copy with other settings, by their (unique) names; checked like a recipe's."""
        return apply_values(self, {sectioned(name): value for name, value in values.items()}, "setting")


SECTIONS = {name: kind for name, kind in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(kind)}
SETTINGS = {field.name: (section, field) for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)}
_TYPES = {(section, name): hint for section, kind in SECTIONS.items()
          for name, hint in typing.get_type_hints(kind).items()}
assert len(SETTINGS) == len(_TYPES), "the names of settings are unique across sections, since flags have no section"


def sectioned(name: str) -> str:
    """'batch_size' -> 'training.batch_size'."""
    return f"{SETTINGS[name][0]}.{name}" if name in SETTINGS else name


def nearest(name: str, known) -> str:
    """'; did you mean X?' for the known name that is most like `name`, or ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, or UserError naming `where`."""
    origin = getattr(kind, "__origin__", None)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: a list is needed, not {value!r}")
        items = kind.__args__
        if len(items) == 2 and items[1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise UserError(f"{where}: {len(items)} values are needed, not {value!r}")
        return tuple(_convert(item, part, where) for item, part in zip(items, value))
    if kind is bool and isinstance(value, bool) or kind is str and isinstance(value, str):
        return value
    if kind in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-4 as a string
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    raise UserError(f"{where}: {names[kind]} is needed, not {value!r}")


def _check(metadata: Dict[str, Any], value: Any, where: str) -> None:
    for part in value if isinstance(value, tuple) else (value,):
        if metadata["choices"] and part not in metadata["choices"]:
            raise UserError(f"{where}: {part!r} is not one of {', '.join(metadata['choices'])}"
                            f"{nearest(str(part), metadata['choices'])}")
        for name, bad in (("minimum", lambda limit: part < limit), ("above", lambda limit: part <= limit),
                          ("maximum", lambda limit: part > limit)):
            if metadata[name] is not None and bad(metadata[name]):
                words = {"minimum": "at least", "above": "above", "maximum": "at most"}
                raise UserError(f"{where}: {part!r} must be {words[name]} {metadata[name]}")


def checked(name: str, value: Any, where: str) -> Any:
    """`value` converted to the type of setting `name` ('section.name') and checked; UserError naming `where`."""
    section, _, key = name.partition(".")
    value = _convert(_TYPES[section, key], value, where)
    _check(SETTINGS[key][1].metadata, value, where)
    return value


def apply_values(config: Config, values: Dict[str, Any], source: str) -> Config:
    """`config` with `values` ('section.name' -> value) set; errors name `source`."""
    sections: Dict[str, Dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if (section, key) not in _TYPES:
            raise UserError(f"{source}: unknown setting {name!r}{nearest(key or section, SETTINGS)}")
        sections.setdefault(section, {})[key] = checked(name, value, f"{source} {key}")
    changed = {section: dataclasses.replace(getattr(config, section), **part) for section, part in sections.items()}
    result = dataclasses.replace(config, **changed)
    _check_together(result, source)
    return result


def _check_together(config: Config, source: str) -> None:
    """Rules that span several settings."""
    model, boxes = config.model, config.default_boxes
    maps = len(model.extra_channels) + 1
    for name, length, wanted in (("extra_strides", len(model.extra_strides), maps - 1),
                                 ("extra_pads", len(model.extra_pads), maps - 1),
                                 ("steps", len(boxes.steps), maps), ("scales", len(boxes.scales), maps + 1),
                                 ("aspect_ratios", len(boxes.aspect_ratios), maps)):
        if length != wanted:
            raise UserError(f"{source} {name}: {wanted} values are needed for {maps} feature maps, not {length}")
    if config.augmentation.crop_attempts not in (1, 50):
        raise UserError(f"{source} crop_attempts: {config.augmentation.crop_attempts} is not 1 or 50, "
                        "the values that the benchmark's rules allow")
    if list(config.training.decay_epochs) != sorted(set(config.training.decay_epochs)):
        raise UserError(f"{source} decay_epochs: {list(config.training.decay_epochs)} must rise")


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
    raise UserError(f"no recipe {name!r}: neither a file nor one of {', '.join(builtin_recipes())}"
                    f"{nearest(name, builtin_recipes())}")


def _read_values(name: str, seen: Tuple[str, ...] = ()) -> Dict[str, Any]:
    """'section.name' -> value of a recipe and of those that it extends."""
    import yaml
    path = recipe_path(name)
    if path in seen:
        raise UserError(f"recipe {path}: extends itself")
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: sections are needed, not {type(content).__name__}")
    values = {}
    parent = content.pop("extends", None)
    content.pop("recipe", None)  # written into the saved copy of a run
    if parent is not None:
        beside = os.path.join(os.path.dirname(path), str(parent))
        values.update(_read_values(beside if os.path.isfile(beside) else str(parent), seen + (path,)))
    for section, part in content.items():
        if section not in SECTIONS:
            raise UserError(f"recipe {path}: unknown section {section!r}{nearest(str(section), SECTIONS)}")
        if not isinstance(part, dict):
            raise UserError(f"recipe {path}: section {section} holds no settings")
        for key, value in part.items():
            if (section, key) not in _TYPES:
                keys = [field.name for field in dataclasses.fields(SECTIONS[section])]
                raise UserError(f"recipe {path}: unknown key {section}.{key}{nearest(str(key), keys)}")
            values[f"{section}.{key}"] = value
    return values


def load_recipe(name: str) -> Config:
    """The settings of a built-in recipe or of a recipe file; UserError naming the file and the key."""
    path = recipe_path(name)
    values = _read_values(name)
    sections: Dict[str, Dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            full = f"{section}.{field.name}"
            if full in values:
                sections[section][field.name] = checked(full, values[full], f"recipe {path}: {full}")
            elif field.default is dataclasses.MISSING:
                raise UserError(f"recipe {path}: {full} is missing")
    config = Config(recipe=os.path.splitext(os.path.basename(path))[0],
                    **{section: kind(**sections[section]) for section, kind in SECTIONS.items()})
    _check_together(config, f"recipe {path}:")
    return config


def as_dict(config: Config) -> Dict[str, Any]:
    """Sections of plain values, as a recipe file holds them."""
    def plain(value):
        return [plain(part) for part in value] if isinstance(value, tuple) else value
    return {section: {field.name: plain(getattr(getattr(config, section), field.name))
                      for field in dataclasses.fields(kind)} for section, kind in SECTIONS.items()}


def differences(config: Config, other: Config, sections=None) -> List[Tuple[str, Any, Any]]:
    """(section.name, value in `other`, value in `config`) of every setting that differs."""
    ours, theirs = as_dict(config), as_dict(other)
    return [(f"{section}.{name}", theirs[section][name], value)
            for section in (sections or SECTIONS) for name, value in ours[section].items()
            if value != theirs[section][name]]


def to_yaml(config: Config) -> str:
    """The settings as a recipe file that `load_recipe` reads back."""
    import yaml
    return yaml.safe_dump(dict(recipe=config.recipe, **as_dict(config)), sort_keys=False, default_flow_style=None,
                          width=110)
