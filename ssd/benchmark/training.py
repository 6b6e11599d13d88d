"""Mode train: the training step of `train`, on one rank or several."""

from __future__ import annotations

import contextlib
import time
from typing import Dict, List

import numpy as np

from ssd.benchmark.machine import Peaks, arithmetic, describe_machine
from ssd.benchmark.request import PART_STEPS, TRACE_STEPS, Request
from ssd.benchmark.timing import Laps, as_parts, gpu_memory, peak_memory, spread, steady_state
from ssd.config import Config

PARTS = ("data wait", "forward", "backward", "allreduce", "check", "update")
RATE = 1e-6  # so small that no number of steps makes the weights infinite


def measure(request: Request) -> dict:
    """Measure on every rank; docs/benchmarking.md describes the result."""
    from ssd.training.ranks import Ranks

    with contextlib.closing(
        Ranks(waiting_steps=request.config.training.batch_norm_ranks > 1)
    ) as ranks:
        return _measure(request, ranks)


def _measure(request: Request, ranks) -> dict:
    from ssd.benchmark.trace import traced, unbulk
    from ssd.model.detector import build_detector
    from ssd.model.device import choose_device
    from ssd.model.initialization import initialize
    from ssd.model.operations import training_multiply_adds
    from ssd.training.recovery import finite_interval
    from ssd.training.step import TrainingStep

    config = request.config
    device = choose_device(config, ranks.local_rank)
    steps, warmup = request.counts(10, 2)
    extra = PART_STEPS + (TRACE_STEPS + 1 if request.trace else 0)
    dataset = None
    if request.has_data:
        batch = config.training.batch_size
        dataset, config, steps = ranks.first_then_others(
            lambda: request.open_data("train", ranks.size, batch, *request.counts(10, 2), extra),
            "data set",
        )
    detector = build_detector(config)
    network = detector.network
    initialize(network, request.seed, device.context)
    if config.run.weights:
        from ssd.model.weights import load_weights

        load_weights(network, config.run.weights)
    step = TrainingStep(network, detector.loss, config, ranks)
    batches = open_batches(config, dataset, detector, device, ranks, request.seed)

    def measure_peaks() -> None:
        ranks.mean(np.zeros(1), "peaks")  # all at once, as they share the machine
        peaks.measure(min(steps, 5))

    try:
        every = finite_interval(config, device.kind)
        numbers = steady(step, batches, every, steps, warmup)
        memory = dict(peak_rss_bytes=peak_memory(), gpu_bytes=gpu_memory(device))
        peaks = Peaks(config.model, device)
        measure_peaks()
        parts = in_parts(step, batches, PART_STEPS, every)
        measure_peaks()
        if request.trace:
            unbulk(step.graph, training=True)
            train_step(step, next(batches), True)
            with traced(request.trace) if ranks.is_first else contextlib.nullcontext():
                for _ in range(TRACE_STEPS):
                    train_step(step, next(batches), True)
    finally:
        batches.close()
    rank, seconds = slowest(ranks, numbers.pop("seconds"))
    parts = {
        name: ranks.gather(np.array([values]), f"part {name}")[rank].tolist()
        for name, values in parts.items()
    }
    waits = ranks.gather(np.array([[numbers["wait"], numbers["lock"]]]), "waits").max(0).tolist()
    memory = dict(
        zip(
            memory,
            ranks.gather(np.array([list(memory.values())], float), "memory")
            .max(0)
            .astype(int)
            .tolist(),
        )
    )
    images = config.training.batch_size * ranks.size
    speed = spread(images / seconds)
    return dict(
        recipe=config.recipe,
        device=device.kind,
        ranks=ranks.size,
        slowest_rank=rank,
        batch_size=config.training.batch_size,
        global_batch=images,
        image_size=config.model.image_size.plain,
        data=dataset.path if dataset else "synthetic batches",
        warmup=warmup,
        steps=steps,
        step_seconds=spread(seconds),
        images_per_second=speed,
        data_wait_share=waits[0],
        lock_wait_share=waits[1],
        parts=as_parts(parts),
        memory=memory,
        arithmetic=arithmetic(
            training_multiply_adds(network), speed["median"], peaks.results(), ranks.size
        ),
        machine=describe_machine(),
        rank=ranks.rank,
    )


def slowest(ranks, seconds: np.ndarray):
    """(the rank with the largest median, its seconds (steps,)), on every rank. Collective."""
    rows = ranks.gather(seconds.reshape(1, -1), "seconds")
    rank = int(np.argmax(np.median(rows, axis=1)))
    return rank, rows[rank]


def open_batches(config: Config, dataset, detector, device, ranks, seed: int):
    """The training loader of `dataset`, or synthetic batches without one: an iterator with
    `close`."""
    if dataset is None:
        return SyntheticBatches(
            config, detector.network, len(detector.default_boxes), device, seed + ranks.rank
        )
    from ssd.data.pipeline import TrainingLoader

    return TrainingLoader(
        config,
        dataset,
        detector.matcher,
        rank=ranks.rank,
        size=ranks.size,
        seed=seed,
        device=device.kind,
        device_id=device.index,
        pad_channels=detector.network.input_channels == 4,
    )


class SyntheticBatches:
    """Always the same batch: noise as images, one default box in a hundred positive."""

    def __init__(self, config: Config, network, boxes: int, device, seed: int):
        import mxnet as mx

        from ssd.data.pipeline import TrainingBatch

        batch, noise = config.training.batch_size, np.random.default_rng(seed)
        classes = noise.integers(1, config.model.num_classes, (batch, boxes)) * (
            noise.random((batch, boxes)) < 0.01
        )
        context = device.context
        self._batch = TrainingBatch(
            mx.nd.array(
                noise.standard_normal(network.input_shape(batch)),
                ctx=context,
                dtype=config.model.dtype,
            ),
            mx.nd.array(noise.standard_normal((batch, boxes, 4)), ctx=context),
            mx.nd.array(classes, ctx=context, dtype="int32"),
            np.arange(batch),
            0,
        )

    def __next__(self):
        return self._batch

    def close(self) -> None:
        pass


def train_step(step, batch, check: bool):
    """A step like Training.train_step; returns the losses, (B,) NDArrays."""
    losses = step.gradients(batch.images, batch.offsets, batch.classes, check)
    if not check or step.finite():
        step.update(RATE)
    return losses


def steady(step, batches, every: int, steps: int, warmup: int) -> Dict[str, object]:
    """seconds (steps,) of each step, and the fractions of them spent waiting for data and for
    Python's lock. Checks every `every` steps that numbers are finite."""
    done, waits, locks = [0], [], []

    def one():
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        done[0] += 1
        before = step.lock_wait.seconds
        losses = train_step(step, batch, done[0] % every == 0 or step.scale.window > 0)
        locks.append(step.lock_wait.seconds - before)
        return losses[0]

    seconds = steady_state(one, steps, warmup)
    return dict(
        seconds=seconds,
        wait=sum(waits[warmup:]) / seconds.sum(),
        lock=sum(locks[warmup:]) / seconds.sum(),
    )


def in_parts(step, batches, steps: int, every: int) -> Dict[str, List[float]]:
    """Seconds of each part in each of `steps` steps that wait after each part; the check runs every
    `every` steps."""
    laps = Laps()
    for number in range(1, steps + 1):
        laps.start()
        batch = next(batches)
        laps.lap("data wait")
        _, total = step.forward(batch.images, batch.offsets, batch.classes)
        laps.lap("forward")
        step.backward(total)
        laps.lap("backward")
        check = number % every == 0 or step.scale.window > 0
        step.average(total if check else None)
        laps.lap("allreduce")
        if check:
            step.finite()
        laps.lap("check")
        step.update(RATE)
        laps.lap("update")
    return laps.seconds
