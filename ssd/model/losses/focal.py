"""RetinaNet's losses in float32: the focal loss of every class of every anchor, and L1 of the
positives' boxes.

From the PyTorch reference of MLPerf Training v2.0 to v5.1 (single_stage_detector/ssd/model); the
focal loss: Lin et al., 2017.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock

from ssd.config import LossConfig


class FocalLoss(HybridBlock):
    """Per image: sum over all anchors that are not ignored and all classes of alpha_t (1 -
    p_t)^gamma log(1 / p_t), and the sum of |offset - target| over the positives, each divided by
    the number of positives, or 1 if there is none.

    The gradient of the first is computed in the forward pass: so the backward pass keeps only one
    array of the shape of the logits, the largest of the detector, besides the logits themselves. It
    is attached through a carrier, a term whose derivative it is and whose value is subtracted
    again.
    """

    def __init__(self, config: LossConfig, classes: int, background: bool = False, **kwargs):
        """classes: logits per anchor. background: whether the first of them is the background's."""
        super().__init__(**kwargs)
        self.alpha, self.gamma, self.classes = config.focal_alpha, config.focal_gamma, classes
        self._first = 0 if background else 1  # class of the first logit

    def hybrid_forward(self, F, offsets, logits, target_offsets, target_classes):
        """Offsets (B, N, 4), logits (B, N, classes), their targets (B, N, 4) and (B, N): class from
        1, 0 background, -1 ignored; to the losses of classes and offsets, (B,) float32 each."""
        offsets, logits = F.cast(offsets, "float32"), F.cast(logits, "float32")
        target_classes = F.cast(target_classes, "float32")
        positive = target_classes > 0
        divisor = self._divisor(F, positive)
        classes = self._classes(F, logits, target_classes, divisor)
        distance = F.sum(self._distance(F, offsets - target_offsets), axis=2)
        return classes, F.sum(distance * positive, axis=1) / divisor

    def _divisor(self, F, positive):
        """(B,) of positive (B, N)."""
        return F.maximum(F.sum(positive, axis=1), 1)

    def _distance(self, F, difference):
        return F.abs(difference)

    def _classes(self, F, logits, target_classes, divisor):
        alpha, gamma = self.alpha, self.gamma
        # -1 at an anchor's own class, 1 elsewhere: the logit times this is that of being wrong.
        wrong = F.BlockGrad(logits) * self._at_targets(F, target_classes, 1.0, -1.0)
        # Activation uses oneDNN on a CPU: a seventh of the time that F.sigmoid takes.
        error = F.Activation(wrong, act_type="sigmoid")
        loss = F.Activation(wrong, act_type="softrelu")  # log(1 + exp(wrong)) = log(1 / p_t)
        product = error * loss
        terms = product * error if gamma == 2 else loss * error**gamma
        # The derivative of error^gamma loss by x is sign error^gamma (error + gamma (1 - error)
        # loss).
        slope = gamma * (loss - product) + error
        slope = F.BlockGrad(slope * error * error if gamma == 2 else slope * error**gamma)
        # First with (1 - alpha) and the sign + everywhere; then corrected at each anchor's own
        # class, where they are alpha and -. In this order the arrays of the logits' shape need the
        # memory of three.
        own = F.maximum(target_classes - self._first, 0)
        chosen = target_classes >= self._first
        carrier = -F.pick(logits, own, axis=2) * F.BlockGrad(F.pick(slope, own, axis=2)) * chosen
        value = (2 * alpha - 1) * F.pick(terms, own, axis=2) * chosen + (1 - alpha) * self._sum(
            F, terms
        )
        total = carrier - F.BlockGrad(carrier) + F.BlockGrad(value)
        carrier = (1 - alpha) * self._sum(F, logits * slope)
        total = total + (carrier - F.BlockGrad(carrier))
        return F.sum(
            total * F.broadcast_div(target_classes >= 0, F.expand_dims(divisor, 1)), axis=1
        )

    def _at_targets(self, F, target_classes, others: float, target: float):
        """(B, N, classes): `target` at each anchor's own class, `others` at the other classes."""
        return F.one_hot(
            target_classes - self._first, depth=self.classes, on_value=target, off_value=others
        )

    def _sum(self, F, terms):
        """(B, N, classes) summed over the classes, (B, N). As a matrix product it takes a fifteenth
        of the time of MXNet's sum on a CPU."""
        ones = F.ones((1, self.classes))
        return F.reshape(
            F.FullyConnected(terms, ones, num_hidden=1, no_bias=True, flatten=False), (0, -1)
        )


class FocalBatchLoss(FocalLoss):
    """MindCV's: the background is a class like the others; smooth L1; each image's sums are divided
    by the mean number of positives of the batch's images, so that the mean over the images is the
    batch's sum over the batch's positives. (MindCV divides by 0 if no image has any; this by the
    number of images.)"""

    def __init__(self, config: LossConfig, classes: int, **kwargs):
        super().__init__(config, classes, background=True, **kwargs)

    def _divisor(self, F, positive):
        own = F.sum(positive, axis=1)
        mean = F.mean(own)
        return F.broadcast_add(F.zeros_like(own), mean + (mean == 0))

    def _distance(self, F, difference):
        return F.smooth_l1(difference, scalar=1.0)
