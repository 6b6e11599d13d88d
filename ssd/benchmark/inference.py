"""Mode infer: images to detections, as in `evaluate` and in the evaluations of a training."""

from __future__ import annotations

import contextlib
import itertools
from typing import Dict, List

import numpy as np

from ssd.benchmark.machine import Peaks, arithmetic, describe_machine
from ssd.benchmark.request import PART_STEPS, TRACE_STEPS, Request
from ssd.benchmark.timing import Laps, as_parts, gpu_memory, peak_memory, spread, steady_state


def measure(request: Request) -> dict:
    """Measure; docs/benchmarking.md describes the result."""
    from ssd.benchmark.trace import traced, unbulk
    from ssd.evaluation.inference import build_inference
    from ssd.model.detector import build_detector
    from ssd.model.device import choose_device
    from ssd.model.initialization import initialize
    from ssd.model.operations import forward_multiply_adds

    config = request.config
    batch_size = config.evaluation.eval_batch_size
    device = choose_device(config)
    steps, warmup = request.counts(20, 2)
    dataset = None
    if request.has_data:
        extra = PART_STEPS + 1 + (TRACE_STEPS + 1 if request.trace else 0)
        dataset, config, steps = request.open_data("val", 1, batch_size, steps, warmup, extra)
    detector = build_detector(config)
    network = detector.network
    initialize(network, request.seed, device.context)
    if config.run.weights:
        from ssd.model.weights import load_weights

        load_weights(network, config.run.weights)
    inference = build_inference(detector, device, config.run.weights or None)
    with image_batches(config, dataset, network, device, request.seed) as batches:
        numbers = steady(inference, batches, dataset, steps, warmup)
        memory = dict(peak_rss_bytes=peak_memory(), gpu_bytes=gpu_memory(device))
        peaks = Peaks(config.model, device)
        peaks.measure(min(steps, 5))
        parts = in_parts(inference, batches, dataset, PART_STEPS)
        peaks.measure(min(steps, 5))
        if request.trace:
            unbulk(inference, training=False)
            inference(next(batches)[0]).wait_to_read()
            with traced(request.trace):
                for _ in range(TRACE_STEPS):
                    inference(next(batches)[0]).wait_to_read()
    seconds = numbers["seconds"]
    # Not from the steady steps: on a CPU the hand-over of a batch to MXNet waits for the network on
    # the batch before.
    wait = sum(parts["data wait"]) / sum(map(sum, parts.values()))
    speed = spread(batch_size / seconds)
    return dict(
        recipe=config.recipe,
        device=device.kind,
        ranks=1,
        batch_size=batch_size,
        image_size=config.model.image_size.plain,
        data=dataset.path if dataset else "synthetic images",
        weights=config.run.weights or "random",
        warmup=warmup,
        steps=steps,
        step_seconds=spread(seconds),
        images_per_second=speed,
        data_wait_share=wait,
        detections_per_image=numbers["detections"],
        parts=as_parts(parts),
        memory=memory,
        arithmetic=arithmetic(forward_multiply_adds(network), speed["median"], peaks.results()),
        machine=describe_machine(),
    )


@contextlib.contextmanager
def image_batches(config, dataset, network, device, seed: int):
    """Pairs (images, indices) of an evaluation loader; without a data set always the same synthetic
    ones."""
    if dataset is None:
        import mxnet as mx

        batch = config.evaluation.eval_batch_size
        noise = np.random.default_rng(seed).standard_normal(network.input_shape(batch))
        yield itertools.repeat(
            (mx.nd.array(noise, ctx=device.context, dtype=config.model.dtype), np.arange(batch))
        )
        return
    from ssd.data.pipeline import EvaluationLoader

    loader = EvaluationLoader(
        config,
        dataset,
        device=device.kind,
        device_id=device.index,
        pad_channels=network.input_channels == 4,
    )
    try:
        yield iter(loader)
    finally:
        loader.close()


def _rows(outputs, indices: np.ndarray, dataset) -> np.ndarray:
    from ssd.evaluation.inference import detection_rows

    sizes = dataset.sizes if dataset else np.full((len(indices), 2), 640)
    return detection_rows(outputs.asnumpy(), indices, sizes)


def steady(inference, batches, dataset, steps: int, warmup: int) -> Dict[str, object]:
    """seconds (steps,) and detections per image. The detections of a batch are read once the next
    one is queued, as in ssd.evaluation.inference.detect."""
    found: List[int] = []
    waiting = []

    def one():
        images, indices = next(batches)
        outputs = inference(images)
        if waiting:
            found.append(len(_rows(*waiting.pop(), dataset)))
        waiting.append((outputs, indices))
        return outputs

    seconds = steady_state(one, steps, warmup)
    batch_size = waiting[0][0].shape[0]
    return dict(seconds=seconds, detections=float(np.mean(found)) / batch_size if found else None)


def in_parts(inference, batches, dataset, steps: int) -> Dict[str, List[float]]:
    """Seconds of each part in each of `steps` steps that wait after each part; after a warm-up
    step, because network and post-processing become separate graphs."""
    laps = Laps()
    # Hybridized alone, but with the same fused operators as in the complete graph.
    inference.network.hybridize(backend=inference._backend, static_alloc=True, static_shape=True)
    outputs = inference.network(next(batches)[0])
    inference.detections(*outputs).wait_to_read()
    for _ in range(steps):
        laps.start()
        images, indices = next(batches)
        laps.lap("data wait")
        outputs = inference.network(images)
        laps.lap("network")
        rows = inference.detections(*outputs)
        laps.lap("post-processing")
        _rows(rows, indices, dataset)
        laps.lap("to the host")
    return laps.seconds
