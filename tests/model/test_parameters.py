"""A network's parameters in groups, and the optimizer's states behind them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import Trainer, nn

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.parameters import (
    by_structural_name,
    frozen,
    optimizer_states,
    set_update_count,
    statistics,
    trained,
)


@pytest.fixture
def network():
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=2), nn.BatchNorm(in_channels=3), nn.Dense(1, in_units=3))
    net.initialize()
    return net


def test_every_parameter_is_in_one_group(network):
    assert list(by_structural_name(network)) == [
        "0.weight",
        "0.bias",
        "1.gamma",
        "1.beta",
        "1.running_mean",
        "1.running_var",
        "2.weight",
        "2.bias",
    ]
    network[0].collect_params().setattr("grad_req", "null")
    assert list(trained(network)) == ["1.gamma", "1.beta", "2.weight", "2.bias"]
    assert list(statistics(network)) == ["1.running_mean", "1.running_var"]
    assert list(frozen(network)) == ["0.weight", "0.bias"]
    assert frozen(network)["0.weight"] is network[0].weight


def test_a_frozen_batch_norm_keeps_its_statistics_apart(network):
    network.collect_params().setattr("grad_req", "null")
    assert trained(network) == {} and len(frozen(network)) == 6 and len(statistics(network)) == 2
    network.collect_params().setattr("grad_req", "write")
    assert len(trained(network)) == 6 and frozen(network) == {}


def test_the_detectors_statistics_are_sorted_by_name():
    net = build_detector(load_recipe("ssd-resnet34-shapes").with_values(num_classes=4)).network
    names = list(statistics(net))
    assert (
        names == sorted(names)
        and len(names) == len(by_structural_name(net)) - len(trained(net)) > 0
    )
    assert set(names) == {
        name for name, parameter in by_structural_name(net).items() if parameter.grad_req == "null"
    }
    assert frozen(net) == {}


@pytest.mark.parametrize("half", [False, True])
def test_states_of_the_optimizer(network, half):
    if half:
        network.cast("float16")
    trainer = Trainer(
        network.collect_params(),
        "sgd",
        dict(learning_rate=1.0, momentum=0.9, multi_precision=half),
        kvstore=None,
    )
    with mx.autograd.record():
        losses = [parameter.data().sum() for parameter in trained(network).values()]
    mx.autograd.backward(losses)
    made = optimizer_states(trainer, trained(network))
    assert list(made) == list(trained(network)) and trainer._optimizer.num_update == 0
    before = network[2].bias.data().asnumpy()
    trainer.step(1)
    states = optimizer_states(trainer, trained(network))
    assert all(states[name] is state for name, state in made.items())
    momentum, master = states["2.bias"] if half else (states["2.bias"], None)
    np.testing.assert_array_equal(momentum.asnumpy(), [-1])
    if half:
        assert master.dtype == np.float32
        np.testing.assert_allclose(master.asnumpy(), before + momentum.asnumpy())
    set_update_count(trainer._optimizer, 5)
    trainer._optimizer._update_count([0])
    assert trainer._optimizer.num_update == 6
    with pytest.raises(KeyError):
        optimizer_states(trainer, {"other": nn.Dense(1, in_units=1).weight})
