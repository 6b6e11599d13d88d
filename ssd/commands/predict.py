"""`python -m ssd predict`: detections on pictures and videos, drawn and as COCO's JSON."""

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

from ssd.errors import UserError
from ssd.files import claim_folder, marked_output, new_folder

HELP = "detect objects in pictures and videos: drawn, and as COCO's JSON"
USAGE = "%(prog)s INPUT [INPUT ...] --weights PATH [flags]"
DRAWN = 0.3  # least score of a drawn detection, where nothing else is asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags to `parser`."""
    from ssd.commandline import add_max_left_out, add_settings, share

    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a picture, a video, a folder (and all below it), or a pattern such as 'a/*.jpg'",
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
        help="where everything is written [folder, new or empty; default: predictions/TIME]",
    )
    parser.add_argument(
        "--no-draw", action="store_true", help="write no pictures and videos, only the JSON files"
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
        help="pictures that go through the network at once [default: 8]",
    )
    parser.add_argument(
        "--device",
        dest="run.device",
        default=argparse.SUPPRESS,
        metavar="{auto,cpu,gpu}",
        help="where the network runs; auto: gpu where there is one [default: auto]",
    )
    parser.add_argument(
        "--classes",
        metavar="PATH",
        default="",
        help="class names for older weights that do not know theirs [COCO annotation file]",
    )
    parser.add_argument(
        "--annotations",
        metavar="PATH",
        default="",
        help="take image and category ids from this COCO annotation file, so that `score` can "
        "score detections.json against it; pictures are then not turned by their EXIF data",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        action="store_true",
        help="leave out what is bad in the file of --annotations, as in training [default: it is "
        "refused]",
    )
    add_max_left_out(parser)
    add_settings(parser, ("detection",))


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


_count.__name__ = "whole number"  # what argparse calls it in its messages


def run(args) -> int:
    """Predicts; returns 0, 1 where some input could not be read, or 130 after a Ctrl-C, when what
    is done has been written. UserError for what is refused before."""
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
        scheme = Scheme(args.annotations, inputs, args.skip_bad_annotations, args.max_left_out)
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
    _check_output(args.output)  # once more: loading takes seconds

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
            prediction.pictures(found, bar("pictures", len(found)))
        for one in inputs:
            if one.video and not stop.is_set():
                predict_video(prediction, one, bar)
        prediction.write()
    prediction.report(others)
    if stop.is_set():
        print(
            f"python -m ssd predict: interrupted: {prediction.finished} of {len(inputs)} inputs "
            "were done" + (f", and {prediction.broken_off}" if prediction.broken_off else ""),
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
                else "is no folder"
            )
        )


@contextlib.contextmanager
def interrupt_sets_event():
    """An Event that the first Ctrl-C sets, so that what was done can be written; a second one
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
    """A video that cannot be opened is noted."""
    from ssd.tools.videos import VideoReader

    try:
        reader = VideoReader(one.path)
    except UserError as error:
        prediction.failures.append(str(error))
        return
    try:
        prediction.video(reader, one, bar(os.path.basename(one.path), reader.frames))
    finally:
        reader.close()


class Scheme:
    """The ids of an annotation file, for pictures found by their paths.

    count: images of the file; bad: by path, what is wrong with pictures that evaluate would leave
    out; left_out: the same of those that are left out with --skip-bad-annotations.
    """

    def __init__(self, annotations: str, inputs, skip_bad: bool, max_left_out: float):
        """UserError for a file that training would refuse, for a video, and for a picture that the
        file does not have or that is the same image of it as another."""
        from ssd.commandline import log_line
        from ssd.datasets.coco import load_ground_truth
        from ssd.datasets.image_checks import check_picture

        self.path = annotations
        data = load_ground_truth(
            annotations, skip_bad=skip_bad, max_left_out=max_left_out, named=True, report=log_line
        )
        self.categories, self.names, self.count = (
            data.category_ids,
            data.category_names,
            data.num_images,
        )
        names = [
            os.path.normpath(name) for name in data.file_names + data.found.names
        ]  # good ones come first
        by_name: Dict[str, List[int]] = {}
        for place, name in enumerate(names):
            by_name.setdefault(os.path.basename(name), []).append(place)
        self._of: Dict[str, dict] = {}
        self.bad: Dict[str, str] = {}
        self.left_out: Dict[str, str] = {}
        taken: Dict[int, str] = {}
        for one in inputs:
            if one.video:
                raise UserError(
                    f"--annotations {annotations}: {one.path} is a video, and has no image id"
                )
            parts = "/" + os.path.abspath(one.path).lstrip("/")
            fitting = [
                place
                for place in by_name.get(os.path.basename(one.path), ())
                if parts.endswith("/" + names[place])
            ]
            if not fitting:
                raise UserError(
                    f"--annotations {annotations}: {one.path} is not among its images"
                    + _other_names(inputs, names)
                )
            place = max(fitting, key=lambda place: len(names[place]))
            if place >= len(data.file_names):
                self.left_out[one.path] = f"left out: {one.path}: its entry in {annotations} is bad"
                continue
            if taken.setdefault(place, one.path) != one.path:
                raise UserError(
                    f"--annotations {annotations}: {taken[place]} and {one.path} are both its "
                    f"image {data.file_names[place]!r}"
                )
            self._of[one.path] = dict(
                id=int(data.image_ids[place]), file_name=data.file_names[place]
            )
            problem = check_picture(one.path, *map(int, data.sizes[place]))
            if problem is not None:
                text = f"{one.path}: {problem[0]}: {problem[1]}"
                if skip_bad:
                    self.left_out[one.path] = "left out: " + text
                else:
                    self.bad[one.path] = text
        if skip_bad and len(self.left_out) > max_left_out * len(inputs):
            raise UserError(
                f"--annotations {annotations}: {len(self.left_out)} of {len(inputs)} pictures "
                f"would be left out, more than the share of --max-left-out {max_left_out:g}; "
                + next(iter(self.left_out.values()))
            )

    def map_classes(self, detector, weights: str) -> None:
        """Sets the detector's category ids to the file's, None for a class that it lacks. UserError
        where the file has classes that are not the detector's."""
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

    def names_of(self, path: str) -> dict:
        """The file's id and file_name of a picture."""
        return self._of[path]


def _other_names(inputs, names: List[str]) -> str:
    """Words on how the pictures' names differ from those of the file, "" where that is not seen."""
    from ssd.datasets.missing_images import other_names

    words = other_names([one.inside for one in inputs], names)
    return f": {words}" if words else ""


@contextlib.contextmanager
def progress_bars():
    """A function (description, total or None) -> function that advances that bar by one; bars are
    on a terminal's standard error alone."""
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
