"""A network's parameters by structural name (`backbone.conv1.weight`), its blocks, and the
optimizer's states.

The only module that uses Gluon's private names; MXNet 1.9 has no public ones for this. Weight
files, checkpoints and messages use structural names: Gluon's public ones (`ssd0_conv0_weight`)
count the networks built in the process.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

import mxnet as mx
from mxnet.gluon import Block, Parameter, Trainer

_STATISTICS = ("running_mean", "running_var")


def by_structural_name(network: Block) -> Dict[str, Parameter]:
    """All parameters of the network, running statistics included, in the order in which it defines
    them."""
    return network._collect_params_with_prefix()


def trained(network: Block) -> Dict[str, Parameter]:
    """The parameters that have a gradient, in the order of the network."""
    return {
        name: parameter
        for name, parameter in by_structural_name(network).items()
        if parameter.grad_req != "null" and not _is_statistic(name)
    }


def statistics(network: Block) -> Dict[str, Parameter]:
    """The running means and variances of the batch norms, (channels,) each, sorted by name."""
    return {
        name: parameter
        for name, parameter in sorted(by_structural_name(network).items())
        if _is_statistic(name)
    }


def frozen(network: Block) -> Dict[str, Parameter]:
    """The parameters without a gradient that are no running statistics, in the order of the
    network."""
    return {
        name: parameter
        for name, parameter in by_structural_name(network).items()
        if parameter.grad_req == "null" and not _is_statistic(name)
    }


def all_blocks(network: Block) -> Iterator[Block]:
    """The network and all blocks within it, in the order in which it defines them."""
    yield network
    for child in network._children.values():
        yield from all_blocks(child)


def optimizer_states(trainer: Trainer, parameters: Mapping[str, Parameter]) -> Dict[str, Any]:
    """The optimizer's state of each of `parameters`, by their names; created where there is none
    yet.

    A state is what the optimizer's create_state_multi_precision returns. The parameters are
    initialised, on one device. KeyError for one that the trainer does not hold.
    """
    indices = {id(parameter): index for index, parameter in enumerate(trainer._params)}
    updater, found = trainer._updaters[0], {}
    for name, parameter in parameters.items():
        index = indices[id(parameter)]
        if index not in updater.states:
            updater.states[index] = trainer._optimizer.create_state_multi_precision(
                index, parameter.list_data()[0]
            )
            updater.states_synced[index] = True
        found[name] = updater.states[index]
    return found


def optimizer_calls(
    trainer: Trainer, parameters: Mapping[str, Parameter]
) -> List[Tuple[Any, Any, Any, Any]]:
    """Arguments of the calls of the optimizer's `update_multi_precision` that update `parameters`
    once: indices, weights, gradients, states, each of one tensor, or lists of as many tensors of
    one type as the optimizer takes at a time.

    Collected once, after a backward pass, while Trainer.update asks MXNet for types and states of
    every tensor at every step (745 calls of its library for SSD-ResNet34). The arrays are those of
    the parameters, which must not be cast or moved afterwards.
    """
    indices = {id(parameter): index for index, parameter in enumerate(trainer._params)}
    groups: Dict[Any, list] = {}
    stale = [
        name for name, parameter in parameters.items() if not parameter.list_data()[0]._fresh_grad
    ]
    assert not stale, f"no gradient was computed for {', '.join(stale)}"
    for name, state in optimizer_states(trainer, parameters).items():
        weight, gradient = parameters[name].list_data()[0], parameters[name].list_grad()[0]
        groups.setdefault(weight.dtype, []).append(
            (indices[id(parameters[name])], weight, gradient, state)
        )
    together = trainer._optimizer.aggregate_num
    if not together:
        return [call for group in groups.values() for call in group]
    return [
        tuple(map(list, zip(*group[start : start + together])))
        for group in groups.values()
        for start in range(0, len(group), together)
    ]


def gradient_factor(trainer: Trainer) -> float:
    """The factor that the trainer applies to the gradients of its allreduce, before it divides by
    the batch: one over the number of ranks where the allreduce returns a sum."""
    return trainer._scale


def set_update_count(optimizer: mx.optimizer.Optimizer, count: int) -> None:
    """As if the optimizer had updated every parameter `count` times."""
    optimizer.num_update = optimizer.begin_num_update = count
    for counts in optimizer._all_index_update_counts.values():
        counts.clear()  # missing counts start at begin_num_update


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _STATISTICS
