"""How often a training step calls MXNet's library. Each call releases Python's lock to the threads
that load data."""

import sys

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.training.metrics import Metrics
from ssd.training.ranks import Ranks
from ssd.training.step import TrainingStep


@pytest.fixture(scope="module")
def trained():
    """(step, its batch, metrics) after a first step."""
    config = load_recipe("ssd-resnet34-shapes").with_values(batch_size=1, width=0.125)
    detector = build_detector(config)
    initialize(detector.network, 0, mx.cpu())
    step = TrainingStep(detector.network, detector.loss, config, Ranks())
    boxes = len(detector.default_boxes)
    classes = mx.nd.zeros((1, boxes), dtype="int32")
    classes[0, :9] = 1
    batch = mx.nd.ones(detector.network.input_shape(1)), mx.nd.zeros((1, boxes, 4)), classes
    metrics = Metrics(None)
    one_step(step, batch, metrics, True)
    mx.nd.waitall()
    return step, batch, metrics


def one_step(step, batch, metrics, check):
    losses = step.gradients(*batch, check)
    if check:
        assert step.finite()
    step.update(1e-6)
    metrics.step(losses)
    return losses


def calls(work) -> int:
    """How often `work()` calls MXNet's C functions: its Python code calls all of them through
    check_call."""
    found = []

    def note(frame, event, _):
        if event == "call" and frame.f_code is mx.base.check_call.__code__:
            found.append(frame)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(found)


@pytest.mark.parametrize("check, most", [(False, 35), (True, 55)])
def test_a_step_calls_the_library_a_few_times(trained, check, most):
    """MXNet's own Trainer makes 765, six for each of 119 tensors."""
    step, batch, metrics = trained
    assert len(step.parameters) == 119
    assert 10 < calls(lambda: one_step(step, batch, metrics, check)) <= most


def test_losses_are_read_all_at_once(trained):
    step, batch, metrics = trained
    metrics.mean_losses()
    means = [[loss.mean() for loss in one_step(step, batch, metrics, False)] for _ in range(10)]
    mx.nd.waitall()
    assert calls(metrics.unread_losses) < 30
    wanted = [[float(mean.asscalar()) for mean in pair] for pair in means]
    assert np.array_equal(metrics.unread_losses(), np.array(wanted))
