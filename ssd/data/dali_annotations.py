"""The annotation file that DALI's readers.coco reads, written from a checked data set."""

from __future__ import annotations

import json
import os

import numpy as np

from ssd.files import replacing, write_errors

ENTRIES = 4096  # images or boxes of the file that are in memory at a time


def write_dali_annotations(dataset, indices, path) -> None:
    """Writes the images `indices` of a CocoDataset and their boxes as a minimal COCO file for DALI.

    Image ids are positions in the dataset: DALI keeps ids in 32 bits, and reads the images in
    ascending order of id, whatever their order in the file (so: in the order of the dataset).
    Categories are numbered 1 to k in the dataset's order; boxes are xywh in pixels, inside the
    image in float32 too.

    Measured with DALI 1.53 on a CPU (readers.coco and random_bbox_crop):
    - a label is 1 + the position of its category in `categories`, whatever the ids are;
    - boxes with a side below size_threshold (default 0.1 pixel) are dropped without a message: 0
      keeps them, as all of this file have an area;
    - crowds are read like any box (this file does not mark them: the reference trains on them);
    - images without a box are read, with empty boxes and labels, unless skip_empty=True;
    - a box 0.001 pixel outside gives ratios above 1 without a message, and random_bbox_crop aborts
      on them, even by the last bit of float32; it accepts images without a box.

    Raises UserError if the file cannot be written.
    """
    indices = np.unique(np.asarray(indices, np.int64))
    assert not len(indices) or 0 <= indices[0] <= indices[-1] < dataset.num_images
    # Not synced to the disc: only this run uses the file, and it has 90 MB for COCO on every rank.
    with write_errors(os.fspath(path), path), replacing(path, synced=False) as partial:
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(_json(dataset, indices))


def _json(dataset, indices: np.ndarray):
    """The file's content in pieces, with few of its entries in memory at a time: json.dumps of
    COCO's 860,000 boxes at once takes four times as long, and 0.8 GB."""
    chosen = np.zeros(dataset.num_images, bool)
    chosen[indices] = True
    rows = np.flatnonzero(chosen[dataset.box_image])
    images, labels = dataset.box_image[rows], dataset.box_classes[rows]
    xywh = float32_xywh(dataset.boxes_ltrb[rows], dataset.sizes[images])
    # Escapes are safe: DALI 1.53 reads them, quotes and umlauts in names too.
    yield '{"images":['
    for part in _parts(len(indices)):
        names = [json.dumps(dataset.file_names[index]) for index in indices[part].tolist()]
        yield _entries(
            '{"id":%d,"file_name":%s,"width":%d,"height":%d}',
            part,
            indices[part],
            names,
            *dataset.sizes[indices[part]].T,
        )
    yield '],"annotations":['
    for part in _parts(len(rows)):  # nine digits are enough for a float32
        yield _entries(
            '{"id":%d,"image_id":%d,"category_id":%d,"bbox":[%.9g,%.9g,%.9g,%.9g],"iscrowd":0}',
            part,
            rows[part],
            images[part],
            labels[part],
            *xywh[part].T,
        )
    categories = [
        {"id": 1 + index, "name": name} for index, name in enumerate(dataset.category_names)
    ]
    yield f'],"categories":{json.dumps(categories)}}}'


def _parts(count: int):
    return [slice(start, min(start + ENTRIES, count)) for start in range(0, count, ENTRIES)]


def _entries(form: str, part: slice, *columns) -> str:
    """One entry of `form` per row of `columns`, after a comma except in the first part."""
    columns = [column if isinstance(column, list) else column.tolist() for column in columns]
    text = ",".join([form] * len(columns[0])) % tuple(
        value for row in zip(*columns) for value in row
    )
    return "," * (part.start > 0) + text


def float32_xywh(ltrb: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes inside their images, (m, 4) ltrb float64 pixels, as (m, 4) xywh float32 pixels that
    stay inside.

    sizes: (m, 2) width, height in pixels. In float32, both (x + w) / width and x / width + w /
    width are at most 1: widths are reduced by the last bit until both hold.
    """
    side = sizes.astype(np.float32)
    corner = ltrb[:, :2].astype(np.float32)
    extent = (ltrb[:, 2:] - corner).astype(np.float32)
    while True:
        over = (((corner + extent) / side) > 1) | ((corner / side + extent / side) > 1)
        if not over.any():
            break
        extent[over] = np.nextafter(extent[over], np.float32(0))
    assert (extent > 0).all(), "load_coco rejects boxes that are empty in float32"
    return np.concatenate([corner, extent], axis=1)
