"""The stored numbers of RetinaNet's public reference, and its weights in our network."""

import os

import mxnet as mx
import numpy as np

from ssd.model.initialization import initialize
from tests.reference import retinanet_vectors as vectors

DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "retinanet_reference_seed0.npz")


def load_retinanet():
    """(arrays, seed) of the file that RETINANET_REFERENCE_VECTORS names, else of the one beside
    this file."""
    arrays = np.load(os.environ.get("RETINANET_REFERENCE_VECTORS") or DEFAULT, allow_pickle=False)
    return arrays, int(arrays["seed"])


def set_retinanet_weights(network, seed):
    """Gives an uninitialised network of layout NCHW the reference's weights."""
    initialize(network, 0, mx.cpu())
    for name, parameter in network.reference_parameters().items():
        parameter.set_data(mx.nd.array(vectors.weight(name, parameter.shape, seed)))
