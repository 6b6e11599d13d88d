#!/usr/bin/env python3
"""Converts a published detector's checkpoint to weights of this project, for evaluate, predict,
export and --weights.

It reads a .pth of MLPerf's RetinaNet reference (rounds 2.0 to 5.1), of uvipen/SSD-pytorch or
of mlcommons/abtf-ssd-pytorch, in either of PyTorch's file formats, a state dict or a checkpoint
that holds one; and a .ckpt of MindCV's SSDs. Neither PyTorch, MindSpore nor unpickling is involved:
a hostile file is refused, not run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssd import ends

if __name__ == "__main__":
    ends.begin("import_weights.py")  # before anything that takes time

from ssd.errors import UserError

DEFAULT_RECIPE = "retinanet-resnext50-openimages"


def read_classes(path: str):
    """(ids, names) of the classes in order: of a COCO annotation file's categories, or of a text
    file with a name a line, whose ids count from 0."""
    if path.lower().endswith(".json"):
        from ssd.datasets.annotations import read_annotations

        found = read_annotations(path)
        return found.category_ids, found.category_names
    from ssd.datasets.openimages_classes import read_class_list

    names = read_class_list(path)
    return tuple(range(len(names))), names


def convert(source: str, target: str, recipe: str, classes: str, force: bool) -> str:
    """Writes `target`; a line about what was written."""
    if os.path.exists(target) and not force:
        raise UserError(f"{target}: exists already; --force overwrites it")
    from ssd.config import load_recipe
    from ssd.model.published.networks import (
        class_count,
        detector_in,
        plan_of,
        published_of,
        read_published,
    )
    from ssd.model.published.tensor_mapping import set_published

    named = load_recipe(recipe) if recipe else None  # before the long reading
    tensors = read_published(source)
    found = detector_in(tensors)
    config = named or load_recipe(found.recipe if found else DEFAULT_RECIPE)
    published = published_of(config, tensors, source)
    count = class_count(published, tensors, config, source)
    ids, names = read_classes(classes) if classes else default_classes(config.recipe, count, source)
    if count != len(names):
        raise UserError(f"{source}: a network of {count} classes; {classes} names {len(names)}")
    from ssd.runtime import start

    start()
    import mxnet as mx

    from ssd.model.detector import build_detector
    from ssd.model.initialization import initialize
    from ssd.model.weights import save_weights
    from ssd.model.weights_info import WeightsInfo

    config = config.with_values(num_classes=count + 1, device="cpu", layout="NCHW", dtype="float32")
    network = build_detector(config).network
    initialize(network, 0, mx.cpu())
    set_published(plan_of(published, network, config, tensors), tensors, source)
    save_weights(network, target, WeightsInfo(config, ids, names))
    return (
        f"{target}: {published.what}, {len(tensors)} tensors of {source}, {count} classes from "
        f"{names[0]!r} to {names[-1]!r}"
    )


def default_classes(recipe: str, count: int, source: str):
    """(ids, names) of the classes of a recipe's published network; UserError if their number
    differs."""
    if recipe == DEFAULT_RECIPE:
        from ssd.datasets.openimages_classes import MLPERF_LIST

        ids, names = read_classes(MLPERF_LIST)
        whose = f"{MLPERF_LIST} names {len(names)}"
    elif recipe.startswith("retinanet-"):
        raise UserError(
            f"--classes: recipe {recipe} has no class list of its own; name a COCO annotation file "
            "or a text file with a name a line"
        )
    else:
        from ssd.datasets.coco_classes import IDS as ids
        from ssd.datasets.coco_classes import NAMES as names

        whose = f"COCO has {len(names)}"
    if count != len(names):
        raise UserError(
            f"{source}: a network of {count} classes; {whose}; name another list with --classes"
        )
    return ids, names


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT", help="the published file, .pth or .ckpt")
    parser.add_argument("output", metavar="OUTPUT.params", help="the file to write")
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME|FILE",
        help="the detector (default: the recipe of the network in the file)",
    )
    parser.add_argument(
        "--classes",
        default="",
        metavar="FILE",
        help="names of its classes in order: a COCO annotation file, or a text file with a name a "
        "line (default: RetinaNet's are the 264 of Open Images' MLPerf subset, the others' COCO's "
        "80)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite OUTPUT.params (default: refuse)"
    )
    args = parser.parse_args()
    try:
        print(convert(args.input, args.output, args.recipe, args.classes, args.force))
    except UserError as error:
        print(f"import_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    ends.run(main)
