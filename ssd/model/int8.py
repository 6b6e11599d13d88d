"""A network whose convolutions compute in integers of 8 bits, on CPUs: MXNet's quantization with
oneDNN's kernels.

The ranges of the activations are measured once, over some images (`measure_ranges`), and kept in
the weight file, whose weights stay float32; `quantize` builds a graph from both whenever the file
is loaded.

Three measures preserve the detections (benchmarks/int8.md). The convolutions that compute the
network's outputs stay in float32: offsets and logits of all boxes share a tensor, and a few large
ones would leave the steps of 8 bits too wide for the others. So do the sums of `_signed_sums`. And
a range ends where cutting off the largest numbers costs as much as finer steps gain: at the least
mean square of both errors.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import tempfile
from typing import Callable, Dict, Iterable, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization

from ssd.model.operations import first_outputs

# Least and greatest number of a tensor, by its name in the graph.
Ranges = Dict[str, Tuple[float, float]]

_CONVOLUTION = "_sg_mkldnn_conv"  # as oneDNN fuses it with what follows
_SAMPLED = 1 << 20  # numbers that are sampled per tensor and batch
_BINS = 2048  # of their histogram, whose edges are the candidate ranges
# MXNet's integer product of two maps takes signed numbers only, and may be given unsigned ones.
_FLOAT = ("elemwise_mul",)


class Layers(NamedTuple):
    """oneDNN's names of the convolutions that compute in integers, and of the others. layer: the
    network's name of each."""

    int8: List[str]
    others: List[str]
    layer: Dict[str, str]


def measure_ranges(
    network, batches: Iterable[mx.nd.NDArray], progress: Callable[[], None] = lambda: None
) -> Ranges:
    """The ranges of all tensors that the integer graph takes, averaged over the batches, which are
    network inputs on a CPU. network: initialised, NCHW in float32. `progress()` is called after
    each batch."""
    symbol, arguments, auxiliary = _graph(network)
    collector = _Collector(_prepared(symbol, arguments, auxiliary)[-1].include_layer)
    executor = shape = None
    for images in batches:
        if images.shape != shape:
            shape = images.shape
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", images=shape)
            executor.copy_params_from(arguments, auxiliary)
            executor.set_monitor_callback(collector.collect, monitor_all=True)
        executor.forward(is_train=False, images=images)
        for output in executor.outputs:
            output.wait_to_read()
        progress()
    return collector.ranges()


def best_range(numbers: np.ndarray) -> Tuple[float, float]:
    """The range of 8-bit integers, (least, greatest), that represents `numbers` (of any shape,
    finite) best: the one with the least mean square error, of clipping beyond it and of rounding
    inside it. Zeros have no rounding error.

    For signed numbers it has 127 steps on each side of 0, for unsigned ones 255.
    """
    sizes = np.abs(numbers[numbers != 0]).astype(np.float64)
    if not sizes.size:
        return 0.0, 1.0
    signed, greatest = bool((numbers < 0).any()), sizes.max()
    bins = np.minimum((sizes * (_BINS / greatest)).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS).astype(np.float64)
    ends = np.arange(1, _BINS + 1) * (greatest / _BINS)
    centres = ends - greatest / (2 * _BINS)

    def beyond(power):
        """Sum of that power of the numbers beyond each end."""
        sums = counts * centres**power
        return sums.sum() - np.cumsum(sums)

    cut_off = beyond(2) - 2 * ends * beyond(1) + ends**2 * beyond(0)
    steps = ends / (127 if signed else 255)
    end = float(ends[np.argmin(cut_off + np.cumsum(counts) * steps**2 / 12)])
    return max(float(numbers.min()), -end) if signed else 0.0, min(float(numbers.max()), end)


class _Collector:
    """Collects, as MXNet's own collectors do, the ranges of the tensors of these names."""

    def __init__(self, names):
        self._names, self._found = set(names), {}

    def collect(self, name, handle) -> None:
        name = name.decode() if isinstance(name, bytes) else name
        if name in self._names:
            array = (
                mx.nd.NDArray(ctypes.cast(handle, mx.base.NDArrayHandle), writable=False)
                .asnumpy()
                .ravel()
            )
            self._found.setdefault(name, []).append(
                best_range(array[:: -(-array.size // _SAMPLED)])
            )

    def ranges(self) -> Ranges:
        return {
            name: tuple(map(float, np.mean(found, axis=0))) for name, found in self._found.items()
        }


def quantize(network, ranges: Ranges):
    """(a block of the same outputs as `network`, Layers): images (B, 3, H, W) float32 to offsets
    and logits. Its tensors are those that the network has now."""
    symbol, arguments, auxiliary = _graph(network)
    quantized, arguments, auxiliary, collector = _prepared(
        symbol, arguments, auxiliary, _signed_sums(symbol, ranges)
    )
    collector.min_max_dict = dict(ranges)
    quantized, arguments, auxiliary = quantization.calib_graph(
        quantized,
        arguments,
        auxiliary,
        collector,
        calib_mode="naive",
        quantized_dtype="auto",
        logger=None,
    )
    # With this, convolutions return 8 bits; otherwise they return 32, and a separate operator
    # requantizes them.
    quantized = quantized.get_backend_symbol("MKLDNN_QUANTIZE")
    block = mx.gluon.SymbolBlock(quantized, mx.sym.var("images", dtype="float32"))
    tensors = {
        **{f"arg:{name}": value for name, value in arguments.items()},
        **{f"aux:{name}": value for name, value in auxiliary.items()},
    }
    with tempfile.TemporaryDirectory() as folder:  # Gluon takes tensor types from files only
        path = os.path.join(folder, "tensors.params")
        mx.nd.save(path, tensors)
        block.collect_params().load(path, cast_dtype=True, dtype_source="saved")
    return block, _layers(quantized)


def _prepared(symbol, arguments, auxiliary, others=()):
    """(the integer graph without its ranges, its tensors, its auxiliary tensors, MXNet's collector
    of ranges). others: names of convolutions that stay in float32 beside the last ones."""
    # "smart" leaves a lone operator between float operators in float: converting would cost more.
    return quantization.quantize_graph(
        symbol,
        arguments,
        auxiliary,
        ctx=mx.cpu(),
        calib_mode="naive",
        quantized_dtype="auto",
        quantize_mode="smart",
        logger=None,
        excluded_sym_names=_last_convolutions(symbol) + list(others),
        excluded_op_names=list(_FLOAT),
    )


def _signed_sums(symbol, ranges: Ranges) -> List[str]:
    """Convolutions with a ReLU that add a map with negative numbers to their result, a projected
    shortcut: MXNet writes the unsigned sum over that map, and seems to read its negative numbers as
    large ones."""
    nodes = json.loads(symbol.tojson())["nodes"]
    found = []
    for node in nodes:
        attributes = node.get("attrs", {})
        if (
            node["op"] == _CONVOLUTION
            and attributes.get("with_sum", "").lower() in ("true", "1")
            and attributes.get("with_postsum_act", "").lower() in ("true", "1")
        ):
            added = nodes[node["inputs"][-1][0]]["name"]
            if ranges.get(f"{added}_output", (0.0,))[0] < 0:
                found.append(node["name"])
    return found


def _last_convolutions(symbol) -> List[str]:
    """Convolutions that no other convolution follows."""
    nodes, before = json.loads(symbol.tojson())["nodes"], set()
    for index in reversed(range(len(nodes))):  # a node comes after its inputs
        if index in before or nodes[index]["op"] == _CONVOLUTION:
            before.update(source[0] for source in nodes[index]["inputs"])
    return [
        node["name"]
        for index, node in enumerate(nodes)
        if node["op"] == _CONVOLUTION and index not in before
    ]


def _graph(network):
    """(the network's symbol as oneDNN's integer operators fuse it, its tensors by name, the
    auxiliary ones). What does not depend on the images is computed: weights that the graph scales
    or pads become tensors."""
    symbol = mx.sym.Group(list(network(mx.sym.var("images"))))
    tensors = {
        name: parameter.data().as_in_context(mx.cpu())
        for name, parameter in network.collect_params().items()
    }
    graph = json.loads(symbol.tojson())
    nodes, live = graph["nodes"], set()
    for index, node in enumerate(nodes):
        if node["name"] == "images" or any(source[0] in live for source in node["inputs"]):
            live.add(index)
    internals = symbol.get_internals()
    outputs = first_outputs(internals, nodes)
    for index in sorted(
        {source[0] for reader in live for source in nodes[reader]["inputs"]} - live
    ):
        node = nodes[index]
        if node["op"] != "null":
            part = internals[outputs[index]]
            # With its index: a layer that works on several maps is several nodes of one name.
            name = f"{node['name']}_{index}_value"
            tensors[name] = part.eval(
                mx.cpu(), **{key: tensors[key] for key in part.list_inputs()}
            )[0]
            nodes[index] = dict(op="null", name=name, inputs=[])
    graph["arg_nodes"] = [index for index, node in enumerate(nodes) if node["op"] == "null"]
    symbol = mx.sym.load_json(json.dumps(graph)).get_backend_symbol("MKLDNN_QUANTIZE")
    return (
        symbol,
        {name: tensors[name] for name in symbol.list_arguments() if name != "images"},
        {name: tensors[name] for name in symbol.list_auxiliary_states()},
    )


def _layers(symbol) -> Layers:
    layers, nodes = Layers([], [], {}), json.loads(symbol.tojson())["nodes"]
    for node in nodes:
        if node["op"] in (_CONVOLUTION, "Convolution"):
            attributes = node.get("attrs", {})
            integer = attributes.get("quantized", "false").lower() in ("true", "1")
            layers[not integer].append(node["name"])
            weight = nodes[node["inputs"][1][0]]["name"]
            # The layer of ssd0_head0_out_weight, or of ssd0_head0_out_concat0_37_value (see _graph)
            layers.layer[node["name"]] = re.sub(
                r"^[a-z]+\d+_|(_weight|(_concat\d+)?_\d+_value)$", "", weight
            )
    return layers
