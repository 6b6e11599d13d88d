"""`prepare-json.py --from cognata`: converts Cognata's folders of PNG and CSV files to two COCO
annotation files."""

from __future__ import annotations

import os

from ssd.config import nearest
from ssd.datasets.cognata import (
    FILES,
    ConversionCounts,
    find_cameras,
    find_scenarios,
    published_split,
    read_frames,
    scenario_split,
    validation_scenarios,
    write_parts,
)
from ssd.datasets.cognata_rows import FILTERS
from ssd.datasets.conversion import (
    MAX_BAD,
    ProgressLines,
    check_output,
    counted,
    refuse_bad,
)
from ssd.errors import UserError, log_line
from ssd.flag_types import positive, share

PUBLISHED, BY_SCENARIO = SPLITS = ("published", "scenario")


def add_arguments(parser) -> None:
    parser.add_argument(
        "input",
        metavar="ROOT",
        help="folder of the scenarios: ROOT/SCENARIO/CAMERA_png/STEM.png and "
        "ROOT/SCENARIO/CAMERA_ann/STEM.csv; file names in the output are relative to it",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help=f"where {' and '.join(FILES)} are written (the recipes expect ROOT/annotations)",
    )
    parser.add_argument(
        "--scenarios",
        nargs="+",
        metavar="NAME",
        help="these scenarios, in this order [default: all, by name]",
    )
    parser.add_argument(
        "--cameras",
        nargs="+",
        metavar="NAME",
        help="these cameras, in this order, which every scenario must have [default: all, by name]",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=PUBLISHED,
        help="published: frames shuffled with seed 5, 80 %% for training, so that neighbouring "
        "frames "
        "of one drive are on both sides; scenario: each scenario on one side [default: "
        f"{PUBLISHED}]",
    )
    parser.add_argument(
        "--val-scenarios",
        nargs="+",
        metavar="NAME",
        help=f"with --split {BY_SCENARIO}: those for validation [default: every fifth from the "
        "third on, sorted by road, weather, hour and number]",
    )
    parser.add_argument(
        "--clip",
        action="store_true",
        help="cut boxes that reach out of their image by more than a pixel, instead of leaving "
        "them out as bad",
    )
    parser.add_argument(
        "--max-bad",
        type=share,
        default=MAX_BAD,
        metavar="SHARE",
        help="bad files and rows are left out and counted; more than this share of all frames or "
        f"rows, and nothing is written (0: none at all) [default: {MAX_BAD:g}]",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=0,
        metavar="N",
        help="threads that read the files [default: 4 per core, 32 at most]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(options) -> None:
    """Converts; reports what was left out on standard error, what was written on standard output.
    UserError."""
    root, split = options.input, options.split
    if options.val_scenarios and split != BY_SCENARIO:
        raise UserError(
            f"--val-scenarios goes with --split {BY_SCENARIO}, not with --split {split}"
        )
    for name in FILES:
        check_output(os.path.join(options.output, name), options.overwrite)
    scenarios = find_scenarios(root, options.scenarios)
    cameras = find_cameras(root, scenarios, options.cameras)
    validation = _validation(scenarios, options.val_scenarios) if split == BY_SCENARIO else []
    counts = ConversionCounts()
    threads = options.jobs or min(32, 4 * len(os.sched_getaffinity(0)))
    frames = read_frames(
        root,
        scenarios,
        cameras,
        counts,
        options.clip,
        threads,
        ProgressLines(log_line, root, "frames read"),
    )
    refuse_bad(counts.bad_files, counts.frames, "frames", options.max_bad, log_line)
    refuse_bad(counts.bad_rows, counts.rows, "rows", options.max_bad, log_line)
    for line in counts.notes.lines():
        log_line(f"note: {line}")
    parts = (
        scenario_split(frames, validation) if split == BY_SCENARIO else published_split(len(frames))
    )
    if not all(parts):
        raise UserError(
            f"{root}: of {counts.frames} frames {len(frames)} have an object, and of these "
            f"{len(parts[0])} would be for training and {len(parts[1])} for validation; both need "
            "one"
        )
    lines = write_parts(options.output, frames, parts)
    print(
        f"{root}: {counted(counts.frames, 'frame')} of {counted(len(scenarios), 'scenario')} and "
        f"{counted(len(cameras), 'camera')}, {counts.empty} without an object left"
    )
    print(
        f"{root}: {counted(counts.rows, 'row')}; left out by the filters: "
        + ", ".join(f"{count} x {reason}" for count, reason in zip(counts.filtered, FILTERS))
    )
    if split == BY_SCENARIO:
        print(f"{root}: for validation: {', '.join(validation)}")
    print("\n".join(lines))


def _validation(scenarios, named) -> list:
    validation = [name.rstrip("/") for name in named] if named else validation_scenarios(scenarios)
    for name in validation:
        if name not in scenarios:
            raise UserError(
                f"--val-scenarios {name}: not one of the {len(scenarios)} scenarios"
                f"{nearest(name, scenarios)}"
            )
    if set(validation) == set(scenarios):
        raise UserError(
            f"--split {BY_SCENARIO}: no scenario is left for training, of {', '.join(scenarios)}"
        )
    return validation
