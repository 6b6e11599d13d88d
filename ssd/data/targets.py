"""Matched default boxes as dense arrays for the loss."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ssd.model.matching import Matches


def dense_targets(matches: Sequence[Matches], boxes: int):
    """Targets of a batch: offsets (batch, boxes, 4) float32 and classes (batch, boxes) int32, MXNet
    arrays in main memory, 0 where unmatched; classes -1 where ignored."""
    from ssd.data.bridge import new_array

    arrays = []
    for name, shape, dtype in (
        ("offsets", (boxes, 4), np.float32),
        ("classes", (boxes,), np.int32),
    ):
        array, memory = new_array((len(matches),) + shape, dtype)
        memory[:] = 0
        for sample, found in zip(memory, matches):
            sample[found.positions] = getattr(found, name)
            if name == "classes":
                sample[found.ignored] = -1
        arrays.append(array)
    return arrays
