"""The inputs behind <detector>_reference_seed*.npz, drawn from NumPy's legacy RandomState like
those of vectors.py.

The stored outputs were computed by the public programs of the five detectors (see README.md beside
this file) in float32 on a CPU. Names of parameters: README.md. Boxes of one image are ordered map,
row, column, shape.
"""

import re

import numpy as np

# The ground truths are those of vectors.py.
from tests.reference.vectors import _stream, ground_truth

# detector: (input height and width, boxes, classes with background)
DETECTORS = {
    "ssd_resnet50": ((300, 300), 8732, 81),
    "ssd_resnet50_cognata": ((480, 640), 29000, 15),
    "ssd_mobilenetv2": ((300, 300), 1917, 81),
    "ssdlite_mobilenetv2": ((300, 300), 3000, 81),
    "ssd_resnet50_fpn": ((320, 320), 12804, 81),
    "ssd_mobilenetv3": ((300, 300), 1917, 81),
}
SIGMOID = ("ssd_mobilenetv2", "ssd_resnet50_fpn", "ssd_mobilenetv3")
IMAGE_SIZES = (
    (480, 640),
    (427, 640),
    (500, 375),
    (640, 480),
)  # height, width of the images behind the detections


def weight(name, shape, seed=0):
    """Value of the parameter or running statistic `name`, float32, convolutions OIHW."""
    stream, last = _stream(name, seed), name.split(".")[-1]
    batch_norm = ".bn" in name or "downsample.1" in name
    if last == "running_var" or (batch_norm and last == "weight"):
        value = stream.uniform(0.5, 1.5, shape)
        if name.startswith("backbone") and name.endswith(("bn3.weight", "project.bn.weight")):
            value = value * 0.4  # the last BatchNorm of a residual branch, to keep the sums small
    elif last in ("bias", "running_mean"):
        value = stream.standard_normal(shape) * 0.1
    else:
        output = re.fullmatch(r"(loc|conf)\.(\d+|out|\d+\.out)\.weight", name)
        value = stream.standard_normal(shape) * np.sqrt(
            (0.5 if output else 2.0) / np.prod(shape[1:])
        )
    return value.astype(np.float32)


def images(detector, seed=0, count=2):
    """Normalised input, (count, 3, height, width)."""
    height, width = DETECTORS[detector][0]
    return (
        _stream(f"images {detector}", seed)
        .standard_normal((count, 3, height, width))
        .astype(np.float32)
    )


def targets(detector, seed=0, samples=24):
    """ground_truth() with the classes of this detector (1..80, or 1..14 for Cognata)."""
    classes = DETECTORS[detector][2] - 1
    return [(boxes, (labels - 1) % classes + 1) for boxes, labels in ground_truth(seed, samples)]


def loss_predictions(detector, seed=0):
    """(offsets (3, boxes, 4), logits (3, boxes, classes)): scored against samples 2, 3 and 4."""
    _, boxes, classes = DETECTORS[detector]
    stream = _stream(f"loss {detector}", seed)
    return (
        stream.standard_normal((3, boxes, 4)).astype(np.float32),
        2 * stream.standard_normal((3, boxes, classes)).astype(np.float32),
    )


def detection_predictions(detector, seed=0):
    """(offsets (4, boxes, 4), logits (4, boxes, classes)) for decoding and non-maximum
    suppression."""
    _, boxes, classes = DETECTORS[detector]
    sigmoid = detector in SIGMOID
    stream = _stream(f"detect {detector}", seed)
    offsets = (0.5 * stream.standard_normal((4, boxes, 4))).astype(np.float32)
    logits = stream.standard_normal((4, boxes, classes)).astype(np.float32)
    if sigmoid:
        logits -= 6
    else:
        logits[:, :, 0] += 6
    for image, peaks in enumerate((400, 60, 900, 5)):
        anchors = stream.choice(boxes, peaks, replace=False)
        labels = stream.randint(1, classes if image % 2 else 6, peaks)
        if not sigmoid:
            logits[image, :, 0] += 4
        logits[image, anchors, labels] += stream.uniform(
            *((3, 10) if sigmoid else (8, 16)), peaks
        ).astype(np.float32)
    return offsets, logits
