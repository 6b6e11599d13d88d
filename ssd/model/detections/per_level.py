"""RetinaNet's detections from the network's output: the best candidates of each feature map, then
suppression per class.

From the PyTorch reference of MLPerf Training v2.0 to v5.1 (single_stage_detector/ssd/model:
postprocess_detections).
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import DefaultBoxConfig, DetectionConfig
from ssd.model.detections.gather import gather

MAX_LOG_SIZE = math.log(1000 / 16)  # of a box's growth


class PerLevelDetections(HybridBlock):
    """Offsets (B, N, 4) and logits (B, N, classes) to rows (B, K, 6), best score first, K =
    boxes_per_image at most: class (1..), score, ltrb in shares of the image, clipped. A row without
    a detection has class and score -1.

    Of each map the `candidates_per_map` best pairs of box and class above the threshold enter
    suppression. They are searched among as many boxes, those with the highest score in any class,
    so that no sort covers all pairs: every one of the best pairs belongs to one of these boxes.
    (Among equal scores at that limit, any may be taken.)
    """

    def __init__(
        self,
        pixel_boxes_cxcywh: np.ndarray,
        boxes_per_map: Sequence[int],
        classes: int,
        image_size,
        boxes: DefaultBoxConfig,
        config: DetectionConfig,
        **kwargs,
    ):
        """pixel_boxes_cxcywh: default boxes (N, 4) float32 in pixels, where suppression works.
        classes: without the background. image_size: height, width [pixels]."""
        super().__init__(**kwargs)
        self.center_variance, self.size_variance = boxes.center_variance, boxes.size_variance
        self.config, self.boxes_per_map, self.classes = config, tuple(boxes_per_map), classes
        self.height, self.width = image_size
        candidates = sum(min(config.candidates_per_map, count * classes) for count in boxes_per_map)
        self.kept = min(config.boxes_per_image, candidates)
        with self.name_scope():
            self.default_boxes = self.params.get_constant("default_boxes", pixel_boxes_cxcywh)

    def hybrid_forward(self, F, offsets, logits, default_boxes):
        config = self.config
        best = F.max(logits, axis=2)
        parts, start = [], 0
        for count in self.boxes_per_map:
            parts.append(self.candidates(F, logits, best, start, count))
            start += count
        score, box, label = (F.concat(*column, dim=1) for column in zip(*parts))  # (B, M) each
        score = F.sigmoid(F.cast(score, "float32"))
        score = F.where(score > config.score_threshold, score, -F.ones_like(score))
        boxes = self.decode(
            F, F.cast(gather(F, offsets, box), "float32"), F.take(default_boxes, box, axis=0)
        )
        rows = F.concat(F.expand_dims(label, 2), F.expand_dims(score, 2), boxes, dim=2)
        rows = F.contrib.box_nms(
            rows,
            overlap_thresh=config.nms_iou,
            valid_thresh=0,
            coord_start=2,
            score_index=1,
            id_index=0,
        )
        kept, index = F.topk(
            F.reshape(F.slice_axis(rows, axis=2, begin=1, end=2), (0, -1)),
            k=self.kept,
            axis=1,
            ret_typ="both",
        )
        rows = gather(F, rows, index)
        found = kept > 0
        label = F.where(
            found,
            F.reshape(F.slice_axis(rows, axis=2, begin=0, end=1), (0, -1)) + 1,
            -F.ones_like(kept),
        )
        sides = [
            F.slice_axis(rows, axis=2, begin=2 + edge, end=3 + edge) / side
            for edge, side in enumerate((self.width, self.height) * 2)
        ]
        return F.concat(F.expand_dims(label, 2), F.expand_dims(kept, 2), *sides, dim=2)

    def candidates(self, F, logits, best, start: int, count: int):
        """Logits, boxes (from 0 over all maps) and classes (from 0) of a map's candidates, (B,
        candidates) each."""
        wanted = min(self.config.candidates_per_map, count * self.classes)
        best = F.slice_axis(best, axis=1, begin=start, end=start + count)
        boxes = start + F.topk(best, k=min(wanted, count), axis=1, ret_typ="indices")
        among = F.reshape(gather(F, logits, boxes), (0, -1))
        score, pair = F.topk(among, k=wanted, axis=1, ret_typ="both")
        row = F.floor(pair / self.classes)
        box = F.reshape(gather(F, F.expand_dims(boxes, 2), row), (0, -1))
        return score, box, pair - row * self.classes

    def decode(self, F, offsets, boxes):
        """Encoded offsets (B, M, 4) of boxes (B, M, 4) cxcywh to ltrb (B, M, 4), clipped to the
        image [pixels]."""
        center, size = (F.slice_axis(boxes, axis=2, begin=first, end=first + 2) for first in (0, 2))
        center = (
            F.slice_axis(offsets, axis=2, begin=0, end=2) * self.center_variance * size + center
        )
        grown = F.exp(
            F.minimum(
                F.slice_axis(offsets, axis=2, begin=2, end=4) * self.size_variance, MAX_LOG_SIZE
            )
        )
        half = grown * size / 2
        corners = F.concat(center - half, center + half, dim=2)
        return F.concat(
            *[
                F.clip(F.slice_axis(corners, axis=2, begin=index, end=index + 1), 0, side)
                for index, side in enumerate((self.width, self.height) * 2)
            ],
            dim=2,
        )
