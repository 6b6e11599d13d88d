"""From the network's output to detections: softmax, decoding, non-maximum suppression per class.

From the PyTorch reference of MLPerf Training v1.1, utils.py (Encoder.decode_batch). MXNet
submissions keep only the best 200 boxes over all classes before suppression, which changes the
result; this module does not.
"""

from __future__ import annotations

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import DefaultBoxConfig, DetectionConfig
from ssd.model.detections.gather import gather

MAX_LOG_SIZE = 6.9  # log(1000)


def decode_boxes(F, offsets, default_boxes, center_variance: float, size_variance: float):
    """Encoded offsets (B, N, 4) of default boxes (1, N, 4) cxcywh to ltrb (B, N, 4)."""
    center = F.slice_axis(default_boxes, axis=2, begin=0, end=2)
    size = F.slice_axis(default_boxes, axis=2, begin=2, end=4)
    moved = F.slice_axis(offsets, axis=2, begin=0, end=2) * center_variance
    center = F.broadcast_add(F.broadcast_mul(moved, size), center)
    # An untrained network's offsets can overflow exp; no box is a thousand times its default box.
    grown = F.exp(
        F.minimum(F.slice_axis(offsets, axis=2, begin=2, end=4) * size_variance, MAX_LOG_SIZE)
    )
    half = F.broadcast_mul(grown, size) / 2
    return F.concat(center - half, center + half, dim=2)


class PerClassDetections(HybridBlock):
    """Offsets (B, N, 4) and logits (B, N, classes) to rows (B, K, 6), best score first, K =
    boxes_per_image at most: class (1..), score, ltrb in shares of the image (not clipped). A row
    without a detection has class and score -1."""

    def __init__(
        self,
        default_boxes_cxcywh: np.ndarray,
        num_classes: int,
        boxes: DefaultBoxConfig,
        config: DetectionConfig,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.center_variance, self.size_variance = boxes.center_variance, boxes.size_variance
        self.config = config
        self.kept_per_class = min(config.boxes_per_class, len(default_boxes_cxcywh))
        self.kept = min(config.boxes_per_image, self.kept_per_class * (num_classes - 1))
        with self.name_scope():
            self.default_boxes = self.params.get_constant(
                "default_boxes", default_boxes_cxcywh[None]
            )

    def hybrid_forward(self, F, offsets, logits, default_boxes):
        offsets, logits = F.cast(offsets, "float32"), F.cast(logits, "float32")
        config = self.config
        boxes = decode_boxes(F, offsets, default_boxes, self.center_variance, self.size_variance)
        scores = F.slice_axis(F.softmax(logits, axis=-1), axis=2, begin=1, end=None)
        scores = F.transpose(scores, (0, 2, 1))  # (B, classes - 1, N)
        scores = F.where(scores > config.score_threshold, scores, -F.ones_like(scores))
        kept = self.kept_per_class
        scores, index = F.topk(scores, k=kept, axis=2, ret_typ="both")  # (B, classes - 1, kept)
        boxes = gather(F, boxes, F.reshape(index, (0, -1)))  # (B, (classes - 1) * kept, 4)
        rows = F.concat(F.reshape(scores, (-1, kept, 1)), F.reshape(boxes, (-1, kept, 4)), dim=2)
        # box_nms drops IoU > threshold; the reference drops IoU >= threshold.
        threshold = float(np.nextafter(np.float32(config.nms_iou), np.float32(0)))
        rows = F.contrib.box_nms(
            rows, overlap_thresh=threshold, valid_thresh=0, coord_start=1, score_index=0
        )
        rows = F.reshape_like(
            F.reshape(rows, (-1, 5)),
            F.reshape(index, (0, -1)),
            lhs_begin=0,
            lhs_end=1,
            rhs_begin=0,
            rhs_end=2,
        )  # (B, (classes - 1) * kept, 5)
        scores = F.reshape(F.slice_axis(rows, axis=2, begin=0, end=1), (0, -1))
        best, index = F.topk(scores, k=self.kept, axis=1, ret_typ="both")
        boxes = F.slice_axis(gather(F, rows, index), axis=2, begin=1, end=5)
        found = best > 0
        label = F.where(found, F.floor(index / kept) + 1, -F.ones_like(index))
        return F.concat(F.expand_dims(label, 2), F.expand_dims(best, 2), boxes, dim=2)
