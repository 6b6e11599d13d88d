"""Time and memory to convert Cognata's real size: folders of PNG and CSV files to COCO JSON, and
its load.

    python benchmarks/cognata_data.py [--scenarios 26] [--frames 1020] [--rows 40] [--jobs 1 2 8]
    [--folder DIR]

Writes synthetic files of the data set's layout to a temporary folder (1.3 GB of 4 kB blocks,
removed at the end): 3 cameras a scenario, CSV files with six columns, and of the images the first
33 bytes, as no more is read of them. Each step runs in a process of its own, which prints its peak
memory (VmHWM). The files were just written, so they are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import tempfile
import time
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
CAMERAS = 3
CONVERT = """
from ssd.datasets.prepare_json import main
assert main(["--from", "cognata", ".", "--output", "annotations", "--overwrite",
             "--split", {split!r}, "--jobs", "{jobs}"]) == 0
"""
LOAD = """
from ssd.datasets import coco
for name in ("train.json", "val.json"):
    data = coco.load_coco("annotations/" + name, ".", check_images="exists")
    print(data.num_images, "images", len(data.box_image), "boxes")
"""


def write_inputs(folder: str, scenarios: int, frames: int, rows: int) -> None:
    """rows: of each frame, of all 17 classes; one in ten is filtered by its distance."""
    from ssd.datasets.cognata_rows import CLASSES, IGNORED_CLASSES

    draw = random.Random(0)
    known = list(CLASSES) + [(number, "Other") for number in IGNORED_CLASSES]
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 3840, 2160, 8, 2, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + chunk + struct.pack(">I", zlib.crc32(chunk))
    header = "frame,object_class,object_class_name,bounding_box_2D,center_distance,note\n"
    lines = []
    for _ in range(5000):
        number, name = draw.choice(known)
        left, top = draw.uniform(0, 3500), draw.uniform(0, 2000)
        lines.append(
            f'0,{number},{name},"[{left:.3f}, {top:.3f}, {left + draw.uniform(8, 300):.3f}, '
            f'{top + draw.uniform(8, 150):.3f}]",{draw.uniform(5, 330):.3f},synthetic\n'
        )
    for scenario in range(scenarios):
        for camera in range(1, CAMERAS + 1):
            path = os.path.join(
                folder, f"{10001 + scenario}_Urban_Clear_Noon", f"Cognata_Camera_{camera:02}_8M"
            )
            os.makedirs(path + "_png")
            os.makedirs(path + "_ann")
            for frame in range(1, frames + 1):
                stem = f"{frame * 1000 // 30:010}"
                with open(f"{path}_png/{stem}.png", "wb") as file:
                    file.write(image)
                start = draw.randrange(len(lines) - rows)
                with open(f"{path}_ann/{stem}.csv", "w") as file:
                    file.write(header + "".join(lines[start : start + rows]))


def main() -> None:
    from benchmarks.openimages_data import measure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", type=int, default=26)
    parser.add_argument("--frames", type=int, default=1020, help="of a camera in a scenario")
    parser.add_argument("--rows", type=int, default=40, help="of a CSV file")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--folder", help="for the temporary folder [default: the system's]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cognata-", dir=options.folder) as folder:
        start = time.perf_counter()
        write_inputs(folder, options.scenarios, options.frames, options.rows)
        print(f"inputs: {time.perf_counter() - start:.0f} s", flush=True)
        for jobs in options.jobs:
            measure(
                f"conversion, {jobs} threads", folder, CONVERT.format(split="published", jobs=jobs)
            )
        measure(
            "conversion, split by scenario",
            folder,
            CONVERT.format(split="scenario", jobs=options.jobs[0]),
        )
        measure("load of both files", folder, LOAD)


if __name__ == "__main__":
    main()
