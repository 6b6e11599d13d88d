"""Hard negative mining where many negatives are equally hard."""

import mxnet as mx
import numpy as np

from ssd.config import load_recipe
from ssd.model.losses.hard_negatives import HardNegativesLoss


def test_equal_negatives_are_kept_as_many_as_asked_for():
    """A uniform image: every negative costs the same, and three per positive count all the
    same."""
    config = load_recipe("ssd-resnet34-coco").loss
    logits = np.zeros((2, 50, 3), np.float32)
    classes = np.zeros((2, 50), np.int32)
    classes[0, 7], classes[1, [3, 9]] = 2, 1
    loss = HardNegativesLoss(config)
    loss.hybridize(static_alloc=True, static_shape=True)
    logits = mx.nd.array(logits)
    logits.attach_grad()
    with mx.autograd.record():
        class_loss, offset_loss = loss(
            mx.nd.zeros((2, 50, 4)),
            logits,
            mx.nd.zeros((2, 50, 4)),
            mx.nd.array(classes, dtype="int32"),
        )
    class_loss.backward()
    np.testing.assert_allclose(class_loss.asnumpy(), 4 * np.log(3), rtol=1e-5)
    assert (offset_loss.asnumpy() == 0).all()
    chosen = np.abs(logits.grad.asnumpy()).sum(2) > 0
    assert chosen.sum(1).tolist() == [4, 8] and chosen[0, 7] and chosen[1, 3] and chosen[1, 9]
