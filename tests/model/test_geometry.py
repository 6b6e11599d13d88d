"""What follows from the image's size, held against published values and against the network itself."""
import numpy as np
import pytest

from ssd import config as settings
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model import geometry
from ssd.model.default_boxes import default_boxes
from ssd.model.ssd import build_model

BENCHMARK = load_recipe("ssd-resnet34-coco")


def values(config):
    flat = settings.as_dict(config)
    return {name: flat[name.split(".")[0]][name.split(".")[1]] for name in geometry.SETTINGS}


def test_300_pixels_give_the_benchmarks_values():
    assert BENCHMARK.model.image_size == 300
    assert values(BENCHMARK) == values(load_recipe("ssd-resnet34-own")), "the one names them, the other computes them"
    for name, value in geometry.complete(300, {}).items():
        section, key = name.split(".")
        assert getattr(getattr(BENCHMARK, section), key) == value, name


def test_512_pixels_give_ssd512s_values():
    """Liu et al. 2016 and their ssd_coco.py: maps of 64 to 1, shares of .04, .1, .26 ... 1.06."""
    config = BENCHMARK.with_values(image_size=512)
    boxes = config.default_boxes
    assert geometry.feature_sizes(512, config.model.extra_strides, config.model.extra_pads) == [64, 32, 16, 8, 4, 2, 1]
    assert boxes.steps == (8, 16, 32, 64, 128, 256, 512)
    assert boxes.scales == (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
    assert boxes.aspect_ratios == ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))


def test_every_size_is_sound():
    for size in range(geometry.SMALLEST, geometry.LARGEST + 1):
        found = geometry.complete(size, {})
        strides, pads, steps, scales = (np.array(found[name]) for name in geometry.SETTINGS[1:5])
        maps = geometry.feature_sizes(size, strides, pads)
        assert maps[0] == -(-size // 8) and maps[-1] == 1 and sorted(set(maps), reverse=True) == maps
        assert len(steps) == len(maps) == len(scales) - 1 == len(found["default_boxes.aspect_ratios"])
        assert (np.diff(scales) > 0).all() and 10 < scales[0] < 31
        cells = np.array(maps) * steps
        assert (cells >= 0.93 * size).all() and (cells <= 1.1 * size).all(), (size, cells)
        assert 0.75 * size <= scales[-2] <= 0.901 * size


@pytest.mark.parametrize("size", [32, 90, 264, 320, 401, 640])
def test_the_network_has_the_maps_that_are_computed(size):
    config = BENCHMARK.with_values(image_size=size, width=0.125)
    maps = build_model(config).feature_sizes()
    assert maps == [(cells, cells) for cells in geometry.feature_sizes(size, config.model.extra_strides,
                                                                       config.model.extra_pads)]
    centers = default_boxes(maps, config.default_boxes, size)[:, :2]
    assert (np.unique(centers[:, 0]) < 1).mean() > 0.9


# ---- settings by hand

def recipe(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_a_recipe_that_changes_the_size_gets_the_rest_computed(tmp_path):
    path = recipe(tmp_path, "extends: ssd-resnet34-coco\nmodel: {image_size: 512}")
    assert values(load_recipe(path)) == values(BENCHMARK.with_values(image_size=512))
    again = recipe(tmp_path, settings.to_yaml(load_recipe(path)), "again.yaml")
    assert values(load_recipe(again).with_values(image_size=300)) == values(BENCHMARK)


def test_values_by_hand_are_kept_or_the_size_is_refused(tmp_path):
    path = recipe(tmp_path, "extends: ssd-resnet34-coco\ndefault_boxes: {scales: [10, 45, 99, 153, 207, 261, 315]}")
    mine = load_recipe(path)
    assert mine.default_boxes.scales[0] == 10 and mine.default_boxes.steps == BENCHMARK.default_boxes.steps
    with pytest.raises(UserError, match="image_size: 320, but scales is set by hand, for 300"):
        mine.with_values(image_size=320)
    child = recipe(tmp_path, "extends: mine.yaml\nmodel: {image_size: 320}", "child.yaml")
    with pytest.raises(UserError, match="child.yaml: image_size: 320, but scales is set by hand"):
        load_recipe(child)
    named = mine.with_values(image_size=320, scales=[12, 48, 100, 160, 220, 280, 330])
    assert named.default_boxes.scales[0] == 12 and named.default_boxes.steps[-1] == 320


@pytest.mark.parametrize("changes, words", [
    (dict(image_size=31), "31 must be at least 32"),
    (dict(image_size=4000), "4000 must be at most 2048"),
    (dict(image_size=64, extra_strides=[2, 2, 2, 1, 1], extra_pads=[1, 1, 1, 0, 0]), "too small for 6 feature maps"),
    (dict(image_size=320, extra_strides=[2, 2, 2, 1, 1]), "extra_strides and extra_pads go together"),
    (dict(image_size=320, scales=[1, 2]), "scales: 7 values are needed for 6 feature maps, not 2"),
    (dict(num_classes=1), "num_classes: 1 is the background alone"),
])
def test_what_cannot_work_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        BENCHMARK.with_values(**changes)
