"""BatchNorm whose mean and variance, in training, can be those of a group of ranks instead of one
rank's batch.

    mean = E[x], var = E[(x - mean)^2] over the group's images and cells;  r = 1 / sqrt(var + eps)
    y  = gamma (x - mean) r + beta
    dx = gamma r (dy - E[dy] - (x - mean) r E[dy (x - mean) r])

with E over the group in the backward pass too. The gradients of gamma and beta are the rank's own:
they are averaged over all ranks like any other gradient. Mean and variance are exchanged in
float64, as E[x^2] - E[x]^2 would lose the variance of a channel far from 0 in float32.
"""

from __future__ import annotations

from typing import Callable, List, Optional

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block, nn

from ssd.model.parameters import all_blocks

# (NDArray of any shape and type, name) -> its mean over the ranks of this rank's group; the call
# does not wait for the result.
GroupMean = Callable[[mx.nd.NDArray, str], mx.nd.NDArray]

_OPERATOR = "ssd_group_batch_norm"
# MXNet passes an operator its arguments as text: one of them is an index into this list.
_MEANS: List[GroupMean] = []


class BatchNorm(nn.BatchNorm):
    """nn.BatchNorm, until `synchronise` or `use_operator` has joined it to a group of ranks.
    Evaluation always uses the running statistics of this rank, and exchanges nothing."""

    _in_group: Optional[Callable] = None

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        # A graph is built when it first runs; the one for training, while gradients are recorded.
        if self._in_group is None or not autograd.is_training():
            return super().hybrid_forward(F, x, gamma, beta, running_mean, running_var)
        return self._in_group(F, x, gamma, beta, running_mean, running_var)

    def synchronise(self, mean: GroupMean, name: str) -> None:
        """Shares the statistics of each batch with a group of ranks, in graphs built after this
        call. name: prefix of the names of its two exchanges (forward and backward pass); unique,
        and the same on every rank."""
        values = {key: str(self._kwargs[key]) for key in ("axis", "eps", "momentum")}
        _MEANS.append(mean)
        values.update(op_type=_OPERATOR, mean=str(len(_MEANS) - 1), layer=name)
        self._in_group = lambda F, *tensors: F.Custom(*tensors, **values)[0]

    def use_operator(self, **values) -> None:
        """The same by MXNet's own operator, where it takes these `values`
        (ssd.training.nvidia_batch_norm)."""
        self._in_group = lambda F, *tensors: F.BatchNorm(
            *tensors, name="fwd", **self._kwargs, **values
        )


def batch_norms(network: Block) -> List[BatchNorm]:
    """The trained BatchNorm layers of a network, in the order in which it defines them."""
    return [block for block in all_blocks(network) if isinstance(block, BatchNorm)]


def _as_one(function: Callable, *names: str) -> Callable:
    """A function of mx.sym and vectors `names`, as one call that queues all of its operators: one
    by one, MXNet's operators on vectors take longer than those on feature maps."""
    graph = mx.sym.Group(function(mx.sym, *map(mx.sym.var, names)))
    order, run = [names.index(name) for name in graph.list_inputs()], mx.nd.CachedOp(graph)
    return lambda *arrays: run(*(arrays[index] for index in order))


class _GroupBatchNorm(mx.operator.CustomOp):
    """x, gamma, beta (and running mean and variance, which it updates) to y, mean and variance of
    the group.

    MXNet's own kernels for all that is as large as x: with given statistics, its BatchNorm scales
    and shifts, and its backward pass sums dy and dy (x - mean) r in float32 where x is float16, as
    the parameters are then. Nothing here waits: the calls only queue work.
    """

    def __init__(
        self, mean: GroupMean, layer: str, axis: int, eps: float, momentum: float, dtype: str
    ):
        super().__init__()
        self._mean, self._layer = mean, layer
        self._kwargs = dict(axis=axis, eps=eps, fix_gamma=False)
        momentum = float(np.float32(momentum))  # as MXNet's operator has it

        def own_moments(F, mean, r):  # r is what MXNet's BatchNorm calls var
            mean, r = F.cast(mean, dtype="float64"), F.cast(r, dtype="float64")
            return [F.stack(mean, 1 / F.square(r) - eps + F.square(mean))]

        def statistics(F, moments, running_mean, running_var):
            mean, square = F.split(moments, num_outputs=2, axis=0, squeeze_axis=True)
            var = F.cast(F.relu(square - F.square(mean)), dtype=dtype)
            mean = F.cast(mean, dtype=dtype)
            return [
                mean,
                var,
                momentum * running_mean + (1 - momentum) * mean,
                momentum * running_var + (1 - momentum) * var,
            ]

        def sums(F, gamma_grad, beta_grad):
            return [F.cast(F.stack(gamma_grad, beta_grad), dtype="float64")]

        def scale_and_shift(F, sums, gamma, var):
            factor = -gamma * F.rsqrt(var + eps)
            return [
                factor * part
                for part in F.split(
                    F.cast(sums, dtype=dtype), num_outputs=2, axis=0, squeeze_axis=True
                )
            ]

        self._own_moments = _as_one(own_moments, "mean", "r")
        self._statistics = _as_one(statistics, "moments", "running_mean", "running_var")
        self._sums = _as_one(sums, "gamma_grad", "beta_grad")
        self._scale_and_shift = _as_one(scale_and_shift, "sums", "gamma", "var")

    def _normalise(self, *tensors, **kwargs):
        return mx.nd.BatchNorm(*tensors, use_global_stats=True, **self._kwargs, **kwargs)

    def forward(self, is_train, req, in_data, out_data, aux):
        x, gamma, beta = in_data
        if not is_train:
            return self.assign(out_data[0], req[0], self._normalise(x, gamma, beta, *aux))
        with autograd.train_mode():  # a momentum of 1 leaves the running statistics alone
            _, mean, r = mx.nd.BatchNorm(
                x, gamma, beta, *aux, output_mean_var=True, momentum=1, **self._kwargs
            )
        moments = self._mean(self._own_moments(mean, r), f"{self._layer} forward")
        mean, var, *running = self._statistics(moments, *aux)
        for own, new in zip(aux, running):
            new.copyto(own)
        for index, array in enumerate((self._normalise(x, gamma, beta, mean, var), mean, var)):
            self.assign(out_data[index], req[index], array)

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        (x, gamma, _), (_, mean, var), dy = in_data, out_data, out_grad[0]
        # No gradient depends on the value of beta.
        recorded = [array.detach() for array in (x, gamma, gamma)]
        grads = [
            grad if wanted == "write" else mx.nd.empty(grad.shape, grad.context, grad.dtype)
            for grad, wanted in zip(in_grad, req)
        ]
        autograd.mark_variables(recorded, grads)
        with autograd.record():
            y = self._normalise(*recorded, mean, var)
        y.backward(dy)
        sums = self._sums(*grads[1:]) / (x.size // gamma.size)
        sums = self._mean(sums, f"{self._layer} backward")
        # The part of the gradient that the group's other images cause: also a scaled and shifted x.
        grads[0] += self._normalise(x, *self._scale_and_shift(sums, gamma, var), mean, var)
        for index, (grad, wanted) in enumerate(zip(grads, req)):
            if wanted != "write":
                self.assign(in_grad[index], wanted, grad)


@mx.operator.register(_OPERATOR)
class _GroupBatchNormProperties(mx.operator.CustomOpProp):
    """mean: index into _MEANS. layer: prefix of the names of its exchanges. The others: as of
    nn.BatchNorm."""

    def __init__(self, mean, layer, axis, eps, momentum):
        super().__init__(need_top_grad=True)
        self._arguments = _MEANS[int(mean)], layer, int(axis), float(eps), float(momentum)

    def list_arguments(self):
        return ["data", "gamma", "beta"]

    def list_outputs(self):
        return ["output", "mean", "var"]

    def list_auxiliary_states(self):
        return ["running_mean", "running_var"]

    def infer_shape(self, in_shape):
        channels = (in_shape[0][self._arguments[2]],)
        return (
            [in_shape[0], channels, channels],
            [in_shape[0], channels, channels],
            [channels, channels],
        )

    def infer_type(self, in_type):
        own = np.float32 if in_type[0] == np.float16 else in_type[0]
        self._dtype = np.dtype(own).name
        return [in_type[0], own, own], [in_type[0], own, own], [own, own]

    def declare_backward_dependency(self, out_grad, in_data, out_data):
        return [out_grad[0], in_data[0], in_data[1], out_data[1], out_data[2]]

    def create_operator(self, ctx, shapes, dtypes):
        return _GroupBatchNorm(*self._arguments, self._dtype)  # `dtypes` are MXNet's own numbers
