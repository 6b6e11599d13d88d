"""Outcomes of commands: refusals, detections and scores."""

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES


def refusal(action):
    """The one line of a UserError, "" without one."""
    try:
        action()
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return ""


def to_detections(rows, images):
    return Detections(
        *([row[name] for row in rows] for name in ("image_id", "bbox", "score", "category_id")),
        images=images,
    )


def equal_stats(stats, expected):
    return np.allclose([stats[name] for name in STAT_NAMES], expected, atol=1e-9, rtol=0)
