"""The stored numbers of MindCV's and SSDLite's public programs, and their weights in our
networks."""

import re

import mxnet as mx
import numpy as np

from ssd.model.initialization import initialize
from tests.reference import family_vectors as vectors


def channels_of(name, boxes, interleaved):
    """Our rows (box * values + value) in the order of the program's rows of a head's last
    convolution, or None."""
    found = re.fullmatch(r"(loc|conf)\.(?:(\d+)\.)?out\.(?:weight|bias)", name)
    if not found or not interleaved:
        return None
    per_cell = boxes[int(found.group(2))]
    values = 4 if found.group(1) == "loc" else 81
    # theirs: value * boxes + box
    return np.arange(per_cell * values).reshape(per_cell, values).T.ravel()


def set_weights(network, seed, boxes, interleaved):
    """Gives an uninitialised network the program's weights. boxes: per cell of each map;
    interleaved: whether the heads' channels are value * boxes + box (SSDLite)."""
    initialize(network, 0, mx.cpu())
    for name, parameter in network.reference_parameters().items():
        value = vectors.weight(name, parameter.shape, seed)
        order = channels_of(name, boxes, interleaved)
        if order is not None:
            ours = np.empty_like(value)
            ours[order] = value
            value = ours
        parameter.set_data(mx.nd.array(value))
