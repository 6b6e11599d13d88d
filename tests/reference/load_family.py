"""The stored numbers of the SSD family's public references, and their weights in our networks."""

import glob
import os

import mxnet as mx
import numpy as np

from ssd.model.initialization import initialize, to_layout
from tests.reference import family_vectors as vectors

DEFAULT = os.path.dirname(os.path.abspath(__file__))
BATCH_NORM = (
    ("weight", "gamma"),
    ("bias", "beta"),
    ("running_mean", "running_mean"),
    ("running_var", "running_var"),
)


def load_family(detector):
    """(arrays, seed) of `detector`, from the folder FAMILY_REFERENCE_FOLDER where it is set, else
    beside this file."""
    folder = os.environ.get("FAMILY_REFERENCE_FOLDER") or DEFAULT
    [path] = glob.glob(os.path.join(folder, f"{detector}_reference_seed*.npz"))
    arrays = np.load(path, allow_pickle=False)
    return arrays, int(arrays["seed"])


def names_of(network):
    """The reference's name -> (parameter, function from our array to the reference's, function
    back)."""

    def same(array):
        return array

    names = {
        f"backbone.{name}": (parameter, same, same)
        for name, parameter in network.backbone.torchvision_parameters().items()
    }
    for entry, (convolutions, norms) in enumerate(
        (
            (network.expand_trans_convs, network.expand_trans_norms),
            (network.expand_convs, network.expand_norms),
        )
    ):
        for index, (convolution, norm) in enumerate(zip(convolutions, norms)):
            names[f"extras.{index}.{entry}.conv.weight"] = convolution.weight, same, same
            for theirs, ours in BATCH_NORM:
                names[f"extras.{index}.{entry}.bn.{theirs}"] = getattr(norm, ours), same, same
    for index, head in enumerate(network.predictors):
        n, middle = head.boxes, head.boxes * 4
        for name, begin, count in (("loc", 0, 4), ("conf", middle, head.classes)):

            def forth(array, begin=begin, count=count, n=n):
                # ours: channel = shape * count + c; the reference's: channel = c * n + shape
                part = array[begin : begin + n * count]
                return part.reshape((n, count) + array.shape[1:]).swapaxes(0, 1).reshape(part.shape)

            def back(array, count=count, n=n):
                return (
                    array.reshape((count, n) + array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
                )

            for kind in ("weight", "bias"):
                names[f"{name}.{index}.{kind}"] = getattr(head.conv, kind), forth, back
    return names


def set_family_weights(network, seed):
    """Gives an uninitialised network the reference's weights."""
    initialize(network, 0, mx.cpu())
    parts = {}
    for name, (parameter, forth, back) in names_of(network).items():
        value = vectors.weight(name, forth(np.zeros(parameter.shape, np.float32)).shape, seed)
        if name.startswith(("loc.", "conf.")):  # a fused head's two parts, offsets first
            parts.setdefault(parameter.name, (parameter, []))[1].append(back(value))
        else:
            parameter.set_data(
                mx.nd.array(to_layout(value, parameter.shape, "NCHW") if value.ndim == 4 else value)
            )
    for parameter, values in parts.values():
        parameter.set_data(mx.nd.array(np.concatenate(values)))
