"""The optimizers: averaging gradients over the ranks, updating every trained parameter, scaling the
loss.

`g` is the gradient, averaged over the global batch. Every optimizer uses g' = g + weight_decay w.

sgd       m = momentum m - lr g';  w += m            MXNet's SGD: lr is inside the momentum
nesterov  v = momentum v + g';  w -= lr (g' + momentum v)            torch.optim.SGD(nesterov=True)
momentum  v = momentum v + g';  w -= lr v                            torch.optim.SGD, MindSpore's
                                                                     Momentum
adam      m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
          w -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)  torch.optim.Adam

Weights in float16 have float32 copies (`masters`), which are updated in their place.
"""

from __future__ import annotations

import math
from typing import Dict, Iterator, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config, TrainingConfig
from ssd.model import parameters

Arrays = Dict[str, Dict[str, np.ndarray]]


class LossScale:
    """The factor on the loss that keeps float16 gradients above their smallest number.

    `value` doubles after `window` steps without an overflow, and halves at each overflow, whose
    step is skipped and counted. `window` 0: the value is constant, and an overflow is an error. As
    in PyTorch's GradScaler and MXNet's amp.LossScaler.
    """

    def __init__(self, value: float, window: int):
        self.value, self.window = float(value), window
        self.clean_steps = self.skipped = 0

    def accepts(self, finite: bool) -> bool:
        """Updates the scale after a step whose gradients were `finite` or not. Returns whether
        training can continue: not after an overflow with a static scale, nor with a scale of 1,
        which the range of float16 does not explain."""
        if finite:
            self.clean_steps += 1
            if self.window and self.clean_steps == self.window:
                self.value, self.clean_steps = self.value * 2, 0
            return True
        if not self.window or self.value <= 1:
            return False
        self.value, self.clean_steps = max(1.0, self.value / 2), 0
        self.skipped += 1
        return True

    def state(self) -> Dict[str, float]:
        return dict(value=self.value, clean_steps=self.clean_steps, skipped=self.skipped)

    def restore(self, state: Dict[str, float]) -> None:
        self.value, self.clean_steps = float(state["value"]), int(state["clean_steps"])
        self.skipped = int(state["skipped"])


class Sgd(mx.optimizer.SGD):
    """MXNet's SGD for dense tensors only: MXNet's own checks the storage type of every tensor at
    every step."""

    def __init__(self, **options):
        super().__init__(**options)
        # Tensors per call. MXNet's default of 4 makes four times as many calls, which take as much
        # longer.
        self.aggregate_num = max(16, self.aggregate_num)

    def update_multi_precision(self, index, weight, grad, state):
        if not self.momentum:
            super().update_multi_precision(index, weight, grad, state)
            return
        self._update_count(index)
        together = dict(
            num_weights=len(index),
            lrs=self._get_lrs(index),
            wds=self._get_wds(index),
            momentum=self.momentum,
            rescale_grad=self.rescale_grad,
        )
        if isinstance(state[0], tuple):
            arrays = [
                array
                for *both, (momentum, master) in zip(weight, grad, state)
                for array in (*both, momentum, master)
            ]
            mx.nd.multi_mp_sgd_mom_update(*arrays, out=weight, **together)
        else:
            arrays = [array for part in zip(weight, grad, state) for array in part]
            mx.nd.multi_sgd_mom_update(*arrays, out=weight, **together)


class Nesterov(mx.optimizer.Optimizer):
    """PyTorch's SGD with momentum, Nesterov's or plain. In MXNet's NAG and SGD the learning rate is
    inside the velocity, so that they differ once the rate changes."""

    def __init__(self, momentum: float, nesterov: bool = True, **options):
        super().__init__(**options)
        self.momentum, self.nesterov = momentum, nesterov
        # Tensors per update, which makes four calls: as many calls as SGD with 4 tensors each.
        self.aggregate_num = 16

    def create_state_multi_precision(self, index, weight):
        return _zeros(weight), _master(weight)

    def update_multi_precision(self, index, weight, grad, state):
        self._update_count(index)
        rates, decays, none = self._get_lrs(index), self._get_wds(index), [0.0] * len(index)
        velocities, masters = zip(*state)
        half = masters[0] is not None  # the trainer passes tensors of one type at a time
        full, halves = (masters, weight) if half else (weight, None)
        _add(
            velocities,
            grad,
            [-1.0] * len(index),
            [self.momentum - 1] * len(index),
            self.rescale_grad,
            halves,
        )
        if any(decays):
            _add(velocities, full, [-decay for decay in decays], none, 1.0)
        if not self.nesterov:
            _add(full, velocities, rates, none, 1.0)
            if half:
                for master, weight in zip(masters, halves):
                    mx.nd.cast(master, dtype=weight.dtype, out=weight)
            return
        _add(full, velocities, rates, decays, self.momentum)
        _add(full, grad, rates, none, self.rescale_grad, halves)


class Adam(mx.optimizer.Optimizer):
    """PyTorch's Adam. MXNet's adds epsilon before the bias correction, which makes epsilon 32 times
    as large at the first step."""

    def __init__(self, betas: Tuple[float, float], epsilon: float, **options):
        super().__init__(**options)
        # In float32, as in the operator: 1 - 0.999 is 1.3e-5 less there, and the bias correction
        # must use the same value.
        self.betas, self.epsilon = tuple(float(np.float32(beta)) for beta in betas), epsilon

    def create_state_multi_precision(self, index, weight):
        return _zeros(weight), _zeros(weight), _master(weight)

    def update_multi_precision(self, index, weight, grad, state):
        self._update_count(index)
        mean, variance, master = state
        (beta1, beta2), steps = self.betas, self._index_update_count[index]
        correction = math.sqrt(1 - beta2**steps)
        full, grad = (weight, grad) if master is None else (master, grad.astype("float32"))
        mx.nd.adam_update(
            full,
            grad,
            mean,
            variance,
            out=full,
            beta1=beta1,
            beta2=beta2,
            lr=self._get_lr(index) * correction / (1 - beta1**steps),
            wd=self._get_wd(index),
            epsilon=self.epsilon * correction,
            rescale_grad=self.rescale_grad,
            lazy_update=False,
        )
        if master is not None:
            mx.nd.cast(master, dtype=weight.dtype, out=weight)


def _zeros(weight):
    return mx.nd.zeros(weight.shape, weight.context, dtype="float32")


def _master(weight):
    return weight.astype("float32") if weight.dtype == np.float16 else None


def _add(ys, xs, rates: List[float], decays: List[float], scale: float, halves=None) -> None:
    """y = (1 - rate decay) y - rate scale x, tensor by tensor, with MXNet's kernels for plain SGD.

    ys: float32; xs: of the same shapes, float32, or float16 with `halves`, the float16 copies of y,
    which the kernel updates too.
    """
    together = dict(num_weights=len(ys), lrs=rates, wds=decays, rescale_grad=scale)
    if halves is not None:
        mx.nd.multi_mp_sgd_update(
            *(array for part in zip(halves, xs, ys) for array in part), out=halves, **together
        )
    elif ys[0].context.device_type == "gpu":
        mx.nd.multi_sgd_update(
            *(array for pair in zip(ys, xs) for array in pair), out=ys, **together
        )
    else:  # on a CPU the kernel for many tensors takes twice as long
        for y, x, rate, decay in zip(ys, xs, rates, decays):
            mx.nd.sgd_update(y, x, out=y, lr=rate, wd=decay, rescale_grad=scale, lazy_update=False)


def _sgd(training: TrainingConfig, **options):
    return Sgd(momentum=training.momentum, **options)


def _nesterov(training: TrainingConfig, **options):
    return Nesterov(training.momentum, **options)


def _momentum(training: TrainingConfig, **options):
    return Nesterov(training.momentum, nesterov=False, **options)


def _adam(training: TrainingConfig, **options):
    return Adam(training.adam_betas, training.adam_epsilon, **options)


# By training.optimizer: the function that builds it, and the groups of arrays that are its state,
# float32 and of the weights' shapes.
OPTIMIZERS = {
    "sgd": (_sgd, ("momenta",)),
    "nesterov": (_nesterov, ("momenta",)),
    "momentum": (_momentum, ("momenta",)),
    "adam": (_adam, ("means", "variances")),
}


class Optimizer:
    """Averages gradients over the ranks, and updates a network's trained parameters with them."""

    def __init__(self, config: Config, network: HybridBlock, ranks):
        training, half = config.training, config.model.dtype == "float16"
        build, groups = OPTIMIZERS[training.optimizer]
        self.scale = (
            LossScale(training.loss_scale, training.loss_scale_window) if half else LossScale(1, 0)
        )
        self._ranks, self._groups = ranks, (*groups, "masters")
        self._optimizer = build(
            training, learning_rate=1.0, wd=training.weight_decay, multi_precision=half
        )
        if not training.decay_norms:
            for name, parameter in network.collect_params().items():
                if name.endswith(("_gamma", "_beta")):
                    parameter.wd_mult = 0.0
        self._trainer = ranks.trainer(network.collect_params(), self._optimizer)
        self._parameters = parameters.trained(network)
        self._calls = None  # the optimizer's calls for one update, known at the first update

    def allreduce(self) -> None:
        """Replaces the gradients by their means over the ranks, without waiting for them.
        Collective."""
        self._trainer.allreduce_grads()

    def update(self, learning_rate: float, batch: int) -> None:
        """Makes one update with the gradients of a sum over `batch` images' losses times the loss
        scale."""
        if self._calls is None:
            self._calls = parameters.optimizer_calls(self._trainer, self._parameters)
        self._optimizer.set_learning_rate(learning_rate)
        self._optimizer.rescale_grad = parameters.gradient_factor(self._trainer) / (
            batch * self.scale.value
        )
        for call in self._calls:
            self._optimizer.update_multi_precision(*call)

    # ---- what a checkpoint holds

    def arrays(self) -> Arrays:
        """Group -> structural name of the weight -> array; without empty groups."""
        found: Arrays = {}
        for group, name, array in self._state():
            found.setdefault(group, {})[name] = array.asnumpy()
        return found

    def shapes(self) -> Dict[str, Dict[str, Tuple[int, ...]]]:
        """The shapes of `arrays`, which `restore` needs."""
        found: Dict[str, Dict[str, Tuple[int, ...]]] = {}
        for group, name, array in self._state():
            found.setdefault(group, {})[name] = array.shape
        return found

    def restore(self, arrays: Optional[Arrays]) -> None:
        """Sets the state to rank 0's `arrays`; the others pass None. Collective."""
        for group, name, array in self._state():
            array[:] = self._ranks.array_from_first(
                arrays and arrays[group][name], array, f"{group} {name}"
            )

    def counts(self) -> Dict[str, int]:
        """The number of updates, on which Adam's bias correction depends; save it with `arrays`."""
        return dict(updates=self._optimizer.num_update)

    def restore_counts(self, counts: Optional[Dict[str, int]]) -> None:
        """None: from a checkpoint of a version that only had sgd, which does not use them."""
        parameters.set_update_count(self._optimizer, counts["updates"] if counts else 0)

    def reset(self) -> None:
        """Resets the state, as if no update had been made; keeps weights and float32 copies."""
        for group, _, array in self._state():
            if group != "masters":
                array[:] = 0
        self.restore_counts(None)

    def _state(self) -> Iterator[Tuple[str, str, mx.nd.NDArray]]:
        """(group, structural name, array) of all arrays, group by group."""
        states = parameters.optimizer_states(self._trainer, self._parameters)
        for index, group in enumerate(self._groups):
            for name, state in states.items():
                # No tuple: SGD without a float32 copy.
                parts = state if isinstance(state, tuple) else (state, None)
                if parts[index] is not None:
                    yield group, name, parts[index]


def build_optimizer(config: Config, network: HybridBlock, ranks) -> Optimizer:
    """The optimizer chosen by training.optimizer, for the trained parameters of an initialised
    network.

    ranks: an ssd.training.ranks.Ranks.
    """
    return Optimizer(config, network, ranks)
