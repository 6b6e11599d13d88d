"""The random crop of SSD training, in NumPy, drawn from the caller's random numbers.

Ported by description from the MLPerf reference (mlcommons/training, single_stage_detector/ssd,
utils.py: SSDCropping), with the same distribution. DALI's random_bbox_crop has it too, but draws
from an internal state that cannot be set to a given step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssd.config import AugmentationConfig

# Windows checked at a time, for at least two choices. With one attempt per choice, a block of 4
# costs a third more time than one of 16, and one of 24 as much as one of 16.
BLOCK = 16


class Crop(NamedTuple):
    """anchor, shape: (2,) float64, left and top, width and height of the window, shares of the
    image; kept: (m,) bool, the boxes that stay; boxes: (kept, 4) float64 ltrb, clipped to the
    window, in shares of it."""

    anchor: np.ndarray
    shape: np.ndarray
    kept: np.ndarray
    boxes: np.ndarray


class RandomCrop:
    """`crop(boxes, random)`: a window of an image, by the rules below.

    One of "keep the whole image" and the least IoUs of `crop_min_iou` is chosen, each equally
    likely. Up to `crop_attempts` windows are then drawn: sides uniform in `crop_scale` (shares of
    the image's sides), rejected if width / height is outside `crop_aspect`; left and top uniform,
    with the window inside the image. The first window is taken whose IoU with **every** box is
    above the least IoU (0: any) and that holds the centre of a box, not on its edge. If there is
    none, it starts again with a new choice. Boxes whose centre is inside are kept.
    """

    def __init__(self, settings: AugmentationConfig):
        self._attempts = settings.crop_attempts
        self._choices = max(2, BLOCK // self._attempts)
        self._scale, self._aspect = settings.crop_scale, settings.crop_aspect
        self._least = np.array(
            [-np.inf] + [iou if iou > 0 else -np.inf for iou in settings.crop_min_iou]
        )

    def draws(self, random: np.random.Generator) -> np.ndarray:
        """A block of numbers in [0, 1), one row per choice: the choice, then width, height, left,
        top per attempt."""
        return random.random((self._choices, 1 + 4 * self._attempts))

    def __call__(self, boxes: np.ndarray, random: np.random.Generator) -> Crop:
        """`boxes`: (m, 4) float64 ltrb in [0, 1], m > 0. Takes as many blocks of `draws` as it
        needs."""
        assert len(boxes), "a window needs a box to keep"
        while True:
            numbers = self.draws(random)
            choices = (numbers[:, 0] * len(self._least)).astype(int)
            keep = bool((choices == 0).any())
            # Choices before the first "keep"
            tried = int((choices == 0).argmax()) if keep else len(choices)
            if tried:
                window = numbers[:tried, 1:].reshape(-1, 4).T
                sides = self._scale[0] + (self._scale[1] - self._scale[0]) * window[:2]
                anchors = window[2:] * (1 - sides)
                inside, taken = self._check(
                    boxes, anchors, sides, choices[:tried].repeat(self._attempts)
                )
                first = int(taken.argmax())
                if taken[first]:
                    anchor, shape, kept = anchors[:, first], sides[:, first], inside[first]
                    moved = (boxes[kept].reshape(-1, 2, 2) - anchor) / shape
                    return Crop(anchor, shape, kept, moved.clip(0, 1).reshape(-1, 4))
            if keep:
                return Crop(np.zeros(2), np.ones(2), np.ones(len(boxes), bool), boxes)

    def _check(self, boxes, anchors, sides, choices):
        """For n windows, anchors and sides (2, n), choices (n,): whether they hold the centre of
        each of m boxes (n, m), and whether they may be taken (n,)."""
        # x, y first: NumPy is slow if the last axis has only two elements.
        low, high = boxes.T.reshape(2, 2, 1, -1)
        near, far = anchors[:, :, None], (anchors + sides)[:, :, None]
        centre = (low + high) / 2
        within = (centre > near) & (centre < far)
        inside = within[0] & within[1]
        overlap = np.maximum(np.minimum(high, far) - np.maximum(low, near), 0)
        common, size = overlap[0] * overlap[1], high - low
        union = size[0] * size[1] + (sides[0] * sides[1])[:, None] - common
        aspect = sides[0] / sides[1]
        return inside, (
            (aspect >= self._aspect[0])
            & (aspect <= self._aspect[1])
            & inside.any(1)
            & (common > self._least[choices][:, None] * union).all(1)
        )
