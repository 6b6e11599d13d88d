"""Images per second from image files and from records of the same images.

    python benchmarks/records.py ANNOTATIONS IMAGES FOLDER [--copies 40] [--rounds 2] [--cases warm
    cold slow] python benchmarks/records.py --opening 1170000 FOLDER

FOLDER, new, lies on the disk to be measured: `files` in it gets so many copies of each image,
`records` the same, packed. Then files and records alternate in each case. Each measurement is a
process of its own, which opens the data set, then

    warm    reads all of it once
    cold    drops the system's file cache (as root; else the pages of these files)
    slow    as warm, but opening a file and each read take --seek-ms longer, as on a disk that must
            seek for both: Python functions that sleep replace the system's calls

and measures `load`, the training loader (read, decoded, augmented, matched, in MXNet arrays), or
`read`, which only reads every image once, in random order, with --threads threads.

--opening: seconds and memory to open a folder of records of so many images, with names as Open
Images has them.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.turns import machine

CASES, WHAT, SIDES = ("warm", "cold", "slow"), ("load", "read"), ("files", "records")
TRAIN, IMAGES = "annotations/bbox_only_instances_train2017.json", "train2017"


def copy_images(annotations, images, folder, copies):
    """A data set of `copies` files of each image, in COCO's layout; bytes of an image file on
    average."""
    with open(annotations, encoding="utf-8") as file:
        content = json.load(file)
    rows, boxes, total = [], [], 0
    os.makedirs(os.path.join(folder, IMAGES))
    os.makedirs(os.path.join(folder, os.path.dirname(TRAIN)))
    for copy in range(copies):
        for image in content["images"]:
            name = f"{copy:03d}-{os.path.basename(image['file_name'])}"
            target = os.path.join(folder, IMAGES, name)
            shutil.copyfile(os.path.join(images, image["file_name"]), target)
            total += os.path.getsize(target)
            rows.append(dict(image, id=copy * 10**9 + image["id"], file_name=name))
        boxes += [
            dict(
                row,
                id=copy * 10**10 + row["id"],
                image_id=copy * 10**9 + row["image_id"],
                segmentation=[],
            )
            for row in content["annotations"]
        ]
    with open(os.path.join(folder, TRAIN), "w", encoding="utf-8") as file:
        json.dump(dict(content, images=rows, annotations=boxes), file)
    return total / len(rows)


# ---- one measurement, in a process of its own


def measure(arguments):
    from ssd.config import load_recipe
    from ssd.datasets.locate import load_dataset

    config = load_recipe("ssd-resnet34-coco").with_values(
        data_dir=os.path.join(arguments.folder, arguments.side),
        cache_dir=os.path.join(arguments.folder, "cache"),
        batch_size=arguments.batch_size,
        decode="cpu",
        data_threads=arguments.threads,
        skip_bad_annotations=True,
    )
    dataset = load_dataset(config, "train")
    print((read_all if arguments.what == "read" else load_batches)(config, dataset, arguments))


def load_batches(config, dataset, arguments):
    from ssd.data.pipeline import TrainingLoader
    from ssd.data.resolve import resolve
    from ssd.model.detector import build_detector

    config = resolve(config, dataset)
    matcher = build_detector(config).matcher
    prepare(arguments)
    loader = TrainingLoader(config, dataset, matcher, seed=1)
    for _ in range(
        config.data.prefetch + 2
    ):  # what was made ahead when the timer starts must be used up
        next(loader)
    start = time.perf_counter()
    for _ in range(arguments.steps):
        next(loader)
    seconds = time.perf_counter() - start
    loader.close()
    return arguments.steps * arguments.batch_size / seconds


def read_all(config, dataset, arguments):
    names = [
        dataset.file_names[index]
        for index in np.random.RandomState(1).permutation(dataset.num_images)
    ]
    dataset.images.read(names[0])
    prepare(arguments)
    start = time.perf_counter()
    with ThreadPoolExecutor(arguments.threads) as threads:
        for _ in threads.map(lambda name: len(dataset.images.read(name)), names):
            pass
    return len(names) / (time.perf_counter() - start)


def prepare(arguments):
    folder = os.path.join(arguments.folder, arguments.side)
    if arguments.case == "cold":
        from ssd.page_cache import drop_caches

        print(drop_caches([folder]), file=sys.stderr)
        return
    for path in glob.glob(os.path.join(folder, "**"), recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                file.read()
    if arguments.case == "slow":
        slow_calls(arguments.seek_ms / 1000)


def slow_calls(seconds):
    """os.open, os.pread and what ssd.datasets.image_folder opens and reads take so many seconds
    longer."""
    from ssd.datasets import image_folder

    class Slow:
        def __init__(self, path, mode):
            time.sleep(seconds)
            self._file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def read(self):
            time.sleep(seconds)
            return self._file.read()

    def later(call):
        return lambda *rest: (time.sleep(seconds), call(*rest))[1]

    image_folder.open, os.open, os.pread = Slow, later(os.open), later(os.pread)


# ---- all of them


def child(arguments, side, case, what):
    command = [
        sys.executable,
        os.path.abspath(__file__),
        arguments.folder,
        "--side",
        side,
        "--case",
        case,
        "--what",
        what,
    ]
    for name in ("batch_size", "steps", "threads", "seek_ms"):
        command += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def main(arguments):
    print(machine(), flush=True)
    files, records = (os.path.join(arguments.folder, side) for side in SIDES)
    if not os.path.isdir(records):
        size = copy_images(arguments.annotations, arguments.images, files, arguments.copies)
        print(
            f"{len(os.listdir(os.path.join(files, IMAGES)))} images of {size / 1000:.0f} kB",
            flush=True,
        )
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "ssd",
                "pack-data",
                "--data-dir",
                files,
                "--output",
                records,
                "--split",
                "train",
                "--cache-dir",
                os.path.join(arguments.folder, "cache"),
                "--skip-bad-annotations",
            ],
            check=True,
        )
        print(f"checked and packed in {time.perf_counter() - start:.1f} s", flush=True)
        for side in SIDES:  # the checks of the images are kept for the measurements
            child(arguments, side, "warm", "read")
    for what in arguments.what or WHAT:
        for case in arguments.cases:
            speeds = {side: [] for side in SIDES}
            for number in range(arguments.rounds):
                for side in SIDES[:: 1 if number % 2 == 0 else -1]:
                    speeds[side].append(child(arguments, side, case, what))
            words = [
                f"{side} {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
                for side, found in speeds.items()
            ]
            ratio = statistics.median(b / a for a, b in zip(*speeds.values()))
            print(
                f"{what} {case:4} images/s: {', '.join(words)}; records / files {ratio:.2f}",
                flush=True,
            )


def opening(count, folder):
    """Time and memory to open a folder of records of `count` images; its file has a single
    record."""
    from ssd.datasets import packing, record_folder, recordio

    os.makedirs(folder)
    names = [f"{number * 2654435761 % 2**64:016x}.jpg" for number in range(count)]
    packing.write_table(
        os.path.join(folder, record_folder.TABLE),
        names,
        {key: np.zeros(count, np.int64) for key in ("shard", "offset", "stored", "size", "crc")},
    )
    index = "".join(f"{number}\t{number}\n" for number in range(count)).encode()
    for name, content in (
        ("train-00000.rec", b"".join(recordio.encode(b""))),
        ("train-00000.idx", index),
    ):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    hashes = [
        dict(file=name, sha256=packing.file_sha256(os.path.join(folder, name)))
        for name in (record_folder.TABLE, "train-00000.idx")
    ]
    with open(os.path.join(folder, record_folder.MANIFEST), "w", encoding="utf-8") as file:
        json.dump(
            dict(
                kind=record_folder.KIND,
                format=record_folder.FORMAT,
                whole=True,
                images=count,
                splits=[],
                shards=[dict(file="train-00000.rec", bytes=8)],
                table=hashes[0],
                indices=hashes[1:],
            ),
            file,
        )
    code = f"""
import time
from ssd.benchmark.timing import peak_memory
from ssd.datasets.image_folder import open_images
before, start = peak_memory(), time.perf_counter()
images = open_images({folder!r})
opened, memory = time.perf_counter() - start, peak_memory() - before
names = [next(iter(images.names()))] * 10000
start = time.perf_counter()
for name in names: images.status(name)
print(f"{{len(images):,}} images: opened in {{opened:.2f}} s, {{memory / 1e6:.0f}} MB at most, "
      f"{{(time.perf_counter() - start) / len(names) * 1e6:.1f}} microseconds to find a name")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="ANNOTATIONS IMAGES FOLDER")
    parser.add_argument("--copies", type=int, default=40, help="of each image [default: 40]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--what", nargs="+", choices=WHAT)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=25, help="of load [default: 25]")
    parser.add_argument("--threads", type=int, default=2, help="data threads [default: 2]")
    parser.add_argument("--seek-ms", type=float, default=8, help="[milliseconds, default: 8]")
    parser.add_argument("--opening", type=int, metavar="N", help="measure opening N images instead")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder = os.path.abspath(given.paths[-1])
    if given.opening:
        opening(given.opening, given.folder)
    elif given.side:
        given.what = given.what[0]
        measure(given)
    elif len(given.paths) == 3 or os.path.isdir(os.path.join(given.folder, "records")):
        given.annotations, given.images = (given.paths + [None, None])[:2]
        main(given)
    else:
        parser.error("name ANNOTATIONS, IMAGES and FOLDER")
