"""One training step: forward, backward, gradient average over ranks, update."""
from __future__ import annotations

from typing import Dict, List, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.training.loss_scale import LossScale


class NetworkWithLoss(HybridBlock):
    """Network and loss as one graph: images and targets to class and offset losses, (B,) float32 each."""

    def __init__(self, network: HybridBlock, loss: HybridBlock, **kwargs):
        super().__init__(**kwargs)
        self.network, self.loss = network, loss

    def hybrid_forward(self, F, images, offsets, classes):
        return self.loss(*self.network(images), offsets, classes)


class TrainingStep:
    """Trains `network` on one batch a call: `gradients`, then `update`, or `discard` if they are not `finite`.

    SGD with the learning rate inside the momentum, weight decay on every parameter, no clipping.
    """

    def __init__(self, network: HybridBlock, loss: HybridBlock, config: Config, ranks):
        self.graph = NetworkWithLoss(network, loss)
        self.graph.hybridize(static_alloc=True, static_shape=True)
        training = config.training
        half = config.model.dtype == "float16"
        self.scale = LossScale(training.loss_scale, training.loss_scale_window) if half else LossScale(1, 0)
        self.ranks, self.batch_size = ranks, training.batch_size
        self.trainer = ranks.trainer(network.collect_params(), learning_rate=1.0, momentum=training.momentum,
                                     wd=training.weight_decay, multi_precision=half)
        self.parameters = {name: parameter for name, parameter in network._collect_params_with_prefix().items()
                           if parameter.grad_req != "null"}
        self.statistics = {name: parameter for name, parameter
                           in sorted(network._collect_params_with_prefix().items()) if parameter.grad_req == "null"}
        self._own = self._total = None

    def gradients(self, images, offsets, classes, check: bool):
        """Forward, backward and the average of the gradients over the ranks; nothing waits for them here.

        Returns the batch's class and offset losses, (B,) NDArrays. `check`: `finite` can be asked, and `discard`
        called, before the update.
        """
        before = self._statistics() if check else None
        with mx.autograd.record():
            losses = self.graph(images, offsets, classes)
            total = (losses[0] + losses[1]) * self.scale.value
        self._backward(total)
        self._before = before
        if check:
            # A rank's loss that is not finite must reach all, even where its gradient is finite.
            self._total = total.sum()
            if self.ranks.size > 1:
                self._own = _sums_of_squares([self._total, *self._gradients()])
            self.ranks.average_in_place([self._total], "total loss")
        self.trainer.allreduce_grads()
        return losses

    def _backward(self, total) -> None:
        total.backward()

    def finite(self) -> bool:
        """Whether the loss and all averaged gradients of the step are finite: the same answer on every rank. Waits
        for them."""
        arrays = [self._total, *self._gradients()]
        return _finite(_sums_of_squares(arrays)) or _all_finite(arrays)

    def own_finite(self) -> bool:
        """Whether this rank's loss and gradients were finite before they were averaged."""
        return self.finite() if self._own is None else _finite(self._own)

    def update(self, learning_rate: float) -> None:
        """The step itself."""
        self.trainer.set_learning_rate(learning_rate)
        self.trainer.update(self.batch_size * self.scale.value)

    def discard(self) -> None:
        """As if `gradients` had not been called: the running statistics are what they were."""
        self.set_statistics(self._before.asnumpy())

    # ---- what a checkpoint holds

    def _gradients(self) -> List:
        return [parameter.list_grad()[0] for parameter in self.parameters.values()]

    def _statistics(self):
        return mx.nd.concat(*[parameter.list_data()[0] for parameter in self.statistics.values()], dim=0)

    def running_statistics(self) -> np.ndarray:
        """This rank's running means and variances, (n,) float32, in the order of their names."""
        return self._statistics().asnumpy().astype(np.float32)

    def split_statistics(self, values: np.ndarray) -> Dict[str, np.ndarray]:
        """(n,) running means and variances by the structural names of their tensors, float32."""
        ends = np.cumsum([parameter.shape[0] for parameter in self.statistics.values()])
        assert ends[-1] == len(values)
        return dict(zip(self.statistics, np.split(np.asarray(values, np.float32), ends[:-1])))

    def set_statistics(self, values: np.ndarray) -> None:
        for name, part in self.split_statistics(values).items():
            self.statistics[name].set_data(mx.nd.array(part, dtype=self.statistics[name].dtype))

    def _states(self):
        """(structural name, momentum, float32 weight or None) of every trained parameter."""
        places = {id(parameter): place for place, parameter in enumerate(self.trainer._params)}
        for name, parameter in self.parameters.items():
            state = self.trainer._updaters[0].states[places[id(parameter)]]
            momentum, weight = state if isinstance(state, (tuple, list)) else (state, None)
            yield name, momentum, weight

    def optimizer_arrays(self) -> Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]:
        """Momenta, and the float32 weights behind float16 ones, by structural names. Needs one step, as of
        `dry_run`, to have been made."""
        momenta = {name: momentum.asnumpy() for name, momentum, _ in self._states()}
        return momenta, {name: weight.asnumpy() for name, _, weight in self._states() if weight is not None}

    def restore(self, parameters, momenta, masters) -> None:
        """Weights, momenta and float32 weights by structural names; of rank 0, the others give None. Collective."""
        # In arrays of their own, since Horovod cannot send what oneDNN has put in a layout of its own.
        def told(values, like, name):
            given = np.zeros(like.shape) if values is None else values
            array = mx.nd.array(given, ctx=like.context, dtype=like.dtype)
            self.ranks.broadcast_in_place([array], name)
            return array
        for name, parameter in self.parameters.items():
            like = parameter.list_data()[0]
            parameter.set_data(told(parameters and parameters[name], like, f"weight {name}"))
        masters = masters or parameters    # of a checkpoint in float32 there are no others
        for name, momentum, master in self._states():
            momentum[:] = told(momenta and momenta[name], momentum, f"momentum {name}")
            if master is not None:
                master[:] = told(masters and masters[name], master, f"master {name}")


def _by_type(arrays) -> List[List]:
    """The arrays in lists of one type each, as MXNet's operators on many arrays want them."""
    groups: Dict[type, List] = {}
    for array in arrays:
        groups.setdefault(array.dtype, []).append(array)
    return list(groups.values())


def _sums_of_squares(arrays) -> List:
    """Finite where all elements of all arrays are, unless an element's square is above 3e38; nothing waits here.

    On a CPU it takes a tenth of the time of MXNet's own check (docs/performance-log.md).
    """
    return [mx.nd.multi_sum_sq(*group, num_arrays=len(group)) for group in _by_type(arrays)]


def _finite(sums) -> bool:
    return all(np.isfinite(part.asnumpy()).all() for part in sums)


def _all_finite(arrays) -> bool:
    """Whether all elements of all arrays are finite, exactly."""
    return all(mx.nd.multi_all_finite(*group, num_arrays=len(group), init_output=True).asscalar()
               for group in _by_type(arrays))


def dry_run(step: TrainingStep, inference, network, config: Config, boxes: int, context) -> None:
    """Runs training and evaluation once on made-up images, so that memory and kernels are chosen before the clock
    starts; leaves no trace in weights, running statistics or momenta.

    Targets without a positive box make loss and gradients exactly 0, and the learning rate is 0.
    """
    # The statistics alone: with a learning rate and momenta of 0 an update adds 0 to the weights.
    before = {name: parameter.data(context).copy() for name, parameter in network.collect_params().items()
              if parameter.grad_req == "null"}
    batch = config.training.batch_size
    noise = np.random.default_rng(0)

    def images(count):
        return mx.nd.array(noise.standard_normal(network.input_shape(count)), ctx=context, dtype=config.model.dtype)

    step.gradients(images(batch), mx.nd.zeros((batch, boxes, 4), ctx=context),
                   mx.nd.zeros((batch, boxes), ctx=context, dtype="int32"), check=True)
    step.finite()
    step.update(0.0)
    inference(images(config.evaluation.eval_batch_size)).wait_to_read()
    parameters = network.collect_params()
    for name, values in before.items():
        parameters[name].set_data(values)
    mx.nd.waitall()
