"""Coverage of ground truth by default boxes, against every box compared with every other."""

import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.data import coverage as module
from ssd.data.coverage import coverage
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.matching import Matcher


def all_pairs(config, truths, image):
    """(best IoU, matched default boxes, whether another default box is as good as the best) by the
    whole matrix."""
    boxes = cxcywh_to_ltrb(default_boxes(sizes_of(config)).astype(float))
    low, high = (
        np.maximum(truths[:, None, :2], boxes[:, :2]),
        np.minimum(truths[:, None, 2:], boxes[:, 2:]),
    )
    common = np.clip(high - low, 0, None).prod(2)
    iou = common / (
        (truths[:, 2:] - truths[:, :2]).prod(1)[:, None]
        + (boxes[:, 2:] - boxes[:, :2]).prod(1)
        - common
    )
    counts = np.zeros(len(truths), int)
    for number in np.unique(image):
        rows = np.flatnonzero(image == number)
        owner = np.where(
            iou[rows].max(0) > config.default_boxes.matching_iou, iou[rows].argmax(0), -1
        )
        for index, row in enumerate(rows):
            owner[iou[row].argmax()] = index
        counts[rows] += np.bincount(owner[owner >= 0], minlength=len(rows))
    best = iou.max(1)
    return best, counts, (iou > best[:, None] - 1e-6).sum(1) > 1


def matcher_of(config):
    sizes = sizes_of(config)
    return Matcher(cxcywh_to_ltrb(default_boxes(sizes)), config.default_boxes, sizes.grid)


@pytest.mark.parametrize("size", [96, 264, 300, "128x200"])
@pytest.mark.parametrize("threshold", [0.5, 0.35])
def test_coverage_is_that_of_all_pairs(size, threshold, monkeypatch):
    config = load_recipe("ssd-resnet34-coco").with_values(image_size=size, matching_iou=threshold)
    random = np.random.default_rng(7)
    center, side = random.random((400, 2)), np.exp(random.uniform(-2.5, 0, (400, 2)))
    truths = np.clip(np.concatenate([center - side / 2, center + side / 2], axis=1), 0, 1)
    truths = truths[(truths[:, 2:] - truths[:, :2]).min(1) > 0.01]
    image = np.sort(random.integers(0, 150, len(truths)))
    monkeypatch.setattr(module, "CHUNK", 50)  # several chunks, that may not part an image
    best, matched = coverage(sizes_of(config), matcher_of(config), truths, image)
    expected, counts, tied = all_pairs(config, truths, image)
    np.testing.assert_allclose(best, expected, atol=1e-5)
    # Of equally good boxes either may be claimed here: images without such are compared.
    clear = ~np.isin(image, image[tied])
    assert clear.sum() > 150 and counts[clear].max() > 5
    np.testing.assert_array_equal(matched[clear], counts[clear])


@pytest.mark.parametrize("size", [96, 300, "256x140"])
def test_ties_are_broken_as_in_training(size, monkeypatch):
    """Tiny objects, whole cells and equal boxes, where ties are the rule; the smallest meets no
    box's centre."""
    config = load_recipe("ssd-resnet34-coco").with_values(image_size=size)
    random = np.random.default_rng(8)
    low = random.integers(0, 60, (600, 2)) / 64
    side = random.choice([1, 2, 4, 8, 32], (600, 2), p=[0.4, 0.3, 0.1, 0.1, 0.1]) / 64
    truths = np.clip(np.concatenate([low, low + side], axis=1), 0, 1)
    truths[random.integers(0, 600, 60)] = truths[0]
    image = np.sort(random.integers(0, 120, len(truths)))
    matcher = matcher_of(config)
    expected = []
    for number in np.unique(image):
        boxes = truths[image == number].astype(np.float32)
        found = matcher(boxes, np.arange(1, len(boxes) + 1))
        expected.append(np.bincount(found.classes - 1, minlength=len(boxes)))
    monkeypatch.setattr(module, "COMPARED", 20000)  # several blocks
    np.testing.assert_array_equal(
        coverage(sizes_of(config), matcher, truths, image)[1], np.concatenate(expected)
    )
