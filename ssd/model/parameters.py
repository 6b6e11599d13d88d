"""A network's parameters by structural name (`backbone.conv1.weight`), and the optimizer's states behind them.

The only module that uses Gluon's private names; MXNet 1.9 has no public ones for this. Weight files, checkpoints and
messages use structural names: Gluon's public ones (`ssd0_conv0_weight`) count the networks built in the process.
"""
from __future__ import annotations

from typing import Dict, Iterator, Mapping, Optional, Tuple

import mxnet as mx
from mxnet.gluon import Block, Parameter, Trainer

_STATISTICS = ("running_mean", "running_var")


def by_structural_name(network: Block) -> Dict[str, Parameter]:
    """All parameters of the network, running statistics included, in the order in which it defines them."""
    return network._collect_params_with_prefix()


def trained(network: Block) -> Dict[str, Parameter]:
    """The parameters that have a gradient, in the order of the network."""
    return {name: parameter for name, parameter in by_structural_name(network).items()
            if parameter.grad_req != "null" and not _is_statistic(name)}


def statistics(network: Block) -> Dict[str, Parameter]:
    """The running means and variances of the batch norms, (channels,) each, sorted by name."""
    return {name: parameter for name, parameter in sorted(by_structural_name(network).items()) if _is_statistic(name)}


def frozen(network: Block) -> Dict[str, Parameter]:
    """The parameters without a gradient that are no running statistics, in the order of the network."""
    return {name: parameter for name, parameter in by_structural_name(network).items()
            if parameter.grad_req == "null" and not _is_statistic(name)}


def sgd_states(trainer: Trainer, parameters: Mapping[str, Parameter]
               ) -> Iterator[Tuple[str, mx.nd.NDArray, Optional[mx.nd.NDArray]]]:
    """(name, momentum, float32 weight) of each of `parameters` in an SGD trainer with momentum.

    The momentum has the parameter's shape. The float32 weight is the master copy behind a float16 parameter, None for
    a float32 one. KeyError for a parameter that the trainer does not hold, or before the trainer's first update.
    """
    indices = {id(parameter): index for index, parameter in enumerate(trainer._params)}
    for name, parameter in parameters.items():
        state = trainer._updaters[0].states[indices[id(parameter)]]
        momentum, master = state if isinstance(state, (tuple, list)) else (state, None)
        yield name, momentum, master


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _STATISTICS
