"""What the data path of a rank holds in main memory: the numbers of docs/scaling.md.

    python benchmarks/data_memory.py [--images 118287] [--boxes 860001]
    python benchmarks/data_memory.py --real ANNOTATIONS.json IMAGE_FOLDER [--batch-sizes 4 8 16]
    [--prefetch 2 4]

The first draws annotations of COCO's size and empty image files, loads them as a run does, with the
check and from the cached result, and makes a rank's samples of them. The second runs the training
pipeline on real images. Every measurement has a process of its own; sizes are in MB of a million
bytes, "resident" is what the kernel counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import tracemalloc

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

MB = 1e6


def resident(field="VmRSS"):
    """Resident memory of this process now, or VmHWM, its peak [MB]."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024 / MB


def draw(folder, images, boxes):
    """(annotation file, image folder) of empty image files and random boxes."""
    import numpy as np

    random = np.random.default_rng(0)
    files = os.path.join(folder, "images")
    os.mkdir(files)
    names = [f"{12 + 5 * index:012d}.jpg" for index in range(images)]
    for name in names:
        open(os.path.join(files, name), "wb").close()
    owner = np.sort(random.integers(0, images, boxes))
    corner = random.uniform(0, [400, 300], (boxes, 2)).round(2)
    extent = random.uniform(1, [240, 180], (boxes, 2)).round(2)
    content = {
        "images": [
            {"id": index, "file_name": name, "width": 640, "height": 480}
            for index, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": row,
                "image_id": image,
                "category_id": category,
                "bbox": [*corner, *extent],
                "area": 100.0,
                "iscrowd": 0,
            }
            for row, (image, category, corner, extent) in enumerate(
                zip(
                    owner.tolist(),
                    random.integers(1, 81, boxes).tolist(),
                    corner.tolist(),
                    extent.tolist(),
                )
            )
        ],
        "categories": [{"id": 1 + index, "name": f"category {index}"} for index in range(80)],
    }
    path = os.path.join(folder, "annotations.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))
    return path, files


def load(path, files, cache):
    from ssd.datasets.coco import load_coco

    return load_coco(path, files, check_images="exists", cache_dir=cache, report=lambda line: None)


def loading(path, files, cache):
    """Seconds, and resident memory before, after and at the most, of one rank's load_coco."""
    from ssd.datasets import coco  # noqa: F401

    before, start = resident(), time.perf_counter()
    dataset = load(path, files, cache)
    return dict(
        images=dataset.num_images,
        boxes=len(dataset.box_image),
        seconds=time.perf_counter() - start,
        before=before,
        after=resident(),
        most=resident("VmHWM"),
    )


def holding(path, files, cache):
    """What tracemalloc counts of the data set, of a rank's SampleMaker, and of an epoch's order."""
    from ssd.config import load_recipe
    from ssd.data.samples import SampleMaker, epoch_order

    tracemalloc.start()
    result, held = {}, []

    def note(name, value):
        held.append(value)
        now = tracemalloc.get_traced_memory()[0] / MB
        result[name] = now - sum(result.values())

    note("data set", load(path, files, cache))
    note("sample maker", SampleMaker(load_recipe("ssd-resnet34-coco"), held[0], 0))
    note("indices", held[0].images_with_boxes)
    note("order of an epoch", epoch_order(held[2], 0, 1))
    tracemalloc.stop()
    start = time.perf_counter()
    epoch_order(held[2], 0, 2)
    result["milliseconds to make an order"] = 1e3 * (time.perf_counter() - start)
    return result


def writing(path, files, cache):
    """Resident memory at the most while a rank writes DALI's annotations of all images, as
    `--decode cache` needs."""
    from ssd.data.dali_annotations import write_dali_annotations

    dataset = load(path, files, cache)
    before, start = resident(), time.perf_counter()
    target = os.path.join(cache, "dali.json")
    write_dali_annotations(dataset, dataset.images_with_boxes, target)
    return dict(
        seconds=time.perf_counter() - start,
        before=before,
        most=resident("VmHWM"),
        file=os.path.getsize(target) / MB,
    )


def running(path, files, batch_size, prefetch, steps):
    """Resident memory that the training pipeline adds, and the mean size of an image file."""
    from ssd.config import load_recipe
    from ssd.data import bridge  # noqa: F401
    from ssd.data.pipeline import TrainingLoader
    from ssd.datasets.coco import load_coco
    from ssd.model.detector import build_detector

    dataset = load_coco(path, files, check_images="header", skip_bad=True, report=lambda line: None)
    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=batch_size, prefetch=prefetch, data_threads=2, num_classes=dataset.num_classes
    )
    before = resident()
    loader = TrainingLoader(config, dataset, build_detector(config).matcher)
    for _ in range(steps):
        batch = next(loader)
        batch.images.wait_to_read()
    after = resident()
    loader.close()
    sizes = [os.path.getsize(os.path.join(files, name)) for name in dataset.file_names]
    return dict(
        added=after - before,
        most=resident("VmHWM"),
        kilobytes_of_a_file=sum(sizes) / len(sizes) / 1e3,
        kilopixels=dataset.sizes.prod(1).mean() / 1e3,
    )


def alone(function, *arguments):
    """The function's result from a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def shown(title, values):
    print(
        f"{title}: "
        + ", ".join(
            f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118287)
    parser.add_argument("--boxes", type=int, default=860001)
    parser.add_argument("--real", nargs=2, metavar=("ANNOTATIONS", "IMAGES"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--prefetch", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    if args.real:
        for prefetch in args.prefetch:
            for batch_size in args.batch_sizes:
                shown(
                    f"pipeline, batch {batch_size}, prefetch {prefetch} [MB]",
                    alone(running, *args.real, batch_size, prefetch, args.steps),
                )
        return
    with tempfile.TemporaryDirectory() as folder:
        path, files = alone(draw, folder, args.images, args.boxes)
        print(f"annotation file: {os.path.getsize(path) / MB:.1f} MB")
        cache = os.path.join(folder, "cache")
        shown("first load, checked [MB]", alone(loading, path, files, cache))
        shown("later load, cached result [MB]", alone(loading, path, files, cache))
        shown("DALI's annotations written [MB]", alone(writing, path, files, cache))
        shown("held, by tracemalloc [MB]", alone(holding, path, files, cache))


if __name__ == "__main__":
    main()
