"""Whether a step's numbers are finite: the answer, and when it is asked for."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.training.recovery import finite_interval
from ssd.training.step import TrainingStep


def step_with(total, *gradients):
    """A TrainingStep after `gradients`, of which only loss and gradients are there."""
    step = object.__new__(TrainingStep)
    step._total, step._own, step._by_type = mx.nd.array([total]), None, None
    step.parameters = {
        str(number): SimpleNamespace(list_grad=lambda gradient=gradient: [gradient])
        for number, gradient in enumerate(gradients)
    }
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
    """Numbers whose squares overflow are finite all the same; float16 stands beside float32, as in
    a cast network."""
    if dtype == "float16":
        values = [np.clip(value, -6e4, 6e4) if np.isfinite(value) else value for value in values]
    assert step_with(total, GOOD, mx.nd.array(values, dtype=dtype), GOOD).finite() is finite


def test_how_often_it_is_asked():
    config = load_recipe("ssd-resnet34-coco").with_values(log_interval=50)
    assert finite_interval(config, "cpu") == 1 and finite_interval(config, "gpu") == 50
    for device in ("cpu", "gpu"):
        assert finite_interval(config.with_values(check_finite_every=7), device) == 7
