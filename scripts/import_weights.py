#!/usr/bin/env python3
"""Make weights of this project of a published detector's checkpoint, for evaluate, predict, export and --weights.

What is read is a .pth of MLPerf's RetinaNet reference (rounds 2.0 to 5.1), in either of PyTorch's file formats: a state
dict, or a checkpoint that holds one. Neither PyTorch nor unpickling is involved: a hostile file is refused, not run.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssd.errors import UserError  # noqa: E402

RECIPE = "retinanet-resnext50-openimages"


def read_classes(path: str):
    """(ids, names) of the classes in order: of a COCO annotation file's categories, or of a text file with a name a
    line, whose ids count from 0."""
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
    from ssd.model.boxes.rules import sizes_of
    from ssd.model.published_weights import classes_of, plain_names, set_published
    from ssd.model.torch_file import read_state_dict
    config = load_recipe(recipe)
    ids, names = read_classes(classes or default_classes(recipe))
    tensors = plain_names(read_state_dict(source, checkpoint=True))
    count = classes_of(tensors, sizes_of(config).per_cell[0], source)
    if count != len(names):
        raise UserError(f"{source}: a network of {count} classes; {classes or default_classes(recipe)} names "
                        f"{len(names)}")
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
    set_published(network, tensors, source)
    save_weights(network, target, WeightsInfo(config, ids, names))
    return f"{target}: {len(tensors)} tensors of {source}, {count} classes from {names[0]!r} to {names[-1]!r}"


def default_classes(recipe: str) -> str:
    """The class list that belongs to a recipe; UserError where none does."""
    from ssd.datasets.openimages_classes import MLPERF_LIST
    if recipe != RECIPE:
        raise UserError(f"--classes: recipe {recipe} has no class list of its own; name a COCO annotation file or a "
                        "text file with a name a line")
    return MLPERF_LIST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="INPUT.pth", help="the published file")
    parser.add_argument("output", metavar="OUTPUT.params", help="the file to write")
    parser.add_argument("--recipe", default=RECIPE, metavar="NAME|FILE", help=f"the detector (default: {RECIPE})")
    parser.add_argument("--classes", default="", metavar="FILE",
                        help="names of its classes in order: a COCO annotation file, or a text file with a name a line "
                             "(default: the 264 of Open Images' MLPerf subset)")
    parser.add_argument("--force", action="store_true", help="overwrite OUTPUT.params (default: refuse)")
    args = parser.parse_args()
    try:
        print(convert(args.input, args.output, args.recipe, args.classes, args.force))
    except UserError as error:
        print(f"import_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
