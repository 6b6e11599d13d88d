"""What follows from the image's size, held against published values and against the network
itself."""

import numpy as np
import pytest

from ssd import config as settings
from ssd.commandline import Parser, add_settings, read_settings
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model import detector
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.ssd_sizes import HALVINGS, SETTINGS, halved, sizes_from
from ssd.model.detector import build_detector
from ssd.setting import LARGEST, SMALLEST

BENCHMARK = load_recipe("ssd-resnet34-coco")


def test_300_pixels_give_the_benchmarks_values():
    """mlcommons/training at 4a4d5a0b: ssd300.py and utils.py."""
    found = sizes_of(BENCHMARK)
    assert found.maps == tuple((side, side) for side in (38, 19, 10, 5, 3, 1))
    assert found.channels == ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))
    assert (found.strides, found.pads) == ((2, 2, 2, 1, 1), (1, 1, 1, 0, 0))
    assert found.steps == tuple((step, step) for step in (8, 16, 32, 64, 100, 300))
    assert found.scales == (21, 45, 99, 153, 207, 261, 315)
    assert found.aspect_ratios == ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


def test_512_pixels_give_ssd512s_values():
    """Liu et al. 2016 and their ssd_coco.py: maps of 64 to 1, shares of .04, .1, .26 ... 1.06."""
    found = sizes_of(BENCHMARK.with_values(image_size=512))
    assert found.maps == tuple((side, side) for side in (64, 32, 16, 8, 4, 2, 1))
    assert found.steps == tuple((step, step) for step in (8, 16, 32, 64, 128, 256, 512))
    assert found.scales == (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
    assert found.aspect_ratios == ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))


def check_sound(image_size):
    found = sizes_from(image_size, (3,), {})
    maps, steps, scales = np.array(found.maps), np.array(found.steps), np.array(found.scales)
    assert maps[0].tolist() == [-(-side // 8) for side in image_size] and maps[-1].min() == 1
    assert (np.diff(maps.min(1)) < 0).all() and len(maps) == len(scales) - 1
    assert (np.diff(scales) > 0).all() and 10 < scales[0] < 31
    cells = maps * steps
    sides = np.array(image_size)
    assert (cells >= 0.93 * sides).all() and (cells <= 1.1 * sides).all(), (image_size, cells)
    assert 0.75 * min(image_size) <= scales[-2] <= 0.901 * min(image_size)


def test_every_size_is_sound():
    for size in range(SMALLEST, LARGEST + 1):
        check_sound((size, size))
    random = np.random.default_rng(0)
    for _ in range(500):
        check_sound(
            tuple(int(side) for side in np.exp(random.uniform(np.log(64), np.log(4096), 2)))
        )


@pytest.mark.parametrize("recipe", ["ssd-resnet34-coco"])
@pytest.mark.parametrize(
    "size",
    [
        32,
        64,
        90,
        264,
        300,
        320,
        401,
        640,
        "480x640",
        "64x300",
        "333x77",
        "2160x3840",
        "4096x64",
        4096,
    ],
)
def test_the_network_has_the_maps_that_are_computed(recipe, size):
    config = load_recipe(recipe).with_values(image_size=size, width=0.125)
    found = build_detector(config)
    assert found.network.feature_sizes() == list(found.sizes.maps)
    # Where the graph gives its shapes, so does the number of predictions.
    import mxnet as mx

    graph = mx.sym.Group(list(found.network(mx.sym.var("images"))))
    _, [offsets, logits], _ = graph.infer_shape(images=found.network.input_shape(1))
    assert offsets[1] == logits[1] == len(found.default_boxes) == sum(found.boxes_per_map)
    assert found.default_boxes.min() >= 0 and found.default_boxes.max() <= 1


def test_the_halvings_of_every_backbone():
    import mxnet as mx

    assert set(HALVINGS) == set(detector.BACKBONES)
    for name, make in detector.BACKBONES.items():
        backbone = make(BENCHMARK.with_values(backbone=name, width=0.125).model)
        maps = mx.sym.Group(backbone.maps(mx.sym, mx.sym.var("images")))
        for size in ((300, 300), (111, 256)):
            _, shapes, _ = maps.infer_shape(images=(1, 3) + size)
            assert [shape[2:] for shape in shapes] == [
                halved(size, times) for times in HALVINGS[name]
            ]


FLAT = dict(extra_strides=[2, 2, 2, 1, 1], extra_pads=[1, 1, 1, 0, 0])  # as at 300 pixels
HALVING = dict(extra_strides=[2] * 5, extra_pads=[1] * 5)
SIX = dict(extra_strides=[2] * 6, extra_pads=[1] * 6)


@pytest.mark.parametrize(
    "size, changes, last, boxes",
    [
        # mlcommons/abtf-ssd-pytorch: its configurations and their numbers of default boxes.
        (300, FLAT, (1, 1), 8732),
        ("480x640", FLAT, (4, 6), 28968),
        (1000, FLAT, (12, 12), 95354),
        (1000, HALVING, (4, 4), 94314),
        ("1440x2560", FLAT, (19, 36), 349848),
        ("1440x2560", HALVING, (6, 10), 345120),
        ("2160x3840", FLAT, (30, 56), 788144),
        ("2160x3840", HALVING, (9, 15), 776580),
    ],
)
def test_published_sizes_have_their_numbers_of_boxes(size, changes, last, boxes):
    found = sizes_of(BENCHMARK.with_values(image_size=size, **changes))
    assert found.maps[-1] == last and sum(cells * each for cells, each in found.grid) == boxes
    assert len(default_boxes(found)) == boxes


def test_published_sizes_with_a_seventh_map():
    """Their seventh map has four boxes a cell, and the sixth as well, where the rule here gives
    six."""
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2], [2]]
    found = sizes_of(BENCHMARK.with_values(image_size="2160x3840", aspect_ratios=ratios, **SIX))
    assert found.maps[-1] == (5, 8) and sum(cells * each for cells, each in found.grid) == 776740
    strides = dict(extra_strides=[2, 2, 2, 1, 1, 2], extra_pads=[1, 1, 1, 0, 0, 1])
    found = sizes_of(BENCHMARK.with_values(image_size="480x640", aspect_ratios=ratios, **strides))
    assert found.maps[-2:] == ((4, 6), (2, 3)) or found.maps[-1] == (2, 4)


def test_given_steps_beyond_the_image_are_counted():
    """The published 2160x3840 keeps 300's steps: most centres of the last maps lie outside, and are
    said to."""
    config = BENCHMARK.with_values(image_size="2160x3840", steps=[8, 16, 32, 64, 100, 300], **FLAT)
    found = sizes_of(config)
    rows, columns = found.maps[5]
    inside = sum((row + 0.5) * 300 <= 2160 for row in range(rows)) * sum(
        (c + 0.5) * 300 <= 3840 for c in range(columns)
    )
    assert found.outside() > (rows * columns - inside) * 4 > 0
    assert "default boxes lie outside the image" in detector.describe_sizes(config, found)
    assert "outside" not in detector.describe_sizes(BENCHMARK, sizes_of(BENCHMARK))


# ---- settings by hand


def recipe(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_settings_stay_as_they_are_given(tmp_path):
    path = recipe(tmp_path, "extends: ssd-resnet34-coco\nmodel: {image_size: 512}")
    config = load_recipe(path)
    assert config.default_boxes.steps == () and sizes_of(config) == sizes_of(
        BENCHMARK.with_values(image_size=512)
    )
    again = recipe(tmp_path, settings.to_yaml(config), "again.yaml")
    assert sizes_of(load_recipe(again).with_values(image_size=300)) == sizes_of(BENCHMARK)


def test_what_an_older_version_saved_is_computed_again(tmp_path):
    """Its runs hold what it had computed, as if it had been given."""
    saved = settings.as_dict(BENCHMARK.with_values(image_size=512))
    found = sizes_of(BENCHMARK.with_values(image_size=512))
    for name, values in zip(
        SETTINGS,
        (
            found.channels,
            found.strides,
            found.pads,
            [row for row, _ in found.steps],
            found.scales,
            found.aspect_ratios,
        ),
    ):
        section, _, key = name.partition(".")
        saved[section][key] = [list(part) if isinstance(part, tuple) else part for part in values]
    del saved["model"]["features"], saved["default_boxes"]["rule"], saved["loss"]["loss"]
    import yaml

    path = recipe(tmp_path, yaml.safe_dump(dict(recipe="ssd-resnet34-coco", **saved)))
    assert load_recipe(path) == BENCHMARK.with_values(image_size=512)
    assert sizes_of(load_recipe(path).with_values(image_size=300)) == sizes_of(BENCHMARK)


def test_values_by_hand_are_kept_or_the_size_is_refused(tmp_path):
    path = recipe(
        tmp_path,
        "extends: ssd-resnet34-coco\ndefault_boxes: {scales: [10, 45, 99, 153, 207, 261, 315]}",
    )
    mine = load_recipe(path)
    assert sizes_of(mine).scales[0] == 10 and sizes_of(mine).steps == sizes_of(BENCHMARK).steps
    with pytest.raises(UserError, match="image_size: 320, but scales was set by hand for 300"):
        mine.with_values(image_size=320)
    child = recipe(tmp_path, "extends: mine.yaml\nmodel: {image_size: 320x640}", "child.yaml")
    with pytest.raises(
        UserError, match="child.yaml: image_size: 320x640, but scales was set by hand"
    ):
        load_recipe(child)
    named = mine.with_values(image_size=320, scales=[12, 48, 100, 160, 220, 280, 330])
    assert sizes_of(named).scales[0] == 12 and sizes_of(named).steps[-1] == (320, 320)


@pytest.mark.parametrize(
    "given, size",
    [
        (300, (300, 300)),
        ("300", (300, 300)),
        ("480x640", (480, 640)),
        ("480X640", (480, 640)),
        ([480, 640], (480, 640)),
        (3e2, (300, 300)),
    ],
)
def test_an_image_size_is_one_number_or_height_x_width(given, size):
    config = BENCHMARK.with_values(image_size=given)
    assert (
        tuple(config.model.image_size) == size
        and BENCHMARK.with_values(image_size=settings.as_dict(config)["model"]["image_size"])
        == config
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(image_size=31), "31 must be at least 32"),
        (dict(image_size="300x16"), "16 must be at least 32"),
        (dict(image_size=5000), "5000 must be at most 4096"),
        (
            dict(image_size="480x"),
            "image_size: one whole number or HEIGHTxWIDTH is needed, not '480x'",
        ),
        (dict(image_size="480x640x3"), "HEIGHTxWIDTH"),
        (dict(image_size="wide"), "HEIGHTxWIDTH"),
        (dict(image_size=300.5), "HEIGHTxWIDTH"),
        (dict(image_size=[]), "HEIGHTxWIDTH"),
        (dict(image_size=True), "HEIGHTxWIDTH"),
        (
            dict(image_size=64, extra_strides=[2, 2, 2, 1, 1], extra_pads=[1, 1, 1, 0, 0]),
            "image_size 64 x 64: too small for 6 feature maps",
        ),
        (
            dict(image_size=320, extra_strides=[2, 2, 2, 1, 1]),
            "extra_strides and extra_pads go together",
        ),
        (
            dict(image_size=320, scales=[1, 2]),
            "scales: 7 values are needed for 6 feature maps, not 2",
        ),
        (
            dict(extra_channels=[[8, 8]]),
            "extra_channels: 5 values are needed for 6 feature maps, not 1",
        ),
        (dict(num_classes=1), "num_classes: 1 is only the background"),
    ],
)
def test_what_cannot_work_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        sizes_of(BENCHMARK.with_values(**changes))


def test_the_command_line_refuses_at_once():
    parser = Parser()
    add_settings(parser, ("model",))
    assert tuple(
        read_settings(parser.parse_args(["--image-size", "480x640"])).model.image_size
    ) == (480, 640)
    with pytest.raises(
        UserError, match="--image-size: one whole number or HEIGHTxWIDTH is needed, not '48by64'"
    ):
        read_settings(parser.parse_args(["--image-size", "48by64"]))
