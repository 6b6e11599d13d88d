"""A Gluon network's graph as ONNX nodes, parameters included.

MXNet's exporter (mx.onnx) needs parts of the onnx package that newer versions have removed.
"""

from __future__ import annotations

import ast
import json
from typing import Dict, List

import numpy as np

from ssd.errors import UserError
from ssd.model.operations import first_outputs

OPSET = 13
IR_VERSION = 8  # onnx 1.12 to 1.15, and every onnxruntime since 1.12


class GraphBuilder:
    """The nodes and constants of an ONNX graph under construction."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def add(self, op: str, *inputs: str, **attributes) -> str:
        """Add a node with one output; returns the output's name."""
        return self.add_several(op, 1, *inputs, **attributes)[0]

    def add_several(self, op: str, outputs: int, *inputs: str, **attributes) -> List[str]:
        from onnx import helper

        number = len(self.nodes)
        names = [
            f"{op.lower()}_{number}" + (f"_{index}" if outputs > 1 else "")
            for index in range(outputs)
        ]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op}_{number}", **attributes)
        )
        return names

    def constant(self, value, dtype, name: str = "") -> str:
        """Add a constant array; returns its name. Equal small arrays are stored once."""
        array = np.asarray(value, dtype)
        if not name:
            name = next(
                (
                    known
                    for known, other in self.constants.items()
                    if other.dtype == array.dtype
                    and other.shape == array.shape
                    and array.size < 64
                    and np.array_equal(other, array)
                ),
                f"constant_{len(self.constants)}",
            )
        self.constants[name] = array
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    @staticmethod
    def tensor(value: float):
        """The value of a ConstantOfShape node."""
        from onnx import TensorProto, helper

        return helper.make_tensor("value", TensorProto.FLOAT, [1], [value])


def add_network(builder: GraphBuilder, network, images: str) -> List[str]:
    """Add a Gluon network (NCHW, float32, evaluation mode) on the input called `images`; returns
    the names of its outputs.

    Nodes that do not depend on the images are computed now and become constants. UserError for an
    unknown operator.
    """
    import mxnet as mx

    outputs = network(mx.sym.var("images"))
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    live = set()
    for index, node in enumerate(nodes):
        if node["name"] == "images" or any(source[0] in live for source in node["inputs"]):
            live.add(index)
    constants = _constants(symbol, network, nodes, live)
    names = {}
    for index, node in enumerate(nodes):
        if node["name"] == "images":
            names[index] = images
        elif index in live:
            assert all(source[1] == 0 for source in node["inputs"]), "a second output is used"
            inputs = [
                names[source] if source in live else constants[source]
                for source, *_ in node["inputs"]
            ]
            names[index] = _convert(builder, node, inputs)
    return [names[head[0]] for head in graph["heads"]]


def _constants(symbol, network, nodes, live) -> Dict[int, np.ndarray]:
    """The value of every node outside `live` that is an input of a live one."""
    import mxnet as mx

    wanted = sorted({source[0] for index in live for source in nodes[index]["inputs"]} - live)
    parameters = {
        name: parameter.data().as_in_context(mx.cpu())
        for name, parameter in network.collect_params().items()
    }
    internals, values = symbol.get_internals(), {}
    positions = first_outputs(internals, nodes)
    for index in wanted:
        name = nodes[index]["name"]
        if nodes[index]["op"] == "null":
            values[index] = parameters[name].asnumpy()
        else:
            part = internals[positions[index]]
            values[index] = part.eval(
                mx.cpu(), **{key: parameters[key] for key in part.list_inputs()}
            )[0].asnumpy()
    return values


def _convert(builder: GraphBuilder, node, inputs) -> str:
    """Convert one MXNet node; inputs are names of tensors, or arrays."""
    op, attributes = node["op"], {key: _value(text) for key, text in node.get("attrs", {}).items()}
    convert = _CONVERTERS.get(op)
    if convert is None:
        raise UserError(
            f"export: MXNet's operator {op} (node {node['name']}) cannot be converted to ONNX"
        )
    inputs = [
        source
        if isinstance(source, str)
        else builder.constant(source, source.dtype, f"{node['name']}_{number}")
        for number, source in enumerate(inputs)
    ]
    return convert(builder, attributes, *inputs)


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _convolution(builder, attributes, images, weight, *bias):
    kernel = attributes["kernel"]
    return builder.add(
        "Conv",
        images,
        weight,
        *bias,
        kernel_shape=kernel,
        strides=attributes.get("stride") or (1, 1),
        pads=2 * tuple(attributes.get("pad") or (0, 0)),
        group=attributes.get("num_group", 1),
        dilations=attributes.get("dilate") or (1, 1),
    )


def _batch_norm(builder, attributes, images, gamma, *others):
    assert attributes.get("axis", 1) == 1
    if attributes.get("fix_gamma", True):
        gamma = builder.constant(
            np.ones_like(builder.constants[gamma]), np.float32, gamma + "_fixed"
        )
    return builder.add(
        "BatchNormalization", images, gamma, *others, epsilon=float(attributes.get("eps", 1e-3))
    )


def _pooling(builder, attributes, images):
    assert attributes.get("pool_type", "max") == "max" and not attributes.get("global_pool", False)
    return builder.add(
        "MaxPool",
        images,
        kernel_shape=attributes["kernel"],
        strides=attributes.get("stride") or (1, 1),
        pads=2 * tuple(attributes.get("pad") or (0, 0)),
        ceil_mode=int(attributes.get("pooling_convention", "valid") == "full"),
    )


def _activation(builder, attributes, x):
    assert attributes["act_type"] == "relu", attributes
    return builder.add("Relu", x)


def _up_sampling(builder, attributes, x):
    assert attributes["sample_type"] == "nearest" and attributes.get("num_args", 1) == 1, attributes
    scale = float(attributes["scale"])
    return builder.add(
        "Resize",
        x,
        "",
        builder.constant([1, 1, scale, scale], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _clip(builder, attributes, x):
    return builder.add(
        "Clip", x, builder.number(attributes["a_min"]), builder.number(attributes["a_max"])
    )


def _pad(builder, attributes, x):
    width = attributes["pad_width"]
    assert attributes["mode"] == "constant" and not attributes.get("constant_value", 0), attributes
    return builder.add("Pad", x, builder.integers(*width[::2], *width[1::2]), mode="constant")


def _mean(builder, attributes, x):
    axes = attributes["axis"]
    return builder.add(
        "ReduceMean",
        x,
        axes=list(axes) if isinstance(axes, tuple) else [axes],
        keepdims=int(attributes.get("keepdims", False)),
    )


def _slice_axis(builder, attributes, x):
    end = attributes["end"]
    return builder.add(
        "Slice",
        x,
        builder.integers(attributes["begin"]),
        builder.integers(np.iinfo(np.int64).max if end is None else end),
        builder.integers(attributes["axis"]),
    )


def _reshape(builder, attributes, x):
    shape = attributes["shape"]
    assert not attributes.get("reverse", False) and all(size >= -1 for size in shape), (
        shape
    )  # others differ in ONNX
    return builder.add("Reshape", x, builder.integers(*shape))


def _arange(builder, attributes):
    values = np.arange(
        float(attributes["start"]), float(attributes["stop"]), float(attributes.get("step", 1))
    )
    assert attributes.get("repeat", 1) == 1, attributes
    return builder.constant(values, np.float32)


def _take(builder, attributes, x, index):
    return builder.add(
        "Gather", x, builder.add("Cast", index, to=7), axis=attributes.get("axis", 0)
    )  # int64


def _cast(builder, attributes, x):
    assert attributes["dtype"] == "float32", attributes
    return x


_CONVERTERS = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Pooling": _pooling,
    "Activation": _activation,
    "UpSampling": _up_sampling,
    "BlockGrad": lambda builder, attributes, x: x,  # no effect in evaluation
    "slice_axis": _slice_axis,
    "Reshape": _reshape,
    "reshape": _reshape,
    "_arange": _arange,
    "take": _take,
    "Cast": _cast,
    "cast": _cast,
    "floor": lambda builder, attributes, x: builder.add("Floor", x),
    "_plus_scalar": lambda builder, attributes, x: builder.add(
        "Add", x, builder.number(attributes["scalar"])
    ),
    "_minimum_scalar": lambda builder, attributes, x: builder.add(
        "Min", x, builder.number(attributes["scalar"])
    ),
    "elemwise_sub": lambda builder, attributes, x, y: builder.add("Sub", x, y),
    "_minus": lambda builder, attributes, x, y: builder.add("Sub", x, y),
    "clip": _clip,
    "Pad": _pad,
    "pad": _pad,
    "mean": _mean,
    "hard_sigmoid": lambda builder, attributes, x: builder.add(
        "HardSigmoid", x, alpha=float(attributes["alpha"]), beta=float(attributes["beta"])
    ),
    "_mul_scalar": lambda builder, attributes, x: builder.add(
        "Mul", x, builder.number(attributes["scalar"])
    ),
    "broadcast_mul": lambda builder, attributes, x, y: builder.add("Mul", x, y),
    "elemwise_mul": lambda builder, attributes, x, y: builder.add("Mul", x, y),
    "relu": lambda builder, attributes, x: builder.add("Relu", x),
    "elemwise_add": lambda builder, attributes, x, y: builder.add("Add", x, y),
    "_plus": lambda builder, attributes, x, y: builder.add("Add", x, y),
    "broadcast_add": lambda builder, attributes, x, y: builder.add("Add", x, y),
    "transpose": lambda builder, attributes, x: builder.add(
        "Transpose", x, perm=attributes["axes"]
    ),
    "Concat": lambda builder, attributes, *xs: builder.add(
        "Concat", *xs, axis=attributes.get("dim", 1)
    ),
}
