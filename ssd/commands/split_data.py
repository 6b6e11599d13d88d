"""`python -m ssd split-data`: splits an annotation file into training and validation."""

from __future__ import annotations

from ssd.commandline import add_max_left_out

HELP = "split an annotation file into training and validation"


def add_arguments(parser) -> None:
    parser.add_argument("annotations", metavar="ANNOTATIONS", help="a COCO annotation file [.json]")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder for train.json and val.json; existing files are not overwritten",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="X",
        help="fraction of the images for validation [0..1, default: 0.1]",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="together with the images' ids it determines the split [default: 0]",
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        metavar="NAME",
        help="keep only these categories and the images with one of them [default: keep all]",
    )
    parser.add_argument(
        "--skip-bad-annotations",
        action="store_true",
        help="leave out bad entries, which training would refuse [default: refuse the file; with "
        "--categories, only if theirs are bad]",
    )
    add_max_left_out(parser)


def run(args) -> int:
    from ssd.datasets.split import split_file

    for line in split_file(
        args.annotations,
        args.output,
        args.val_fraction,
        args.seed,
        args.categories,
        args.skip_bad_annotations,
        args.max_left_out,
    ):
        print(line)
    return 0
