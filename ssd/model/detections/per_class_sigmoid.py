"""MindCV's detections from the network's output: a sigmoid per class, suppression per class in
pixels.

Ported by description from mindspore-lab/mindcv, examples/det/ssd.
"""

from __future__ import annotations

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import DefaultBoxConfig, DetectionConfig
from ssd.model.detections.gather import gather
from ssd.model.detections.per_class import decode_boxes


class PerClassSigmoidDetections(HybridBlock):
    """Offsets (B, N, 4), logits (B, N, classes), background first, and optionally the original
    images' sizes (B, 2), width and height [pixels], by default those of the network's input, to
    rows (B, K, 6), best score first, K = boxes_per_image at most: class (1..), score, ltrb in
    shares of the image, clipped. A row without a detection has class and score -1.

    Suppression counts pixels as older COCO tools did: a box from 3 to 5 is three pixels wide. So it
    depends on the size of the image.
    """

    in_pixels = True  # takes the sizes of the original images

    def __init__(
        self,
        default_boxes_cxcywh: np.ndarray,
        num_classes: int,
        image_size,
        boxes: DefaultBoxConfig,
        config: DetectionConfig,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.variances, self.config = (boxes.center_variance, boxes.size_variance), config
        self.height, self.width = image_size
        self.entering = min(config.boxes_per_class, len(default_boxes_cxcywh))
        self.kept_per_class = min(config.kept_per_class, self.entering)
        self.kept = min(config.boxes_per_image, self.kept_per_class * (num_classes - 1))
        with self.name_scope():
            self.default_boxes = self.params.get_constant(
                "default_boxes", default_boxes_cxcywh[None]
            )

    def hybrid_forward(self, F, offsets, logits, sizes=None, default_boxes=None):
        offsets, logits = F.cast(offsets, "float32"), F.cast(logits, "float32")
        config, entering = self.config, self.entering
        boxes = F.clip(decode_boxes(F, offsets, default_boxes, *self.variances), 0, 1)
        scores = F.transpose(F.sigmoid(F.slice_axis(logits, axis=2, begin=1, end=None)), (0, 2, 1))
        scores = F.where(
            scores > config.score_threshold, scores, -F.ones_like(scores)
        )  # (B, classes - 1, N)
        scores, index = F.topk(scores, k=entering, axis=2, ret_typ="both")
        boxes = gather(F, boxes, F.reshape(index, (0, -1)))  # (B, (classes - 1) * k, 4)
        pixels = self._in_pixels(F, boxes, sizes)
        # One more pixel at the right and the bottom: the usual overlap of these boxes equals the
        # overlap of the others in that way of counting.
        far = F.slice_axis(pixels, axis=2, begin=2, end=4) + 1
        pixels = F.concat(F.slice_axis(pixels, axis=2, begin=0, end=2), far, dim=2)
        # Each row carries its position, since suppression sorts the rows.
        flat = F.reshape(scores, (0, -1))
        position = F.contrib.arange_like(F.slice_axis(flat, axis=0, begin=0, end=1), axis=1)
        position = F.broadcast_like(F.reshape(position, (1, -1)), flat)
        rows = F.concat(
            F.reshape(scores, (-1, entering, 1)),
            F.reshape(pixels, (-1, entering, 4)),
            F.reshape(position, (-1, entering, 1)),
            dim=2,
        )
        rows = F.contrib.box_nms(
            rows, overlap_thresh=config.nms_iou, valid_thresh=0, coord_start=1, score_index=0
        )
        left = F.reshape(F.slice_axis(rows, axis=2, begin=0, end=1), (-1, entering))
        best, order = F.topk(left, k=self.kept_per_class, axis=1, ret_typ="both")
        position = F.reshape(
            gather(F, F.slice_axis(rows, axis=2, begin=5, end=6), order), (-1, self.kept_per_class)
        )
        best, position = (
            F.reshape_like(part, scores, lhs_begin=0, lhs_end=1, rhs_begin=0, rhs_end=2)
            for part in (best, position)
        )  # (B, classes - 1, kept)
        best, order = F.topk(F.reshape(best, (0, -1)), k=self.kept, axis=1, ret_typ="both")
        position = F.reshape(
            gather(F, F.expand_dims(F.reshape(position, (0, -1)), 2), order), (0, -1)
        )
        found = best > 0
        position = F.where(found, position, F.zeros_like(position))
        boxes = gather(F, boxes, position)
        label = F.where(found, F.floor(position / entering) + 1, -F.ones_like(position))
        best = F.where(found, best, -F.ones_like(best))
        return F.concat(F.expand_dims(label, 2), F.expand_dims(best, 2), boxes, dim=2)

    def _in_pixels(self, F, boxes, sizes):
        if sizes is None:
            return F.concat(
                *[
                    F.slice_axis(boxes, axis=2, begin=index, end=index + 1) * side
                    for index, side in enumerate((self.width, self.height) * 2)
                ],
                dim=2,
            )
        return F.broadcast_mul(boxes, F.expand_dims(F.concat(sizes, sizes, dim=1), 1))
