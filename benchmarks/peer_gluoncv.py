"""Our training step and inference against GluonCV's ssd_300_resnet34_v1b_coco, alternating, on the
CPU.

    python benchmarks/peer_gluoncv.py [--batch-size 8] [--rounds 6] [--parts train infer]

Prints the numbers of gluoncv.md. GluonCV is run as its own scripts/detection/ssd/train_ssd.py does:
SSDMultiBoxLoss, targets by SSDTargetGenerator (made beforehand: there the data workers make them),
gluon.Trainer with sgd, the two loss metrics; for inference set_nms(0.45, 400) as its validation
does. Its network is another one (gluoncv.md), so the operations of both are counted from their
graphs, and the ratio is also given per operation.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from benchmarks import ours, turns  # noqa: E402

RECIPE, PEER = "ssd-resnet34-coco", "ssd_300_resnet34_v1b_coco"
OBJECTS = 7  # per image, as in COCO


class Graph:
    """GluonCV's network as ssd.model.operations takes one."""

    def __init__(self, network):
        self.network = network

    def __call__(self, images):
        import mxnet as mx

        with mx.autograd.train_mode():
            return self.network(images)[:2]

    def collect_params(self):
        return self.network.collect_params()

    @staticmethod
    def input_shape(batch_size):
        return batch_size, 3, 300, 300


def our_worker(args):
    from ssd.threads import use_all_cores

    use_all_cores()
    start = turns.peak_megabytes()
    config = ours.recipe(RECIPE, batch_size=args.batch_size)
    detector = ours.build(config)
    network, boxes = detector.network, detector.default_boxes
    batch = ours.synthetic_batch(config, len(boxes), args.batch_size)
    gflop = ours.gflop_per_image(network)
    if args.part == "train":
        step, work = ours.training(detector, config, batch)
        parameters = sum(parameter.data().size for parameter in step.parameters.values())
    else:
        ours.scatter_scores(network, batch["images"][:2], config)
        work, parameters = ours.inference(detector, config, batch["images"])[0], 0
    facts = dict(gflop=gflop, boxes=len(boxes), parameters=parameters)
    return dict(
        work=lambda times: turns.timed(work, times),
        facts=lambda: facts,
        memory=lambda: [start, turns.peak_megabytes()],
    )


def gluoncv_network():
    """GluonCV's network with random weights."""
    from ssd.threads import use_all_cores

    use_all_cores()
    import mxnet as mx

    # GluonCV looks for PyTorch, and fails if what it finds is 2.0 or newer. Hidden after MXNet is
    # imported: SciPy, which that imports, may fail beside a hidden PyTorch.
    sys.modules["torch"] = None
    from gluoncv.model_zoo import get_model

    network = get_model(PEER, pretrained_base=False)
    network.initialize(mx.init.Xavier())
    return network


def gluoncv_training(network, batch_size):
    """A function of no arguments: one step of train_ssd.py."""
    import mxnet as mx
    from gluoncv.loss import SSDMultiBoxLoss
    from gluoncv.model_zoo.ssd.target import SSDTargetGenerator

    random = np.random.default_rng(0)
    images = mx.nd.array(random.standard_normal((batch_size, 3, 300, 300)))
    with mx.autograd.train_mode():
        anchors = network(images[:1])[2]
    make = SSDTargetGenerator(iou_thresh=0.5, stds=(0.1, 0.1, 0.2, 0.2), negative_mining_ratio=-1)
    targets = []
    for _ in range(batch_size):
        sizes = 300 * random.uniform(0.05, 0.7, (OBJECTS, 2))
        corners = random.uniform(0, 1, (OBJECTS, 2)) * (300 - sizes)
        boxes = mx.nd.array(np.concatenate([corners, corners + sizes], axis=1)[None])
        classes = mx.nd.array(random.integers(0, 80, (1, OBJECTS, 1)))
        targets.append(make(anchors, None, boxes, classes)[:2])
    class_targets, box_targets = (mx.nd.concat(*part, dim=0) for part in zip(*targets))
    trainer = mx.gluon.Trainer(
        network.collect_params(),
        "sgd",
        dict(learning_rate=1e-4, wd=5e-4, momentum=0.9),
        kvstore=None,
    )
    loss = SSDMultiBoxLoss()
    metrics = mx.metric.Loss("CrossEntropy"), mx.metric.Loss("SmoothL1")
    network.hybridize(static_alloc=True, static_shape=True)

    def one_step():
        with mx.autograd.record():
            classes, boxes, _ = network(images)
            sums, *parts = loss([classes], [boxes], [class_targets], [box_targets])
            mx.autograd.backward(sums)
        trainer.step(1)
        for metric, values in zip(metrics, parts):
            metric.update(0, [value * batch_size for value in values])
        mx.nd.waitall()

    return one_step


def gluoncv_inference(network, batch_size, threshold):
    """A function of no arguments: images to (ids, scores, boxes) as NumPy arrays."""
    import mxnet as mx

    images = mx.nd.array(np.random.default_rng(0).standard_normal((batch_size, 3, 300, 300)))
    with mx.autograd.train_mode():
        network(images[:1])  # its shapes
    with mx.autograd.predict_mode():
        features = network.features(images[:2])
    classes = len(network.classes) + 1
    logits = [
        head(features[place]).transpose((0, 2, 3, 1)).reshape((2, -1, classes)).asnumpy()
        for place, head in enumerate(network.class_predictors)
    ]
    factor, background = ours.scores_to_scatter(np.concatenate(logits, axis=1), threshold)
    for head in network.class_predictors:
        ours.change_rows(head.predictor, slice(None), factor, background, every=classes)
    network.set_nms(nms_thresh=0.45, nms_topk=400)
    network.hybridize(static_alloc=True, static_shape=True)
    return lambda: [array.asnumpy() for array in network(images)]


def gluoncv_worker(args):
    start = turns.peak_megabytes()
    network = gluoncv_network()
    import mxnet as mx

    if args.part == "train":
        work = gluoncv_training(network, args.batch_size)
    else:
        threshold = ours.recipe(RECIPE).detection.score_threshold
        work = gluoncv_inference(network, args.batch_size, threshold)
    with mx.autograd.train_mode():
        boxes = network(mx.nd.zeros((1, 3, 300, 300)))[1].shape[1]
    network.hybridize(False)
    parameters = sum(
        parameter.data().size
        for parameter in network.collect_params().values()
        if parameter.grad_req != "null"
    )
    facts = dict(gflop=ours.gflop_per_image(Graph(network)), boxes=boxes, parameters=parameters)
    network.hybridize(static_alloc=True, static_shape=True)
    return dict(
        work=lambda times: turns.timed(work, times),
        facts=lambda: facts,
        memory=lambda: [start, turns.peak_megabytes()],
    )


def compare_speed(args, part) -> None:
    command = [
        sys.executable,
        os.path.abspath(__file__),
        "--batch-size",
        str(args.batch_size),
        "--parts",
        part,
    ]
    workers = []
    try:
        for side in ("ours", "gluoncv"):
            workers.append(turns.Worker(side, [*command, "--side", side, "--serve"]))
        for worker in workers:
            worker.ask("work", times=args.warmup)
        seconds = turns.in_turns(workers, args.rounds, args.patience, ["work"], times=args.steps)[
            "work"
        ]
        print(
            f"{part}: batches of {args.batch_size}, {args.rounds} rounds of {args.steps}; median "
            "(least to most)"
        )
        gflop = []
        for worker, values in zip(workers, seconds):
            facts, memory = worker.ask("facts"), worker.ask("memory")
            gflop.append(facts["gflop"][part == "train"])
            print(
                "  %-8s %s images/s, %.1f GFLOP an image, %s GFLOP/s, %d boxes, peak memory %.0f "
                "MB (%.0f before)"
                % (
                    worker.name,
                    turns.spread([args.batch_size / one for one in values]),
                    gflop[-1],
                    turns.spread([args.batch_size * gflop[-1] / one for one in values], "%.0f"),
                    facts["boxes"],
                    memory[1],
                    memory[0],
                )
            )
            if facts["parameters"]:
                print("  %-8s %d parameters" % (worker.name, facts["parameters"]))
        ratio = turns.ratios(seconds[1], seconds[0])
        print(
            f"  ours / gluoncv, images/s: {turns.spread(ratio)}; operations/s: "
            f"{turns.spread([one * gflop[0] / gflop[1] for one in ratio])}"
        )
        print("  " + turns.others(workers), flush=True)
    finally:
        for worker in workers:
            worker.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=8)
    turns.add_arguments(parser, rounds=6, steps=1, warmup=2)
    parser.add_argument(
        "--parts", nargs="+", choices=["train", "infer"], default=["train", "infer"]
    )
    args = parser.parse_args()
    if args.serve:
        args.part = args.parts[0]
        turns.serve(args.serve, (our_worker if args.side == "ours" else gluoncv_worker)(args))
        return
    turns.end_workers_with_us()
    print(turns.machine(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), sep="; ", flush=True)
    for part in args.parts:
        compare_speed(args, part)


if __name__ == "__main__":
    main()
