"""The annotation file that DALI's readers.coco reads, written from a checked data set."""

from __future__ import annotations

import json
import os

import numpy as np

from ssd.errors import UserError


def write_dali_annotations(dataset, indices, path) -> None:
    """Writes the images `indices` of a CocoDataset and their boxes as a minimal COCO file for DALI.

    Image ids are positions in the dataset: DALI keeps ids in 32 bits, and it reads the images in ascending
    order of id whatever their order in the file (so here: in the order of the dataset). Categories are
    numbered 1 to k in the dataset's order; boxes are xywh in pixels, inside the image in float32 too.

    Measured with DALI 1.53 on a CPU (readers.coco and random_bbox_crop):
    - a label is 1 + the position of its category in `categories`, whatever the ids are;
    - boxes with a side below size_threshold (default 0.1 pixel) are dropped without a word: give 0 to keep
      them, as here all have an area;
    - crowds are read like any box (this file does not mark them: the reference trains on them);
    - images without a box are read, with empty boxes and labels, unless skip_empty=True;
    - a box 0.001 pixel outside gives ratios above 1 without a word, and random_bbox_crop aborts on
      them, be it by the last bit of float32; images without a box it takes.

    Raises UserError where the file cannot be written.
    """
    indices = np.unique(np.asarray(indices, np.int64))
    assert not len(indices) or 0 <= indices[0] <= indices[-1] < dataset.num_images
    chosen = np.zeros(dataset.num_images, bool)
    chosen[indices] = True
    rows = np.flatnonzero(chosen[dataset.box_image])
    xywh = float32_xywh(dataset.boxes_ltrb[rows], dataset.sizes[dataset.box_image[rows]])
    content = {
        "images": [{"id": index, "file_name": dataset.file_names[index], "width": width, "height": height}
                   for index, (width, height) in zip(indices.tolist(), dataset.sizes[indices].tolist())],
        "annotations": [{"id": row, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
                        for row, image, label, box in zip(
                            rows.tolist(), dataset.box_image[rows].tolist(),
                            dataset.box_classes[rows].tolist(), xywh.astype(np.float64).tolist())],
        "categories": [{"id": 1 + index, "name": name} for index, name in enumerate(dataset.category_names)],
    }
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                # C's encoder; escapes are safe: DALI 1.53 reads them, quotes and umlauts in names too
                file.write(json.dumps(content, separators=(",", ":")))
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None


def float32_xywh(ltrb: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes inside their images, (m, 4) ltrb float64 pixels, as (m, 4) xywh float32 pixels that stay inside.

    sizes: (m, 2) width, height in pixels. Whether right / width is computed in float32 as (x + w) / width or
    as x / width + w / width, it is at most 1: widths are made smaller by the last bit until both hold.
    """
    side = sizes.astype(np.float32)
    corner = ltrb[:, :2].astype(np.float32)
    extent = (ltrb[:, 2:] - corner).astype(np.float32)
    while True:
        over = (((corner + extent) / side) > 1) | ((corner / side + extent / side) > 1)
        if not over.any():
            break
        extent[over] = np.nextafter(extent[over], np.float32(0))
    assert (extent > 0).all(), "load_coco lets no box pass that is empty in float32"
    return np.concatenate([corner, extent], axis=1)
