"""What a training stream costs that can start at any step: images/s of DALI's own reader and random
operators against ours.

    python benchmarks/data_order.py ANNOTATIONS.json IMAGE_FOLDER [--rounds 8] [--steps 30]
    [--batch-size 8]

Prints the numbers of data_order.md. The two ways alternate in short rounds, since other work on the
machine starts and ends; the ratio of neighbouring rounds counts. `--checkpoint` instead tries
DALI's own checkpoints.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time

import numpy as np
import nvidia.dali

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ssd.config import load_recipe
from ssd.data import graphs
from ssd.data.bridge import to_numpy
from ssd.data.crops import RandomCrop
from ssd.data.dali_annotations import write_dali_annotations
from ssd.data.pipeline import TrainingLoader
from ssd.data.samples import SampleMaker, epoch_order
from ssd.datasets.coco import load_coco


def by_dali(config, dataset, matcher):
    """Runs of the graph with readers.coco and random_bbox_crop; its shuffle of each pass, as before
    samples.py."""

    def samples(path):
        encoded, boxes, labels, index = graphs.fn.readers.coco(
            file_root=dataset.image_folder,
            annotations_file=path,
            ltrb=True,
            ratio=True,
            skip_empty=True,
            size_threshold=0.0,
            image_ids=True,
            shuffle_after_epoch=True,
            name="reader",
        )
        return graphs.drawn_by_dali(
            dict(encoded=encoded, boxes=boxes, labels=labels, index=index),
            config.augmentation,
            graphs.operator_seeds(0, count=6),
        )

    # DALI has read the annotation file when the pipeline is built.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "annotations.json")
        write_dali_annotations(dataset, dataset.images_with_boxes, path)
        return graphs.training_pipeline(config, lambda: samples(path), matcher=matcher)


def rate(run, steps, batch_size):
    """(images/s, CPU milliseconds per image, of all threads)."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        run()
    images = steps * batch_size
    return images / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / images


def spread(values):
    return f"{statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(config, dataset, matcher, rounds, steps):
    dali = by_dali(config, dataset, matcher)
    loader = TrainingLoader(config, dataset, matcher)
    ways = {
        "readers.coco, random_bbox_crop": dali.run,
        "external_source, samples.py": loader._batches._run,
    }
    rates = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            result = rate(run, steps, config.training.batch_size)
            if number:  # the first round warms up
                rates[name].append(result)
    print(f"{'median (least to most)':36} images/s                    CPU ms per image")
    for name, results in rates.items():
        first, second = zip(*results)
        print(f"{name:36}{spread(list(first)):28}{spread(list(second))}")
    old, new = rates.values()
    print(
        f"{'new / old, round by round':36}{spread([b[0] / a[0] for a, b in zip(old, new)]):28}"
        f"{spread([b[1] / a[1] for a, b in zip(old, new)])}"
    )
    loader.close()


def cost_of_parts(config, dataset, passes=3):
    """Microseconds of this process per call, least of `passes` over the data set."""

    def least(function, arguments):
        times = []
        for _ in range(passes):
            start = time.process_time()
            for argument in arguments:
                function(*argument)
            times.append((time.process_time() - start) / len(arguments))
        return 1e6 * min(times)

    images = dataset.images_with_boxes
    boxes = [
        dataset.boxes_ltrb[dataset.box_image == image] / np.tile(dataset.sizes[image], 2)
        for image in images
    ]
    random = np.random.default_rng(0)
    for attempts in (1, 50):
        crop = RandomCrop(config.with_values(crop_attempts=attempts).augmentation)
        print(
            f"one crop, crop_attempts {attempts}: "
            f"{least(crop, [(part, random) for part in boxes]):.0f} us "
            f"({np.mean([len(part) for part in boxes]):.1f} boxes an image on average)"
        )
    make = SampleMaker(config, dataset, 0)
    print(
        "one sample, its file read: "
        f"{least(make, [(1, position, image) for position, image in enumerate(images)]):.0f} us"
    )
    print(
        "an epoch's order, 117,266 images: "
        f"{least(epoch_order, [(np.arange(117266), 0, 1)]) / 1e3:.1f} ms"
    )
    for step in (0, 10**6):
        start = time.perf_counter()
        loader = TrainingLoader(config, dataset, None, first_step=step)
        next(loader)
        print(f"from construction to the batch of step {step}: {time.perf_counter() - start:.2f} s")
        loader.close()


def try_checkpoints(config, dataset, matcher, steps=130):
    """Whether a pipeline restored from DALI's own checkpoint continues like the one that made
    it."""
    plain = graphs.Pipeline
    graphs.Pipeline = functools.partial(plain, enable_checkpointing=True)
    pipeline = by_dali(config, dataset, matcher)
    for _ in range(steps):
        pipeline.run()
    checkpoint = pipeline.checkpoint()
    ahead = [to_numpy(pipeline.run()[0]) for _ in range(6)]
    graphs.Pipeline = functools.partial(plain, enable_checkpointing=True, checkpoint=checkpoint)
    restored = by_dali(config, dataset, matcher)
    same = [np.array_equal(images, to_numpy(restored.run()[0])) for images in ahead]
    print(
        f"DALI {nvidia.dali.__version__}: {len(checkpoint)} bytes after {steps} steps; then "
        f"bitwise equal: {same}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations")
    parser.add_argument("images")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--checkpoint", action="store_true", help="try DALI's own checkpoints instead"
    )
    arguments = parser.parse_args()
    from ssd.model.detector import build_detector

    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=arguments.batch_size, data_threads=2
    )
    dataset = load_coco(arguments.annotations, arguments.images, check_images="exists")
    matcher = build_detector(config).matcher
    if arguments.checkpoint:
        try_checkpoints(config, dataset, matcher)
        return
    compare(config, dataset, matcher, arguments.rounds, arguments.steps)
    cost_of_parts(config, dataset)


if __name__ == "__main__":
    main()
