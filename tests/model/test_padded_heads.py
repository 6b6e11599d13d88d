"""Heads are computed with padded channels: neither their output nor any gradient shows it."""

import mxnet as mx
import numpy as np

from ssd.config import load_recipe
from ssd.model.layers import PaddedConv2D

CHANNELS = 20


def both(pad):
    """Output, and gradients of weight, bias and input, of a convolution with CHANNELS outputs;
    `pad`: PaddedConv2D."""
    rng = np.random.default_rng(4)
    layer = (PaddedConv2D if pad else mx.gluon.nn.Conv2D)(
        CHANNELS, 3, padding=1, in_channels=16, prefix="c_"
    )
    layer.initialize()
    layer.weight.set_data(mx.nd.array(rng.standard_normal(layer.weight.shape)))
    layer.bias.set_data(mx.nd.array(rng.standard_normal(CHANNELS)))
    layer.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(rng.standard_normal((2, 16, 7, 5)))
    outer = mx.nd.array(rng.standard_normal((2, CHANNELS, 7, 5)))
    x.attach_grad()
    with mx.autograd.record():
        out = layer(x)
        total = (mx.nd.slice_axis(out, axis=1, begin=0, end=CHANNELS) * outer).sum()
    total.backward()
    return out, [layer.weight.grad(), layer.bias.grad(), x.grad]


def test_padding_changes_nothing():
    (padded, gradients), (plain, expected) = both(True), both(False)
    assert padded.shape == (2, 24, 7, 5) and (padded.asnumpy()[:, CHANNELS:] == 0).all()
    np.testing.assert_allclose(
        padded.asnumpy()[:, :CHANNELS], plain.asnumpy(), rtol=1e-5, atol=1e-5
    )
    for ours, theirs in zip(gradients, expected):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-5, atol=1e-4)


def test_the_heads_are_padded_and_their_weights_are_not():
    from ssd.model.detector import build_detector

    network = build_detector(
        load_recipe("ssd-resnet34-coco").with_values(width=0.125, num_classes=6)
    ).network
    head = network.predictors[1]
    assert isinstance(head.conv, PaddedConv2D) and head.conv.weight.shape[0] == 60
    shapes = (
        mx.sym.Group(network(mx.sym.var("images")))
        .get_internals()
        .infer_shape(images=(1, 3, 300, 300))[1]
    )
    assert (1, 64, 19, 19) in shapes and (1, 60, 19, 19) not in shapes
