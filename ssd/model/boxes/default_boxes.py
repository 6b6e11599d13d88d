"""The default boxes of a single-shot detector.

Ported from the PyTorch reference of MLPerf Training v1.1, utils.py (DefaultBoxes), but listed cell
by cell: feature map, row, column, shape; this is the order in which the heads emit their
predictions. For images that are not square as in mlcommons/abtf-ssd-pytorch: sides in pixels, by
the image's width and height.
"""

from __future__ import annotations

import numpy as np

from ssd.model.boxes.ssd_sizes import SsdSizes


def default_boxes(sizes: SsdSizes, dtype=np.float32) -> np.ndarray:
    """All default boxes, (N, 4) cxcywh in [0, 1].

    Centre and size are each clipped to [0, 1], except with rules that do not clip; the ltrb boxes
    derived from them (`formats.cxcywh_to_ltrb`) may extend beyond the image and are not clipped.
    """
    image_height, image_width = sizes.image_size
    parts = []
    for (height, width), (row, column), shapes in zip(sizes.maps, sizes.steps, sizes.shapes()):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centers = np.stack(
            [(columns + 0.5) * column / image_width, (rows + 0.5) * row / image_height], axis=-1
        )
        cells = np.empty((height, width, len(shapes), 4))
        cells[..., :2] = centers[:, :, None]
        cells[..., 2:] = np.asarray(shapes)
        cells = cells.reshape(-1, 4)
        parts.append((np.clip(cells, 0, 1) if sizes.clipped else cells).astype(dtype))
    return np.concatenate(parts)
