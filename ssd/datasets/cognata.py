"""Cognata's folders converted to two COCO annotation files, training and validation; images stay
in their folders.

`ROOT/SCENARIO/CAMERA_png/STEM.png` and `ROOT/SCENARIO/CAMERA_ann/STEM.csv` are a frame. Which
objects and frames are kept, their order and the split follow the description of
mlcommons/abtf-ssd-pytorch at 2d8ee7d; but files are paired by their stems, not by their positions.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from array import array
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ssd.config import nearest
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.cognata_rows import CLASSES, FILTERS, BadInput, png_size, read_rows
from ssd.datasets.conversion import counted
from ssd.datasets.in_threads import in_threads
from ssd.errors import UserError
from ssd.files import replacing, write_errors

FILES = ("train.json", "val.json")
IMAGES, ANNOTATIONS = "_png", "_ann"  # what follows a camera's name in the names of its folders
TRAIN_SHARE, SEED = 0.8, 5  # of the published split
EVERY, FIRST = 5, 2  # of the split by scenario: every fifth, starting with the third
NO_PARTNER = {IMAGES: "image without its CSV file", ANNOTATIONS: "CSV file without its image"}
OTHER_FILE = "file that is neither PNG nor CSV"
NO_CAMERA = "scenario without a camera's folders"
RENAMED = "object whose class has another name"


class CameraFrame(NamedTuple):
    """A frame with an object. name: of its image, relative to ROOT; size: width, height [pixels];
    labels: from 1, k bytes; boxes: 4 k float64 xmin, ymin, xmax, ymax [pixels]."""

    name: str
    scenario: str
    size: Tuple[int, int]
    labels: bytes
    boxes: array


class ConversionCounts:
    """What was found during a conversion. frames: files with and without a partner, by stem; rows:
    of all CSV files; filtered: boxes left out by each of FILTERS; empty: frames without an object
    left.
    """

    def __init__(self):
        self.frames = self.rows = self.empty = 0
        self.filtered = [0] * len(FILTERS)
        self.bad_files, self.bad_rows, self.notes = Problems(), Problems(), Problems()


def find_scenarios(root, named: Optional[Sequence[str]] = None) -> List[str]:
    """Names of scenario folders in ROOT: those given, in this order, or all that hold a camera's
    folder, by name. UserError for one that does not exist."""
    found = [name for name in _folders(root) if _cameras(os.path.join(root, name))]
    if not found:
        own = _cameras(root)
        raise UserError(
            f"{root}: "
            + (
                f"holds {own[0]}{IMAGES} or {own[0]}{ANNOTATIONS} itself; give the folder above"
                if own
                else f"none of its folders holds a folder CAMERA{IMAGES}"
            )
        )
    return _chosen("--scenarios", named, found, root)


def find_cameras(
    root, scenarios: Sequence[str], named: Optional[Sequence[str]] = None
) -> List[str]:
    """Names of the cameras: those given, in this order, or all that any of the scenarios has, by
    name. UserError for a given one that a scenario does not have."""
    by_scenario = {scenario: _cameras(os.path.join(root, scenario)) for scenario in scenarios}
    cameras = _chosen("--cameras", named, sorted(set().union(*by_scenario.values())), root)
    for camera in cameras if named else ():
        for scenario in scenarios:
            for part in (IMAGES, ANNOTATIONS):
                path = os.path.join(root, scenario, camera + part)
                if not os.path.isdir(path):
                    raise UserError(f"--cameras {camera}: no folder {path}")
    return cameras


def _chosen(flag: str, named, found: List[str], root) -> List[str]:
    if not named:
        return found
    named = [name.rstrip("/") for name in named]  # a shell completes folders with a slash
    for name in named:
        if name not in found:
            raise UserError(f"{flag} {name}: not in {root}{nearest(name, found)}")
        if named.count(name) > 1:
            raise UserError(f"{flag} {name}: given twice")
    return named


def _folders(path) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise UserError(f"folder {path}: cannot be read: {error.strerror}") from None


def _cameras(path) -> List[str]:
    """Names of cameras with a folder of images or of annotations; `CAMERA_ann_laneline` and the
    like do not count."""
    return sorted(
        {
            name[: -len(part)]
            for name in _folders(path)
            for part in (IMAGES, ANNOTATIONS)
            if name.endswith(part) and name != part
        }
    )


def read_frames(
    root,
    scenarios: Sequence[str],
    cameras: Sequence[str],
    counts: ConversionCounts,
    clip: bool = False,
    threads: int = 0,
    progress: Optional[Callable] = None,
) -> List[CameraFrame]:
    """The frames that have an object, in the published order: scenario and camera as given, stem by
    name.

    clip: see cognata_rows.read_rows. Bad files and rows are left out and counted. progress: called
    with (frames done, frames). UserError for a folder that cannot be read.
    """
    listed = list(_list_frames(root, scenarios, cameras, counts))
    results: List[object] = [None] * len(listed)

    def work(index):
        scenario, name, image, table = listed[index]
        try:
            size = png_size(image)
            rows = read_rows(table, size, clip)
        except BadInput as bad:
            results[index] = bad.args
            return
        results[index] = (
            CameraFrame(
                name,
                scenario,
                size,
                bytes(rows.labels),
                array("d", [side for box in rows.boxes for side in box]),
            ),
            rows.rows,
            rows.filtered,
            rows.problems,
            rows.renamed,
        )

    in_threads(
        lambda: work, len(listed), threads, progress and (lambda done: progress(done, len(listed)))
    )
    frames = []
    for result in results:  # in order, whichever thread was first
        if len(result) == 2:
            counts.bad_files.add(*result)
            continue
        frame, rows, filtered, problems, renamed = result
        counts.rows += rows
        counts.filtered = [sum(pair) for pair in zip(counts.filtered, filtered)]
        for kind, what in problems:
            counts.bad_rows.add(kind, what)
        if renamed:
            counts.notes.add(RENAMED, renamed[0], count=len(renamed))
        if frame.labels:
            frames.append(frame)
        else:
            counts.empty += 1
    return frames


def _list_frames(
    root, scenarios, cameras, counts: ConversionCounts
) -> Iterator[Tuple[str, str, str, str]]:
    """(scenario, name of the image relative to ROOT, path of the image, path of the CSV file) of
    each pair."""
    for scenario in scenarios:
        for camera in cameras:
            paths = {
                part: os.path.join(root, scenario, camera + part) for part in (IMAGES, ANNOTATIONS)
            }
            if not any(map(os.path.isdir, paths.values())):
                counts.notes.add(NO_CAMERA, f"{scenario} has no {camera}")
                continue
            stems = {
                part: _stems(paths[part], ending, counts.notes)
                if os.path.isdir(paths[part])
                else set()
                for part, ending in ((IMAGES, ".png"), (ANNOTATIONS, ".csv"))
            }
            both = stems[IMAGES] & stems[ANNOTATIONS]
            for part in (IMAGES, ANNOTATIONS):
                for stem in sorted(stems[part] - both):
                    counts.bad_files.add(NO_PARTNER[part], f"{stem} in {paths[part]}")
            counts.frames += len(stems[IMAGES] | stems[ANNOTATIONS])
            for stem in sorted(both):
                yield (
                    scenario,
                    f"{scenario}/{camera}{IMAGES}/{stem}.png",
                    os.path.join(paths[IMAGES], stem + ".png"),
                    os.path.join(paths[ANNOTATIONS], stem + ".csv"),
                )


def _stems(path, ending: str, notes: Problems) -> set:
    found = set()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.endswith(ending) and entry.is_file():
                    found.add(entry.name[: -len(ending)])
                elif not entry.name.startswith("."):
                    notes.add(OTHER_FILE, entry.path)
    except OSError as error:
        raise UserError(f"folder {path}: cannot be read: {error.strerror}") from None
    return found


def published_split(count: int) -> Tuple[List[int], List[int]]:
    """(training, validation): positions of `count` frames, shuffled by Python's own generator with
    the published seed, the first 80 %, rounded, for training. Both keep the shuffled order, from
    whose start others take subsets, such as the first 6,000 of validation."""
    order = list(range(count))
    random.Random(SEED).shuffle(order)
    train = round(TRAIN_SHARE * count)
    return order[:train], order[train:]


def validation_scenarios(scenarios: Sequence[str]) -> List[str]:
    """Every fifth scenario, starting with the third, or the last of two. They are sorted by what
    follows their numbers (road, weather, hour), then by number, so that a condition with five
    scenarios is on both sides."""
    ordered = sorted(scenarios, key=lambda name: (name.partition("_")[2], name))
    return ordered[FIRST::EVERY] or ordered[-1:]


def scenario_split(
    frames: Sequence[CameraFrame], validation: Sequence[str]
) -> Tuple[List[int], List[int]]:
    """(training, validation): positions of frames, in order; validation holds those of the given
    scenarios."""
    parts: Tuple[List[int], List[int]] = ([], [])
    for position, frame in enumerate(frames):
        parts[frame.scenario in validation].append(position)
    return parts


def write_parts(folder, frames: Sequence[CameraFrame], parts: Sequence[Sequence[int]]) -> List[str]:
    """Writes FILES to `folder`, both completely or none; returns lines about their content.
    UserError.

    An image's id is its position among all frames, from 1, a box's id its position among all boxes:
    a frame has the same id with every split. Categories are all of CLASSES, their ids the labels.
    """
    first_ids, following = [], 1
    for frame in frames:
        first_ids.append(following)
        following += len(frame.labels)
    targets = [os.path.join(folder, name) for name in FILES]
    with write_errors(f"--output {folder}", targets[0]), contextlib.ExitStack() as stack:
        os.makedirs(folder, exist_ok=True)
        for target, part in zip(targets, parts):
            partial = stack.enter_context(replacing(target))
            with open(partial, "x", encoding="ascii") as file:
                file.writelines(_json(frames, first_ids, part))
    return [
        line for target, part in zip(targets, parts) for line in _describe(target, frames, part)
    ]


def _json(frames, first_ids, part) -> Iterator[str]:
    """The content of a file in pieces."""
    yield '{"images":['
    for number, position in enumerate(part):
        frame = frames[position]
        yield '%s{"id":%d,"file_name":%s,"width":%d,"height":%d}' % (
            "," if number else "",
            position + 1,
            json.dumps(frame.name),
            *frame.size,
        )
    yield '],"annotations":['
    form = '{"id":%d,"image_id":%d,"category_id":%d,"bbox":[%r,%r,%r,%r],"area":%r,"iscrowd":0}'
    for number, position in enumerate(part):
        frame = frames[position]
        sides = iter(frame.boxes)
        rows = []
        for offset, (label, left, top, right, bottom) in enumerate(
            zip(frame.labels, sides, sides, sides, sides)
        ):
            width, height = right - left, bottom - top
            rows.append(
                form
                % (
                    first_ids[position] + offset,
                    position + 1,
                    label,
                    left,
                    top,
                    width,
                    height,
                    width * height,
                )
            )
        yield ("," if number else "") + ",".join(rows)
    categories = [
        {"id": label, "name": name, "supercategory": None}
        for label, (_, name) in enumerate(CLASSES, start=1)
    ]
    yield '],"categories":{}}}\n'.format(json.dumps(categories, separators=(",", ":")))


def _describe(target, frames, part) -> Iterator[str]:
    boxes = [0] * (len(CLASSES) + 1)
    scenarios: Dict[str, None] = {}
    for position in part:
        scenarios[frames[position].scenario] = None
        for label in frames[position].labels:
            boxes[label] += 1
    names = [name for _, name in CLASSES]
    yield (
        f"{target}: {counted(len(part), 'image')} of {counted(len(scenarios), 'scenario')}, "
        f"{sum(boxes)} boxes ("
        + ", ".join(f"{name} {count}" for name, count in zip(names, boxes[1:]) if count)
        + ")"
    )
    absent = [name for name, count in zip(names, boxes[1:]) if not count]
    if absent:
        yield f"{target}: no box of {', '.join(absent)}"
