"""Of benchmarks/growth.py: images and classes that grow, through a detector's parts. Random
weights, one CPU process.

A size is a side in pixels, or HEIGHTxWIDTH. SSD is ssd-resnet50-coco, RetinaNet
retinanet-resnext50-coco.
"""

from __future__ import annotations

import numpy as np

RECIPES = {"SSD": "ssd-resnet50-coco", "RetinaNet": "retinanet-resnext50-coco"}
PAIRS = 400  # pairs of box and class above the threshold, about as many as a trained network has
LARGEST = dict(
    forward=2.2e6, step=1.5e6
)  # pixels up to which RetinaNet is run: its maps are twice as fine
OBJECTS_AT = {"SSD": ("300", "2160x3840"), "RetinaNet": ("800",)}


def _detector(kind: str, **values):
    from benchmarks import ours
    from ssd.model.detector import build_detector

    config = ours.recipe(RECIPES[kind], **values)
    return config, build_detector(config)


def _pixels(point: str) -> float:
    height, _, width = point.partition("x")
    return float(height) * float(width or height)


def boxes(point, folder, measure) -> None:
    import mxnet  # noqa: F401

    for kind in RECIPES:
        _, detector = measure(lambda kind=kind: _detector(kind, image_size=point), kind)
        measure.note(kind, boxes=len(detector.default_boxes))


def _objects(count: int) -> tuple:
    """Boxes (count, 4) ltrb in [0, 1] of all sizes, as a data set has them, and labels (count,)."""
    random = np.random.default_rng(count)
    size = np.exp(random.uniform(np.log(0.02), np.log(0.6), (count, 2)))
    corner = random.uniform(0, 1 - size)
    return np.concatenate([corner, corner + size], 1), random.integers(1, 81, count)


def _match(detector, count: int):
    truths, labels = _objects(count)
    truths = truths.astype(detector.matcher.box_type)
    return lambda: detector.matcher(truths, labels)


def match(point, folder, measure) -> None:
    for kind in RECIPES:
        _, detector = _detector(kind, image_size=point)
        for count in (1, 10, 100):
            measure(_match(detector, count), f"{kind}, {count} object{'s' * (count > 1)}")


def objects(point, folder, measure) -> None:
    for kind, sizes in OBJECTS_AT.items():
        for size in sizes:
            _, detector = _detector(kind, image_size=size)
            measure(_match(detector, int(point)), f"{kind}, {size}")


def _detect(kind: str, measure, **values) -> None:
    import mxnet as mx

    config, detector = _detector(kind, **values)
    detector.detections.initialize()
    detector.detections.hybridize(static_alloc=True, static_shape=True)
    count, random = len(detector.default_boxes), np.random.default_rng(0)
    sigmoid = config.detection.detections == "per_level"
    classes = config.model.num_classes - sigmoid
    logits = np.full((1, count, classes), -9, np.float32)
    if not sigmoid:
        logits[:, :, 0] = 9
    chosen = random.integers(0, count, PAIRS), random.integers(1 - sigmoid, classes, PAIRS)
    logits[0][chosen] = random.uniform(0, 3, PAIRS) if sigmoid else random.uniform(8, 11, PAIRS)
    offsets = mx.nd.array(random.standard_normal((1, count, 4)).astype(np.float32) / 2)
    logits = mx.nd.array(logits)
    rows = measure(lambda: detector.detections(offsets, logits).asnumpy(), kind, warm=True)
    measure.note(kind, boxes=count, found=int((rows[:, :, 0] > 0).sum()))


def detect(point, folder, measure) -> None:
    for kind in RECIPES:
        _detect(kind, measure, image_size=point)


def detect_classes(point, folder, measure) -> None:
    for kind in RECIPES:
        _detect(kind, measure, num_classes=int(point) + 1)


def forward(point, folder, measure) -> None:
    from benchmarks import ours

    for kind, recipe in RECIPES.items():
        if kind == "RetinaNet" and _pixels(point) > LARGEST["forward"]:
            continue
        config = ours.recipe(recipe, image_size=point)
        detector = ours.build(config)
        images = (
            np.random.default_rng(0)
            .standard_normal(detector.network.input_shape(1))
            .astype(np.float32)
        )
        measure(ours.inference(detector, config, images)[1], kind, warm=_pixels(point) < 3e6)
        del detector, images


def step(point, folder, measure) -> None:
    from benchmarks import ours

    for kind, recipe in RECIPES.items():
        if kind == "RetinaNet" and _pixels(point) > LARGEST["step"]:
            continue
        config = ours.recipe(recipe, image_size=point, batch_size=1)
        detector = ours.build(config)
        batch = ours.synthetic_batch(config, len(detector.default_boxes), 1)
        _, one_step = ours.training(detector, config, batch)
        measure(
            one_step, kind
        )  # the first step, planning included: at these sizes the convolutions dominate
        del detector, one_step, _


def loss(point, folder, measure) -> None:
    import mxnet as mx

    for kind in RECIPES:
        config, detector = _detector(kind, num_classes=int(point) + 1)
        focal, count = config.loss.loss == "focal", len(detector.default_boxes)
        random = np.random.default_rng(0)
        classes = np.zeros((1, count), np.int32)
        classes[0, random.integers(0, count, 50)] = random.integers(1, int(point) + 1, 50)
        inputs = [
            mx.nd.array(random.standard_normal((1, count, width)).astype(np.float32))
            for width in (4, int(point) + 1 - focal)
        ]
        targets = mx.nd.zeros((1, count, 4)), mx.nd.array(classes, dtype="int32")
        detector.loss.hybridize(static_alloc=True, static_shape=True)
        for array in inputs:
            array.attach_grad()

        def once(loss=detector.loss, inputs=inputs, targets=targets):
            with mx.autograd.record():
                found = loss(*inputs, *targets)
            mx.autograd.backward(list(found))
            mx.nd.waitall()

        measure(once, kind, warm=True, boxes=count)


def heads(point, folder, measure) -> None:
    from ssd.model.operations import operations

    for kind in RECIPES:
        _, detector = measure(lambda kind=kind: _detector(kind, num_classes=int(point) + 1), kind)
        measure.note(
            kind, parameters=sum(layer.parameters for layer in operations(detector.network))
        )
