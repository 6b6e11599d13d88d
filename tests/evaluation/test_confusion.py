"""The confusion matrix: a case by hand, hotcoco's on random ones, and one pass for all
thresholds."""

import numpy as np
import pytest

from ssd.evaluation.confusion import (
    CROWD,
    NOTHING,
    THRESHOLDS,
    best_threshold,
    count_confusion,
    match_any_class,
)
from ssd.evaluation.scoring_backends import GroundTruth


def truth(boxes, images=2, categories=2):
    """boxes: (image, category, x, y, w, h, crowd)."""
    columns = np.array(boxes, np.float64).reshape(-1, 7)
    return GroundTruth(
        images,
        categories,
        columns[:, 0].astype(int),
        columns[:, 1].astype(int),
        columns[:, 2:6],
        columns[:, 4] * columns[:, 5],
        columns[:, 6].astype(int),
    )


def rows(*found):
    """found: (image, x, y, w, h, score, category)."""
    return np.array(found, np.float64).reshape(-1, 7)


def test_by_hand():
    real = truth(
        [
            (0, 0, 0, 0, 10, 10, 0),
            (0, 1, 50, 50, 10, 10, 0),
            (0, 0, 100, 0, 10, 10, 0),
            (1, 1, 0, 0, 40, 40, 1),
            (1, 1, 100, 100, 10, 10, 0),
        ]
    )
    found = rows(
        (0, 0, 0, 10, 10, 0.9, 0),  # right
        (0, 0, 0, 10, 11, 0.8, 0),  # the same object again: on no object
        (0, 50, 50, 10, 12, 0.7, 0),  # class 1 confused with class 0
        (0, 100, 5, 10, 10, 0.6, 0),  # IoU 1/3: on no object, and the object is not found
        (1, 5, 5, 10, 10, 0.5, 1),  # in a crowd region: not counted
        (1, 300, 300, 10, 10, 0.4, 1),  # on no object
        (1, 100, 100, 10, 10, 0.2, 1),
    )  # right, below the threshold
    matches = match_any_class(real, found)
    assert matches.box.tolist() == [0, NOTHING, 1, NOTHING, CROWD, NOTHING, 4]
    counts = count_confusion(matches, 0.3)
    assert counts.matrix.tolist() == [[1, 0, 1], [1, 0, 1], [2, 1, 0]]
    assert (counts.missed.tolist(), counts.confused.tolist(), counts.spurious.tolist()) == (
        [1, 1],
        [1, 0],
        [2, 1],
    )
    assert counts.errors.tolist() == [4, 2]
    assert count_confusion(matches, 0.2).matrix.tolist() == [[1, 0, 1], [1, 1, 0], [2, 1, 0]]


def test_the_highest_score_takes_the_best_overlap():
    """The higher score of two takes the better of two boxes, the other one the remaining box."""
    real = truth([(0, 0, 0, 0, 10, 10, 0), (0, 1, 2, 0, 10, 10, 0)])
    matches = match_any_class(real, rows((0, 1, 0, 10, 10, 0.5, 0), (0, 2, 0, 10, 10, 0.9, 1)))
    assert matches.box.tolist() == [0, 1]
    matches = match_any_class(real, rows((0, 2, 0, 10, 10, 0.5, 1), (0, 2, 0, 10, 10, 0.9, 1)))
    assert matches.box.tolist() == [0, 1], (
        "the box that it overlaps most is taken, the other one reaches .5"
    )


def random_case(seed, images=30, boxes=150, found=600, categories=4):
    random = np.random.default_rng(seed)
    corners = random.random((boxes, 2)) * 200
    sizes = 15 + random.random((boxes, 2)) * 90
    real = GroundTruth(
        images,
        categories,
        np.sort(random.integers(0, images, boxes)),
        random.integers(0, categories, boxes),
        np.c_[corners, sizes],
        sizes.prod(1),
        np.zeros(boxes, np.int64),
    )
    near = random.integers(0, boxes, found)
    moved = np.abs(real.boxes_xywh[near] * (1 + 0.12 * random.standard_normal((found, 4))))
    label = np.where(
        random.random(found) < 0.7, real.category[near], random.integers(0, categories, found)
    )
    return real, np.c_[real.image[near], moved, random.random(found), label]


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_hotcoco(seed):
    hotcoco = pytest.importorskip("hotcoco")
    real, found = random_case(seed)
    boxes = hotcoco.COCO.from_arrays(
        [{"id": number} for number in range(real.images)],
        [{"id": number, "name": str(number)} for number in range(real.categories)],
        real.image,
        real.category,
        real.boxes_xywh,
        area=real.area,
        iscrowd=real.crowd,
    )
    judge = hotcoco.COCOeval(boxes, boxes.load_res(found), "bbox")
    for threshold in (0.05, 0.3, 0.8):
        expected = judge.confusion_matrix(iou_thr=0.5, max_det=len(found), min_score=threshold)[
            "matrix"
        ]
        assert (
            count_confusion(match_any_class(real, found), threshold).matrix.tolist()
            == expected.tolist()
        )


def test_one_pass_serves_all_thresholds():
    real, found = random_case(7)
    matches = match_any_class(real, found)
    for threshold in (0.2, 0.55):
        alone = match_any_class(real, found, least_score=threshold)
        assert (
            count_confusion(alone, threshold).matrix.tolist()
            == count_confusion(matches, threshold).matrix.tolist()
        )
        assert count_confusion(matches, threshold).matrix[:-1].sum() == len(real.image), (
            "every object is in one cell"
        )


def test_best_threshold():
    real = truth([(0, 0, 20 * index, 0, 10, 10, 0) for index in range(10)])
    right = [(0, 20 * index, 0, 10, 10, 0.6, 0) for index in range(8)]
    wrong = [(0, 20 * index, 100, 10, 10, 0.33, 0) for index in range(8)]
    assert best_threshold(match_any_class(real, rows(*right, *wrong))) == 0.35
    assert best_threshold(match_any_class(real, rows())) == THRESHOLDS[0]


def test_no_detections_and_no_ground_truth():
    for real in (truth([]), truth([(0, 0, 0, 0, 10, 10, 0)])):
        counts = count_confusion(match_any_class(real, rows()), 0.5)
        assert counts.matrix.sum() == len(real.image) == counts.errors.sum()
    counts = count_confusion(match_any_class(truth([]), rows((1, 0, 0, 0, 0, 0.9, 1))), 0.5)
    assert counts.matrix[2, 1] == 1 and counts.spurious.tolist() == [0, 1]
