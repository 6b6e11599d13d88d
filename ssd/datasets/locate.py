"""The data set of a run: its paths, and its checked content."""

from __future__ import annotations

import os
from typing import Optional, Tuple

from ssd.config import Config
from ssd.datasets.categories import align_categories
from ssd.errors import UserError, log_line


def dataset_paths(config: Config, split: str) -> Tuple[str, str]:
    """(annotation file, image folder) of 'train' or 'val'; UserError naming the one that does not
    exist."""
    data = config.data
    names = getattr(data, f"{split}_annotations"), getattr(data, f"{split}_images")
    if not all(map(os.path.isabs, names)) and not os.path.isdir(data.data_dir):
        raise UserError(f"--data-dir {data.data_dir}: no such folder")
    annotations, images = (os.path.join(data.data_dir, name) for name in names)
    if os.path.exists(annotations) and not os.path.isfile(annotations):
        raise UserError(f"--{split}-annotations {annotations}: is {_kind(annotations)}, not a file")
    if not os.path.isfile(annotations):
        own = os.path.basename(annotations) in ("train.json", "val.json")
        raise UserError(
            f"--{split}-annotations {annotations}: no such file"
            + (
                "; `python -m ssd split-data` makes train.json and val.json from one file"
                if own
                else ""
            )
        )
    if not os.path.isdir(images):
        raise UserError(f"--{split}-images {images}: no such folder")
    return annotations, images


def named_paths(
    annotations: Optional[str], images: Optional[str], data_dir: bool
) -> Optional[Tuple[str, str]]:
    """(annotation file, image folder) that --annotations and --images name, None without both.
    data_dir: whether --data-dir is given too. UserError for one of them alone, and for a path that
    does not exist.
    """
    if annotations is None and images is None:
        return None
    if data_dir:
        raise UserError(
            "--annotations and --images name the data set, and so does --data-dir; give one or the "
            "other"
        )
    for flag, path, exists, kind in (
        ("--annotations", annotations, _is_readable, "file"),
        ("--images", images, os.path.isdir, "folder"),
    ):
        if path is None:
            raise UserError(f"{flag}: --annotations and --images go together")
        if not exists(path):
            raise UserError(
                f"{flag} {path}: is {_kind(path)}, not a {kind}"
                if os.path.exists(path)
                else f"{flag} {path}: no such {kind}"
            )
    return annotations, images


def _is_readable(path: str) -> bool:
    """Whether it is a file, or a pipe, which is read once."""
    return os.path.exists(path) and not os.path.isdir(path)


def _kind(path: str) -> str:
    return (
        "a folder"
        if os.path.isdir(path)
        else "a file"
        if os.path.isfile(path)
        else "a pipe or a device"
    )


def cache_folder(config: Config) -> Optional[str]:
    """The folder for results of data set checks; None for a user without a home (docker run
    --user)."""
    if config.data.cache_dir:
        return config.data.cache_dir
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "ssd-benchmark", "annotations") if os.path.isabs(root) else None


def check_classes(dataset, config: Config, split: str) -> None:
    if config.model.num_classes not in (0, dataset.num_classes):
        raise UserError(
            f"{dataset.path}: {dataset.num_classes - 1} categories and the background are "
            f"{dataset.num_classes} classes, the recipe's num_classes is {config.model.num_classes}"
            f" (--num-classes {dataset.num_classes} would fit, 0 has them counted; {split} data)"
        )


def decodes_on_gpu(config: Config) -> bool:
    return config.data.decode != "cpu"


def warn_of_unchecked(config: Config, images: str) -> None:
    """Prints one line if an image could come out wrong without anybody noticing."""
    if decodes_on_gpu(config) and config.data.check_images == "exists":
        log_line(
            f"--check-images exists: with --decode {config.data.decode}, truncated JPEGs, JPEGs of "
            f"RGB and grey JPEG 2000 files of {images} come out wrong without a message; header "
            "finds them"
        )


def load_dataset(config: Config, split: str, classes: bool = True):
    """The checked data set of 'train' or 'val', from the cache if it was checked before. classes:
    whether their number must be the recipe's."""
    from ssd.datasets.coco import load_coco

    annotations, images = dataset_paths(config, split)
    warn_of_unchecked(config, images)
    dataset = load_coco(
        annotations,
        images,
        check_images=config.data.check_images,
        on_gpu=decodes_on_gpu(config),
        skip_bad=config.data.skip_bad_annotations,
        max_left_out=config.data.max_left_out,
        require_boxes=split == "train",
        cache_dir=cache_folder(config),
        image_cache_dir=cache_folder(config),
        report=log_line,
    )
    if classes:
        check_classes(dataset, config, split)
    return dataset if split == "val" else _for_training(dataset, config)


def load_datasets(config: Config):
    """(training set, validation set), checked as load_dataset does; the validation set's categories
    are put in the order of the training set's, by their names. UserError if they do not fit, and if
    the validation set has nothing to score."""
    train = load_dataset(config, "train")
    val, line = align_categories(load_dataset(config, "val", False), train)
    if line:
        log_line(line)
    check_classes(val, config, "val")
    if not has_objects(val):
        raise UserError(nothing_to_score(val))
    return train, val


def has_objects(dataset) -> bool:
    """Whether a score is defined: whether there is a box that is not a group's."""
    return bool((~dataset.box_crowd).any())


def nothing_to_score(dataset) -> str:
    """One line on a validation set without objects."""
    boxes = len(dataset.box_crowd)
    what = (
        f"all its {boxes} boxes are of groups (iscrowd)"
        if boxes
        else "it holds no annotation"
        + (" that is left" if dataset.found.boxes else ", as files of test images")
    )
    return (
        f"{dataset.path}: {what}: nothing to detect, so the mAP would be undefined and no target "
        "ever reached"
    )


def _for_training(dataset, config: Config):
    if not config.data.train_crowds and dataset.box_crowd.any():
        crowds = int(dataset.box_crowd.sum())
        dataset = dataset.without_crowds()
        log_line(f"{dataset.path}: {crowds} boxes of groups (iscrowd) are not trained on")
        if not len(dataset.box_image):
            raise UserError(
                f"{dataset.path}: all its {crowds} boxes are of groups (iscrowd), on which recipe "
                f"{config.recipe} does not train"
            )
    return dataset.for_training()
