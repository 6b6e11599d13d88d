"""Inference with BatchNorm folded into the convolutions (on a CPU) equals the plain network."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.evaluation.inference import Inference
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize

CONFIG = load_recipe("ssd-resnet34-coco").with_values(width=0.125, num_classes=6, device="cpu")


class Outputs(mx.gluon.HybridBlock):
    """A stand-in for the post-processing: returns offsets and logits unchanged."""

    def hybrid_forward(self, F, offsets, logits):
        return F.concat(offsets, logits, dim=2)


def change_statistics(network, seed):
    rng = np.random.default_rng(seed)
    for name, parameter in network.collect_params().items():
        if name.endswith("running_mean"):
            parameter.set_data(mx.nd.array(rng.standard_normal(parameter.shape) * 0.3))
        elif name.endswith("running_var"):
            parameter.set_data(mx.nd.array(rng.random(parameter.shape) * 2 + 0.5))


@pytest.fixture(scope="module")
def blocks():
    """The network; the fused graph of its outputs; images."""
    network = build_detector(CONFIG).network
    initialize(network, 3, mx.cpu())
    change_statistics(network, 0)
    fused = Inference(network, Outputs(), "cpu")
    return network, fused, mx.nd.array(np.random.default_rng(1).standard_normal((2, 3, 300, 300)))


def assert_same(network, fused, images):
    plain = Outputs()(*network(images)).asnumpy()
    difference = np.abs(fused(images).asnumpy() - plain).max()
    assert difference <= 1e-5 * np.abs(plain).max()
    return plain


def test_fused_equals_unfused(blocks):
    before = assert_same(*blocks)
    network, fused, images = blocks
    change_statistics(network, 5)
    fused.build()
    after = assert_same(*blocks)
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max(), (
        "the statistics matter at all"
    )


def test_a_training_step_between_two_evaluations(blocks):
    """All weights change, those of the padded heads included."""
    network, fused, images = blocks
    fused.build()
    before = assert_same(*blocks)
    trainer = mx.gluon.Trainer(
        network.collect_params(), "sgd", dict(learning_rate=0.01, momentum=0.9)
    )
    with mx.autograd.record():
        offsets, logits = network(images)
        total = (offsets**2).mean() + (logits**2).mean()
    total.backward()
    trainer.step(1)
    fused.build()
    after = assert_same(*blocks)
    assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()
