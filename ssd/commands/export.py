"""`python -m ssd export`: a trained detector as ONNX and as a Gluon symbol, both checked before
they are kept."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import List, NamedTuple, Tuple

import numpy as np

from ssd.errors import UserError
from ssd.files import cannot_write, discard, put_in_place, remove_leftovers, temporary_path
from ssd.runtime import start

HELP = "write trained weights as ONNX and Gluon symbol, checked against the live network"
USAGE = "%(prog)s --weights PATH --output FOLDER [flags]"
FORMATS = ("onnx", "gluon")
TOLERANCE = 1e-4  # of scores, and of boxes in shares of the image
GENERATED = 6  # pictures made up for the check where none are named
MOST = 24  # named pictures that are used


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags to `parser`."""
    from ssd.commandline import add_settings

    parser.add_argument(
        "--weights",
        required=True,
        metavar="PATH",
        help="a run's weights.params or a checkpoint's parameters.npz; settings and class names "
        "come with it (required)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where the files are written [new or empty folder] (required)",
    )
    parser.add_argument(
        "--name", default="detector", help="what the files are called [default: detector]"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=list(FORMATS),
        metavar="FORMAT",
        help="onnx (decoding and suppression inside) and/or gluon (symbol and params) [default: "
        "both]",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="INPUT",
        default=[],
        help=f"pictures, folders or patterns to check the files on, {MOST} at most [default: "
        f"{GENERATED} made-up pictures]",
    )
    parser.add_argument(
        "--classes",
        metavar="PATH",
        default="",
        help="class names for older weights that do not know theirs [COCO annotation file]",
    )
    add_settings(parser, ("detection",))


class Difference(NamedTuple):
    """Between two detectors' outputs: detections compared, those of one that the other lacks, those
    that it may lack, greatest differences of scores and of box edges [share of the image]."""

    detections: int
    missing: int
    excused: int
    score: float
    box: float


def run(args) -> int:
    """Exports; returns 0, or 1 where a file did not give the live network's detections, and nothing
    is kept."""
    check_onnx_installed(args.format)
    folder, stem_name = args.output, args.name
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise UserError(
            f"--output {folder}: "
            + (
                "holds files already; name a new folder"
                if os.path.isdir(folder)
                else "is no folder"
            )
        )
    if not stem_name or os.path.basename(stem_name) != stem_name:
        raise UserError(f"--name {stem_name!r}: a plain file name is needed")
    pictures, said = _pictures(args.images)
    exporter = _Exporter(args)
    partial = temporary_path(os.path.abspath(folder))
    try:
        os.makedirs(partial)
        remove_leftovers(os.path.dirname(partial))
        differences = exporter.export(os.path.join(partial, stem_name), args.format, pictures)
        print(f"checked on {said}, in batches of 1 and 3, against the live network")
        failed = False
        if not max(difference.detections + difference.missing for _, difference in differences):
            raise UserError(
                "there is no detection on these pictures, so nothing was compared and nothing is "
                "kept: name others with --images, or a lower --score-threshold"
            )
        for name, difference in differences:
            good = accepted(difference)
            failed = failed or not good
            print(
                f"  {name:6s} {'equal' if good else 'DIFFERENT'}: {difference.detections} "
                f"detections, {difference.missing} without a counterpart ({difference.excused} "
                f"more on the edge of being kept), scores within {difference.score:.1e}, boxes "
                f"within {difference.box:.1e} of the image"
            )
        if failed:
            print(
                "python -m ssd export: the files do not give the network's detections to "
                f"{TOLERANCE:g}; none is kept (a network that has hardly learnt gives many boxes "
                "one score, and rounding chooses among them)",
                file=sys.stderr,
                flush=True,
            )
            return 1
        put_in_place(partial, os.path.abspath(folder))
    except OSError as error:
        raise cannot_write(f"--output {folder}", partial, error) from None
    finally:
        discard(partial)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        print(f"wrote {path} ({os.path.getsize(path) / 1e6:.1f} MB)")
    return 0


def check_onnx_installed(formats: List[str]) -> None:
    """UserError where what writes and checks a format is not there, as in the training
    container."""
    for name in ("onnx", "onnxruntime") if "onnx" in formats else ():
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--format onnx: the package {name} is not installed (pip install {name})"
            )


def _pictures(names: List[str]) -> Tuple[List[np.ndarray], str]:
    """(uint8 (height, width, 3) RGB each, what they are)."""
    if names:
        from ssd.tools.image_input import load_image
        from ssd.tools.inputs import find_inputs

        found = [one for one in find_inputs(names)[0] if not one.video]
        if not found:
            raise UserError("--images: there is no picture among what is named")
        # Evenly over all, so that a sorted folder is not judged by its start.
        chosen = [
            found[len(found) * place // min(len(found), MOST)]
            for place in range(min(len(found), MOST))
        ]
        return [
            load_image(one.path) for one in chosen
        ], f"{len(chosen)} of {len(found)} pictures named"
    from ssd.datasets.shapes import draw_image

    random = np.random.default_rng(0)
    drawn = [np.asarray(draw_image(random, (200, 400), False)[0]) for _ in range(GENERATED - 1)]
    noise = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return drawn + [noise], f"{GENERATED} made-up pictures (name real ones with --images)"


class _Exporter:
    """The live network of the command line's weights, in the one form that every machine runs:
    float32, NCHW, CPU."""

    def __init__(self, args):
        start()
        from ssd.evaluation.saved_network import settings_of
        from ssd.tools.predictor import class_names_and_ids

        config, info = settings_of(args, args.weights)
        self.names, self.ids = class_names_and_ids(config, info, args.weights, args.classes)
        self.config = config = config.with_values(
            layout="NCHW", dtype="float32", device="cpu", decode="cpu"
        )
        import mxnet as mx

        from ssd.model.weights import load_detector

        detector = load_detector(config, args.weights, mx.cpu())
        self.network, self.boxes, self.detections = (
            detector.network,
            detector.default_boxes,
            detector.detections,
        )
        self.detections.initialize(ctx=mx.cpu())

    def export(self, stem: str, formats: List[str], pictures) -> List[Tuple[str, Difference]]:
        """Writes the files and runs them; how much each format's detections differ from the live
        network's."""
        from ssd.tools import export_formats as files
        from ssd.tools.image_input import NetworkInput

        values = files.description(self.config, self.ids, self.names, len(self.boxes))
        files.write_description(stem, values)
        prepare, size = NetworkInput(self.config, 1, "cpu", 0, False), self.config.model.image_size
        images = np.concatenate([prepare([picture]).asnumpy() for picture in pictures])
        live = self._live(images)
        results = []
        for name in formats:
            if name == "onnx":
                files.write_onnx(stem, self.network, self.boxes, self.config, values)
                run = files.run_onnx
            else:
                files.write_gluon(stem, self.network, self.detections, self.config)
                run = files.run_gluon
            parts = [Difference(0, 0, 0, 0.0, 0.0)]
            for batch in (1, 3):
                for first in range(0, len(images), batch):
                    outputs = run(stem, images[first : first + batch])
                    parts += [
                        compare(
                            [part[place] for part in outputs],
                            live[first + place],
                            size,
                            self.config.detection.score_threshold,
                        )
                        for place in range(len(outputs[0]))
                    ]
            counts, missing, excused, scores, boxes = zip(*parts)
            results.append(
                (name, Difference(sum(counts), sum(missing), sum(excused), max(scores), max(boxes)))
            )
        return results

    def _live(self, images: np.ndarray) -> np.ndarray:
        """(B, K, 6) rows of ssd.model.detections, by the network as it trains: no graph, no
        fusion."""
        import mxnet as mx

        return np.concatenate(
            [
                self.detections(*self.network(mx.nd.array(images[place : place + 1]))).asnumpy()
                for place in range(len(images))
            ]
        )


def compare(
    outputs: List[np.ndarray], live: np.ndarray, image_size, threshold: float
) -> Difference:
    """One image's ids (K, 1), scores (K, 1) and boxes (K, 4) against live rows (K, 6) of
    ssd.model.detections. image_size: height, width [pixels].

    A detection's counterpart is the nearest of its class that has no other. One whose score is
    within the tolerance of the threshold, or of the last that is kept, may lack it: it is excused.
    A side that lies far outside the image, as hardly trained networks have them, is compared in
    shares of its distance, as rounding is.
    """
    ids, scores, boxes = outputs
    found = ids[:, 0] >= 0
    ours = np.concatenate(
        [ids[found], scores[found], boxes[found] / np.tile(image_size[::-1], 2)], axis=1
    )
    theirs = live[live[:, 0] > 0]
    theirs = np.concatenate([theirs[:, :1] - 1, theirs[:, 1:]], axis=1)
    edge = threshold
    if max(len(ours), len(theirs)) == len(live):
        edge = max(edge, min(ours[:, 1].min(initial=1), theirs[:, 1].min(initial=1)))
    free, lonely, worst_score, worst_box, matched = np.ones(len(ours), bool), [], 0.0, 0.0, 0
    for row in theirs:
        candidates, scale = (
            np.flatnonzero(free & (ours[:, 0] == row[0])),
            np.maximum(1, np.abs(row[1:])),
        )
        distances = (np.abs(ours[candidates, 1:] - row[1:]) / scale).max(axis=1)
        if len(candidates) and distances.min() <= TOLERANCE:
            best = candidates[distances.argmin()]
            free[best] = False
            matched += 1
            worst_score = max(worst_score, abs(float(ours[best, 1] - row[1])))
            worst_box = max(worst_box, float((np.abs(ours[best, 2:] - row[2:]) / scale[1:]).max()))
        else:
            lonely.append(row[1])
    lonely = np.array(lonely + ours[free, 1].tolist())
    missing = int((lonely > edge + TOLERANCE).sum())
    return Difference(matched, missing, len(lonely) - missing, worst_score, worst_box)


def accepted(difference: Difference) -> bool:
    """Whether an exported file is kept."""
    few = difference.excused <= max(
        1, difference.detections // 20
    )  # else too little was really compared
    return (
        difference.missing == 0
        and few
        and difference.score <= TOLERANCE
        and difference.box <= TOLERANCE
    )
