"""`python -m ssd quantize`: weights whose convolutions compute in 8-bit integers on CPUs."""

from __future__ import annotations

import argparse
import dataclasses
import os

from ssd.commandline import add_settings
from ssd.errors import UserError, log_line
from ssd.runtime import start

HELP = "prepare weights for inference in 8-bit integers on CPUs, calibrated on images"
USAGE = (
    "%(prog)s --weights FILE --output FILE\n"
    "           (--data-dir DIR | --annotations FILE --images FOLDER) [flags]"
)
CALIBRATION_IMAGES = 128
_NAMED = 5  # most layers in float32 that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="saved weights: a .params file or a checkpoint's parameters.npz (required)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the new file: the same weights, and the value ranges between the layers (required)",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="a COCO instances file that lists the images [default: the training data of "
        "--data-dir]",
    )
    parser.add_argument("--images", metavar="FOLDER", help="the images of --annotations")
    parser.add_argument(
        "--calibration-images",
        type=int,
        default=CALIBRATION_IMAGES,
        metavar="N",
        help="images for measuring the ranges, evenly spaced over the data set "
        f"[default: {CALIBRATION_IMAGES}]",
    )
    add_settings(
        parser,
        ("data", "evaluation"),
        leave_out=("target", "eval_every"),
        default_recipe="the settings stored with the weights, or their run's recipe.yaml",
    )


def run(args) -> int:
    """Measure ranges, write weights, print which layers compute in integers; returns 0."""
    from ssd.datasets.locate import dataset_paths, named_paths
    from ssd.evaluation.saved_network import load_images, settings_of

    if args.calibration_images < 1:
        raise UserError(f"--calibration-images {args.calibration_images}: must be at least 1")
    if os.path.lexists(args.output):
        raise UserError(f"--output {args.output}: exists already; name a new file")
    if not args.output.endswith(".params"):
        raise UserError(f"--output {args.output}: the file name must end in .params")
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.output))):
        raise UserError(f"--output {args.output}: its folder does not exist")
    start()
    import mxnet as mx

    if not mx.runtime.Features().is_enabled("MKLDNN"):
        raise UserError("this MXNet has no oneDNN, which integer convolutions need")
    config, info = settings_of(args, args.weights)
    if info is None:
        raise UserError(f"--weights {args.weights}: the file does not state its network")
    config = config.with_values(layout="NCHW", dtype="float32", decode="cpu", device="cpu")
    annotations, images = named_paths(
        args.annotations, args.images, "data.data_dir" in vars(args)
    ) or dataset_paths(config, "train")
    dataset = load_images(config, annotations, images, report=log_line)
    dataset = _evenly(dataset, args.calibration_images)

    from ssd.data.pipeline import EvaluationLoader
    from ssd.model.int8 import measure_ranges, quantize
    from ssd.model.weights import load_detector, save_weights
    from ssd.progress_bar import ProgressBar

    network = load_detector(config, args.weights, mx.cpu()).network
    batch = min(config.evaluation.eval_batch_size, dataset.num_images)
    loader = EvaluationLoader(config.with_values(eval_batch_size=batch), dataset)
    progress, done = ProgressBar("calibration"), [0]

    def advance():
        done[0] = min(done[0] + batch, dataset.num_images)
        progress(done[0], dataset.num_images)

    try:
        ranges = measure_ranges(network, (images for images, _ in loader), advance)
    finally:
        loader.close()
        progress.close()
    _, layers = quantize(network, ranges)
    if not layers.int8:
        raise UserError(
            f"--weights {args.weights}: no convolution of this network can compute in integers"
        )
    save_weights(network, args.output, info, ranges)
    print(
        f"wrote {args.output}: {len(layers.int8)} of {len(layers.int8) + len(layers.others)} "
        f"convolutions compute in 8-bit integers, by the ranges of {dataset.num_images} images"
    )
    if layers.others:
        names = list(dict.fromkeys(layers.layer[name] for name in layers.others))
        more = ", ..." if len(names) > _NAMED else ""
        print(f"in float32: {', '.join(names[:_NAMED])}{more}")
    if not _has_vnni():
        print("this CPU has no VNNI: integers may be no faster on it")
    return 0


def _evenly(dataset, count: int):
    """`count` evenly spaced images of the data set, or all, without boxes."""
    import numpy as np

    chosen = np.unique(
        np.linspace(0, dataset.num_images - 1, min(count, dataset.num_images)).astype(np.int64)
    )
    none = np.zeros(0, np.int64)
    return dataclasses.replace(
        dataset,
        image_ids=dataset.image_ids[chosen],
        file_names=tuple(dataset.file_names[index] for index in chosen),
        sizes=dataset.sizes[chosen],
        boxes_ltrb=np.zeros((0, 4)),
        box_classes=none,
        box_crowd=none.astype(bool),
        box_image=none,
        boxes_xywh=None,
        box_area=None,
    )


def _has_vnni() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return any("vnni" in line for line in file)
    except OSError:
        return True
