"""The steps of a download of Open Images: annotations, a plan, images, conversion."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import Dict, List

from ssd.datasets import web
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.conversion import MAX_BAD, check_output, refuse_bad
from ssd.datasets.in_threads import in_threads
from ssd.datasets.openimages import select_boxes, write_coco
from ssd.datasets.openimages_boxes import id_text
from ssd.datasets.openimages_classes import in_order, mlperf_classes
from ssd.datasets.openimages_download import BOXES, CLASSES, FolderStore, WebStore, is_intact_image
from ssd.datasets.openimages_sizes import files_of
from ssd.errors import UserError
from ssd.files import cannot_write, discard, remove_leftovers, replace_file, write_errors

SPLITS = ("train", "validation")
# Images of the MLPerf subset, and their average size: 352 GB for all.
SUBSET = {"train": 1170301, "validation": 24781}
BYTES_PER_IMAGE = 295e3
# COCO JSON, CSV rows and sizes of an image's boxes; a little more than measured.
TEXT_PER_IMAGE = 5e3
_SECONDS = 10.0  # between two progress lines


class Download:
    """One call of the script. options: its flags; report: gets lines for people."""

    def __init__(self, options, csv_url: str, image_url: str, report):
        self._options, self._report, self._output = options, report, options.output
        self._store = (
            FolderStore(options.from_folder)
            if options.from_folder
            else WebStore(csv_url, image_url, options.retries, options.backoff, report)
        )

    def run(self) -> bool:
        """Downloads and converts; returns whether everything is complete. UserError,
        KeyboardInterrupt."""
        options, classes = self._options, mlperf_classes()
        if options.classes:
            classes = in_order(options.classes)
        for split in options.splits:
            check_output(self._path(split, "labels", "openimages-mlperf.json"), options.overwrite)
        if not options.classes:
            self._report_plan(
                {
                    split: min(SUBSET[split], options.max_samples or SUBSET[split])
                    for split in options.splits
                },
                "at most ",
            )
        chosen = {}
        for split in options.splits:
            for folder in ("data", "labels", "metadata"):
                with write_errors(self._path(split, folder), self._output):
                    os.makedirs(self._path(split, folder), exist_ok=True)
                    remove_leftovers(self._path(split, folder))
            chosen[split] = self._annotations(split, classes)
        self._report_plan({split: len(selection.ids) for split, selection in chosen.items()}, "")
        # Every split is downloaded, after a failure too.
        complete = [self._images(split, selection.ids) for split, selection in chosen.items()]
        if not all(complete):
            return False
        for split, selection in chosen.items():
            self._convert(split, selection)
        return True

    def _path(self, split: str, *names: str) -> str:
        return os.path.join(self._output, split, *names)

    def _annotations(self, split: str, classes):
        """The boxes of a split; files that exist already are complete."""
        labels, boxes = (
            self._path(split, "metadata", "classes.csv"),
            self._path(split, "labels", "detections.csv"),
        )
        for name, target in ((CLASSES, labels), (BOXES[split], boxes)):
            if not os.path.exists(target):
                self._store.fetch_csv(name, target)
        problems = Problems()
        self._report(f"{boxes}: reading")
        selection = select_boxes(boxes, labels, classes, problems, self._options.max_samples)
        refuse_bad(problems, selection.boxes.rows, "rows", MAX_BAD, self._report)
        return selection

    def _report_plan(self, images: Dict[str, int], at_most: str) -> None:
        """Reports how many images, how much space and time; UserError if the disc is too small."""
        present = sum(
            min(len(files_of(self._path(split, "data"))), images[split])
            for split in images
            if os.path.isdir(self._path(split, "data"))
        )
        missing = sum(images.values()) - present
        size = missing * BYTES_PER_IMAGE + sum(images.values()) * TEXT_PER_IMAGE
        usage, system = shutil.disk_usage(self._output), os.statvfs(self._output)
        parts = ", ".join(f"{count} images of {split}" for split, count in images.items())
        self._report(
            f"{at_most}{parts}; {present} files are present, {missing} are missing: about "
            f"{_bytes(size)} in {self._output}, where {_bytes(usage.free)} are free; about "
            f"{_time(size / 100e6)} at 100 MB/s, {_time(size / 10e6)} at 10 MB/s"
        )
        shortage = ""
        if size > usage.free:
            shortage = (
                f"too little space: about {_bytes(size)} are needed, {_bytes(usage.free)} are free"
            )
        elif system.f_files and missing > system.f_favail:
            shortage = f"too few inodes: {missing} files are missing, {system.f_favail} are free"
        if shortage and not self._options.ignore_space:
            raise UserError(f"{self._output}: {shortage} (--ignore-space starts anyway)")

    def _images(self, split: str, ids) -> bool:
        """Downloads the images; returns whether all are present except those that the server does
        not have."""
        options, folder = self._options, self._path(split, "data")
        limit = (
            options.max_missing if options.max_missing is not None else max(10, len(ids) // 1000)
        )
        work = _Images(folder, ids, limit, options.jobs)
        progress = _DownloadProgress(split, len(ids), work, self._report)

        def make():
            fetch = self._store.image_fetcher(split, folder)
            return lambda index: work.take(index, fetch)

        try:
            in_threads(make, len(ids), options.jobs, progress, self._store.stop)
        except web.DownloadStopped:
            raise KeyboardInterrupt from None
        except OSError as error:
            raise cannot_write(folder, folder, error) from None
        finally:
            self._keep_list(split, work.missing)
        self._report(
            f"{split}: {work.fetched} images fetched ({_bytes(work.bytes)}), {work.present} were "
            "present" + (f", {len(work.missing)} are not on the server" if work.missing else "")
        )
        if work.failed:
            self._report(
                f"{split}: {len(work.failed)} images could not be had, the first {work.failed[0]}; "
                "the same command tries them again"
            )
        return not work.failed

    def _keep_list(self, split: str, missing: List[str]) -> None:
        path = self._path(split, "missing_images.txt")
        if missing:
            with write_errors(path, path):
                replace_file(path, ("\n".join(sorted(missing)) + "\n").encode())
            self._report(f"{path}: {len(missing)} images that the server does not have")
        else:
            discard(path)

    def _convert(self, split: str, selection) -> None:
        problems = Problems()
        lines = write_coco(
            selection,
            self._path(split, "labels", "openimages-mlperf.json"),
            self._path(split, "data"),
            self._path(split, "metadata", "sizes.csv"),
            problems,
        )
        for line in [f"left out: {line}" for line in problems.lines()] + lines:
            self._report(line)


class _Images:
    """The results for the images of a split; written by all threads."""

    def __init__(self, folder: str, ids, limit: int, jobs: int):
        self._folder, self._ids, self._limit, self._failures_allowed = folder, ids, limit, 2 * jobs
        self._lock, self._failures_in_a_row = threading.Lock(), 0
        self.present = self.fetched = self.bytes = 0
        self.missing: List[str] = []  # "NAME REASON"
        self.failed: List[str] = []

    def take(self, index: int, fetch) -> None:
        name = id_text(self._ids[index]) + ".jpg"
        if is_intact_image(os.path.join(self._folder, name)):
            with self._lock:
                self.present += 1
            return
        try:
            size = fetch(name)
        except web.Missing as error:
            with self._lock:
                self._failures_in_a_row = 0
                self.missing.append(f"{name} {error}")
                if len(self.missing) > self._limit:
                    raise UserError(
                        f"{len(self.missing)} images are not on the server, the last "
                        f"{self.missing[-1]}; --max-missing is {self._limit}"
                    ) from None
        except web.Failed as error:
            with self._lock:
                self.failed.append(f"{name}: {error}")
                self._failures_in_a_row += 1
                if self._failures_in_a_row > self._failures_allowed:
                    raise UserError(
                        f"{self._failures_in_a_row} images in a row could not be downloaded, the "
                        f"last {self.failed[-1]}"
                    ) from None
        else:
            with self._lock:
                self._failures_in_a_row = 0
                self.fetched += 1
                self.bytes += size


class _DownloadProgress:
    """Prints a progress line every so often: images, rate, time left."""

    def __init__(self, split: str, images: int, work: _Images, report):
        self._split, self._images, self._work, self._report = split, images, work, report
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now, work = time.monotonic(), self._work
        if now - self._last < _SECONDS:
            return
        self._last = now
        rate, seconds = work.fetched / (now - self._start), now - self._start
        left = f", about {_time((self._images - done) / rate)} left" if rate else ""
        self._report(
            f"{self._split}: {done} of {self._images} images, {rate:.0f} images/s, "
            f"{work.bytes / seconds / 1e6:.1f} MB/s{left}"
        )


def _bytes(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
