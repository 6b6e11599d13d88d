"""Our training step and inference against PyTorch's, alternating, on the CPU.

    python benchmarks/peer_pytorch.py [--recipe ssd-resnet34-coco] [--batch-size 8] [--rounds 6]
    [--parts train infer]

Prints the numbers of pytorch.md, retinanet.md and mobilenet.md. The other side is
benchmarks/torch_ssd.py, torch_retinanet.py or torch_mobilenet.py: the same network with the same
weights on the same synthetic batch. First the outputs of both are compared: offsets, logits,
losses, every gradient, the weights after a step, detections. Then each side, a process of its own
with all cores, does a few steps while the other one is stopped. `--forms` names the ways in which
PyTorch runs: plain, channels_last, compile (torch.compile, channels_last), and lean (of RetinaNet:
channels_last, see torch_retinanet.py); with several, the ratio is to the fastest. For inference
BatchNorm is folded into PyTorch's convolutions, except in plain; lean equals channels_last there,
and is left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from benchmarks import ours, turns  # noqa: E402

CHECKED_IMAGES = 2
PEERS = ("resnet34", "resnext50_32x4d", "mobilenet_v2")  # backbones that PyTorch's side has
FORMS = ("plain", "channels_last", "compile", "lean")
# Each ReLU that rounding flips changes the gradients: PyTorch's are 7e-4 from a float64 run,
# MXNet's 3e-3.
TOLERANCES = {
    "offsets": 1e-4,
    "logits": 1e-4,
    "losses": 1e-4,
    "gradients": 1e-2,
    "steps": 1e-2,
    "detections": 1e-3,
}
# With MobileNetV2 PyTorch's are 1.3e-2 away and MXNet's 2.7e-2 (mobilenet.md).
MOBILENET_TOLERANCES = {**TOLERANCES, "gradients": 5e-2, "steps": 5e-2}


def kind_of(config) -> str:
    """The module of PyTorch's side, after torch_."""
    return "mobilenet" if config.model.backbone == "mobilenet_v2" else config.model.detector


def tolerances_of(config):
    """Per kind of output how far apart the two sides may be, as `compare` counts it."""
    return MOBILENET_TOLERANCES if kind_of(config) == "mobilenet" else TOLERANCES


def our_outputs(config, detector, batch):
    """What is compared, as NumPy arrays, of our side; makes one step."""
    detect, alone = ours.inference(detector, config, batch["images"])
    offsets, logits = (array.asnumpy() for array in alone())
    rows = detect()
    result = dict(offsets=offsets, logits=logits)
    for image, found in enumerate(rows):
        result[f"detections {image}"] = found[found[:, 0] > 0]
    step, one_step = ours.training(detector, config, batch)
    import mxnet as mx

    # A parameter of two names counts once, by the first.
    trained = {
        id(parameter): (name, parameter) for name, parameter in reversed(step.parameters.items())
    }.values()
    before = {name: parameter.data().asnumpy() for name, parameter in trained}
    losses = step.gradients(
        *(
            mx.nd.array(batch[name], dtype=batch[name].dtype)
            for name in ("images", "offsets", "classes")
        ),
        check=True,
    )
    result["losses"] = np.stack([loss.asnumpy() for loss in losses])
    for name, parameter in trained:
        result[f"gradients {name}"] = parameter.list_grad()[0].asnumpy() / (
            len(batch["images"]) * step.scale.value
        )
    step.update(1.0)
    for name, parameter in trained:
        result[f"steps {name}"] = parameter.data().asnumpy() - before[name]
    return result


class Peer:
    """PyTorch's side. `form`: one of FORMS."""

    def __init__(self, config, weights, boxes, batch, form: str):
        import torch

        from benchmarks import torch_ssd

        lib = importlib.import_module(f"benchmarks.torch_{kind_of(config)}")
        assert form in lib.FORMS, f"{config.model.detector} has no form {form}"
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch, self.config, self.lib, self.form = torch, config, lib, form
        self.layout = torch.contiguous_format if form == "plain" else torch.channels_last
        self.network = lib.build(config, form)
        torch_ssd.load(self.network, weights)
        self.trained = {
            name: tensor for name, tensor in self.network.named_parameters() if tensor.requires_grad
        }
        self.our_names = {name: torch_ssd.our_name(name, weights) for name in self.trained}
        self.network.to(memory_format=self.layout)
        self.images = torch.from_numpy(batch["images"]).contiguous(memory_format=self.layout)
        self.offsets = torch.from_numpy(batch["offsets"])
        self.classes = torch.from_numpy(batch["classes"]).long()
        self.detections = lib.postprocessing(config, torch.from_numpy(boxes))
        self.compiled = torch.compile if form == "compile" else lambda function: function

    def train(self, learning_rate: float):
        """A function of no arguments: one step, which returns the losses."""
        optimizer = self.lib.optimizer(self.config, self.trained, learning_rate)
        loss = self.lib.loss(self.config, self.form)
        self.network.train()

        def losses_of(images, offsets, classes):
            return loss(*self.network(images), offsets, classes)

        losses_of = self.compiled(losses_of)

        def one_step():
            optimizer.zero_grad(set_to_none=True)
            losses = losses_of(self.images, self.offsets, self.classes)
            (losses[0] + losses[1]).mean().backward()
            optimizer.step()
            return losses

        return one_step

    def infer(self, folded: bool):
        """As ours.inference."""
        from benchmarks import torch_ssd

        self.network.eval()
        network = torch_ssd.fold_batch_norm(self.network) if folded else self.network
        network = self.compiled(network)

        def alone():
            with self.torch.inference_mode():
                return network(self.images)

        def detect():
            with self.torch.inference_mode():
                return self.detections(*network(self.images))

        return detect, alone

    def outputs(self):
        """As our_outputs."""
        detect, alone = self.infer(folded=False)
        result = dict(zip(("offsets", "logits"), (array.clone().numpy() for array in alone())))
        for image, found in enumerate(detect()):
            result[f"detections {image}"] = found.numpy()
        before = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        losses = self.train(1.0)()
        result["losses"] = np.stack([loss.detach().numpy() for loss in losses])
        for name, tensor in self.trained.items():
            result[f"gradients {self.our_names[name]}"] = tensor.grad.contiguous().numpy()
            result[f"steps {self.our_names[name]}"] = (
                (tensor.detach() - before[name]).contiguous().numpy()
            )
        return result


def compare(mine, theirs, optimizer: str = "sgd"):
    """Per kind of output the difference of the two sides: of gradients and steps the norm over all
    tensors together, of detections the largest from a row to the other side's nearest (nearly equal
    scores swap), of the others the largest; each relative to the other side's norm or largest
    magnitude. Adam's first step is little more than the gradient's sign, so only steps count whose
    gradients agree to a tenth: nine tenths at least, else the difference is infinite."""
    assert set(mine) == set(theirs), set(mine) ^ set(theirs)
    kinds, counted = {}, []
    for name in mine:
        assert mine[name].shape == theirs[name].shape, (
            f"{name}: {mine[name].shape} and {theirs[name].shape}"
        )
        pair, kind = (mine[name].astype(np.float64), theirs[name]), name.split(" ")[0]
        if kind == "steps" and optimizer == "adam":
            a, b = (side[name.replace("steps", "gradients")] for side in (mine, theirs))
            alike = np.abs(a - b) <= 0.1 * np.abs(b)
            counted.append((alike.sum(), alike.size))
            pair = tuple(part[alike] for part in pair)
        kinds.setdefault(kind, []).append(pair)
    apart = {}
    for kind, pairs in kinds.items():
        if kind in ("gradients", "steps"):
            squares = (
                [((a - b) ** 2).sum() for a, b in pairs],
                [(b.astype(np.float64) ** 2).sum() for _, b in pairs],
            )
            apart[kind] = np.sqrt(sum(squares[0]) / sum(squares[1]))
        elif kind == "detections":
            apart[kind] = np.max(
                [
                    np.abs(a[:, None] - b[None]).max(axis=2).min(axis=1).max(initial=0)
                    for a, b in pairs
                ]
            )
        else:
            apart[kind] = np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs])
    if counted and np.divide(*np.sum(counted, axis=0)) < 0.9:
        apart["steps"] = np.inf
    return apart


def make_inputs(config, batch_size):
    """Our detector, its weights under our names, its default boxes, and a batch."""
    from ssd.model.parameters import by_structural_name

    detector = ours.build(config)
    network, boxes = detector.network, detector.default_boxes
    batch = ours.synthetic_batch(config, len(boxes), batch_size)
    ours.scatter_frozen(network)
    if config.model.head == "separable":
        ours.calibrate(network, config)
    ours.scatter_scores(network, batch["images"][:CHECKED_IMAGES], config)
    weights = {
        name: parameter.data().asnumpy() for name, parameter in by_structural_name(network).items()
    }
    return detector, weights, boxes, batch


# ---- the workers; requests name functions of the dict that they serve


def file_of(args, name):
    return os.path.join(args.folder, f"{name}.npz")


def arrays_of(args, name):
    with np.load(file_of(args, name), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def inputs_worker(config, args):
    """Makes what the others read, so that it does not count in their memory."""
    _, weights, boxes, batch = make_inputs(config, args.batch_size)
    for name, arrays in (("weights", weights), ("boxes", dict(boxes=boxes)), ("batch", batch)):
        np.savez(file_of(args, name), **arrays)
    return {}


def our_worker(config, args):
    from ssd.threads import use_all_cores

    use_all_cores()
    import mxnet as mx

    from ssd.model.weights import load_weights

    start = turns.peak_megabytes()
    detector = ours.build(config)
    network = detector.network
    load_weights(network, file_of(args, "weights"))
    batch = arrays_of(args, "batch")
    jobs = dict(
        version=lambda: f"MXNet {mx.__version__}",
        memory=lambda: [start, turns.peak_megabytes()],
        gflop=lambda: ours.gflop_per_image(network),
    )
    if args.part == "check":
        jobs.update(
            check=lambda: np.savez(file_of(args, "ours"), **our_outputs(config, detector, batch))
        )
    elif args.part == "train":
        _, one_step = ours.training(detector, config, batch)
        jobs.update(train=lambda times: turns.timed(one_step, times))
    else:
        found, alone = ours.inference(detector, config, batch["images"])
        jobs.update(
            infer=lambda times: turns.timed(found, times),
            alone=lambda times: turns.timed(alone, times),
        )
    return jobs


def limit_worker(config, args):
    from ssd.threads import use_all_cores

    use_all_cores()
    flop, convolve = ours.convolution_peak(args.batch_size)
    return dict(
        limit=lambda times: [flop / 1e9 / one for one in turns.timed(convolve, times)]
    )  # GFLOP/s


def torch_worker(config, args):
    import torch

    start = turns.peak_megabytes()
    weights, boxes, batch = (arrays_of(args, name) for name in ("weights", "boxes", "batch"))
    peer = Peer(config, weights, boxes["boxes"], batch, args.side)
    del weights
    jobs = dict(
        version=lambda: f"PyTorch {torch.__version__}",
        memory=lambda: [start, turns.peak_megabytes()],
    )
    if args.part == "check":
        jobs.update(check=lambda: np.savez(file_of(args, args.side), **peer.outputs()))
    elif args.part == "train":
        one_step = peer.train(1e-4)
        jobs.update(train=lambda times: turns.timed(lambda: one_step()[0][0].item(), times))  # noqa: PLW0108
    else:
        detect, alone = peer.infer(folded=args.side != "plain")
        jobs.update(
            infer=lambda times: turns.timed(lambda: [one.numpy() for one in detect()], times),
            alone=lambda times: turns.timed(alone, times),
        )
    return jobs


# ---- the parent


def start(args, side, part, folder, batch_size):
    size = ["--image-size", args.image_size] if args.image_size else []
    return turns.Worker(
        side,
        [
            sys.executable,
            os.path.abspath(__file__),
            "--recipe",
            args.recipe,
            *size,
            "--batch-size",
            str(batch_size),
            "--parts",
            part,
            "--folder",
            folder,
            "--side",
            side,
            "--serve",
        ],
    )


def check(args, folder, config) -> None:
    start(args, "inputs", "check", folder, CHECKED_IMAGES).close()
    with start(args, "ours", "check", folder, CHECKED_IMAGES) as mine:
        mine.ask("check")
        versions = [mine.ask("version")]
    for form in args.forms:
        with start(args, form, "check", folder, CHECKED_IMAGES) as peer:
            peer.ask("check")
            versions.append(peer.ask("version"))
        sides = [
            dict(np.load(os.path.join(folder, f"{name}.npz"), allow_pickle=False))
            for name in ("ours", form)
        ]
        worst = compare(*sides, config.training.optimizer)
        found = sum(len(rows) for name, rows in sides[0].items() if name.startswith("detections"))
        print(
            f"{versions[0]} and {versions[-1]} ({form}), equal weights, {CHECKED_IMAGES} images, "
            f"{found} detections; differences, of the norm or the largest magnitude:"
        )
        print("  " + ", ".join(f"{kind} {apart:.1e}" for kind, apart in worst.items()), flush=True)
        wrong = [kind for kind, apart in worst.items() if not apart <= tolerances_of(config)[kind]]
        if wrong:
            sys.exit(f"not equal: {', '.join(wrong)}; nothing is timed")


JOBS = {
    "train": ["train"],
    "infer": ["infer", "alone"],
}  # alone: the network without post-processing


def compare_speed(args, part, folder) -> None:
    start(args, "inputs", part, folder, args.batch_size).close()
    workers = []
    forms = [form for form in args.forms if part == "train" or form != "lean"]
    try:
        for side in ("ours", *forms, "limit"):
            workers.append(start(args, side, part, folder, args.batch_size))
        *sides, limit = workers
        memory = []
        for job in JOBS[part]:
            for side in sides:
                side.ask(job, times=args.warmup)
            # Of inference before there is a second graph, of the network alone.
            memory = memory or [side.ask("memory") for side in sides]
        peaks = []
        seconds = turns.in_turns(
            sides,
            args.rounds,
            args.patience,
            JOBS[part],
            times=args.steps,
            after_round=lambda: peaks.append(
                statistics.median(limit.undisturbed("limit", args.patience, times=5))
            ),
        )
        if part == "train":
            memory = [side.ask("memory") for side in sides]
        report(args, part, sides, seconds, peaks, memory)
        print("  " + turns.others(workers), flush=True)
    finally:
        for worker in workers:
            worker.close()


def report(args, part, sides, seconds, peaks, memory) -> None:
    """Prints what was measured: job -> per side its seconds of each round; GFLOP/s of the
    convolution; per side its memory before the network and at the peak [MB]."""
    images, gflop = args.batch_size, sides[0].ask("gflop")[part == "train"]
    print(
        f"{part}: batches of {images}, {args.rounds} rounds of {args.steps}; median (least to most)"
    )
    most = [
        peak / gflop for peak in peaks
    ]  # images a second, if all were as fast as the convolution
    for job, (mine, *others) in seconds.items():
        best = min(range(len(others)), key=lambda place: statistics.median(others[place]))
        for side, values in zip(sides, seconds[job]):
            speeds = [images / one for one in values]
            print("  %-6s %-14s %s images/s" % (job, side.name, turns.spread(speeds, form(speeds))))
        print(
            "  %-6s ours / %s, round by round: %s"
            % (job, sides[1 + best].name, turns.spread(turns.ratios(others[best], mine)))
        )
        print(
            "  %-6s ours / limit: %s"
            % (job, turns.spread([images / one / limit for one, limit in zip(mine, most)]))
        )
    print(
        "  limit: 3x3 convolution {} GFLOP/s; at {:.1f} GFLOP an image {} images/s".format(
            turns.spread(peaks, "%.0f"), gflop, turns.spread(most, form(most))
        )
    )
    if part == "infer":
        shares = [
            1 - alone / whole for alone, whole in zip(seconds["alone"][0], seconds["infer"][0])
        ]
        print(f"  post-processing's share of our inference: {turns.spread(shares)}")
    for side, (start_megabytes, peak) in zip(sides, memory):
        print(
            "  peak memory %-14s %.0f MB, of which %.0f before the network"
            % (side.name, peak, start_megabytes)
        )


def form(speeds) -> str:
    """Formats with digits enough to distinguish them."""
    return "%.3f" if max(speeds) < 1 else "%.2f"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="ssd-resnet34-coco")
    parser.add_argument("--image-size", help="one number or height x width (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, default=8)
    turns.add_arguments(parser, rounds=6, steps=1, warmup=2)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=["check", "train", "infer"],
        default=["check", "train", "infer"],
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["channels_last"])
    args = parser.parse_args()
    size = {"image_size": args.image_size} if args.image_size else {}
    config = ours.recipe(args.recipe, batch_size=args.batch_size, **size)
    if config.model.backbone not in PEERS:
        parser.error(
            f"--recipe {args.recipe}: there is no PyTorch network with its backbone, "
            f"{config.model.backbone}"
        )
    if config.model.detector == "ssd" and "lean" in args.forms:
        parser.error("--forms lean: only RetinaNet has it")
    if args.serve:
        args.part = args.parts[0]
        worker = dict(inputs=inputs_worker, ours=our_worker, limit=limit_worker).get(
            args.side, torch_worker
        )
        turns.serve(args.serve, worker(config, args))
        return
    turns.end_workers_with_us()
    print(turns.machine(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), sep="; ", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            if part == "check":
                check(args, folder, config)
            else:
                compare_speed(args, part, folder)


if __name__ == "__main__":
    main()
