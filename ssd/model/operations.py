"""What a network costs by its graph: shapes, parameters and multiply-adds of every operator, nothing being run."""
from __future__ import annotations

import json
import math
from typing import List, NamedTuple, Set, Tuple

import mxnet as mx

COUNTED = ("Convolution", "FullyConnected")    # next to these, all other arithmetic is small


class Operation(NamedTuple):
    """An operator of the graph. multiply_adds: of COUNTED operators, biases left out; 0 of all others."""
    name: str
    op: str
    output_shape: Tuple[int, ...]
    parameters: int       # trained numbers, running statistics are none; counted where they are first used
    multiply_adds: int


def operations(network, batch_size: int = 1) -> List[Operation]:
    """Every operator of a forward pass of `batch_size` images, in the order in which they are computed.

    network: a HybridBlock of one input with `input_shape(batch_size)`, as ssd.model.network.Network; it need not be
    initialised.
    """
    return [operation for operation, _ in _walk(network, batch_size)]


def parameter_count(network) -> int:
    """Trained numbers of the network."""
    return sum(operation.parameters for operation in operations(network))


def forward_multiply_adds(network, batch_size: int = 1) -> int:
    """Multiply-adds of a forward pass; a multiply-add is two floating-point operations."""
    return sum(operation.multiply_adds for operation in operations(network, batch_size))


def training_multiply_adds(network, batch_size: int = 1) -> int:
    """Multiply-adds of a forward and a backward pass: the gradients of an operator's weights and of its input take
    as many each as its forward pass; nobody needs the gradient of the images."""
    return sum(operation.multiply_adds * (2 if on_images else 3)
               for operation, on_images in _walk(network, batch_size))


def _walk(network, batch_size: int):
    """(Operation, whether its input is the images themselves) of every operator."""
    outputs = network(mx.sym.var("images"))
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    images = network.input_shape(batch_size)
    arguments, _, _ = symbol.infer_shape(images=images)
    weights = dict(zip(symbol.list_arguments(), arguments))
    del weights["images"]
    nodes = json.loads(symbol.tojson())["nodes"]
    shapes = _first_shapes(symbol, nodes, images)
    seen: Set[str] = set()
    for node, shape in zip(nodes, shapes):
        if node["op"] == "null":    # a variable
            continue
        inputs = [nodes[place]["name"] for place, *_ in node["inputs"]]
        fresh = [name for name in inputs if name in weights and name not in seen]
        seen.update(fresh)
        count = 0
        if node["op"] in COUNTED:
            # Weights are (outputs, all that an output sums over ...), in every layout.
            used = shapes[node["inputs"][1][0]]
            variable = nodes[node["inputs"][1][0]]
            while variable["op"] != "null":    # outputs that are padded with zeros on the way do not count
                variable = nodes[variable["inputs"][0][0]]
            count = math.prod(shape) // used[0] * math.prod(weights[variable["name"]])
        yield (Operation(node["name"], node["op"], tuple(shape), sum(math.prod(weights[name]) for name in fresh),
                         count), inputs[0] == "images")


def _first_shapes(symbol, nodes, images) -> List[Tuple[int, ...]]:
    """The shape of each node's first output. By place, not by name: layers that work on several feature maps are
    several nodes of one name."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(images=images)
    outputs = iter(zip(internals.list_outputs(), shapes))
    found = []
    for node in nodes:
        wanted = (node["name"], node["name"] + "_output", node["name"] + "_output0")
        found.append(next(shape for name, shape in outputs if name in wanted))
    return found
