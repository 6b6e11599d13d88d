"""One training step: forward, backward, gradient average over ranks, update."""

from __future__ import annotations

from typing import Dict, List, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.lock_wait import LockWait
from ssd.model import parameters
from ssd.training.norm_groups import join_groups
from ssd.training.optimizer import build_optimizer


class NetworkWithLoss(HybridBlock):
    """Network and loss as one graph: from images and targets to class and offset losses, (B,)
    float32 each."""

    def __init__(self, network: HybridBlock, loss: HybridBlock, **kwargs):
        super().__init__(**kwargs)
        self.network, self.loss = network, loss

    def hybrid_forward(self, F, images, offsets, classes):
        return self.loss(*self.network(images), offsets, classes)


class TrainingStep:
    """Trains the initialised `network` batch by batch: call `gradients`, then `update`, or
    `discard` if they are not `finite`.

    Its tensors are in three groups, by structural name: `parameters`, which are trained;
    `statistics`, the running means and variances, which differ between ranks; `frozen`, which never
    change.
    """

    def __init__(self, network: HybridBlock, loss: HybridBlock, config: Config, ranks):
        self.norm_groups = join_groups(network, config, ranks)  # a line about them, "" without
        self.graph = NetworkWithLoss(network, loss)
        self.graph.hybridize(static_alloc=True, static_shape=True)
        self.ranks, self.batch_size = ranks, config.training.batch_size
        self.optimizer = build_optimizer(config, network, ranks)
        self.parameters = parameters.trained(network)
        self.statistics = parameters.statistics(network)
        self.frozen = parameters.frozen(network)
        self.lock_wait = LockWait()  # of the thread that queues the steps
        self._own = self._total = self._before = None
        self._by_type = None  # lists of gradients of one type, so that MXNet finds the types once

    @property
    def scale(self):
        """The optimizer's LossScale."""
        return self.optimizer.scale

    def gradients(self, images, offsets, classes, check: bool):
        """Runs forward, backward and the average of the gradients over the ranks, without waiting
        for them.

        Returns the batch's class and offset losses, (B,) NDArrays. `check`: allows calling `finite`
        and `discard` before the update.
        """
        with self.lock_wait:
            before = self._joined_statistics() if check else None
            losses, total = self.forward(images, offsets, classes)
            self._before = before
            self.backward(total)
            self.average(total if check else None)
        return losses

    def forward(self, images, offsets, classes):
        """The class and offset losses, (B,) each, and the argument of `backward`: their sum (B,)
        times the loss scale."""
        with mx.autograd.record():
            losses = self.graph(images, offsets, classes)
            return losses, (losses[0] + losses[1]) * self.scale.value

    def backward(self, total) -> None:
        total.backward()

    def average(self, total) -> None:
        """Averages the gradients over the ranks. Collective. total: from `forward`, for `finite`;
        None: `finite` will not be called."""
        if total is not None:
            # All ranks must learn of a loss that is not finite, even if its gradient is finite.
            self._total = total.sum()
            if self.ranks.size > 1:
                self._own = _sums_of_squares(self._checked())
            self.ranks.average_in_place([self._total], "total loss")
        self.optimizer.allreduce()

    def finite(self) -> bool:
        """Whether the loss and all averaged gradients of the step are finite: the same answer on
        every rank. Waits for them."""
        groups = self._checked()
        return _finite(_sums_of_squares(groups)) or _all_finite(groups)

    def own_finite(self) -> bool:
        """Whether this rank's loss and gradients were finite before they were averaged."""
        return self.finite() if self._own is None else _finite(self._own)

    def update(self, learning_rate: float) -> None:
        """Updates the weights."""
        with self.lock_wait:
            self.optimizer.update(learning_rate, self.batch_size)

    def discard(self) -> None:
        """Restores the running statistics, as if `gradients` had not been called."""
        self.set_statistics(self._before.asnumpy())

    def _checked(self) -> List[List]:
        """Loss and gradients in lists of one type each, as MXNet's operators on many arrays need
        them."""
        if self._by_type is None:
            groups: Dict[type, List] = {}
            for parameter in self.parameters.values():
                gradient = parameter.list_grad()[0]
                groups.setdefault(gradient.dtype, []).append(gradient)
            self._by_type = list(groups.values())
        return [[self._total], *self._by_type]

    # ---- what a checkpoint holds

    def weights(self) -> Dict[str, np.ndarray]:
        """Trained and frozen tensors by structural name, in the network's types."""
        return {name: parameter.list_data()[0].asnumpy() for name, parameter in self._weights()}

    def shapes(self) -> Dict[str, tuple]:
        """The shapes of `weights`."""
        return {name: parameter.shape for name, parameter in self._weights()}

    def restore_weights(self, weights: Optional[Dict[str, np.ndarray]]) -> None:
        """Sets trained and frozen tensors to rank 0's `weights`; the others pass None.
        Collective."""
        for name, parameter in self._weights():
            parameter.set_data(
                self.ranks.array_from_first(
                    weights and weights[name], parameter.list_data()[0], f"weight {name}"
                )
            )

    def _weights(self):
        return [*self.parameters.items(), *self.frozen.items()]

    def average_statistics(self) -> None:
        """Replaces the running statistics by their means over the ranks. Collective."""
        self.ranks.average_in_place(
            [parameter.list_data()[0] for parameter in self.statistics.values()], "batch norm"
        )

    def _joined_statistics(self):
        return mx.nd.concat(
            *[parameter.list_data()[0] for parameter in self.statistics.values()], dim=0
        )

    def running_statistics(self) -> np.ndarray:
        """This rank's running means and variances, (n,) float32, in the order of `statistics`."""
        return self._joined_statistics().asnumpy().astype(np.float32)

    def split_statistics(self, values: np.ndarray) -> Dict[str, np.ndarray]:
        """Splits (n,) running means and variances into float32 arrays by structural name."""
        ends = np.cumsum([parameter.shape[0] for parameter in self.statistics.values()])
        assert ends[-1] == len(values)
        return dict(zip(self.statistics, np.split(np.asarray(values, np.float32), ends[:-1])))

    def set_statistics(self, values: np.ndarray) -> None:
        for name, part in self.split_statistics(values).items():
            self.statistics[name].set_data(mx.nd.array(part, dtype=self.statistics[name].dtype))


def _sums_of_squares(groups: List[List]) -> List:
    """Finite if all elements of all arrays in the lists are, unless an element's square exceeds
    3e38. Does not wait.

    On a CPU this takes a tenth of the time of MXNet's own check (docs/performance-log.md).
    """
    return [mx.nd.multi_sum_sq(*group, num_arrays=len(group)) for group in groups]


def _finite(sums) -> bool:
    return all(np.isfinite(part.asnumpy()).all() for part in sums)


def _all_finite(groups: List[List]) -> bool:
    """Whether all elements of all arrays in the lists are finite, exactly."""
    return all(
        mx.nd.multi_all_finite(*group, num_arrays=len(group), init_output=True).asscalar()
        for group in groups
    )


def dry_run(step: TrainingStep, inference, network, config: Config, boxes: int, context) -> None:
    """Trains and evaluates once on synthetic images, so that memory is allocated and kernels are
    chosen before the timed part.

    Changes no bit of a step that has not made an update yet: the learning rate is 0, which keeps
    the weights without copying them; running statistics are restored; the optimizer is reset.
    Targets without a positive box keep loss and gradients finite. boxes: number of the network's
    default boxes; context: the network's device.
    """
    before = step.running_statistics()
    batch = config.training.batch_size
    noise = np.random.default_rng(0)

    def images(count):
        return mx.nd.array(
            noise.standard_normal(network.input_shape(count)), ctx=context, dtype=config.model.dtype
        )

    step.gradients(
        images(batch),
        mx.nd.zeros((batch, boxes, 4), ctx=context),
        mx.nd.zeros((batch, boxes), ctx=context, dtype="int32"),
        check=True,
    )
    step.finite()
    step.update(0.0)
    inference(images(config.evaluation.eval_batch_size)).wait_to_read()
    step.set_statistics(before)
    step.optimizer.reset()
    mx.nd.waitall()
    step.lock_wait.seconds = 0.0
