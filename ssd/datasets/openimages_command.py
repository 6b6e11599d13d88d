"""`prepare-json.py --from openimages`: converts Open Images' CSV files to one COCO annotation
file."""

from __future__ import annotations

import os

from ssd.datasets.annotation_checks import Problems
from ssd.datasets.conversion import MAX_BAD, ProgressLines, check_output, refuse_bad
from ssd.datasets.openimages import select_boxes, write_coco
from ssd.datasets.openimages_classes import in_order, mlperf_classes, read_class_list
from ssd.errors import UserError, log_line
from ssd.flag_types import positive, share


def add_arguments(parser) -> None:
    parser.add_argument(
        "input", metavar="BOXES.csv", help="oidv6-train-annotations-bbox.csv or the like"
    )
    parser.add_argument("output", metavar="OUTPUT.json", help="COCO annotation file to write")
    parser.add_argument(
        "--class-descriptions",
        required=True,
        metavar="CSV",
        help="labels and names: class-descriptions-boxable.csv, with or without column names",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="the image files, ID.jpg: their headers give the sizes; images without a file are "
        "left out and counted",
    )
    parser.add_argument(
        "--sizes",
        metavar="CSV",
        help="ImageID,Width,Height: known sizes are read from this file, new ones added, so that "
        "no image is read twice; without --images it must hold all",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="only these classes, numbered in the order of their names' bytes",
    )
    chosen.add_argument(
        "--class-list",
        metavar="FILE",
        help="one name per line, numbered from 0 in this order [default: the 264 of the MLPerf "
        "subset]",
    )
    parser.add_argument(
        "--max-images",
        type=positive,
        metavar="N",
        help="of the images with a box, the N with the smallest ids [default: all]",
    )
    parser.add_argument(
        "--max-bad",
        type=share,
        default=MAX_BAD,
        metavar="SHARE",
        help="bad rows are left out and counted; more than this share of all, and nothing is "
        f"written (0: none at all) [default: {MAX_BAD:g}]",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=0,
        metavar="N",
        help="threads that read image headers [default: 4 per core, 32 at most]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(options) -> None:
    """Converts; reports what was left out on standard error, what was written on standard output.
    UserError."""
    if not options.images and not options.sizes:
        raise UserError("--images or --sizes is needed: boxes are given in shares of the image")
    if not options.images and not os.path.exists(options.sizes):
        raise UserError(
            f"--sizes {options.sizes}: does not exist, and there are no --images to read sizes from"
        )
    check_output(options.output, options.overwrite)
    folder = os.path.dirname(os.path.abspath(options.output))
    if not os.path.isdir(folder):  # refused at once, not after ten minutes
        raise UserError(f"output {options.output}: no such folder {folder}")
    classes = (
        in_order(options.classes)
        if options.classes
        else read_class_list(options.class_list)
        if options.class_list
        else mlperf_classes()
    )
    for line in convert_files(
        options.input,
        options.class_descriptions,
        options.output,
        classes,
        options.images,
        options.sizes,
        max_images=options.max_images,
        max_bad=options.max_bad,
        threads=options.jobs,
        report=log_line,
    ):
        print(line)


def convert_files(
    boxes_csv,
    classes_csv,
    output,
    classes,
    images,
    sizes_file,
    *,
    max_images=None,
    max_bad=MAX_BAD,
    threads: int = 0,
    report,
) -> list:
    """Converts CSV files to the COCO file `output`; see openimages.select_boxes and write_coco.
    Returns their lines; `report` gets lines about what was left out, and progress. UserError."""
    problems = Problems()
    selection = select_boxes(
        boxes_csv,
        classes_csv,
        classes,
        problems,
        max_images,
        ProgressLines(report, boxes_csv, "bytes read"),
    )
    refuse_bad(problems, selection.boxes.rows, "rows", max_bad, report)
    problems = Problems()
    lines = write_coco(
        selection,
        output,
        images,
        sizes_file,
        problems,
        threads,
        ProgressLines(report, images, "headers read"),
    )
    for line in problems.lines():
        report(f"left out: {line}")
    return lines
