"""`python -m ssd make-shapes`: a small generated data set for trying out the program."""

from __future__ import annotations

HELP = "draw a small COCO-format data set of shapes, for trying out the program"


def add_arguments(parser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="output folder: new or empty, or with the same data set from an earlier call",
    )
    parser.add_argument(
        "--train-images", type=int, default=600, metavar="N", help="training images [default: 600]"
    )
    parser.add_argument(
        "--val-images", type=int, default=120, metavar="N", help="validation images [default: 120]"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the drawing [default: 0]"
    )
    parser.add_argument(
        "--size-range",
        type=int,
        nargs=2,
        default=(240, 480),
        metavar=("MIN", "MAX"),
        help="least and greatest side of an image [pixels, default: 240 480]",
    )


def run(args) -> int:
    from ssd.datasets.shapes import make_shapes

    make_shapes(
        args.folder,
        train_images=args.train_images,
        val_images=args.val_images,
        seed=args.seed,
        size_range=tuple(args.size_range),
    )
    return 0
