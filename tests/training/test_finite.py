"""The check whether a step's numbers are finite, and how often it is made."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock

from ssd.config import load_recipe
from ssd.training.recovery import finite_interval
from ssd.training.step import TrainingStep
from tests.training.one_rank import OneRank


class Weights(HybridBlock):
    """Parameters with the shapes and types of some arrays."""

    def __init__(self, arrays):
        super().__init__()
        for number, array in enumerate(arrays):
            parameter = self.params.get(f"w{number}", shape=array.shape, dtype=array.dtype)
            setattr(self, f"w{number}", parameter)
            parameter.initialize()


def step_with(total, *gradients):
    """A TrainingStep whose last gradients and sum of losses were these."""
    config = load_recipe("ssd-resnet34-shapes")
    step = TrainingStep(Weights(gradients), HybridBlock(), config, OneRank())
    for parameter, gradient in zip(step.parameters.values(), gradients):
        parameter.list_grad()[0][:] = gradient
    step.average(mx.nd.array([total]))
    return step


GOOD = mx.nd.array(np.linspace(-1, 1, 60).reshape(3, 20))


@pytest.mark.parametrize(
    "total, values, finite",
    [
        (1.0, [0.0, 1.0], True),
        (1.0, [np.nan, 1.0], False),
        (1.0, [0.0, -np.inf], False),
        (np.nan, [0.0, 1.0], False),
        (np.inf, [0.0, 1.0], False),
        (1.0, [3e38, -3e38], True),
        (3e38, [1e-45, 0.0], True),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_bad_number_is_found(total, values, finite, dtype):
    """Numbers whose squares overflow are still finite; float16 and float32 are mixed, as in a cast
    network."""
    if dtype == "float16":
        values = [np.clip(value, -6e4, 6e4) if np.isfinite(value) else value for value in values]
    assert step_with(total, GOOD, mx.nd.array(values, dtype=dtype), GOOD).finite() is finite


def test_how_often_it_is_checked():
    config = load_recipe("ssd-resnet34-coco").with_values(log_interval=50)
    assert finite_interval(config, "cpu") == 1 and finite_interval(config, "gpu") == 50
    for device in ("cpu", "gpu"):
        assert finite_interval(config.with_values(check_finite_every=7), device) == 7
