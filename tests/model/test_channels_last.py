"""Every kind of network with channels last against the same with channels first: outputs, losses
and gradients.

MXNet's CPU convolution and pooling know channels first alone, so that here the two operators are
made from these and transpositions; all else, and every shape, stride, padding and axis that our
code hands over, is as on a GPU.
"""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import WeightsInfo, by_structural_name, load_detector, save_weights
from tests.small_recipes import first_of_each_kind, small


def channels_first(operator):
    def run(images, *rest, layout=None, **settings):
        if layout != "NHWC":
            return operator(images, *rest, layout=layout, **settings)
        rest = [part.transpose((0, 3, 1, 2)) if part.ndim == 4 else part for part in rest]
        return operator(images.transpose((0, 3, 1, 2)), *rest, layout="NCHW", **settings).transpose(
            (0, 2, 3, 1)
        )

    return run


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    for name in ("Convolution", "Pooling"):
        monkeypatch.setattr(mx.nd, name, channels_first(getattr(mx.nd, name)))


def run(detector, images, offsets, classes):
    """(offsets, logits, losses, gradients by structural name) of a training step, op by op, in
    float64: BatchNorm of a few values makes much of what float32 rounds."""
    network = detector.network
    network.cast("float64")
    with mx.autograd.record():
        outputs = network(images)
        losses = detector.loss(*outputs, offsets, classes)
        total = sum(part.sum() for part in losses)
    total.backward()
    gradients = {
        name: parameter.grad().asnumpy()
        for name, parameter in by_structural_name(network).items()
        if parameter.grad_req != "null"
    }
    return [part.asnumpy() for part in (*outputs, *losses)], gradients


@pytest.mark.parametrize("recipe", first_of_each_kind())
def test_a_training_step_is_that_of_channels_first(recipe, tmp_path):
    first = load_recipe(small(recipe, tmp_path))
    last = first.with_values(layout="NHWC")
    detector = build_detector(last)
    initialize(detector.network, 0, mx.cpu())
    path = str(tmp_path / "last.params")
    save_weights(detector.network, path, WeightsInfo(last, (1, 2, 3), ("a", "b", "c")))
    generator = np.random.default_rng(0)
    count, images = (
        len(detector.default_boxes),
        generator.standard_normal((2, *first.model.image_size, 3)),
    )
    offsets, classes = (
        generator.standard_normal((2, count, 4)),
        generator.integers(0, 4, (2, count)),
    )
    targets = mx.nd.array(offsets), mx.nd.array(classes, dtype="int32")
    ours, gradients = run(detector, mx.nd.array(images, dtype="float64"), *targets)
    reference = load_detector(first, path, mx.cpu())
    theirs, wanted = run(
        reference, mx.nd.array(images.transpose(0, 3, 1, 2), dtype="float64"), *targets
    )
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())
    assert set(gradients) == set(wanted)
    largest = max(np.abs(part).max() for part in wanted.values())
    for name, gradient in gradients.items():
        if gradient.ndim == 4:
            gradient = gradient.transpose(0, 3, 1, 2)
        rows = len(wanted[name])
        np.testing.assert_allclose(
            gradient[:rows],
            wanted[name],
            rtol=1e-5,
            atol=1e-6 * np.abs(wanted[name]).max() + 1e-10 * largest,
            err_msg=name,
        )
        assert not gradient[rows:].any(), "what is padded for tensor cores has no gradient"
