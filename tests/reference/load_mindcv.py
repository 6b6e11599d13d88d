"""MindCV's detectors under its own names, with the weights behind the stored reference numbers."""

import os
import re

import numpy as np

from tests.reference import family_vectors as vectors

LAYERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mindcv_layers.txt")
PARTS = {
    "conv": {"weight": "weight"},
    "bias": {"weight": "weight", "bias": "bias"},
    "norm": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
}


def names_of(detector):
    """{MindCV's name: the reference numbers' name}, in the order of its file."""
    found = {}
    with open(LAYERS, encoding="utf-8") as file:
        for line in file:
            name, *layer = line.split()
            if name == detector:
                theirs, ours, kind = layer
                found.update(
                    {f"{theirs}.{one}": f"{ours}.{other}" for one, other in PARTS[kind].items()}
                )
    return found


def tensors_of(detector, shapes, seed):
    """{MindCV's name: array} of those in `shapes`, {our name: shape}. Its offsets are cy, cx, h, w,
    those of the reference cx, cy, w, h."""
    found = {}
    for theirs, ours in names_of(detector).items():
        if ours not in shapes:
            continue
        value = vectors.weight(ours, shapes[ours], seed)
        if re.fullmatch(r"loc\.(\d+\.)?out\.\w+", ours):
            boxes = value.reshape((-1, 4) + value.shape[1:])
            value = np.stack([boxes[:, part] for part in (1, 0, 3, 2)], axis=1).reshape(value.shape)
        found[theirs] = value
    return found


def backbone_of(detector, shapes, seed):
    """The same of its backbone by itself, whose sequence of layers has a name of its own there."""
    within = "backbone_wrapper.backbone.net."
    return {
        name[len(within) :].replace("features_", "features."): value
        for name, value in tensors_of(detector, shapes, seed).items()
        if name.startswith(within)
    }
