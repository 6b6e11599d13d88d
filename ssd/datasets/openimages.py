"""Open Images' CSV files converted to one COCO annotation file, in the format that the MLPerf
benchmark trains on.

Ported from the description of that format, not from its tools: category ids are positions in the
class list from 0, images and annotations are numbered from 1, boxes are [XMin * W, YMin * H, (XMax
- XMin) * W, (YMax - YMin) * H] of the stored pixels, unrounded, area is width * height, group boxes
are crowds (iscrowd 1), and the five Is... flags are kept as booleans; -1, unknown, counts as true
as in the benchmark. The images are those with a box of the classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np

from ssd.datasets import openimages_sizes
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.openimages_boxes import FLAGS, GROUP, OpenImagesBoxes, id_text, read_boxes
from ssd.datasets.openimages_classes import label_positions, read_class_labels
from ssd.errors import UserError
from ssd.files import replacing, write_errors

_ENTRIES = 8192  # images or boxes that are in memory as text at a time
_BOOL = ("false", "true")


@dataclass
class Selection:
    """Boxes of some classes, and the images with such boxes. ids: ascending uint64 (n,); position:
    (m,) int32 of each box's image, ascending; boxes: in the file's order within an image; classes:
    the names by category id."""

    ids: np.ndarray
    position: np.ndarray
    boxes: OpenImagesBoxes
    classes: Sequence[str]


def select_boxes(
    boxes_csv,
    classes_csv,
    classes: Sequence[str],
    problems: Problems,
    max_images: Optional[int] = None,
    progress=None,
) -> Selection:
    """The boxes of `classes` (names, in the order of their ids) in a box file, and their images.

    max_images: only these images with the smallest ids, which are random: the same for everybody.
    Bad rows are left out and counted in `problems`. UserError if no box is left.
    """
    positions = label_positions(read_class_labels(classes_csv), classes, classes_csv)
    boxes = read_boxes(boxes_csv, positions, problems, progress)
    if not len(boxes.image):
        wrong = f" (left out: {problems.summary()})" if problems else ""
        raise UserError(
            f"{boxes_csv}: holds no box of the {len(classes)} classes in {boxes.rows} rows{wrong}"
        )
    # Rows of an image are adjacent in Open Images' own files, so runs are sorted, not rows.
    starts = np.flatnonzero(np.concatenate([[True], boxes.image[1:] != boxes.image[:-1]]))
    ids, run_position = np.unique(boxes.image[starts], return_inverse=True)
    position = np.repeat(
        run_position.astype(np.int32), np.diff(np.append(starts, len(boxes.image)))
    )
    boxes.image = ids[:0]  # replaced by ids and position
    if max_images is not None and len(ids) > max_images:
        ids = ids[:max_images]
        position = _keep(position < max_images, position, boxes)
    if (position[1:] < position[:-1]).any():
        position = _keep(np.argsort(position, kind="stable"), position, boxes)
    return Selection(ids, position, boxes, classes)


def _keep(index, position, boxes: OpenImagesBoxes) -> np.ndarray:
    """Selects boxes and their positions by index or mask, one column after the other to save
    memory."""
    boxes.ltrb, boxes.classes, boxes.flags = (
        boxes.ltrb[index],
        boxes.classes[index],
        boxes.flags[index],
    )
    return position[index]


def write_coco(
    selection: Selection,
    output,
    images,
    sizes_file,
    problems: Problems,
    threads: int = 0,
    progress=None,
) -> List[str]:
    """Writes `output`, completely or not at all; returns lines about its content. UserError.

    images, sizes_file, threads, progress: see openimages_sizes.image_sizes. Images without a
    readable file are left out with their boxes, and counted in `problems`.
    """
    sides = openimages_sizes.image_sizes(
        selection.ids, images, sizes_file, problems, threads, progress
    )
    present = sides.all(axis=1)
    if not present.any():
        raise UserError(
            f"{images or sizes_file}: none of the {len(present)} images with a box is present, the "
            f"first being {id_text(selection.ids[0])}.jpg"
        )
    number = np.cumsum(present, dtype=np.int32)
    rows = np.flatnonzero(present[selection.position])
    with write_errors(f"output {output}", output), replacing(output) as partial:
        with open(partial, "x", encoding="ascii") as file:
            file.writelines(_json(selection, sides, present, number, rows))
    flags = selection.boxes.flags[rows]
    lines = [
        f"{output}: {int(number[-1])} images, {len(rows)} boxes, {len(selection.classes)} "
        f"categories; {int((flags >> GROUP & 1).sum())} boxes are groups (iscrowd 1)"
    ]
    if selection.boxes.unknown:
        lines.append(
            f"{output}: {selection.boxes.unknown} boxes have a flag of -1 (unknown), which counts "
            "as true"
        )
    absent = len(selection.classes) - len(np.unique(selection.boxes.classes[rows]))
    if absent:
        lines.append(f"{output}: {absent} categories have no box")
    return lines


def _json(selection, sides, present, number, rows):
    """The file's content in pieces."""
    comma = ""
    yield '{"images":['
    for part in _parts(np.flatnonzero(present)):
        yield comma + ",".join(
            '{"id":%d,"file_name":"%016x.jpg","width":%d,"height":%d}' % entry
            for entry in zip(
                number[part].tolist(), selection.ids[part].tolist(), *sides[part].T.tolist()
            )
        )
        comma = ","
    form = (
        '{"id":%d,"image_id":%d,"category_id":%d,"bbox":[%r,%r,%r,%r],"area":%r,"iscrowd":%d'
        + "".join(f',"{name}":%s' for name in FLAGS)
        + "}"
    )
    comma, first = "", 1
    yield '],"annotations":['
    for part in _parts(rows):
        image, ltrb, flags = (
            selection.position[part],
            selection.boxes.ltrb[part],
            selection.boxes.flags[part],
        )
        side = sides[image].astype(np.float64)
        corner, extent = ltrb[:, :2] * side, (ltrb[:, 2:] - ltrb[:, :2]) * side
        columns = [
            number[image],
            selection.boxes.classes[part],
            *corner.T,
            *extent.T,
            extent[:, 0] * extent[:, 1],
            flags >> GROUP & 1,
        ]
        columns = [column.tolist() for column in columns]
        columns += [
            [_BOOL[bit] for bit in (flags >> index & 1).tolist()] for index in range(len(FLAGS))
        ]
        yield comma + ",".join(
            [form % entry for entry in zip(range(first, first + len(part)), *columns)]
        )
        comma, first = ",", first + len(part)
    categories = [
        {"id": index, "name": name, "supercategory": None}
        for index, name in enumerate(selection.classes)
    ]
    yield '],"categories":{}}}\n'.format(json.dumps(categories, separators=(",", ":")))


def _parts(rows: np.ndarray):
    return (rows[start : start + _ENTRIES] for start in range(0, len(rows), _ENTRIES))
