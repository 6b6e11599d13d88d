"""The stored numbers of the PyTorch reference, and its weights in our network."""

import os

import mxnet as mx
import numpy as np

from ssd.model.initialization import initialize, load_backbone
from tests.reference import vectors

DEFAULT = os.path.join(os.path.dirname(__file__), "ssd_reference_seed0.npz")


def load_reference():
    """(arrays, seed): the file of SSD_REFERENCE_VECTORS where it is set, else the one beside this
    module."""
    arrays = np.load(os.environ.get("SSD_REFERENCE_VECTORS") or DEFAULT, allow_pickle=False)
    return arrays, int(arrays["seed"])


def backbone_tensors(network, seed):
    return {
        name: vectors.weight(f"backbone.{name}", parameter.shape, seed)
        for name, parameter in network.backbone.torchvision_parameters().items()
    }


def reference_names(network):
    """The reference's name -> (parameter, function from our array to the reference's array)."""
    same = lambda array: array  # noqa: E731
    names = {
        f"backbone.{name}": (parameter, same)
        for name, parameter in network.backbone.torchvision_parameters().items()
    }
    for index, pair in enumerate(zip(network.expand_trans_convs, network.expand_convs)):
        for entry, layer in enumerate(pair):
            names[f"extras.{index}.{entry}.weight"] = layer.weight, same
            names[f"extras.{index}.{entry}.bias"] = layer.bias, same
    for index, head in enumerate(network.predictors):
        n, classes = head.boxes, head.classes

        def part(begin, count, n=n):
            # ours: channel = shape * count + c; the reference's: channel = c * n + shape
            return lambda array: (
                array[begin : begin + n * count]
                .reshape((n, count) + array.shape[1:])
                .swapaxes(0, 1)
                .reshape((-1,) + array.shape[1:])
            )

        for name, begin, count in (("loc", 0, 4), ("conf", 4 * n, classes)):
            names[f"{name}.{index}.weight"] = head.conv.weight, part(begin, count)
            names[f"{name}.{index}.bias"] = head.conv.bias, part(begin, count)
    return names


def set_reference_weights(network, seed):
    initialize(network, 0, mx.cpu())
    load_backbone(network, backbone_tensors(network, seed), "reference")
    for index, pair in enumerate(zip(network.expand_trans_convs, network.expand_convs)):
        for entry, layer in enumerate(pair):
            for kind in ("weight", "bias"):
                parameter = getattr(layer, kind)
                value = vectors.weight(f"extras.{index}.{entry}.{kind}", parameter.shape, seed)
                parameter.set_data(mx.nd.array(value))
    for index, head in enumerate(network.predictors):
        set_head(head, index, seed)


def set_head(head, index, seed):
    n = head.boxes
    for kind in ("weight", "bias"):
        parameter = getattr(head.conv, kind)
        rest = parameter.shape[1:]
        parts = [
            vectors.weight(f"{name}.{index}.{kind}", (count * n,) + rest, seed)
            .reshape((count, n) + rest)
            .swapaxes(0, 1)
            .reshape((-1,) + rest)
            for name, count in (("loc", 4), ("conf", head.classes))
        ]
        parameter.set_data(mx.nd.array(np.concatenate(parts)))
