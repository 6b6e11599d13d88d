"""RetinaNet's losses in float32: the focal loss of every class of every anchor, and L1 of the positives' boxes.

From the PyTorch reference of MLPerf Training v2.0 to v5.1 (single_stage_detector/ssd/model); the focal loss: Lin et
al., 2017.
"""
from __future__ import annotations

from mxnet.gluon import HybridBlock

from ssd.config import LossConfig


class FocalLoss(HybridBlock):
    """Per image: sum over all anchors that are not ignored and all classes of alpha_t (1 - p_t)^gamma log(1 / p_t), and
    the sum of |offset - target| over the positives, each divided by the number of positives, or 1 if there is none.

    The gradient of the first is computed beside it, in the forward pass: what the backward pass needs of the logits,
    the largest arrays of the detector, is one array of their shape, where autograd keeps five.
    """

    def __init__(self, config: LossConfig, classes: int, **kwargs):
        """classes: without the background, which has no logit."""
        super().__init__(**kwargs)
        self.alpha, self.gamma, self.classes = config.focal_alpha, config.focal_gamma, classes

    def hybrid_forward(self, F, offsets, logits, target_offsets, target_classes):
        """Offsets (B, N, 4), logits (B, N, classes), their targets (B, N, 4) and (B, N): class from 1, 0 background, -1
        ignored; to the losses of classes and offsets, (B,) float32 each."""
        offsets, logits = F.cast(offsets, "float32"), F.cast(logits, "float32")
        target_classes = F.cast(target_classes, "float32")
        positive = target_classes > 0
        divisor = F.maximum(F.sum(positive, axis=1), 1)
        classes = self._classes(F, logits, target_classes, positive, divisor)
        distance = F.sum(F.abs(offsets - target_offsets), axis=2)
        return classes, F.sum(distance * positive, axis=1) / divisor

    def _classes(self, F, logits, target_classes, positive, divisor):
        alpha, gamma, x = self.alpha, self.gamma, F.BlockGrad(logits)
        # -1 at the class of a positive anchor, 1 elsewhere: x times this is the logit of being wrong.
        wrong = x * self._at_targets(F, target_classes, 1.0, -1.0)
        error = F.sigmoid(wrong)
        loss = F.Activation(wrong, act_type="softrelu")    # log(1 + exp(wrong)) = log(1 / p_t)
        power = F.square(error) if gamma == 2 else error ** gamma
        counted = target_classes >= 0
        # (1 - alpha) everywhere, and what is to be added where it is alpha.
        value = (1 - alpha) * F.sum(power * loss, axis=2)
        own = F.pick(power * loss, F.maximum(target_classes - 1, 0), axis=2)
        value = value + (2 * alpha - 1) * own * positive
        value = F.sum(value * counted, axis=1) / divisor
        # The derivative of error^gamma loss by x is sign error^gamma (error + gamma (1 - error) loss).
        weight = self._at_targets(F, target_classes, 1 - alpha, -alpha)
        slope = power * (error + gamma * loss * (1 - error)) * weight
        slope = F.broadcast_mul(slope, F.expand_dims(F.broadcast_div(counted, F.expand_dims(divisor, 1)), 2))
        carrier = F.sum(F.sum(logits * F.BlockGrad(slope), axis=2), axis=1)
        return F.BlockGrad(value) + (carrier - F.BlockGrad(carrier))

    def _at_targets(self, F, target_classes, elsewhere: float, there: float):
        """(B, N, classes): `there` at each positive anchor's class, `elsewhere` else."""
        return F.one_hot(target_classes - 1, depth=self.classes, on_value=there, off_value=elsewhere)
