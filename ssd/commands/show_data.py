"""`python -m ssd show-data`: draws training samples as the network gets them."""

from __future__ import annotations

import argparse
import os

from ssd.errors import UserError
from ssd.runtime import start

HELP = "draw augmented training images, and the default boxes matched to their objects"
USAGE = "%(prog)s --data-dir DIR --output FOLDER [flags]"
AUGMENTED, MATCHED = "training-images.png", "matched-default-boxes.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags to `parser`."""
    from ssd.commandline import add_settings

    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help=f"output folder for {AUGMENTED} and {MATCHED} [new or empty] (required)",
    )
    parser.add_argument(
        "--count", type=int, default=12, metavar="N", help="images shown [default: 12]"
    )
    parser.add_argument(
        "--columns", type=int, default=4, metavar="N", help="images in a row [default: 4]"
    )
    parser.add_argument(
        "--epoch",
        type=int,
        default=1,
        metavar="N",
        help="show the first images of this epoch, as in a run with this --seed [default: 1]",
    )
    parser.add_argument(
        "--seed",
        dest="run.seed",
        default=argparse.SUPPRESS,
        metavar="N",
        help="seed of order and augmentation [default: 0]",
    )
    add_settings(parser, ("data", "augmentation", "model"))


def run(args) -> int:
    """Draw the two images and print what they show; returns 0."""
    from ssd.commandline import read_settings
    from ssd.datasets.locate import dataset_paths, load_dataset

    config, folder = read_settings(args), args.output
    for name in ("count", "columns", "epoch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise UserError(
            f"--output {folder}: "
            + (
                "holds files already; name a new folder"
                if os.path.isdir(folder)
                else "is not a folder"
            )
        )
    dataset_paths(config, "train")
    start()
    from ssd.data.resolve import resolve

    dataset = load_dataset(config, "train")
    config = resolve(config, dataset).with_values(layout="NCHW", dtype="float32", decode="cpu")
    images = len(dataset.images_with_boxes)
    if args.count > images:
        raise UserError(f"--count {args.count}: the training data has {images} images with a box")
    from ssd.data.show import draw_samples, take_samples
    from ssd.drawing import mosaic, save_image
    from ssd.fonts import labels_of

    samples = take_samples(
        config, dataset, count=args.count, epoch=args.epoch, seed=max(0, config.run.seed)
    )
    tiles = draw_samples(config, dataset, samples)
    side = max(tiles[0][0].shape[:2])
    for name, column in ((AUGMENTED, 0), (MATCHED, 1)):
        path = os.path.join(folder, name)
        save_image(path, mosaic([pair[column] for pair in tiles], args.columns, side))
        print(f"wrote {path}")
    positives = [int((sample.classes > 0).sum()) for sample in samples]
    print(
        f"{len(samples)} images of epoch {args.epoch}, seed {max(0, config.run.seed)}, "
        f"{'augmented' if config.augmentation.augment else 'not augmented'}: "
        f"{sum(len(sample.boxes) for sample in samples)} objects, {sum(positives)} positive "
        f"default boxes of {len(samples[0].classes)} per image ({min(positives)} to "
        f"{max(positives)} an image)"
    )
    legend = labels_of(dataset.category_names)[1]
    if legend:
        print(legend)
    return 0
