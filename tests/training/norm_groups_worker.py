"""Runs on each of the ranks of test_norm_groups.py: BatchNorm over groups of ranks, whose size is
the argument, compared with the same network on the complete batch of a group, in float64; ends with
status 0 and a line if all checks pass."""

import sys

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn

from ssd.config import load_recipe
from ssd.model import parameters
from ssd.model.batch_norm import BatchNorm, batch_norms
from ssd.training.ranks import Ranks
from ssd.training.step import TrainingStep

RATE, MOMENTUM, BATCH, STEPS = 2.0**-9, 0.5, 2, 3  # MXNet rounds the first two to float32


class Network(HybridBlock):
    """From images (B, 3, 8, 8) to two (B, 4), with three BatchNorms, the first of them with
    channels far from 0."""

    def __init__(self):
        super().__init__(prefix="")
        with self.name_scope():
            self.first = BatchNorm(in_channels=3, momentum=0.7)
            self.conv = nn.Conv2D(8, 3, in_channels=3)
            self.second = BatchNorm(in_channels=8, epsilon=1e-3)
            self.depthwise = nn.Conv2D(8, 3, groups=8, strides=2, in_channels=8)
            self.third = BatchNorm(in_channels=8)
            self.last = nn.Dense(8, in_units=8)

    def hybrid_forward(self, F, images):
        x = F.Activation(self.second(self.conv(self.first(images))), act_type="relu")
        x = self.last(F.mean(F.square(self.third(self.depthwise(x))), axis=(2, 3)))
        return F.slice_axis(x, axis=1, begin=0, end=4), F.slice_axis(x, axis=1, begin=4, end=8)


class Loss(HybridBlock):
    def hybrid_forward(self, F, offsets, logits, targets, classes):
        return F.sum(F.square(logits - classes), axis=1), F.sum(F.square(offsets - targets), axis=1)


def network():
    made = Network()
    made.initialize(mx.init.Normal(0.3))
    made.cast("float64")
    noise = np.random.default_rng(0)
    for name, parameter in parameters.by_structural_name(made).items():
        if not name.endswith("running_var"):
            # Discarding a step restores running statistics as float32.
            parameter.set_data(
                mx.nd.array(
                    0.3 * noise.standard_normal(parameter.shape, np.float32), dtype="float64"
                )
            )
    return made


def batch(rank, step):
    """A rank's own images, with their own mean and deviation, and targets."""
    noise = np.random.default_rng([rank, step])
    images = noise.standard_normal((BATCH, 3, 8, 8)) * (1 + rank) + 100 + 3 * rank
    return images, noise.standard_normal((BATCH, 4)), noise.standard_normal((BATCH, 4))


def arrays(values):
    return [mx.nd.array(value, dtype="float64") for value in values]


def reference(groups, size):
    """Losses, averaged gradients and running statistics of each step and group, and the final
    weights, computed with plain BatchNorms on the complete batches."""
    copies, loss, velocities, steps = [network() for _ in range(groups)], Loss(), {}, []
    for step in range(STEPS):
        found = []
        for group, copy in enumerate(copies):
            images, targets, classes = arrays(
                map(
                    np.concatenate,
                    zip(*(batch(rank, step) for rank in range(group * size, (group + 1) * size))),
                )
            )
            with mx.autograd.record():
                losses = loss(*copy(images), targets, classes)
                total = losses[0] + losses[1]
            total.backward()
            found.append(
                (
                    total.asnumpy(),
                    {
                        name: parameter.data().asnumpy()
                        for name, parameter in parameters.statistics(copy).items()
                    },
                )
            )
        gradients = {
            name: sum(parameters.trained(copy)[name].grad().asnumpy() for copy in copies)
            / (groups * size * BATCH)
            for name in parameters.trained(copies[0])
        }
        for name, gradient in gradients.items():
            velocities[name] = MOMENTUM * velocities.get(name, 0) + RATE * gradient
            for copy in copies:
                parameter = parameters.trained(copy)[name]
                parameter.set_data(
                    mx.nd.array(parameter.data().asnumpy() - velocities[name], dtype="float64")
                )
        steps.append((found, gradients))
    return steps, {
        name: parameter.data().asnumpy()
        for name, parameter in parameters.trained(copies[0]).items()
    }


def close(found, wanted, what):
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9, err_msg=what)


def check_steps(ranks, size):
    group, index = divmod(ranks.rank, size)
    wanted, weights = reference(ranks.size // size, size)
    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=BATCH, batch_norm_ranks=size, weight_decay=0.0, momentum=MOMENTUM
    )
    trained = network()
    step = TrainingStep(trained, Loss(), config, ranks)
    assert step.norm_groups.startswith(
        f"BatchNorm over groups of {size} ranks, {size * BATCH} images: 6 exchanges"
    )
    before = step.running_statistics()
    step.gradients(*arrays(batch(0, 9)), check=True)
    assert step.finite() and (step.running_statistics() != before).all()
    step.discard()
    assert (step.running_statistics() == before).all(), (
        "discarding a step must restore the statistics"
    )
    for number, (found, gradients) in enumerate(wanted):
        losses, statistics = found[group]
        own = step.gradients(*arrays(batch(ranks.rank, number)), check=True)
        assert step.finite()
        close(
            (own[0] + own[1]).asnumpy(),
            losses[index * BATCH : (index + 1) * BATCH],
            f"losses of step {number}",
        )
        for name, parameter in step.statistics.items():
            close(parameter.data().asnumpy(), statistics[name], f"{name} after step {number}")
        for name, parameter in step.parameters.items():  # Horovod sums, and divides in the update
            close(
                parameter.grad().asnumpy() / (ranks.size * BATCH),
                gradients[name],
                f"gradient of {name}, {number}",
            )
        step.update(RATE)
    for name, parameter in step.parameters.items():
        close(parameter.data().asnumpy(), weights[name], name)
    return trained


def check_evaluation(trained):
    """On this rank only, while the others wait elsewhere: no collective runs, and the result is
    that of a plain BatchNorm."""
    plain = Network()
    plain.initialize()
    plain.cast("float64")
    for name, parameter in parameters.by_structural_name(plain).items():
        parameter.set_data(parameters.by_structural_name(trained)[name].data())
    images = arrays(batch(5, 5))[0]
    trained.hybridize()
    for one, two in zip(trained(images), plain(images)):
        close(one.asnumpy(), two.asnumpy(), "evaluation")


def check_half(ranks, size):
    """Channels last in float16, with float32 statistics, compared with the formula in float64."""
    noise = [np.random.default_rng(rank) for rank in range(ranks.size)]
    images = [
        (n.standard_normal((2, 5, 4, 6)) * (1 + rank) + rank).astype(np.float16)
        for rank, n in enumerate(noise)
    ]
    slopes = [n.standard_normal((2, 5, 4, 6)).astype(np.float16) for n in noise]
    norm = BatchNorm(axis=3, in_channels=6, epsilon=1e-3)
    norm.initialize()
    norm.cast("float16")
    norm.gamma.set_data(mx.nd.arange(6) + 1)
    norm.synchronise(lambda array, name: ranks.group_mean(array, size, name), "half")
    norm.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(images[ranks.rank], dtype="float16")
    x.attach_grad()
    with mx.autograd.record():
        y = norm(x)
    y.backward(mx.nd.array(slopes[ranks.rank], dtype="float16"))
    start, axes = ranks.rank // size * size, (0, 1, 2)
    full, slope = (
        np.concatenate(parts[start : start + size]).astype(np.float64) for parts in (images, slopes)
    )
    mean, var, gamma = full.mean(axes), full.var(axes), np.arange(6) + 1
    scaled = (full - mean) / np.sqrt(var + 1e-3)
    wanted = (
        gamma
        / np.sqrt(var + 1e-3)
        * (slope - slope.mean(axes) - scaled * (slope * scaled).mean(axes))
    )
    own = slice(2 * (ranks.rank - start), 2 * (ranks.rank - start) + 2)
    assert y.dtype == x.grad.dtype == np.float16 and norm.running_var.data().dtype == np.float32
    np.testing.assert_allclose(y.asnumpy(), gamma * scaled[own], rtol=2e-3, atol=5e-3)
    np.testing.assert_allclose(x.grad.asnumpy(), wanted[own], rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(norm.running_mean.data().asnumpy(), 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.data().asnumpy(), 0.9 + 0.1 * var, rtol=1e-3)


group_size = int(sys.argv[1])
everyone = Ranks()
trained_network = check_steps(everyone, group_size)
assert len(batch_norms(trained_network)) == 3
if everyone.is_first:
    check_evaluation(trained_network)
check_half(everyone, group_size)
print(f"rank {everyone.rank} of {everyone.size}: all checks passed", flush=True)
everyone.close()
