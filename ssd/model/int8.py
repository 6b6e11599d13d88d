"""A network whose convolutions compute in integers of 8 bits, on CPUs: MXNet's quantization with oneDNN's kernels.

How large the numbers between the layers are is measured over some images (`measure_ranges`), once, and kept in the file
of weights, which stay float32; `quantize` makes a graph of both whenever such a file is loaded.

Two things keep the detections what they are (benchmarks/int8.md). The convolutions whose results are the network's own
stay in float32: offsets and logits of all boxes share a tensor, and a few large ones would leave the steps of 8 bits
too wide for the others. And the ranges pass over the largest numbers, one in 10,000, which would do the same elsewhere.
"""
from __future__ import annotations

import ctypes
import json
import os
import tempfile
from typing import Callable, Dict, Iterable, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization

from ssd.model.operations import first_outputs

Ranges = Dict[str, Tuple[float, float]]    # least and greatest number of a tensor, by its name in the graph


SHARE = 0.9999          # of the numbers of a tensor that lie below the upper end of its range, and above the lower one
_CONVOLUTION = "_sg_mkldnn_conv"    # as oneDNN fuses it with what follows
_SAMPLED = 1 << 20      # numbers of a tensor and batch that are looked at
# MXNet's product of two maps takes numbers with a sign alone, and may get others.
_FLOAT = ("elemwise_mul",)


class Layers(NamedTuple):
    """Names of the convolutions that compute in integers, and of the others."""
    int8: List[str]
    others: List[str]


def measure_ranges(network, batches: Iterable[mx.nd.NDArray], progress: Callable[[], None] = lambda: None) -> Ranges:
    """The ranges of all tensors that the integer graph takes: means over the batches, which are images as the network
    takes them, on a CPU. network: initialised, NCHW in float32. `progress()` after each batch."""
    symbol, arguments, auxiliary = _graph(network)
    collector = _Quantiles(_prepared(symbol, arguments, auxiliary)[-1].include_layer)
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


class _Quantiles:
    """Collects, as MXNet's own collectors do, the ranges of the tensors of these names."""

    def __init__(self, names):
        self._names, self._found = set(names), {}

    def collect(self, name, handle) -> None:
        name = name.decode() if isinstance(name, bytes) else name
        if name in self._names:
            array = mx.nd.NDArray(ctypes.cast(handle, mx.base.NDArrayHandle), writable=False).asnumpy().ravel()
            array = array[::-(-array.size // _SAMPLED)]
            least = np.quantile(array, 1 - SHARE) if array.min() < 0 else 0.0
            self._found.setdefault(name, []).append((least, np.quantile(array, SHARE)))

    def ranges(self) -> Ranges:
        return {name: tuple(map(float, np.mean(found, axis=0))) for name, found in self._found.items()}


def quantize(network, ranges: Ranges):
    """(a block of the same outputs as `network`, Layers): images (B, 3, H, W) float32 to offsets and logits. Its
    tensors are those that the network has now."""
    symbol, arguments, auxiliary = _graph(network)
    quantized, arguments, auxiliary, collector = _prepared(symbol, arguments, auxiliary)
    collector.min_max_dict = dict(ranges)
    quantized, arguments, auxiliary = quantization.calib_graph(quantized, arguments, auxiliary, collector,
                                                               calib_mode="naive", quantized_dtype="auto", logger=None)
    block = mx.gluon.SymbolBlock(quantized, mx.sym.var("images", dtype="float32"))
    tensors = {**{f"arg:{name}": value for name, value in arguments.items()},
               **{f"aux:{name}": value for name, value in auxiliary.items()}}
    with tempfile.TemporaryDirectory() as folder:    # Gluon takes types of a file's tensors alone
        path = os.path.join(folder, "tensors.params")
        mx.nd.save(path, tensors)
        block.collect_params().load(path, cast_dtype=True, dtype_source="saved")
    return block, _layers(quantized)


def _prepared(symbol, arguments, auxiliary):
    """(the integer graph without its ranges, its tensors, its auxiliary tensors, MXNet's collector of ranges)."""
    # "smart" leaves what lies alone between float operators in float: the conversions would cost more.
    return quantization.quantize_graph(symbol, arguments, auxiliary, ctx=mx.cpu(), calib_mode="naive",
                                       quantized_dtype="auto", quantize_mode="smart", logger=None,
                                       excluded_sym_names=_last_convolutions(symbol), excluded_op_names=list(_FLOAT))


def _last_convolutions(symbol) -> List[str]:
    """Those behind which there is no other."""
    nodes, before = json.loads(symbol.tojson())["nodes"], set()
    for index in reversed(range(len(nodes))):    # a node stands behind its inputs
        if index in before or nodes[index]["op"] == _CONVOLUTION:
            before.update(source[0] for source in nodes[index]["inputs"])
    return [node["name"] for index, node in enumerate(nodes) if node["op"] == _CONVOLUTION and index not in before]


def _graph(network):
    """(the network's symbol as oneDNN's integer operators fuse it, its tensors by name, the auxiliary ones). What does
    not depend on the images is computed: weights that are scaled or padded on the way become tensors."""
    symbol = mx.sym.Group(list(network(mx.sym.var("images"))))
    tensors = {name: parameter.data().as_in_context(mx.cpu()) for name, parameter in network.collect_params().items()}
    graph = json.loads(symbol.tojson())
    nodes, live = graph["nodes"], set()
    for index, node in enumerate(nodes):
        if node["name"] == "images" or any(source[0] in live for source in node["inputs"]):
            live.add(index)
    internals = symbol.get_internals()
    places = first_outputs(internals, nodes)
    for index in sorted({source[0] for index in live for source in nodes[index]["inputs"]} - live):
        node = nodes[index]
        if node["op"] != "null":
            part = internals[places[index]]
            name = f"{node['name']}_{index}_value"    # of a layer that works on several maps there are several
            tensors[name] = part.eval(mx.cpu(), **{key: tensors[key] for key in part.list_inputs()})[0]
            nodes[index] = dict(op="null", name=name, inputs=[])
    graph["arg_nodes"] = [index for index, node in enumerate(nodes) if node["op"] == "null"]
    symbol = mx.sym.load_json(json.dumps(graph)).get_backend_symbol("MKLDNN_QUANTIZE")
    return (symbol, {name: tensors[name] for name in symbol.list_arguments() if name != "images"},
            {name: tensors[name] for name in symbol.list_auxiliary_states()})


def _layers(symbol) -> Layers:
    layers = Layers([], [])
    for node in json.loads(symbol.tojson())["nodes"]:
        if node["op"] in (_CONVOLUTION, "Convolution"):
            attributes = node.get("attrs", {})
            whole = attributes.get("quantized", "false").lower() in ("true", "1")
            layers[not whole].append(node["name"])
    return layers
