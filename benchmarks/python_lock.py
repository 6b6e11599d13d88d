"""What a training loop loses to Python's lock while it queues a step, beside the threads that make
its data.

    python benchmarks/python_lock.py [--calls 900 150 28] [--threads 4] [--batch-size 114] [--pace
    0.25]

A loop like training's: it takes a batch, makes so many calls into C, each of which releases the
lock, and waits until the pace [seconds a step] has passed, as for a GPU that is a step behind.
Images are small and left small, so that DALI takes few cores and Python's part of the data is as on
a GPU. Three sides alternate: no loader; the loader; "made", the loader with samples made
beforehand, as if another process had made them.

Prints, by side and number of calls: milliseconds that the calls took, of these waiting for the lock
(neither running nor waiting for a core), and for a core; medians over the steps of all rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import sys
import tempfile
import time
from typing import Dict, List

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HERE)

from ssd.runtime import start  # noqa: E402

start()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from turns import machine  # noqa: E402

from ssd.config import load_recipe  # noqa: E402
from ssd.data import pipeline  # noqa: E402
from ssd.datasets.coco import load_coco  # noqa: E402
from ssd.lock_wait import LockWait  # noqa: E402

SIDE, OBJECTS = 64, 7  # pixels; boxes of an image, as many as COCO's have
SAMPLES = pipeline.SampleFeed


def draw_images(folder: str, count: int):
    """A data set of `count` images of SIDE pixels with OBJECTS boxes each."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        blocks = random.integers(0, 255, (SIDE // 8, SIDE // 8, 3)).astype(np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(
            os.path.join(folder, f"{number}.jpg")
        )
        images.append(dict(id=number, file_name=f"{number}.jpg", width=SIDE, height=SIDE))
        for corner, size in zip(
            random.uniform(0, SIDE / 2, (OBJECTS, 2)), random.uniform(4, SIDE / 2, (OBJECTS, 2))
        ):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=1,
                    iscrowd=0,
                    bbox=[*corner.tolist(), *size.tolist()],
                    area=float(size.prod()),
                )
            )
    path = os.path.join(folder, "annotations.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(
            dict(images=images, annotations=annotations, categories=[dict(id=1, name="block")]),
            file,
        )
    return load_coco(path, folder, check_images="exists", report=lambda line: None)


class MadeSamples:
    """Samples made beforehand, instead of a SampleFeed."""

    def __init__(self, *arguments, **named):
        feed = SAMPLES(*arguments, **named)
        self._batches = itertools.cycle([feed() for _ in range(8)])
        feed.close()

    def __call__(self) -> list:
        return next(self._batches)

    def close(self) -> None:
        pass


def open_loader(side: str, dataset, arguments):
    """A loader whose boxes are matched in DALI's graph or not at all, as on a GPU."""
    if side == "no loader":
        return None
    pipeline.SampleFeed = MadeSamples if side == "made" else SAMPLES
    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=arguments.batch_size, image_size=SIDE, data_threads=arguments.threads
    )
    loader = pipeline.TrainingLoader(config, dataset, None, seed=7, raw_boxes=True)
    for _ in range(config.data.prefetch + 2):
        next(loader)
    return loader


def loop(loader, calls: int, arguments) -> List[Dict[str, float]]:
    """Per step, seconds of its calls: in all, waiting for the lock, running."""
    function, wait, steps = ctypes.CDLL(None).getppid, LockWait(), []
    begin = end = time.perf_counter()
    while end - begin < arguments.seconds:
        if loader is not None:
            next(loader)
        lost, ran, first = wait.seconds, time.thread_time(), time.perf_counter()
        with wait:
            for _ in range(calls):
                function()
                sum(range(400))  # some Python around each call
        steps.append(
            dict(
                all=time.perf_counter() - first,
                lock=wait.seconds - lost,
                ran=time.thread_time() - ran,
            )
        )
        time.sleep(max(0.0, arguments.pace - (time.perf_counter() - end)))
        end = time.perf_counter()
    wait.close()
    return steps[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[900, 150, 28])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=114)
    parser.add_argument("--pace", type=float, default=0.25, help="seconds a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=4, help="of a side's turn with a number of calls"
    )
    arguments = parser.parse_args()
    print(machine(), flush=True)
    found: Dict[tuple, List[Dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw_images(folder, 12 * arguments.batch_size)
        for _ in range(arguments.rounds):
            for side in ("no loader", "loader", "made"):
                loader = open_loader(side, dataset, arguments)
                for calls in arguments.calls:
                    found.setdefault((side, calls), []).extend(loop(loader, calls, arguments))
                if loader is not None:
                    loader.close()
    print(
        f"batches of {arguments.batch_size}, {arguments.threads} data threads, a step every "
        f"{arguments.pace} s"
    )
    print(f"{'':20s}  {'ms':>8s} {'lock':>8s} {'core':>8s}  steps")
    for (side, calls), steps in found.items():
        total, lock, ran = (
            1e3 * np.median([step[name] for step in steps]) for name in ("all", "lock", "ran")
        )
        core = 1e3 * np.median([step["all"] - step["lock"] - step["ran"] for step in steps])
        print(
            f"{side + ', ' + str(calls) + ' calls':20s}  {total:8.2f} {lock:8.2f} {core:8.2f}  "
            f"{len(steps)}"
        )


if __name__ == "__main__":
    main()
