"""Time and memory that Open Images' real size takes: CSV to COCO JSON, then the JSON's first and
second load.

    python benchmarks/openimages_data.py [--images 1743042] [--rows 14610229] [--folder DIR]

Writes synthetic files of the shape of Open Images v6's training set to a temporary folder (5.5 GB,
removed at the end): a box file with the 21 columns of the real one, class descriptions, and a sizes
file instead of image files. Two in three images hold boxes of the 264 classes, as in the MLPerf
subset. Each step runs in a process of its own, which prints its peak memory (VmHWM); there are no
image files, so the load does not check them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
BOXES, CLASSES, SIZES, OUTPUT = "boxes.csv", "classes.csv", "sizes.csv", "openimages-mlperf.json"
HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y\n"
)
SUBSET = 1170301 / 1743042  # share of the images that are in the MLPerf subset
SUBSET_ROWS = (
    10 / 14.610229
)  # share of the rows: a guess on the high side, 8.5 boxes an image; it is not published
CONVERT = """
from ssd.datasets.prepare_json import main
assert main(["--from", "openimages", "boxes.csv", "openimages-mlperf.json",
             "--class-descriptions", "classes.csv", "--sizes", "sizes.csv", "--overwrite"]) == 0
"""
NO_FILES = """
import numpy as np
from ssd.datasets import coco
from ssd.datasets.image_checks import ImageReport
def unchecked(folder, names, *_, **__):
    return ImageReport({}, np.zeros(len(names), np.int64))
coco.check_image_files = unchecked
"""
LOAD = (
    NO_FILES
    + """
data = coco.load_coco("openimages-mlperf.json", "images", check_images="exists", cache_dir="cache")
assert data.num_images and data.category_ids == tuple(range(264))
"""
)
CHECK = (
    NO_FILES
    + """
from ssd.datasets.check_report import format_split, report_split
found = coco.inspect_coco("openimages-mlperf.json", "images", examples=5)
data, lines = coco.select_good(found)
print(format_split("train", report_split(found, data, 5))[0])
"""
)
IMAGE_CACHE = """
import os
from ssd.datasets.image_check_cache import ImageCache
from ssd.datasets.image_checks import ImageFinding
names, status = [f"{index:016x}.jpg" for index in range(1170301)], os.stat(".")
cache = ImageCache("cache", "images")
for name in names:
    cache.keep(name, status, "decode", ImageFinding(None, (1024, 768)), 1700000000)
cache.save()
del cache
"""
AGAIN = """
import os
from ssd.datasets.image_check_cache import ImageCache
cache = ImageCache("cache", "images")
assert len(cache._entries) == 1170301
"""
SAMPLES = (
    LOAD
    + """
from ssd.config import load_recipe
from ssd.data.samples import SampleMaker
maker = SampleMaker(load_recipe("ssd-resnet34-coco"), data, seed=0)
"""
)
DALI_FILE = (
    LOAD
    + """
import os
from ssd.data.dali_annotations import write_dali_annotations
write_dali_annotations(data, np.arange(0, data.num_images, 8), "dali.json")
print(os.path.getsize("dali.json"), "bytes")
"""
)
REPORT = """
import json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
sizes = {key: int(status[key].split()[0]) // 1024 for key in ("VmHWM", "VmRSS")}
print("MEASURED", json.dumps(sizes))
"""


def write_inputs(folder: str, images: int, rows: int) -> None:
    from ssd.datasets.openimages_classes import mlperf_classes

    random = np.random.default_rng(0)
    names = list(mlperf_classes()) + [f"Other {index}" for index in range(601 - 264)]
    labels = [f"/m/{index:05x}" for index in range(len(names))]
    with open(os.path.join(folder, CLASSES), "w") as file:
        file.writelines(f'{label},"{name}"\n' for label, name in zip(labels, names))
    ids = np.unique(random.integers(0, 2**63, images, np.int64).astype(np.uint64) * 2 + 1)
    in_subset = random.random(len(ids)) < SUBSET
    ours, counts = np.flatnonzero(in_subset), np.zeros((2, len(ids)), np.int64)
    counts[0, ours] = 1 + random.multinomial(
        int(rows * SUBSET_ROWS) - len(ours), np.full(len(ours), 1 / len(ours))
    )
    counts[1] = random.multinomial(rows - counts[0].sum(), np.full(len(ids), 1 / len(ids)))
    with open(os.path.join(folder, SIZES), "w") as file:
        file.write("ImageID,Width,Height\n")
        file.writelines(
            "%016x,%d,%d\n" % entry
            for entry in zip(
                ids[ours].tolist(),
                *random.choice([1024, 768, 683, 680, 576], (2, len(ours))).tolist(),
            )
        )
    with open(os.path.join(folder, BOXES), "w") as file:
        file.write(HEADER)
        form = "%016x,xclick,%s,1,%.6f,%.6f,%.6f,%.6f,%d,%d,%d,%d,%d" + ",%.6f" * 8 + "\n"
        for start in range(0, len(ids), 50000):
            part = slice(start, start + 50000)
            image = np.repeat(ids[part], counts[:, part].sum(0))
            others = np.concatenate([np.arange(a + b) >= a for a, b in counts[:, part].T.tolist()])
            label = np.where(
                others, random.integers(264, 601, len(image)), random.integers(0, 264, len(image))
            )
            low, high = (
                random.uniform(0, 0.5, (2, len(image))),
                random.uniform(0.501, 1, (2, len(image))),
            )
            flags = random.random((5, len(image))) < np.array(
                [[0.6], [0.3], [0.06], [0.05], [0.01]]
            )
            columns = [
                image,
                None,
                low[0],
                high[0],
                low[1],
                high[1],
                *flags.astype(int),
                low[0],
                low[0],
                high[0],
                high[0],
                low[1],
                low[1],
                high[1],
                high[1],
            ]
            columns[1] = [labels[index] for index in label.tolist()]
            file.write(
                "".join(
                    [
                        form % row
                        for row in zip(
                            *(
                                column if isinstance(column, list) else column.tolist()
                                for column in columns
                            )
                        )
                    ]
                )
            )


def measure(title: str, folder: str, code: str) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stdout
    *lines, memory = done.stdout.splitlines()
    memory = json.loads(memory.split(" ", 1)[1])
    print(
        f"{title}: {seconds:.1f} s, at most {memory['VmHWM']} MB, at the end {memory['VmRSS']} MB",
        *lines,
        sep="\n    ",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1743042)
    parser.add_argument("--rows", type=int, default=14610229)
    parser.add_argument("--folder", help="for the temporary folder [default: the system's]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openimages-", dir=options.folder) as folder:
        os.mkdir(os.path.join(folder, "images"))
        start = time.perf_counter()
        write_inputs(folder, options.images, options.rows)
        size = os.path.getsize(os.path.join(folder, BOXES))
        print(f"inputs: {time.perf_counter() - start:.0f} s, {size} bytes of boxes", flush=True)
        measure("import of the loader alone", folder, "import ssd.datasets.coco")
        measure("CSV to COCO JSON", folder, CONVERT)
        print(f"    {os.path.getsize(os.path.join(folder, OUTPUT))} bytes of JSON")
        measure("first load", folder, LOAD)
        measure("second load", folder, LOAD)
        measure("second load, and a rank's boxes prepared for training", folder, SAMPLES)
        measure("second load, and DALI's annotation file of an eighth", folder, DALI_FILE)
        measure("check-data without its check of image files", folder, CHECK)
        measure("1,170,301 checked images kept", folder, IMAGE_CACHE)
        measure("and read back", folder, AGAIN)


if __name__ == "__main__":
    main()
