"""The recipes for Cognata against what is published of the model: mlcommons/abtf-ssd-pytorch at
2d8ee7d, configuration 2160x3840 "_ss_scales_fm1_5x5_all", and the size of its published weights."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.datasets.cognata_rows import CLASSES
from ssd.model.detector import build_detector, describe_sizes

FULL, SMALL = load_recipe("ssd-resnet50-cognata"), load_recipe("ssd-resnet50-cognata-small")


@pytest.fixture(scope="module")
def full():
    return build_detector(FULL)


def trained(network):
    """Numbers in the parameters that are trained: running statistics are none."""
    return sum(
        int(np.prod(parameter.shape))
        for parameter in network.collect_params().values()
        if parameter.grad_req != "null"
    )


def test_maps_and_default_boxes(full):
    assert full.sizes.maps == (
        (270, 480),
        (135, 240),
        (68, 120),
        (34, 60),
        (17, 30),
        (9, 15),
        (5, 8),
    )
    assert full.sizes.per_cell == (4, 6, 6, 6, 4, 4, 4)
    assert full.boxes_per_map == (518400, 194400, 48960, 12240, 2040, 540, 160)
    assert len(full.default_boxes) == sum(full.boxes_per_map) == 776740
    # The sixth map's last row of 15 cells: its step of 256 puts the centres at 2176 pixels, as
    # published.
    assert full.sizes.outside() == 15 * 4 and "60 default boxes lie outside" in describe_sizes(
        FULL, full.sizes
    )
    # The first and the last box, from steps and scales in pixels: a square of 31 at (4, 4), and 473
    # at 1 : 2 in the last cell of 480, whose centre is on the image's lower edge.
    np.testing.assert_allclose(
        full.default_boxes[0], [4 / 3840, 4 / 2160, 31 / 3840, 31 / 2160], rtol=1e-6
    )
    last = [7.5 * 480 / 3840, 4.5 * 480 / 2160, 473 / 2**0.5 / 3840, 473 * 2**0.5 / 2160]
    np.testing.assert_allclose(full.default_boxes[-1], last, rtol=1e-6)


def test_the_published_number_of_parameters(full):
    assert trained(full.network) == 27402950
    assert [predictor.conv.weight.shape[2:] for predictor in full.network.predictors] == [
        (5, 5)
    ] * 7
    assert FULL.model.num_classes == SMALL.model.num_classes == len(CLASSES) + 1 == 15


@pytest.mark.parametrize("config", [FULL, SMALL], ids=["full", "small"])
def test_the_network_predicts_for_every_default_box(full, config):
    found = full if config is FULL else build_detector(config)
    assert found.network.feature_sizes() == list(found.sizes.maps)
    graph = mx.sym.Group(list(found.network(mx.sym.var("images"))))
    _, [offsets, logits], _ = graph.infer_shape(images=(1, 3, *config.model.image_size))
    count = len(found.default_boxes)
    assert offsets == (1, count, 4) and logits == (1, count, 15)


def test_the_small_one_has_an_eighth_of_each_side():
    found = build_detector(SMALL)
    assert [8 * side for side in SMALL.model.image_size] == list(FULL.model.image_size)
    assert found.sizes.maps == ((34, 60), (17, 30), (9, 15), (5, 8), (3, 6), (1, 4))
    assert len(found.default_boxes) == 4 * 2040 + 6 * (510 + 135 + 40) + 4 * (18 + 4) == 12358
