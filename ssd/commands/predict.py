"""`python -m ssd predict`: detections on images and videos, drawn and as COCO's JSON."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from typing import Dict, List, Optional

from ssd import ends
from ssd.errors import UserError
from ssd.files import claim_folder, marked_output, new_folder

HELP = "detect objects in images and videos: drawn, and as COCO's JSON"
USAGE = "%(prog)s INPUT [INPUT ...] --weights PATH [flags]"
DRAWN = 0.3  # score above which detections are drawn, by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    from ssd.commandline import add_max_left_out, add_settings, share

    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image, a video, a folder (searched recursively), or a pattern such as 'a/*.jpg'",
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="PATH",
        help="a run's weights.params or a checkpoint's parameters.npz; settings and class names "
        "come with it (required)",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        default="",
        help="output folder [new or empty; default: predictions/TIME]",
    )
    parser.add_argument(
        "--no-draw", action="store_true", help="write only the JSON files, draw nothing"
    )
    parser.add_argument(
        "--draw-threshold",
        type=share,
        metavar="X",
        help="detections of at most this score are not drawn [0..1; default: --score-threshold, or "
        f"{DRAWN} where that is not given]",
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        default=8,
        metavar="N",
        help="images per forward pass of the network [default: 8]",
    )
    parser.add_argument(
        "--device",
        dest="run.device",
        default=argparse.SUPPRESS,
        metavar="{auto,cpu,gpu}",
        help="device of the network; auto: a GPU if there is one [default: auto]",
    )
    parser.add_argument(
        "--classes",
        metavar="PATH",
        default="",
        help="class names, for older weights without stored names [COCO annotation file]",
    )
    parser.add_argument(
        "--annotations",
        metavar="PATH",
        default="",
        help="take image and category ids from this COCO annotation file, so that `score` can "
        "score detections.json against it; images are then not rotated by their EXIF data",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        action="store_true",
        help="leave out bad entries of the --annotations file, as in training [default: refuse it]",
    )
    add_max_left_out(parser)
    add_settings(
        parser,
        ("detection",),
        default_recipe="the settings stored with the weights, or their run's recipe.yaml",
    )


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


_count.__name__ = "whole number"  # argparse shows it in messages


def run(args) -> int:
    """Predict; returns 0, 1 if some input failed, or 130 after Ctrl-C, with the results so far
    written. UserError for bad input before any work."""
    from ssd.tools.inputs import find_inputs
    from ssd.tools.prediction import Prediction
    from ssd.tools.predictor import load_predictor

    inputs, others = find_inputs(args.inputs)
    videos = [one.path for one in inputs if one.video]
    if videos and importlib.util.find_spec("av") is None:
        raise UserError(
            f"{videos[0]}: a video, and the package av is not installed (pip install av)"
        )
    _check_output(args.output)
    scheme = None
    if args.annotations:
        scheme = IdScheme(args.annotations, inputs, args.skip_bad_annotations, args.max_left_out)
        inputs = [
            one for one in inputs if one.path not in scheme.bad and one.path not in scheme.left_out
        ]
    detector = load_predictor(args.weights, args, args.classes, args.batch_size)
    if scheme is not None:
        scheme.map_classes(detector, args.weights)
    folder = args.output or os.path.join("predictions", time.strftime("%Y%m%d-%H%M%S"))
    try:
        folder = folder if args.output else new_folder(folder)
        if not claim_folder(folder):
            raise UserError(f"--output {folder}: another process writes there; name a new folder")
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}") from None
    _check_output(args.output)  # again, because loading takes seconds

    least = args.draw_threshold
    if least is None:
        least = DRAWN if "detection.score_threshold" not in vars(args) else 0.0
    with marked_output(folder), interrupt_sets_event() as stop, progress_bars() as bar:
        prediction = Prediction(detector, folder, scheme, None if args.no_draw else least, stop)
        if scheme is not None:
            prediction.failures += scheme.bad.values()
            prediction.notes += scheme.left_out.values()
        found = [one for one in inputs if not one.video]
        if found:
            prediction.predict_images(found, bar("images", len(found)))
        for one in inputs:
            if one.video and not stop.is_set():
                predict_video(prediction, one, bar)
        prediction.write()
    prediction.report(others)
    if stop.is_set():
        print(
            f"{ends.program()} predict: interrupted: {prediction.finished} of {len(inputs)} inputs "
            "were done" + (f", and {prediction.interrupted}" if prediction.interrupted else ""),
            file=sys.stderr,
            flush=True,
        )
        return 130
    return 1 if prediction.failures else 0


def _check_output(folder: str) -> None:
    if (
        folder
        and os.path.lexists(folder)
        and not (os.path.isdir(folder) and not os.listdir(folder))
    ):
        raise UserError(
            f"--output {folder}: "
            + (
                "holds files already; name a new folder"
                if os.path.isdir(folder)
                else "is not a folder"
            )
        )


@contextlib.contextmanager
def interrupt_sets_event():
    """An Event that the first Ctrl-C sets, so that results so far can be written; a second Ctrl-C
    interrupts at once."""
    stop = threading.Event()

    def note(number, frame):
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def predict_video(prediction, one, bar) -> None:
    """Predict on one video; one that cannot be opened is recorded as a failure."""
    from ssd.tools.videos import VideoReader

    try:
        reader = VideoReader(one.path)
    except UserError as error:
        prediction.failures.append(str(error))
        return
    try:
        prediction.predict_video(reader, one, bar(os.path.basename(one.path), reader.frames))
    finally:
        reader.close()


class IdScheme:
    """The image and category ids of an annotation file, for images found by path.

    count: number of images in the file; bad: by path, the problem of each image that evaluate would
    refuse; left_out: by path, of each image left out with --skip-bad-annotations.
    """

    def __init__(self, annotations: str, inputs, skip_bad: bool, max_left_out: float):
        """UserError for a file that training would refuse, for a video, for an image that the file
        does not have, and for two images with the same entry."""
        from ssd.datasets.coco import load_ground_truth
        from ssd.datasets.image_checks import check_image_header
        from ssd.errors import log_line

        self.path = annotations
        data = load_ground_truth(
            annotations, skip_bad=skip_bad, max_left_out=max_left_out, named=True, report=log_line
        )
        self.categories, self.names = data.category_ids, data.category_names
        self.count = data.num_images
        # Good entries first.
        names = [os.path.normpath(name) for name in data.file_names + data.found.names]
        by_name: Dict[str, List[int]] = {}
        for index, name in enumerate(names):
            by_name.setdefault(os.path.basename(name), []).append(index)
        self._of: Dict[str, dict] = {}
        self.bad: Dict[str, str] = {}
        self.left_out: Dict[str, str] = {}
        taken: Dict[int, str] = {}
        for one in inputs:
            if one.video:
                raise UserError(
                    f"--annotations {annotations}: {one.path} is a video, which has no image id"
                )
            parts = "/" + os.path.abspath(one.path).lstrip("/")
            fitting = [
                index
                for index in by_name.get(os.path.basename(one.path), ())
                if parts.endswith("/" + names[index])
            ]
            if not fitting:
                raise UserError(
                    f"--annotations {annotations}: {one.path} is not among its images"
                    + _other_names(inputs, names)
                )
            index = max(fitting, key=lambda index: len(names[index]))
            if index >= len(data.file_names):
                self.left_out[one.path] = f"left out: {one.path}: its entry in {annotations} is bad"
                continue
            if taken.setdefault(index, one.path) != one.path:
                raise UserError(
                    f"--annotations {annotations}: {taken[index]} and {one.path} are both its "
                    f"image {data.file_names[index]!r}"
                )
            self._of[one.path] = dict(
                id=int(data.image_ids[index]), file_name=data.file_names[index]
            )
            problem = check_image_header(one.path, *map(int, data.sizes[index]))
            if problem is not None:
                text = f"{one.path}: {problem[0]}: {problem[1]}"
                if skip_bad:
                    self.left_out[one.path] = "left out: " + text
                else:
                    self.bad[one.path] = text
        if skip_bad and len(self.left_out) > max_left_out * len(inputs):
            raise UserError(
                f"--annotations {annotations}: {len(self.left_out)} of {len(inputs)} images "
                f"would be left out, more than the share of --max-left-out {max_left_out:g}; "
                + next(iter(self.left_out.values()))
            )

    def map_classes(self, detector, weights: str) -> None:
        """Set the detector's category ids to the file's, None for a class that the file does not
        have. UserError if the file has classes that the detector does not have."""
        from ssd.evaluation.saved_network import (
            category_of_class,
            describe_left_out,
            left_out_classes,
        )
        from ssd.model.weights import read_info

        info = read_info(weights)
        ids = category_of_class(
            detector.config, info, self.names, self.categories, weights, self.path
        )
        detector.category_ids = ids
        self.classes_left_out = describe_left_out(left_out_classes(ids, info), len(ids))

    def id_and_name(self, path: str) -> dict:
        """The image id and file_name of an image in the annotation file."""
        return self._of[path]


def _other_names(inputs, names: List[str]) -> str:
    """A hint how the images' names differ from those in the file, "" without one."""
    from ssd.datasets.missing_images import other_names

    hint = other_names([one.inside for one in inputs], names)
    return f": {hint}" if hint else ""


@contextlib.contextmanager
def progress_bars():
    """A function (description, total or None) -> function that advances the new bar by one. Shows
    bars only if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda description, total: lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:

        def new(description: str, total: Optional[int]):
            task, start = bars.add_task(description, total=total, rate=""), time.time()

            def advance():
                done = bars.tasks[task].completed + 1
                bars.update(task, advance=1, rate=f"{done / max(1e-3, time.time() - start):.1f}/s")

            return advance

        yield new
