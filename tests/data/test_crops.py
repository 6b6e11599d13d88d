"""The random crop against a plain loop written from the reference's description, fed with the same
random numbers."""

import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.data.crops import RandomCrop

RECIPE = load_recipe("ssd-resnet34-coco")
KEEP = "keep"


def random_boxes(random, count, least=0.01):
    low = random.uniform(0, 0.9 - 0.8 * least, (count, 2))
    return np.concatenate([low, low + random.uniform(least, 1, (count, 2)) * (1 - low)], axis=1)


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (
        (one[2] - one[0]) * (one[3] - one[1])
        + (other[2] - other[0]) * (other[3] - other[1])
        - common
    )


def plain_crop(boxes, numbers, min_ious, attempts):
    """(window ltrb, positions of the boxes that stay, the boxes) or None, from rows of (choice,
    attempts x (width, height, left, top)) in [0, 1)."""
    options = [KEEP] + [None if least == 0 else least for least in min_ious]
    for row in numbers:
        option = options[int(row[0] * len(options))]
        if option == KEEP:
            return (0, 0, 1, 1), list(range(len(boxes))), boxes
        for attempt in range(attempts):
            first, second, third, fourth = row[1 + 4 * attempt :][:4]
            width, height = 0.3 + 0.7 * first, 0.3 + 0.7 * second
            if width / height < 0.5 or width / height > 2:
                continue
            left, top = third * (1 - width), fourth * (1 - height)
            window = (left, top, left + width, top + height)
            if option is not None and not all(iou(box, window) > option for box in boxes):
                continue
            stay = []
            for number, box in enumerate(boxes):
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                if window[0] < x < window[2] and window[1] < y < window[3]:
                    stay.append(number)
            if not stay:
                continue
            cut = [
                (
                    (max(box[0], left) - left) / width,
                    (max(box[1], top) - top) / height,
                    (min(box[2], window[2]) - left) / width,
                    (min(box[3], window[3]) - top) / height,
                )
                for box in boxes[stay]
            ]
            return window, stay, np.array(cut)
    return None


@pytest.mark.parametrize("attempts", [1, 50])
def test_crops_are_those_of_the_description(attempts):
    settings = RECIPE.with_values(crop_attempts=attempts).augmentation
    crop, random, uncropped, moved, lost = RandomCrop(settings), np.random.RandomState(0), 0, 0, 0
    for case in range(1500):
        boxes = random_boxes(random, 1 + case % 6)
        found = crop(boxes, np.random.default_rng(case))
        stream, expected = np.random.default_rng(case), None
        while expected is None:
            expected = plain_crop(boxes, crop.draws(stream), settings.crop_min_iou, attempts)
        window, stay, cut = expected
        np.testing.assert_allclose(
            [*found.anchor, *(found.anchor + found.shape)], window, rtol=0, atol=1e-12
        )
        assert np.flatnonzero(found.kept).tolist() == stay
        np.testing.assert_allclose(found.boxes, cut, rtol=0, atol=1e-12)
        uncropped, moved, lost = (
            uncropped + (window == (0, 0, 1, 1)),
            moved + (window != (0, 0, 1, 1)),
            lost + (len(stay) < len(boxes)),
        )
    assert uncropped > 200 and moved > 200 and lost > 100


@pytest.mark.parametrize("least", [0, 0.1, 0.3, 0.5])
def test_every_box_overlaps_enough_and_boxes_stay_by_their_centre(least):
    crop = RandomCrop(RECIPE.with_values(crop_min_iou=(least,), crop_attempts=50).augmentation)
    random, numbers, moved, left_out, below = (
        np.random.RandomState(1),
        np.random.default_rng(1),
        0,
        0,
        0,
    )
    for _ in range(400):
        boxes = random_boxes(
            random, 3, 0.8 if least else 0.01
        )  # of small ones, hardly a window has enough
        found = crop(boxes, numbers)
        if (found.shape == 1).all():
            continue
        window = np.concatenate([found.anchor, found.anchor + found.shape])
        overlaps = [iou(box, window) for box in boxes]
        assert least == 0 or min(overlaps) > least
        below += min(overlaps) == 0
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > window[:2]) & (centre < window[2:])).all(1)
        np.testing.assert_array_equal(found.kept, inside)
        assert (
            inside.any()
            and 0.5 <= found.shape[0] / found.shape[1] <= 2
            and found.shape.min() >= 0.3
        )
        assert (
            found.boxes.min() >= 0
            and found.boxes.max() <= 1
            and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        )
        moved, left_out = moved + 1, left_out + (not inside.all())
    assert moved > 5 and (least != 0 or (below and left_out))


def test_without_choices_the_whole_image_stays():
    crop = RandomCrop(RECIPE.with_values(crop_min_iou=()).augmentation)
    boxes = random_boxes(np.random.RandomState(0), 4)
    found = crop(boxes, np.random.default_rng(0))
    assert found.anchor.tolist() == [0, 0] and found.shape.tolist() == [1, 1] and found.kept.all()
    np.testing.assert_array_equal(found.boxes, boxes)
