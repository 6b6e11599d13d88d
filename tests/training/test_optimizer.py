"""The optimizers: compared with PyTorch's, saved in checkpoints, and after a dry run."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from ssd import sections
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.evaluation.inference import build_inference
from ssd.model import parameters
from ssd.model.detector import build_detector
from ssd.model.device import Device
from ssd.model.initialization import initialize
from ssd.training import optimizer as optimizers
from ssd.training import recovery
from ssd.training.optimizer import OPTIMIZERS, build_optimizer
from ssd.training.ranks import Ranks
from ssd.training.step import TrainingStep, dry_run
from tests.training.one_rank import OneRank

ADAM = "{optimizer: adam, adam_betas: [0.9, 0.999], adam_epsilon: 1.0e-8, weight_decay: %s}"
RATES = [0.0, 0.1, 0.1, 0.01, 0.01, 0.3, 0.0, 0.05]
SHAPES = dict(a=(7, 5), b=(64, 33), c=(1,))


class FirstRank(OneRank):
    is_first = True

    def array_from_first(self, values, like, name):
        return mx.nd.array(values, dtype=like.dtype)


@pytest.fixture
def config_of(tmp_path):
    """A function from optimizer and weight decay to a Config."""

    def make(optimizer, decay=5e-4, dtype="float32"):
        text = (
            ADAM % decay
            if optimizer == "adam"
            else f"{{optimizer: {optimizer}, weight_decay: {decay}}}"
        )
        path = tmp_path / f"{optimizer}.yaml"
        path.write_text(f"extends: ssd-resnet34-shapes\ntraining: {text}\n")
        return load_recipe(str(path)).with_values(
            width=0.125, batch_size=2, eval_batch_size=2, dtype=dtype
        )

    return make


class Weights(nn.HybridBlock):
    def __init__(self, values, dtype):
        super().__init__()
        for name, value in values.items():
            parameter = self.params.get(name, shape=value.shape, dtype=dtype)
            setattr(self, name, parameter)
            parameter.initialize()
            parameter.set_data(mx.nd.array(value, dtype=dtype))


def numbers(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def update(optimizer, network, seed, rate, batch=4):
    """Makes one update with gradients that depend only on the seed, summed over a batch."""
    gradients = numbers(seed)
    with mx.autograd.record():
        total = sum(
            (
                parameter.data()
                * mx.nd.array(
                    batch * optimizer.scale.value * gradients[name], dtype=parameter.dtype
                )
            ).sum()
            for name, parameter in parameters.by_structural_name(network).items()
        )
    total.backward()
    optimizer.allreduce()
    optimizer.update(rate, batch)


def tensors(network):
    return {
        name: parameter.data().asnumpy()
        for name, parameter in parameters.by_structural_name(network).items()
    }


def pytorch_weights(kind, decay):
    """PyTorch's weights after each of RATES."""
    torch = pytest.importorskip("torch")
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in numbers(0).items()}
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=decay),
        "nesterov": lambda p: torch.optim.SGD(
            p, lr=1.0, momentum=0.9, weight_decay=decay, nesterov=True
        ),
        "adam": lambda p: torch.optim.Adam(
            p, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay
        ),
    }[kind]
    optimizer = make(list(weights.values()))
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        for name, gradient in numbers(step + 1).items():
            weights[name].grad = torch.tensor(gradient)
        optimizer.step()
        yield {name: weight.detach().numpy().copy() for name, weight in weights.items()}


@pytest.mark.parametrize("decay", [0, 0.05])
@pytest.mark.parametrize("kind", ["nesterov", "adam"])
def test_as_pytorch_while_the_rate_changes(kind, decay, config_of):
    network = Weights(numbers(0), "float32")
    optimizer = build_optimizer(config_of(kind, decay), network, OneRank())
    for step, wanted in enumerate(pytorch_weights(kind, decay)):
        update(optimizer, network, step + 1, RATES[step])
        for name, value in tensors(network).items():
            np.testing.assert_allclose(
                value, wanted[name], rtol=2e-6, atol=2e-6, err_msg=f"{name}, step {step}"
            )
    assert optimizer.counts() == {"updates": len(RATES)}


def test_adams_epsilon_comes_after_the_bias_correction(config_of):
    """With gradients as small as epsilon, MXNet's own Adam would move the weight a thirtieth as
    far."""
    config = config_of("adam", 0)
    network = Weights(dict(a=np.zeros((1,), np.float32)), "float32")
    optimizer = build_optimizer(config, network, OneRank())
    with mx.autograd.record():
        total = (network.a.data() * 1e-8).sum()
    total.backward()
    optimizer.update(0.1, 1)
    np.testing.assert_allclose(network.a.data().asnumpy(), -0.05, rtol=1e-5)


def test_sgd_keeps_the_rate_inside_its_momentum(config_of):
    """As in the benchmark's MXNet submissions; with a constant rate it equals PyTorch's."""
    network = Weights(numbers(0), "float32")
    optimizer = build_optimizer(config_of("sgd", 0.05), network, OneRank())
    own = mx.gluon.Trainer(
        Weights(numbers(0), "float32").collect_params(),
        "sgd",
        dict(learning_rate=1.0, momentum=0.9, wd=0.05),
    )
    other = {parameter.name.rpartition("_")[2]: parameter for parameter in own._params}
    for step, rate in enumerate(RATES):
        update(optimizer, network, step + 1, rate)
        with mx.autograd.record():
            total = sum(
                (parameter.data() * mx.nd.array(4 * numbers(step + 1)[name])).sum()
                for name, parameter in other.items()
            )
        total.backward()
        own.set_learning_rate(rate)
        own.step(4)
        for name, value in tensors(network).items():
            assert value.tobytes() == other[name].data().asnumpy().tobytes()


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_float16_weights_follow_their_float32_copies(kind, config_of):
    """The copies develop like float32 weights, up to the 3 digits of float16 gradients; the float16
    weights are the copies, rounded."""
    config = config_of(kind, 0.05)
    full, half = Weights(numbers(0), "float32"), Weights(numbers(0), "float16")
    optimizer, other = (
        build_optimizer(c, n, OneRank())
        for c, n in ((config, full), (config_of(kind, 0.05, "float16"), half))
    )
    assert set(optimizer.arrays()) == set(OPTIMIZERS[kind][1])
    assert set(other.arrays()) == {*OPTIMIZERS[kind][1], "masters"}
    for step, rate in enumerate(RATES):
        update(optimizer, full, step + 1, rate)
        update(other, half, step + 1, rate)
    for name, master in other.arrays()["masters"].items():
        assert master.astype(np.float16).tobytes() == tensors(half)[name].tobytes()
        np.testing.assert_allclose(master, tensors(full)[name], atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_resuming_from_arrays_and_counts_is_bitwise_the_same(kind, dtype, config_of):
    config = config_of(kind, 0.05, dtype)
    network = Weights(numbers(0), dtype)
    optimizer = build_optimizer(config, network, OneRank())
    for step in range(4):
        update(optimizer, network, step + 1, RATES[step])
    again = Weights(tensors(network), dtype)
    resumed = build_optimizer(config, again, FirstRank())
    resumed.restore(optimizer.arrays())
    resumed.restore_counts(optimizer.counts())
    for step in range(4, 8):
        for one, other in ((optimizer, network), (resumed, again)):
            update(one, other, step + 1, RATES[step])
        for name, value in tensors(network).items():
            assert value.tobytes() == tensors(again)[name].tobytes(), (name, step)
    assert resumed.counts() == optimizer.counts() == {"updates": 8}


def test_sgd_without_momentum_has_no_state(config_of):
    network = Weights(numbers(0), "float32")
    optimizer = build_optimizer(config_of("sgd").with_values(momentum=0), network, OneRank())
    update(optimizer, network, 1, 0.1)
    assert optimizer.arrays() == optimizer.shapes() == {}


def test_every_choice_is_in_its_table():
    assert tuple(OPTIMIZERS) == sections.OPTIMIZERS


# ---- with a network


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_a_dry_run_changes_nothing(kind, config_of):
    config = config_of(kind)
    detector = build_detector(config)
    network = detector.network
    initialize(network, 0, mx.cpu())
    network.backbone.conv1.weight.grad_req = "null"
    step = TrainingStep(network, detector.loss, config, Ranks())
    before = {name: value.tobytes() for name, value in tensors(network).items()}
    state = {
        group: {name: value.tobytes() for name, value in part.items()}
        for group, part in step.optimizer.arrays().items()
    }
    assert set(state) == set(OPTIMIZERS[kind][1]) and step.optimizer.counts() == {"updates": 0}
    inference = build_inference(detector, Device("cpu", 0, mx.cpu()))
    dry_run(step, inference, network, config, len(detector.default_boxes), mx.cpu())
    assert {name: value.tobytes() for name, value in tensors(network).items()} == before
    assert {
        group: {name: value.tobytes() for name, value in part.items()}
        for group, part in step.optimizer.arrays().items()
    } == state
    assert step.optimizer.counts() == {"updates": 0}


def test_frozen_tensors_are_saved_once_and_restored(config_of):
    """A convolution, and the scale of a BatchNorm."""
    config = config_of("sgd")

    def made(seed):
        detector = build_detector(config)
        network = detector.network
        initialize(network, seed, mx.cpu())
        network.backbone.conv1.weight.grad_req = "null"
        network.backbone.bn1.gamma.grad_req = "null"
        return network, TrainingStep(network, detector.loss, config, FirstRank())

    network, step = made(0)
    assert sorted(step.frozen) == ["backbone.bn1.gamma", "backbone.conv1.weight"]
    assert all(name.endswith(("running_mean", "running_var")) for name in step.statistics)
    assert set(step.weights()) == set(step.parameters) | set(step.frozen)
    assert len(step.running_statistics()) == sum(
        parameter.shape[0] for parameter in step.statistics.values()
    )
    assert not set(step.optimizer.arrays()["momenta"]) & set(step.frozen)
    other, resumed = made(1)
    resumed.restore_weights(step.weights())
    for name, value in step.weights().items():
        assert tensors(other)[name].tobytes() == value.tobytes(), name


def test_a_checkpoint_of_another_optimizer_is_refused(config_of):
    config = config_of("nesterov")
    state = dict(recipe={"training": {}}, global_batch=2, ranks=1, samples="same")
    with pytest.raises(UserError, match="its optimizer is sgd, whose state nesterov cannot use"):
        recovery.check(state, config.with_values(allow_changed_recipe=True), 1, "same", "step-1")


def test_a_float32_checkpoint_resumed_in_float16_keeps_its_weights(config_of):
    """With --allow-changed-recipe: the float32 copies are the checkpoint's weights."""
    values = numbers(5)
    network = Weights(numbers(0), "float16")
    step = SimpleNamespace(
        optimizer=build_optimizer(config_of("sgd", dtype="float16"), network, FirstRank()),
        shapes=lambda: {},
        restore_weights=lambda weights: None,
        set_statistics=lambda statistics: None,
    )
    step.scale = step.optimizer.scale
    training = SimpleNamespace(
        step=step, ranks=Ranks(), metrics=SimpleNamespace(restore=lambda losses: None)
    )
    arrays = dict(
        parameters=values,
        momenta=numbers(6),
        ranks=dict(running_statistics=np.zeros((1, 2)), unread_losses=np.zeros((1, 0, 2))),
    )
    recovery.restore(training, arrays, dict(ranks=1, loss_scale=step.scale.state()))
    for name, value in values.items():
        assert step.optimizer.arrays()["masters"][name].tobytes() == value.tobytes()


def test_the_kernel_for_many_tensors_that_is_used_on_a_gpu(monkeypatch):
    """It gives the same numbers as the kernel for one tensor, and as the formula."""
    generator = np.random.default_rng(5)
    start, change = (
        [
            generator.standard_normal(shape).astype(np.float32)
            for shape in ((3, 4), (5,), (2, 3, 1, 1))
        ]
        for _ in range(2)
    )
    rates, decays, results = [0.1, -2.0, 0.5], [0.0, 0.3, -0.1], []
    for device_type in ("cpu", "gpu"):
        ys, xs = ([mx.nd.array(part) for part in parts] for parts in (start, change))
        with monkeypatch.context() as patched:
            patched.setattr(mx.nd.NDArray, "context", SimpleNamespace(device_type=device_type))
            optimizers._add(ys, xs, rates, decays, 0.25)
        results.append([y.asnumpy() for y in ys])
    for one, many, y, x, rate, decay in zip(*results, start, change, rates, decays):
        np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            many, (1 - rate * decay) * y - rate * 0.25 * x, rtol=1e-5, atol=1e-6
        )
