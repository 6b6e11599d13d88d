"""What a network costs by its graph, against a count by hand."""

import pytest

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.operations import (
    forward_multiply_adds,
    operations,
    parameter_count,
    training_multiply_adds,
)

# Convolutions of the benchmark's network: how many, inputs, outputs, kernel, side of the output.
BY_HAND = [
    (1, 3, 64, 7, 150),
    (6, 64, 64, 3, 75),
    (1, 64, 128, 3, 38),
    (1, 64, 128, 1, 38),
    (7, 128, 128, 3, 38),
    (1, 128, 256, 3, 38),
    (1, 128, 256, 1, 38),
    (11, 256, 256, 3, 38),
    (1, 256, 256, 1, 38),
    (1, 256, 512, 3, 19),
    (1, 512, 256, 1, 19),
    (1, 256, 512, 3, 10),
    (1, 512, 128, 1, 10),
    (1, 128, 256, 3, 5),
    (1, 256, 128, 1, 5),
    (1, 128, 256, 3, 3),
    (1, 256, 128, 1, 3),
    (1, 128, 256, 3, 1),
    (1, 256, 4 * 85, 3, 38),
    (1, 512, 6 * 85, 3, 19),
    (1, 512, 6 * 85, 3, 10),
    (1, 256, 6 * 85, 3, 5),
    (1, 256, 4 * 85, 3, 3),
    (1, 256, 4 * 85, 3, 1),
]
FORWARD = sum(
    count * ins * outs * kernel**2 * side**2 for count, ins, outs, kernel, side in BY_HAND
)


@pytest.fixture(scope="module")
def network():
    return build_detector(load_recipe("ssd-resnet34-coco")).network


def test_counted_as_by_hand(network):
    assert forward_multiply_adds(network) == FORWARD
    first = 3 * 64 * 7**2 * 150**2
    assert training_multiply_adds(network) == 3 * FORWARD - first
    assert 2 * training_multiply_adds(network) == pytest.approx(100e9, rel=0.06), (
        "the known figure of a step's image"
    )
    assert parameter_count(network) == 19972534


def test_every_operator_is_listed(network):
    rows = operations(network, batch_size=2)
    assert len([row for row in rows if row.op == "Convolution"]) == sum(
        count for count, *_ in BY_HAND
    )
    assert sum(row.multiply_adds for row in rows) == 2 * FORWARD, "two images"
    first, last = rows[0], rows[-1]
    assert (first.op, first.output_shape, first.parameters) == (
        "Convolution",
        (2, 64, 150, 150),
        64 * 3 * 49,
    )
    assert (
        last.op == "Concat"
        and last.output_shape[0::2] in ((2, 81), (2, 4))
        and last.multiply_adds == 0
    )
    norms = [row for row in rows if row.op == "BatchNorm"]
    assert norms[0].parameters == 2 * 64, "scale and shift; the running statistics are not trained"


def test_padded_channels_count(network):
    """On tensor cores the images have a fourth channel and the heads unused ones."""
    padded = build_detector(
        load_recipe("ssd-resnet34-coco").with_values(layout="NHWC", dtype="float16")
    ).network
    assert operations(padded)[0].multiply_adds == operations(network)[0].multiply_adds * 4 // 3
    assert FORWARD < forward_multiply_adds(padded) < 1.01 * FORWARD
