"""Inference in 8-bit integers against float32, alternating: the network alone, and with its
detections.

    python benchmarks/int8_speed.py --recipe ssd-resnet34-coco --batch-size 8
    python benchmarks/int8_speed.py --weights runs/mine/weights.params --batch-size 8

Without --weights the network has initial weights, whose detections mean nothing: then only the
network is timed.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from benchmarks import turns

SIDES = ("float32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="ssd-resnet34-coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--weights", default="")
    turns.add_arguments(parser, rounds=7, steps=5, warmup=3)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    turns.end_workers_with_us()
    print(
        f"{turns.machine()}; {args.weights or args.recipe}, batches of {args.batch_size}; "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    workers = [turns.Worker(side, [*command, "--side", side, "--serve"]) for side in SIDES]
    try:
        for worker in workers:
            print(f"{worker.name}: {worker.ask('warm', times=args.warmup)}")
        jobs = ["network"] + ["inference"] * bool(args.weights)
        seconds = turns.in_turns(workers, args.rounds, args.patience, jobs, times=args.steps)
        for job in jobs:
            slow, fast = seconds[job]
            for side, found in zip(SIDES, (slow, fast)):
                print(
                    f"{job}, {side}: {turns.spread([args.batch_size / one for one in found])} "
                    "images/s"
                )
            print(f"{job}: int8 is {turns.spread(turns.ratios(slow, fast))} times as fast")
        print(turns.others(workers))
    finally:
        for worker in workers:
            worker.close()


def serve(args) -> None:
    import mxnet as mx
    import numpy as np

    from benchmarks import ours
    from ssd.evaluation.inference import Inference
    from ssd.model.int8 import measure_ranges, quantize
    from ssd.model.weights import load_detector, read_info

    if args.weights:
        config = read_info(args.weights).config.with_values(
            layout="NCHW", dtype="float32", device="cpu", decode="cpu"
        )
        detector = load_detector(config, args.weights, mx.cpu())
    else:
        detector = ours.build(ours.recipe(args.recipe))
    network, said = detector.network, "as trained in"
    images = mx.nd.array(
        np.random.default_rng(0).standard_normal(network.input_shape(args.batch_size))
    )
    if args.side == "int8":
        network, layers = quantize(network, measure_ranges(network, [images]))
        said = f"{len(layers.int8)} of {len(layers.int8) + len(layers.others)} convolutions"
    detector.detections.initialize(ctx=mx.cpu())
    inference = Inference(network, detector.detections, "cpu")
    alone = Inference(network, Both(), "cpu")

    def call(graph):
        for part in [graph(images)]:
            part.wait_to_read()

    def warm(times):
        for _ in range(times):
            call(alone)
            if args.weights:
                call(inference)
        return said

    turns.serve(
        args.serve,
        dict(
            warm=warm,
            network=lambda times: turns.timed(lambda: call(alone), times),
            inference=lambda times: turns.timed(lambda: call(inference), times),
        ),
    )


def Both():
    """Offsets and logits as one array, instead of detections."""
    from mxnet.gluon import HybridBlock

    class Joined(HybridBlock):
        def hybrid_forward(self, F, offsets, logits):
            return F.concat(F.reshape(offsets, (0, -1)), F.reshape(logits, (0, -1)), dim=1)

    return Joined()


if __name__ == "__main__":
    main()
