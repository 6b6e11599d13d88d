"""One training step: forward, backward, gradient average over ranks, update."""
from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config
from ssd.model.loss import SSDLoss


class NetworkWithLoss(HybridBlock):
    """Network and loss as one graph: images and targets to class and offset losses, (B,) float32 each."""

    def __init__(self, network: HybridBlock, loss: HybridBlock, **kwargs):
        super().__init__(**kwargs)
        self.network, self.loss = network, loss

    def hybrid_forward(self, F, images, offsets, classes):
        return self.loss(*self.network(images), offsets, classes)


class TrainingStep:
    """Trains `network` on one batch a call.

    SGD with the learning rate inside the momentum, weight decay on every parameter, no clipping.
    """

    def __init__(self, network: HybridBlock, config: Config, ranks):
        self.graph = NetworkWithLoss(network, SSDLoss(config.loss))
        self.graph.hybridize(static_alloc=True, static_shape=True)
        training = config.training
        half = config.model.dtype == "float16"
        self.scale = training.loss_scale if half else 1.0
        self.trainer = ranks.trainer(network.collect_params(), learning_rate=1.0, momentum=training.momentum,
                                     wd=training.weight_decay, multi_precision=half)

    def __call__(self, images, offsets, classes, learning_rate: float):
        """Returns the batch's class and offset losses, (B,) NDArrays; nothing waits for them here."""
        with mx.autograd.record():
            class_loss, offset_loss = self.graph(images, offsets, classes)
            total = (class_loss + offset_loss) * self.scale
        total.backward()
        self.trainer.set_learning_rate(learning_rate)
        self.trainer.step(len(images) * self.scale)
        return class_loss, offset_loss


def dry_run(step: TrainingStep, inference, network, config: Config, boxes: int, context) -> None:
    """Runs training and evaluation once on made-up images, so that memory and kernels are chosen before the clock
    starts; leaves no trace in weights, running statistics or momenta.

    Targets without a positive box make loss and gradients exactly 0, and the learning rate is 0.
    """
    before = {name: parameter.data(context).copy() for name, parameter in network.collect_params().items()}
    batch = config.training.batch_size
    noise = np.random.default_rng(0)

    def images(count):
        return mx.nd.array(noise.standard_normal(network.input_shape(count)), ctx=context, dtype=config.model.dtype)

    step(images(batch), mx.nd.zeros((batch, boxes, 4), ctx=context), 
         mx.nd.zeros((batch, boxes), ctx=context, dtype="int32"), 0.0)
    inference(images(config.evaluation.eval_batch_size)).wait_to_read()
    for name, parameter in network.collect_params().items():
        parameter.set_data(before[name])
    mx.nd.waitall()
