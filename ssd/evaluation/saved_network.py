"""Saved weights on a data set, which need not be the one they were trained on."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import List, Optional, Tuple

import numpy as np

from ssd.commandline import read_settings
from ssd.config import Config, load_recipe
from ssd.datasets.categories import like
from ssd.errors import UserError, log_line


def settings_of(args, path: str) -> Tuple[Config, Optional[object]]:
    """(settings, WeightsInfo or None) for the weights at `path`: those of --recipe if given, else
    those stored with the weights, else those of the run's recipe.yaml; flags override them. Data
    paths come from recipe.yaml or flags only."""
    from ssd.model.weights import read_info
    from ssd.model.weights_info import INPUT

    info = read_info(path)
    folder = os.path.dirname(os.path.abspath(path))
    # runs/mine/weights.params, or runs/mine/checkpoints/step-00000123/parameters.npz
    beside = [os.path.join(folder, *up, "recipe.yaml") for up in ((), (os.pardir, os.pardir))]
    recipe = next(filter(os.path.isfile, beside), None)
    if args.recipe or info is None:
        config = read_settings(args, recipe)
        # 0: as many as the training data had
        if not config.model.num_classes and info is not None:
            config = config.with_values(num_classes=info.config.model.num_classes)
        return config, info
    stored = info.config
    try:
        base = load_recipe(recipe, log_line) if recipe else stored
    except UserError as error:  # written by another version; only its data paths would be used
        print(f"not used: {error}", file=sys.stderr)
        base = stored
    inputs = {name: getattr(stored.data, name) for name in INPUT}
    network = dataclasses.replace(
        base,
        recipe=stored.recipe,
        model=stored.model,
        default_boxes=stored.default_boxes,
        detection=stored.detection,
        data=dataclasses.replace(base.data, **inputs),
    )
    return read_settings(args, base=network), info


def category_of_class(
    config: Config, info, names: tuple, ids: tuple, weights: str, annotations: str
) -> Tuple[Optional[int], ...]:
    """The data set's category id for each of the network's num_classes - 1 classes; None for a
    class that the data set does not have.

    names, ids: of the data set's categories, in file order. Weights that store their class names
    are mapped by name, and may have more classes than the data set; otherwise class c is the
    file's category number c. UserError where they do not fit: a category that the weights do not
    know, if only by a typing error, would silently add an AP of 0 to the mean.
    """
    classes = config.model.num_classes - 1
    known = tuple(info.category_names) if info is not None else None
    if known is None or len(known) != classes or known == tuple(names):
        if classes != len(ids):
            raise UserError(
                f"--weights {weights}: a network of {classes} classes; {annotations} has "
                f"{len(ids)} categories"
            )
        return tuple(map(int, ids))
    foreign = [name for name in names if name not in known]
    if foreign:
        hint = like(foreign[0], known) or "; remove from the file what the weights do not know"
        raise UserError(
            f"--weights {weights}: its {classes} classes do not include "
            f"{quoted_names(foreign, 3)} of {annotations}{hint}"
        )
    twice = [name for name in names if names.count(name) > 1 or known.count(name) > 1]
    if twice:
        raise UserError(
            f"--weights {weights}: the class {twice[0]!r} appears twice, in the weights or in "
            f"{annotations}, and their lists differ"
        )
    by_name = dict(zip(names, map(int, ids)))
    return tuple(by_name.get(name) for name in known)


def quoted_names(names, count: int) -> str:
    """The first `count` names in quotes, and the number of the rest."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(repr, names[:count])) + more


def left_out_classes(category_ids: Tuple[Optional[int], ...], info) -> List[str]:
    """Names of the classes that have no category id, see category_of_class."""
    return (
        [name for name, number in zip(info.category_names, category_ids) if number is None]
        if info
        else []
    )


def describe_left_out(names: List[str], classes: int) -> str:
    """One line on the classes whose detections are left out; "" if there are none. classes: number
    of classes of the network."""
    if not names:
        return ""
    return (
        f"left out: detections of {len(names)} of the weights' {classes} classes, which the data "
        f"set does not have ({quoted_names(names, 5)})"
    )


def load_images(
    config: Config,
    annotations: str,
    images: str,
    recheck: bool = False,
    report=log_line,
    check_categories=None,
):
    """CocoDataset of the images that can be read.

    recheck: check every image again, without cached results. check_categories: see load_coco.
    UserError if no image is left, and for bad entries of the file unless the settings leave them
    out.
    """
    from ssd.datasets.coco import load_coco
    from ssd.datasets.locate import cache_folder, decodes_on_gpu, warn_of_unchecked

    if not recheck:
        warn_of_unchecked(config, images)
    folder = None if recheck else cache_folder(config)
    return load_coco(
        annotations,
        images,
        check_images="decode" if recheck else config.data.check_images,
        on_gpu=decodes_on_gpu(config),
        skip_bad=config.data.skip_bad_annotations,
        skip_files=True,
        max_left_out=config.data.max_left_out,
        require_boxes=False,
        cache_dir=folder,
        image_cache_dir=folder,
        report=report,
        check_categories=check_categories,
    )


def detect_all(
    config: Config, weights: str, dataset, category_ids: Tuple[Optional[int], ...], progress=None
):
    """Detections (ssd.evaluation.detections) of the network of `config` with `weights` on all
    images of a CocoDataset.

    category_ids: of the network's classes, see category_of_class; detections of a class without an
        id are left out.
    progress: called with (images done, images).
    """
    from ssd.data.pipeline import EvaluationLoader
    from ssd.evaluation.inference import build_inference, detect
    from ssd.evaluation.pending import as_detections
    from ssd.model.device import choose_device
    from ssd.model.weights import load_detector

    device = choose_device(config)
    detector = load_detector(config, weights, device.context)
    inference = build_inference(detector, device, weights)
    loader = EvaluationLoader(
        config,
        dataset,
        rank=0,
        size=1,
        device=device.kind,
        device_id=device.index,
        pad_channels=detector.network.input_channels == 4,
    )
    done = [0]

    def before_batch():
        if progress is not None:
            progress(min(done[0], dataset.num_images), dataset.num_images)
        done[0] += config.evaluation.eval_batch_size

    try:
        rows = detect(inference, loader, dataset.sizes, before_batch)
    finally:
        loader.close()
    if None in category_ids:
        has_category = np.array([number is not None for number in category_ids])
        rows = rows[has_category[rows[:, 6].astype(np.int64) - 1]]
    return as_detections(
        rows, dataclasses.replace(dataset, category_ids=tuple(one or 0 for one in category_ids))
    )
