"""Our side of the comparisons: the network, training step and inference of `python -m ssd`, on
synthetic batches."""

from __future__ import annotations

from typing import Dict, Tuple

import numpy as np

POSITIVES = (5, 60)  # default boxes with an object, per image: drawn from this range
CANDIDATES = (
    400  # (box, class) pairs per image over the score threshold, about as a trained network has
)
CALIBRATED_IMAGES = 8  # of noise, whose statistics BatchNorms get
IGNORED = (20, 200)  # of a focal loss: default boxes between positives and background, per image


class OneRank:
    """What a TrainingStep asks of ssd.training.ranks.Ranks, without Horovod, which does not work in
    one process with PyTorch."""

    rank, size, local_rank, is_first = 0, 1, 0, True

    def trainer(self, parameters, optimizer):
        import mxnet as mx

        return mx.gluon.Trainer(parameters, optimizer, kvstore=None)

    def average_in_place(self, arrays, name) -> None:
        pass

    def broadcast_in_place(self, arrays, name) -> None:
        pass


def recipe(name: str, **values):
    """A recipe's settings, with single ones replaced."""
    from ssd.config import load_recipe

    return load_recipe(name).with_values(device="cpu", **values)


def synthetic_batch(config, boxes: int, batch_size: int) -> Dict[str, np.ndarray]:
    """images (B, 3, H, W) float32, normalised; offsets (B, boxes, 4) float32 and classes (B, boxes)
    int32, the targets of some boxes of each image, 0 elsewhere; with a focal loss, classes are -1
    at some others, which are ignored."""
    random = np.random.default_rng(0)
    height, width = config.model.image_size
    images = random.standard_normal((batch_size, 3, height, width)).astype(np.float32)
    offsets = np.zeros((batch_size, boxes, 4), np.float32)
    classes = np.zeros((batch_size, boxes), np.int32)
    for image in range(batch_size):
        chosen = random.choice(boxes, random.integers(*POSITIVES), replace=False)
        offsets[image, chosen] = random.standard_normal((len(chosen), 4))
        classes[image, chosen] = random.integers(1, config.model.num_classes, len(chosen))
        if config.loss.loss == "focal":
            others = random.choice(boxes, random.integers(*IGNORED), replace=False)
            classes[image, np.setdiff1d(others, chosen)] = -1
    return dict(images=images, offsets=offsets, classes=classes)


def build(config):
    """The detector, its network with random weights."""
    from ssd.model.detector import build_detector
    from ssd.model.device import choose_device
    from ssd.model.initialization import initialize
    from ssd.threads import one_openmp_team

    one_openmp_team()  # as in every command, but without DALI, whose memory must not count
    device = choose_device(config)
    detector = build_detector(config)
    initialize(detector.network, 0, device.context)
    return detector


def scores_to_scatter(logits: np.ndarray, threshold: float) -> Tuple[float, float]:
    """(factor, background) for logits (B, N, classes) of random weights, which find nothing and
    leave no work for post-processing: times `factor`, and with `background` added to class 0, about
    CANDIDATES scores per image pass the threshold."""
    logits = logits.astype(np.float64)
    factor = 3 / (logits - logits.mean(axis=(0, 1))).std()
    odds = np.exp(factor * (logits - logits.max(axis=2, keepdims=True)))
    objects, background = odds[:, :, 1:], odds[:, :, :1]

    def passing(bias):
        return (
            objects / (objects.sum(axis=2, keepdims=True) + np.exp(bias) * background) > threshold
        ).sum()

    low, high = 0.0, 40.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if passing(middle) > CANDIDATES * len(logits) else (low, middle)
    return factor, low


def sigmoid_scores_to_scatter(logits: np.ndarray, threshold: float) -> Tuple[float, float]:
    """The same for logits (B, N, classes) of a sigmoid: times `factor`, and with the second number
    added to all."""
    factor = 3 / logits.std(dtype=np.float64)
    passing = CANDIDATES * len(logits)
    nearest = np.partition(logits.ravel(), [-passing - 1, -passing])[-passing - 1 :][:2]
    # Between two logits, so that rounding does not decide which pass the threshold.
    return factor, np.log(threshold / (1 - threshold)) - factor * nearest.mean(dtype=np.float64)


def scatter_frozen(network) -> None:
    """Gives each BatchNorm that is not trained four vectors of its own: as initialised they change
    nothing."""
    import mxnet as mx

    random = np.random.default_rng(1)
    for name, parameter in network.collect_params().items():
        if parameter.grad_req == "null" and name.endswith(("_gamma", "_running_var")):
            parameter.set_data(mx.nd.array(random.uniform(0.5, 1.5, parameter.shape)))
        elif parameter.grad_req == "null" and name.endswith(("_beta", "_running_mean")):
            parameter.set_data(mx.nd.array(0.1 * random.standard_normal(parameter.shape)))


def calibrate(network, config) -> None:
    """Gives each BatchNorm the statistics of images of noise: with its initial ones, the many
    layers of a MobileNet make all cells of a map alike, and rounding then decides the order of
    nearly equal scores."""
    import mxnet as mx

    from ssd.model.parameters import by_structural_name

    other = build(config.with_values(batch_norm_momentum=0, own_norm_momentum=0)).network
    weights = by_structural_name(other)
    for name, parameter in by_structural_name(network).items():
        weights[name].set_data(parameter.data())
    images = np.random.default_rng(2).standard_normal(
        (CALIBRATED_IMAGES, *network.input_shape(1)[1:])
    )
    with mx.autograd.record():
        outputs = other(mx.nd.array(images))
    mx.autograd.backward(
        list(outputs)
    )  # in which oneDNN's BatchNorm updates its running statistics
    mx.nd.waitall()
    for name, parameter in by_structural_name(network).items():
        parameter.set_data(weights[name].data())


def change_rows(
    convolution, rows: slice, factor: float, added: float = 0.0, every: int = 1
) -> None:
    """Multiplies output channels `rows` of a convolution, and adds to the bias of every `every`-th
    of them."""
    import mxnet as mx

    weight, bias = convolution.weight.data().asnumpy(), convolution.bias.data().asnumpy()
    weight[rows] *= factor
    bias[rows] *= factor
    bias[rows][::every] += added
    convolution.weight.set_data(mx.nd.array(weight))
    convolution.bias.set_data(mx.nd.array(bias))


def scatter_scores(network, images, config) -> None:
    """Scales the heads by `scores_to_scatter` or its sigmoid counterpart, and offsets to a
    deviation of 1."""
    import mxnet as mx

    offsets, logits = (array.asnumpy() for array in network(mx.nd.array(images)))
    threshold, heads = config.detection.score_threshold, network.predictors
    if config.model.head == "shared":
        change_rows(heads.regression.out, slice(None), 1 / offsets.std())
        change_rows(
            heads.classification.out, slice(None), *sigmoid_scores_to_scatter(logits, threshold)
        )
        return
    if config.model.head == "separable":
        if config.loss.loss == "focal_batch":
            factor, added = sigmoid_scores_to_scatter(logits[:, :, 1:], threshold)
            every = 1
        else:
            factor, added = scores_to_scatter(logits, threshold)
            every = config.model.num_classes
        for head in heads:
            change_rows(head.loc.out, slice(None), 1 / offsets.std())
            change_rows(head.conf.out, slice(None), factor, added, every)
        return
    factor, background = scores_to_scatter(logits, threshold)
    for head in heads:
        change_rows(head.conv, slice(0, head.boxes * 4), 1 / offsets.std())
        change_rows(head.conv, slice(head.boxes * 4, None), factor, background, every=head.classes)


def training(detector, config, batch, ranks=None):
    """(step, function of no arguments that makes one complete step as `train` does and waits for
    its end)."""
    import mxnet as mx

    from ssd.training.step import TrainingStep

    step = TrainingStep(detector.network, detector.loss, config, ranks or OneRank())
    arrays = [
        mx.nd.array(batch[name], dtype=batch[name].dtype)
        for name in ("images", "offsets", "classes")
    ]

    def one_step():
        losses = step.gradients(*arrays, check=True)
        assert step.finite()
        step.update(1e-4)
        losses[0].wait_to_read()
        mx.nd.waitall()

    return step, one_step


def inference(detector, config, images):
    """Two functions of no arguments: images to detections (B, K, 6), and the network alone,
    (offsets, logits), in the same kind of graph; as NumPy arrays, and as MXNet arrays."""
    import mxnet as mx

    from ssd.evaluation.inference import Inference, build_inference
    from ssd.model.device import Device

    class Outputs(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, offsets, logits):
            return offsets, logits

    whole = build_inference(detector, Device("cpu", 0, mx.cpu()))
    part = Inference(detector.network, Outputs(), "cpu")
    images = mx.nd.array(images)

    def alone():
        outputs = part(images)
        mx.nd.waitall()
        return outputs

    return lambda: whole(images).asnumpy(), alone


def convolution_peak(batch_size: int, channels: int = 256, side: int = 38) -> Tuple[float, object]:
    """(floating-point operations, function of no arguments) of a 3x3 convolution as most of the
    network's are, with weights and data in oneDNN's own order: three in a row, so that its reorders
    count a third."""
    import mxnet as mx

    block = mx.gluon.nn.HybridSequential()
    for _ in range(3):
        block.add(mx.gluon.nn.Conv2D(channels, 3, padding=1, use_bias=False, in_channels=channels))
    block.initialize()
    block.hybridize(static_alloc=True, static_shape=True)
    data = mx.nd.random.normal(shape=(batch_size, channels, side, side))
    block(data).wait_to_read()
    return 3 * 2 * 9 * channels**2 * side**2 * batch_size, lambda: block(data).wait_to_read()


def gflop_per_image(network) -> Tuple[float, float]:
    """10^9 floating-point operations of an image's forward pass, and of its training step, by the
    graph."""
    from ssd.model import operations

    return 2e-9 * operations.forward_multiply_adds(
        network
    ), 2e-9 * operations.training_multiply_adds(network)
