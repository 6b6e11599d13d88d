"""What benchmarks/growth.py measures: an axis for each thing that grows, a function for each that
takes one point.

A function gets the point as it was named, the folder of prepared files, and a Measure, to which it
passes what is to be timed. Each runs in a process of its own; what it imports and makes before does
not count.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from benchmarks import growth_data as data
from benchmarks import growth_network as network
from benchmarks import growth_output as output

SHORT, AGAIN = 0.2, 5  # seconds below which a measurement is made again, and how often


def resident(field: str) -> float:
    """Memory of this process [MB]: VmRSS, now, or VmHWM, at its peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024 / 1e6


class Measure:
    """`measure(function, series="")` calls it and keeps its seconds and the memory that it added at
    its peak [MB]."""

    def __init__(self):
        self.results: Dict[str, dict] = {}

    def __call__(self, function: Callable, series: str = "", warm: bool = False, **notes):
        """The function's result. One that is quick is called AGAIN times, and the median counts.
        warm: it is called once before, as the first call builds something; that counts for the
        memory alone. notes: integers to print beside the measurement."""
        ctypes.CDLL(None).malloc_trim(
            0
        )  # memory returned before must not be reused without being counted
        with contextlib.suppress(OSError), open(
            "/proc/self/clear_refs", "w", encoding="ascii"
        ) as file:
            file.write("5")  # reset the peak
        before, seconds = resident("VmRSS"), []
        if warm:
            function()
        while not seconds or (sum(seconds) < SHORT and len(seconds) < AGAIN):
            result = None  # free the previous result: never two at once
            start = time.perf_counter()
            result = function()
            seconds.append(time.perf_counter() - start)
        self.results[series] = dict(
            seconds=statistics.median(seconds),
            notes=notes,
            megabytes=max(0.0, resident("VmHWM") - before),
        )
        return result

    def note(self, series: str = "", **notes) -> None:
        """Integers that are known after the measurement."""
        self.results[series]["notes"].update(notes)


class Axis(NamedTuple):
    """points: as they are named on a command line, ascending; must: how the cost has to grow at
    least, as text; prepare(point, folder): makes what is needed, if it does not exist; amount: the
    number that a point stands for."""

    group: str
    name: str
    title: str
    unit: str
    points: Tuple[str, ...]
    must: str
    measure: Callable
    prepare: Optional[Callable] = None
    amount: Callable[[str], float] = float


def pixels(point: str) -> float:
    """300 x 300 of "300", 1080 x 1920 of "1080x1920"."""
    height, _, width = point.partition("x")
    return float(height) * float(width or height)


IMAGES, SCORED, SIZES = (
    ("1000", "10000", "118287"),
    ("500", "5000", "36500"),
    ("300", "512", "800", "1200", "1080x1920", "2160x3840"),
)
CLASSES, COUNTS, ROWS = (
    ("4", "80", "264", "601"),
    ("1", "10", "100", "1000"),
    ("100", "1000", "10000", "100000"),
)

AXES = (
    Axis(
        "dataset",
        "load",
        "First load, annotations checked",
        "images",
        IMAGES,
        "1",
        data.load,
        data.annotations,
    ),
    Axis(
        "dataset",
        "kept",
        "Later load, from the cached result",
        "images",
        IMAGES,
        "1",
        data.kept,
        data.kept_result,
    ),
    Axis(
        "dataset",
        "rank",
        "Later load, a rank's samples and an epoch's order",
        "images",
        IMAGES,
        "1",
        data.rank,
        data.kept_result,
    ),
    Axis(
        "dataset",
        "order",
        "Order of an epoch",
        "images",
        IMAGES,
        "1 (n log n)",
        data.order,
        data.kept_result,
    ),
    Axis("dataset", "split", "split-data", "images", IMAGES, "1", data.split, data.annotations),
    Axis(
        "dataset",
        "dali",
        "DALI's annotation file, all images",
        "images",
        IMAGES,
        "1",
        data.dali,
        data.kept_result,
    ),
    Axis(
        "dataset",
        "score",
        "Score, 100 detections an image",
        "images",
        SCORED,
        "1 (n log n)",
        data.score,
        data.detections,
    ),
    Axis(
        "dataset",
        "confusion",
        "Confusion matrix and its threshold",
        "images",
        SCORED,
        "1",
        data.confusion,
        data.detections,
    ),
    Axis(
        "dataset",
        "write",
        "Detections written as COCO's JSON",
        "images",
        SCORED,
        "1; memory 0",
        data.write,
        data.detections,
    ),
    Axis(
        "dataset",
        "read",
        "Detections read from COCO's JSON",
        "images",
        SCORED,
        "1",
        data.read,
        data.written,
    ),
    Axis("size", "boxes", "Detector built", "pixels", SIZES, "1", network.boxes, amount=pixels),
    Axis(
        "size", "match", "Matching of an image", "pixels", SIZES, "1", network.match, amount=pixels
    ),
    Axis(
        "size", "objects", "Matching of an image", "objects", COUNTS, "1; memory 1", network.objects
    ),
    Axis(
        "size",
        "detect",
        "Detections of an image, 400 pairs above the threshold",
        "pixels",
        SIZES,
        "1",
        network.detect,
        amount=pixels,
    ),
    Axis(
        "size",
        "forward",
        "Network, one image",
        "pixels",
        SIZES,
        "1",
        network.forward,
        amount=pixels,
    ),
    Axis(
        "size",
        "step",
        "Training step, batch 1",
        "pixels",
        SIZES[:5],
        "1",
        network.step,
        amount=pixels,
    ),
    Axis(
        "classes", "loss", "Loss and its gradient, one image", "classes", CLASSES, "1", network.loss
    ),
    Axis(
        "classes",
        "detectc",
        "Detections of an image",
        "classes",
        CLASSES,
        "1",
        network.detect_classes,
    ),
    Axis("classes", "heads", "Detector built", "classes", CLASSES, "1", network.heads),
    Axis(
        "classes",
        "scorec",
        "Score, 5,000 images, 500,000 detections",
        "classes",
        CLASSES,
        "0 (1 for its arrays)",
        data.score_classes,
        data.detections_of_classes,
    ),
    Axis(
        "classes",
        "reportc",
        "Sections of the report",
        "classes",
        CLASSES,
        "1",
        output.report_classes,
    ),
    Axis("run", "report", "Report of a run", "rows of train.csv", ROWS, "1; size 0", output.report),
    Axis(
        "run", "resume", "Files of a part set aside", "rows of train.csv", ROWS, "1", output.resume
    ),
    Axis(
        "run",
        "frames",
        "predict, its own share: 100 detections a frame",
        "frames",
        ("100", "1000", "10000"),
        "1",
        output.frames,
    ),
    Axis(
        "run",
        "names",
        "Names of drawn images, all inputs of one name",
        "inputs",
        ROWS,
        "1",
        output.names,
    ),
    Axis(
        "run", "inputs", "predict's inputs found", "files", ROWS, "1", output.inputs, output.files
    ),
    Axis("run", "draw", "Boxes drawn with labels", "boxes", COUNTS, "1", output.draw),
    Axis(
        "run",
        "show",
        "show-data's two mosaics",
        "images",
        ("12", "48", "192"),
        "1",
        output.show,
        output.shapes,
    ),
    Axis("ranks", "plan", "plan", "ranks", ("8", "64", "128", "512", "1024"), "0", output.plan),
)
