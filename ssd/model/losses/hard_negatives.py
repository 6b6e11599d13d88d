"""The loss of SSD with hard negative mining, in float32.

From the PyTorch reference of MLPerf Training v1.1, base_model.py (Loss).
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock

from ssd.config import LossConfig


class HardNegativesLoss(HybridBlock):
    """Per image: (cross-entropy of positives and hard negatives + smooth L1 of positives) /
    positives.

    Negatives are ranked by their cross-entropy; the first `negatives_per_positive` times the
    image's positives are kept, or all if there are fewer. An image without a positive box has loss
    0.
    """

    def __init__(self, config: LossConfig, **kwargs):
        super().__init__(**kwargs)
        self.negatives_per_positive = config.negatives_per_positive

    def hybrid_forward(self, F, offsets, logits, target_offsets, target_classes):
        """Offsets (B, N, 4), logits (B, N, classes), their targets (B, N, 4) and (B, N) with 0 for
        background, to the losses of class and offsets, (B,) float32 each."""
        offsets, logits = F.cast(offsets, "float32"), F.cast(logits, "float32")
        target_classes = F.cast(target_classes, "float32")
        positive = target_classes > 0
        positives = F.sum(positive, axis=1)
        cross_entropy = -F.pick(F.log_softmax(logits, axis=-1), target_classes, axis=-1)
        # Below every cross-entropy, so that positives rank last and none is counted as a negative
        # too.
        hardness = F.where(positive, -F.ones_like(positive), F.BlockGrad(cross_entropy))
        # Sorted twice, so that the right number is kept even among equal ones, whose order MXNet's
        # argsort does not define.
        rank = F.argsort(F.argsort(hardness, axis=1, is_ascend=False), axis=1)
        kept = F.broadcast_lesser(rank, F.reshape(self.negatives_per_positive * positives, (-1, 1)))
        chosen = F.BlockGrad(F.broadcast_maximum(positive, kept * (1 - positive)))
        distance = F.sum(F.smooth_l1(offsets - target_offsets, scalar=1.0), axis=2)
        divisor = F.maximum(positives, 1)
        return F.sum(cross_entropy * chosen, axis=1) / divisor, F.sum(
            distance * positive, axis=1
        ) / divisor
