"""The cost of a network by its graph: shapes, parameters and multiply-adds of every operator,
without running it."""

from __future__ import annotations

import json
import math
from typing import List, NamedTuple, Set, Tuple

import mxnet as mx

COUNTED = ("Convolution", "FullyConnected")  # next to these, all other arithmetic is small


class Operation(NamedTuple):
    """An operator of the graph. multiply_adds: of COUNTED operators, biases left out; 0 of all
    others."""

    name: str
    op: str
    output_shape: Tuple[int, ...]
    # Trained numbers, without running statistics; counted at the first operator that uses them.
    parameters: int
    multiply_adds: int


def operations(network, batch_size: int = 1) -> List[Operation]:
    """Every operator of a forward pass of `batch_size` images, in the order in which they are
    computed.

    network: a HybridBlock of one input with `input_shape(batch_size)`, as
    ssd.model.network.Network; it need not be initialised.
    """
    return [operation for operation, _ in _walk(network, batch_size)]


def parameter_count(network) -> int:
    """Trained numbers of the network."""
    return sum(operation.parameters for operation in operations(network))


def forward_multiply_adds(network, batch_size: int = 1) -> int:
    """Multiply-adds of a forward pass; a multiply-add is two floating-point operations."""
    return sum(operation.multiply_adds for operation in operations(network, batch_size))


def training_multiply_adds(network, batch_size: int = 1) -> int:
    """Multiply-adds of a forward and a backward pass: the gradients of an operator's weights and of
    its input take as many each as its forward pass. The gradients of the images and of frozen
    stages are not computed."""
    return sum(operation.multiply_adds * passes for operation, passes in _walk(network, batch_size))


def _walk(network, batch_size: int):
    """(Operation, how often training does its arithmetic: 1 to 3 times) of every operator."""
    outputs = network(mx.sym.var("images"))
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    images = network.input_shape(batch_size)
    arguments, _, _ = symbol.infer_shape(images=images)
    weights = dict(zip(symbol.list_arguments(), arguments))
    del weights["images"]
    for name, parameter in network.collect_params().items():
        frozen_norm = parameter.grad_req == "null" and name.endswith(("_gamma", "_beta"))
        if frozen_norm or name.endswith(("_running_mean", "_running_var")):
            weights.pop(name, None)  # arguments of the graph where they are folded into weights
    nodes = json.loads(symbol.tojson())["nodes"]
    internals = symbol.get_internals()
    _, inferred, _ = internals.infer_shape(images=images)
    shapes = [inferred[index] for index in first_outputs(internals, nodes)]
    seen: Set[str] = set()
    for node, shape in zip(nodes, shapes):
        if node["op"] == "null":  # a variable
            continue
        inputs = [nodes[index]["name"] for index, *_ in node["inputs"]]
        fresh = [name for name in inputs if name in weights and name not in seen]
        seen.update(fresh)
        count, passes = 0, 3
        if node["op"] in COUNTED:
            # Weights are (outputs, all that an output sums over ...), in every layout.
            used = shapes[node["inputs"][1][0]]
            variable = nodes[node["inputs"][1][0]]
            # Outputs that the graph pads with zeros do not count.
            while variable["op"] != "null":
                variable = nodes[variable["inputs"][0][0]]
            count = math.prod(shape) // used[0] * math.prod(weights[variable["name"]])
            frozen = network.collect_params()[variable["name"]].grad_req == "null"
            passes = 1 if frozen else 2 if inputs[0] == "images" else 3
        yield (
            Operation(
                node["name"],
                node["op"],
                tuple(shape),
                sum(math.prod(weights[name]) for name in fresh),
                count,
            ),
            passes,
        )


def first_outputs(internals, nodes) -> List[int]:
    """Index of each node's first output among those of `internals`. nodes: of the graph's JSON.
    By order, not by name: a layer that works on several feature maps is several nodes of one name.
    """
    outputs = iter(enumerate(internals.list_outputs()))
    found = []
    for node in nodes:
        wanted = (node["name"], node["name"] + "_output", node["name"] + "_output0")
        found.append(next(index for index, name in outputs if name in wanted))
    return found
