"""Mode data: the training loader alone, the cost of its stages, and decoding alone as the limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import List

import numpy as np

from ssd.benchmark.machine import describe_machine
from ssd.benchmark.request import Request
from ssd.benchmark.timing import peak_memory, spread, times_of
from ssd.errors import UserError


def measure(request: Request) -> dict:
    """Measure; docs/benchmarking.md describes the result."""
    import cv2

    from ssd.data.samples import FIELDS, PLAIN_FIELDS, SampleFeed, read_image_file
    from ssd.model.detector import build_detector
    from ssd.model.device import choose_device
    from ssd.model.layers import input_channels

    if not request.has_data:
        raise UserError("benchmark data: needs a data set, --data-dir; `make-shapes` draws one")
    config, batch = request.config, request.config.training.batch_size
    device = choose_device(config)
    # Batches that were prefetched before the clock starts must be used up.
    steps, warmup = request.counts(50, config.data.prefetch + 2)
    dataset, config, steps = request.open_data("train", 1, batch, steps, warmup, 0)
    matcher = build_detector(config).matcher
    options = dict(
        seed=request.seed,
        device=device.kind,
        device_id=device.index,
        pad_channels=input_channels(config.model) == 4,
    )

    def of_loader(settings, matcher) -> np.ndarray:
        from ssd.data.pipeline import TrainingLoader

        loader = TrainingLoader(settings, dataset, matcher, **options)
        try:
            return times_of(lambda: next(loader), steps, warmup)
        finally:
            loader.close()

    complete = of_loader(config, matcher)
    memory = dict(peak_rss_bytes=peak_memory())
    plain = config.with_values(augment=False)
    feed = SampleFeed(
        config,
        dataset,
        list(FIELDS if config.augmentation.augment else PLAIN_FIELDS),
        seed=request.seed,
    )
    try:
        stages = [("read files, draw crops and colours (Python)", times_of(feed, steps, warmup))]
        images = [
            read_image_file(dataset, index)
            for step in range(steps)
            for index in feed.assignment(step)[2]
        ]
    finally:
        feed.close()
    stages += [
        ("decode, resize and normalise uncropped images", of_loader(plain, None)),
        ("with crops and colours", of_loader(config, None)),
        ("with default boxes matched and encoded: all", complete),
    ]
    threads = config.data.data_threads
    decoding = decode_only(cv2, images, batch, threads)
    speed = spread(batch / complete)
    overall, limit = batch / complete.mean(), len(images) / sum(decoding)
    return dict(
        recipe=config.recipe,
        device=device.kind,
        ranks=1,
        batch_size=batch,
        image_size=config.model.image_size.plain,
        data=dataset.path,
        warmup=warmup,
        steps=steps,
        data_threads=threads,
        prefetch=config.data.prefetch,
        step_seconds=spread(complete),
        images_per_second=dict(speed, overall=overall),
        stages=[
            dict(name=name, images_per_second=batch / seconds.mean(), step_seconds=spread(seconds))
            for name, seconds in stages
        ],
        decoding_alone=dict(
            images_per_second=limit,
            step_seconds=spread(decoding),
            by=f"OpenCV {cv2.__version__}",
            bytes_per_image=float(np.mean([len(one) for one in images])),
            images=len(images),
        ),
        share_of_decoding=overall / limit,
        memory=memory,
        machine=describe_machine(),
    )


def decode_only(cv2, images: List[np.ndarray], batch: int, threads: int) -> List[float]:
    """Seconds to decode each batch of image files in memory with so many threads."""
    cv2.setNumThreads(1)  # each image in one thread: `threads` in all

    def decode(content):
        # Like DALI, without EXIF rotation.
        assert cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) is not None

    with ThreadPoolExecutor(threads) as pool:
        batches = [images[start : start + batch] for start in range(0, len(images), batch)]
        twice = iter(batches * 2)  # all of them once as a warm-up
        return times_of(
            lambda: list(pool.map(decode, next(twice))), len(batches), len(batches)
        ).tolist()
