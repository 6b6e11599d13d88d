"""Box arithmetic on NumPy arrays.

Formats, named after their four numbers: ltrb = left, top, right, bottom; cxcywh = centre and size;
xywh = left, top and size (COCO's). The unit is the caller's; conversions keep dtype and shape (...,
4).
"""

from __future__ import annotations

import numpy as np


def cxcywh_to_ltrb(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) cxcywh to (..., 4) ltrb."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def ltrb_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) ltrb to (..., 4) xywh, with w = r - l (no pixel added, as in the PyTorch
    reference)."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
