"""`python -m ssd export`: a trained detector as ONNX and as a Gluon symbol, checked against the
live network."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import List, NamedTuple, Tuple

import numpy as np

from ssd import ends
from ssd.errors import UserError
from ssd.files import cannot_write, discard, put_in_place, remove_leftovers, temporary_path
from ssd.runtime import start

HELP = "export trained weights as ONNX and Gluon symbol, checked against the live network"
USAGE = "%(prog)s --weights PATH --output FOLDER [flags]"
FORMATS = ("onnx", "gluon")
TOLERANCE = 1e-4  # of scores, and of boxes as fractions of the image
GENERATED = 6  # synthetic images for the check, if none are named
MOST = 24  # named images used at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
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
        help="output folder [new or empty] (required)",
    )
    parser.add_argument("--name", default="detector", help="name of the files [default: detector]")
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
        help=f"images, folders or patterns to check the files on, {MOST} at most [default: "
        f"{GENERATED} synthetic images]",
    )
    parser.add_argument(
        "--classes",
        metavar="PATH",
        default="",
        help="class names, for older weights without stored names [COCO annotation file]",
    )
    add_settings(
        parser,
        ("detection",),
        default_recipe="the settings stored with the weights, or their run's recipe.yaml",
    )


class Difference(NamedTuple):
    """The difference between two detectors' outputs: matched detections; unmatched ones; unmatched
    ones at the score limit, which rounding explains; greatest differences of scores and of box
    edges [fraction of the image]."""

    detections: int
    missing: int
    borderline: int
    score: float
    box: float


def run(args) -> int:
    """Export; returns 0, or 1 if a file's detections differ from the live network's: then nothing
    is kept."""
    check_onnx_installed(args.format)
    folder, stem_name = args.output, args.name
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise UserError(
            f"--output {folder}: "
            + (
                "holds files already; name a new folder"
                if os.path.isdir(folder)
                else "is not a folder"
            )
        )
    if not stem_name or os.path.basename(stem_name) != stem_name:
        raise UserError(f"--name {stem_name!r}: a plain file name is needed")
    images, description = _check_images(args.images)
    exporter = _Exporter(args)
    partial = temporary_path(os.path.abspath(folder))
    try:
        os.makedirs(partial)
        remove_leftovers(os.path.dirname(partial))
        differences = exporter.export(os.path.join(partial, stem_name), args.format, images)
        print(f"checked on {description}, in batches of 1 and 3, against the live network")
        failed = False
        if not max(difference.detections + difference.missing for _, difference in differences):
            raise UserError(
                "there is no detection on these images, so nothing was compared and nothing is "
                "kept: name others with --images, or a lower --score-threshold"
            )
        for name, difference in differences:
            good = accepted(difference)
            failed = failed or not good
            print(
                f"  {name:6s} {'equal' if good else 'DIFFERENT'}: {difference.detections} "
                f"detections, {difference.missing} without a counterpart ({difference.borderline} "
                f"more at the score limit), scores within {difference.score:.1e}, boxes within "
                f"{difference.box:.1e} of the image"
            )
        if failed:
            print(
                f"{ends.program()} export: the files' detections differ from the network's by more "
                f"than {TOLERANCE:g}; none is kept (a barely trained network gives many boxes the "
                "same score, and rounding chooses among them)",
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
    """UserError if the packages that write and check a format are missing, as in the training
    container."""
    for name in ("onnx", "onnxruntime") if "onnx" in formats else ():
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--format onnx: the package {name} is not installed (pip install {name})"
            )


def _check_images(names: List[str]) -> Tuple[List[np.ndarray], str]:
    """(images to check the files on, uint8 (height, width, 3) RGB each; their description)."""
    if names:
        from ssd.tools.image_input import load_image
        from ssd.tools.inputs import find_inputs

        found = [one for one in find_inputs(names)[0] if not one.video]
        if not found:
            raise UserError("--images: none of the named files is an image")
        # Evenly spaced, so that a sorted folder is not represented by its start.
        count = min(len(found), MOST)
        chosen = [found[len(found) * index // count] for index in range(count)]
        images = [load_image(one.path) for one in chosen]
        return images, f"{count} of {len(found)} images named"
    from ssd.datasets.shapes import draw_image

    random = np.random.default_rng(0)
    drawn = [np.asarray(draw_image(random, (200, 400), False)[0]) for _ in range(GENERATED - 1)]
    noise = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return drawn + [noise], f"{GENERATED} synthetic images (name real ones with --images)"


class _Exporter:
    """The live network of the weights, in the form that runs on every machine: float32, NCHW,
    CPU."""

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

    def export(self, stem: str, formats: List[str], images) -> List[Tuple[str, Difference]]:
        """Write the files and run them; returns for each format the Difference of its detections
        from the live network's."""
        from ssd.tools import export_formats as files
        from ssd.tools.image_input import NetworkInput

        values = files.description(self.config, self.ids, self.names, len(self.boxes))
        files.write_description(stem, values)
        prepare, size = NetworkInput(self.config, 1, "cpu", 0, False), self.config.model.image_size
        inputs = np.concatenate([prepare([image]).asnumpy() for image in images])
        live = self._live(inputs)
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
                for first in range(0, len(inputs), batch):
                    outputs = run(stem, inputs[first : first + batch])
                    parts += [
                        compare(
                            [part[index] for part in outputs],
                            live[first + index],
                            size,
                            self.config.detection.score_threshold,
                        )
                        for index in range(len(outputs[0]))
                    ]
            counts, missing, borderline, scores, boxes = zip(*parts)
            total = Difference(sum(counts), sum(missing), sum(borderline), max(scores), max(boxes))
            results.append((name, total))
        return results

    def _live(self, inputs: np.ndarray) -> np.ndarray:
        """(B, K, 6) rows of ssd.model.detections, by the network as in training: no static graph,
        no fusion."""
        import mxnet as mx

        return np.concatenate(
            [
                self.detections(*self.network(mx.nd.array(inputs[index : index + 1]))).asnumpy()
                for index in range(len(inputs))
            ]
        )


def compare(
    outputs: List[np.ndarray], live: np.ndarray, image_size, threshold: float
) -> Difference:
    """One image's ids (K, 1), scores (K, 1) and boxes (K, 4) against live rows (K, 6) of
    ssd.model.detections. image_size: height, width [pixels].

    A detection's counterpart is the nearest unmatched one of its class. A detection without one is
    borderline if its score is within the tolerance of the threshold, or of the last score kept.
    Box edges far outside the image, which barely trained networks have, are compared relative to
    their distance, as rounding is.
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
    free, unmatched, worst_score, worst_box, matched = np.ones(len(ours), bool), [], 0.0, 0.0, 0
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
            unmatched.append(row[1])
    unmatched = np.array(unmatched + ours[free, 1].tolist())
    missing = int((unmatched > edge + TOLERANCE).sum())
    return Difference(matched, missing, len(unmatched) - missing, worst_score, worst_box)


def accepted(difference: Difference) -> bool:
    """Whether an exported file is kept."""
    # With more, too little was really compared.
    few = difference.borderline <= max(1, difference.detections // 20)
    return (
        difference.missing == 0
        and few
        and difference.score <= TOLERANCE
        and difference.box <= TOLERANCE
    )
