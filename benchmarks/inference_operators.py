"""Where the time of float32 inference goes, operator by operator, and how close it is to the
machine's limits.

    python benchmarks/inference_operators.py --recipe ssd-resnet34-coco --batch-size 8
    python benchmarks/inference_operators.py --recipe ssd-resnet34-coco --batch-size 8 --int8

Random weights whose scores vary like a trained network's (benchmarks/ours.py), images of noise.
MXNet's profiler gives each operator's seconds; graph and shapes give its arithmetic and the bytes
that it reads and writes at least (inputs, outputs, weights, once each). Limit: the larger of
arithmetic by the fastest multiplication measured here and bytes by the speed of a large addition of
two arrays.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from benchmarks import turns
from ssd.threads import use_all_cores

ADDED = 1 << 25  # numbers of each array of the addition that bandwidth is measured by
CONVOLUTIONS = ("_sg_mkldnn_conv", "Convolution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="ssd-resnet34-coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="convolutions in 8-bit integers, as `quantize` makes them",
    )
    args = parser.parse_args()
    print(turns.machine())
    use_all_cores()
    inference, images, device = build(args)
    import mxnet as mx

    from ssd.benchmark.machine import Peaks
    from ssd.benchmark.trace import unbulk
    from ssd.config import load_recipe

    for _ in range(2):
        inference(images).wait_to_read()
    peaks = Peaks(load_recipe(args.recipe).model, device)
    peaks.measure(args.repeats)
    total_seconds = turns.timed(lambda: inference(images).wait_to_read(), args.repeats)
    peaks.measure(args.repeats)
    speeds = {name: one["maximum"] / 1e9 for name, one in peaks.results().items()}
    bandwidth = measured_bandwidth(mx, args.repeats)
    unbulk(inference, training=False)
    inference(images).wait_to_read()
    nodes = graph(inference, images)
    seconds = traced_seconds(inference, images, nodes, args.repeats)
    print(
        f"{args.recipe}, batches of {args.batch_size}: "
        f"{turns.spread([1e3 * one for one in total_seconds], '%.0f')} ms, "
        f"{args.batch_size / statistics.median(total_seconds):.2f} images/s; peak "
        f"{speeds['convolution']:.0f} GFLOP/s in convolutions, {speeds['matrix_product']:.0f} in "
        f"matrix products, {bandwidth:.1f} GB/s"
    )
    print_table(nodes, seconds, statistics.median(total_seconds), max(speeds.values()), bandwidth)


def build(args):
    import mxnet as mx
    import numpy as np

    from benchmarks import ours
    from ssd.evaluation.inference import build_inference
    from ssd.model.device import Device

    config = ours.recipe(args.recipe)
    detector, device = ours.build(config), Device("cpu", 0, mx.cpu())
    images = (
        np.random.default_rng(0)
        .standard_normal(detector.network.input_shape(args.batch_size))
        .astype(np.float32)
    )
    ours.scatter_scores(detector.network, images, config)
    images = mx.nd.array(images)
    if not args.int8:
        return build_inference(detector, device), images, device
    from ssd.evaluation.inference import Inference
    from ssd.model.int8 import measure_ranges, quantize

    detector.detections.initialize(ctx=device.context)
    network, _ = quantize(detector.network, measure_ranges(detector.network, [images]))
    return Inference(network, detector.detections, "cpu"), images, device


def measured_bandwidth(mx, repeats: int) -> float:
    """GB/s of one operator over arrays beyond the caches."""
    one, two, out = (mx.nd.ones((ADDED,)) for _ in range(3))

    def add():
        mx.nd.elemwise_add(one, two, out=out)
        out.wait_to_read()

    return 3 * 4 * ADDED / min(turns.timed(add, repeats + 1)) / 1e9


class Node:
    """An operator of the graph: group, kind, floating-point operations and bytes of a batch."""

    def __init__(self, node, nodes, shapes):
        """shapes: (shape, bytes of a number) of each output, by (index of its node, index of the
        output in the node)."""
        self.op = node["op"]
        inputs = [(nodes[source], shapes[source, output]) for source, output, *_ in node["inputs"]]
        outputs = [shape for (source, _), shape in shapes.items() if nodes[source] is node]
        weights = [
            one["name"]
            for one, _ in inputs
            if one["op"] == "null" and one["name"].endswith("weight")
        ]
        self.operations, self.group = 0, node["op"]
        if self.op in CONVOLUTIONS:
            self.operations = 2 * math.prod(outputs[0][0]) * math.prod(inputs[1][1][0][1:])
            self.group = part_of(weights[0] if weights else inputs[1][0]["name"])
            if (
                node.get("attrs", {}).get("quantized", "false").lower() == "true"
                and "heads" not in self.group
            ):
                self.group += ", int8"
        self.bytes = sum(math.prod(shape) * width for shape, width in outputs) + sum(
            math.prod(shape) * width for _, (shape, width) in inputs
        )


def part_of(weight: str) -> str:
    """Of the network, by the name of a convolution's weight."""
    stage = re.search(r"stage(\d)", weight)
    if stage:
        return f"convolutions, stage {stage.group(1)}"
    # MXNet may compute a head before or after the next feature map, so their times cannot be
    # separated.
    return (
        "convolutions, first"
        if "resnet" in weight or "backbone" in weight
        else "convolutions, features and heads"
    )


def graph(inference, images):
    """Node of each operator of the graph that runs, in its order."""
    import numpy as np

    data, symbol = inference._cached_graph
    known = {
        parameter.name: parameter.data().shape
        for _, parameter in inference._cached_op_args
        if not isinstance(parameter, int)
    }
    internals = symbol.get_internals()
    known = {name: shape for name, shape in known.items() if name in symbol.list_inputs()}
    _, inferred, _ = internals.infer_shape(**{data[0].name: images.shape}, **known)
    nodes = json.loads(symbol.tojson())["nodes"]
    _, types, _ = internals.infer_type(**{data[0].name: "float32"})
    sizes = list(zip(inferred, (np.dtype(one).itemsize for one in types)))
    names, shapes, position = internals.list_outputs(), {}, 0
    for index, node in enumerate(nodes):
        first, after = position, nodes[index + 1]["name"] if index + 1 < len(nodes) else None
        while position < len(names) and (
            position == first
            or (
                names[position].startswith(node["name"])
                and names[position] not in (after, f"{after}_output", f"{after}_output0")
            )
        ):
            shapes[index, position - first] = sizes[position]
            position += 1
            if node["op"] == "null":
                break
    return [Node(node, nodes, shapes) for node in nodes if node["op"] != "null"]


def traced_seconds(inference, images, nodes, batches: int):
    """Of each node, the median of the batches."""
    from ssd.benchmark.trace import traced

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        with traced(path):  # once in a process: MXNet's profiler cannot be set up again
            for _ in range(batches):
                inference(images).wait_to_read()
        with open(path, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
    started, found = {}, collections.defaultdict(list)
    for event in events:
        if event.get("ph") == "B":
            started[event["name"], event["tid"]] = event["ts"]
        elif event.get("ph") == "E" and (event["name"], event["tid"]) in started:
            begin = started.pop((event["name"], event["tid"]))
            found[event["name"]].append((begin, (event["ts"] - begin) / 1e6))
    seconds = {}
    for op, count in collections.Counter(node.op for node in nodes).items():
        took = [one for _, one in sorted(found[op])]
        if len(took) == batches * count:  # they come in the order of the graph
            seconds[op] = iter([statistics.median(took[index::count]) for index in range(count)])
        else:  # some were no work: a change of shape in place
            seconds[op] = iter([sum(took) / batches / count] * count)
    return [next(seconds[node.op]) for node in nodes]


def print_table(nodes, seconds, total_seconds: float, peak: float, bandwidth: float) -> None:
    groups = {}
    for node, took in zip(nodes, seconds):
        groups.setdefault(node.group, []).append((node, took))
    print(
        "| operators | number | ms | share | GFLOP | GFLOP/s | of the peak | GB | GB/s | of the "
        "bandwidth | limit [ms] |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    total = [0.0] * 4
    order = sorted(groups, key=lambda name: -sum(took for _, took in groups[name]))
    for name in order + ["all"]:
        if name == "all":
            (took, operations, size, limit), count = total, len(nodes)
        else:
            took = sum(one for _, one in groups[name])
            operations = sum(node.operations for node, _ in groups[name]) / 1e9
            size = sum(node.bytes for node, _ in groups[name]) / 1e9
            limit = sum(
                max(node.operations / 1e9 / peak, 1e-9 * node.bytes / bandwidth)
                for node, _ in groups[name]
            )
            total, count = (
                [a + b for a, b in zip(total, (took, operations, size, limit))],
                len(groups[name]),
            )
        rates = (operations / took, size / took) if took else (0, 0)
        done = (
            f"{operations:.1f} | {rates[0]:.0f} | {rates[0] / peak:.2f}" if operations else " | | "
        )
        print(
            f"| {name} | {count} | {1e3 * took:.1f} | {took / total_seconds:.3f} | {done} | "
            f"{size:.3f} | {rates[1]:.1f} | {rates[1] / bandwidth:.2f} | {1e3 * limit:.1f} |"
        )
    print(
        f"| the complete graph | | {1e3 * total_seconds:.1f} | 1 | {total[1]:.1f} | "
        f"{total[1] / total_seconds:.0f} | {total[1] / total_seconds / peak:.2f} | | | | |"
    )


if __name__ == "__main__":
    main()
