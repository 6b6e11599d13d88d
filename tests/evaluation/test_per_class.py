"""Average precision by class, and precision-recall curves, against pycocotools' arrays."""

import contextlib
import io
import json
import tracemalloc

import numpy as np
import pytest

from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.per_class import IOU_THRESHOLDS, RECALLS, Evaluation, evaluate, format_classes
from ssd.evaluation.scoring import STAT_NAMES, score_detections
from ssd.evaluation.scoring_backends import SCORERS, load_scorer, mean_defined
from tests.evaluation.odd_sets import as_scored_set, random_set

SEEDS = range(12)


def precision_directly(path, rows):
    """pycocotools' array for all sizes and 100 boxes: (10, 101, categories)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(str(path)), COCO()
        found.dataset = dict(
            truth.dataset,
            annotations=[
                dict(row, id=number, area=row["bbox"][2] * row["bbox"][3], iscrowd=0)
                for number, row in enumerate(rows, start=1)
            ],
        )
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1]


def detections(rows):
    return Detections(
        *([row[name] for row in rows] for name in ("image_id", "bbox", "score", "category_id"))
    )


def mean(values):
    return values[values > -1].mean() if (values > -1).any() else -1


@pytest.mark.parametrize("scorer", SCORERS)
def test_equal_to_pycocotools(scorer, tmp_path):
    try:
        load_scorer(scorer)
    except UserError as error:
        pytest.skip(str(error))
    for seed in SEEDS:
        dataset, rows = random_set(seed)
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps(dataset))
        expected = precision_directly(path, rows)
        truth = as_scored_set(dataset)
        got = evaluate(path, detections(rows), scorer=scorer, ground_truth=truth)
        np.testing.assert_allclose(
            got.precision, expected, atol=1e-9, rtol=0, err_msg=f"seed {seed}"
        )
        assert got.category_ids == tuple(sorted(row["id"] for row in dataset["categories"]))
        for index, category in enumerate(got.category_ids):
            assert got.ap[index] == pytest.approx(mean(expected[:, :, index]), abs=1e-9)
            assert got.ap50[index] == pytest.approx(mean(expected[0, :, index]), abs=1e-9)
            assert got.ap75[index] == pytest.approx(mean(expected[5, :, index]), abs=1e-9)
            ids = {row["id"] for row in dataset["images"]}
            assert got.objects[index] == sum(
                row["category_id"] == category and not row["iscrowd"] and row["image_id"] in ids
                for row in dataset["annotations"]
            )
            assert got.found[index] == sum(row["category_id"] == category for row in rows)
        assert got.stats == score_detections(path, detections(rows), scorer=scorer, truth=truth)


def test_curves_have_their_average_precision_as_area(tmp_path):
    dataset, rows = next(
        pair
        for pair in map(random_set, range(100))
        if len(pair[0]["categories"]) > 1 and len(pair[1]) > 100 and pair[0]["annotations"]
    )
    path = tmp_path / "set.json"
    path.write_text(json.dumps(dataset))
    got = evaluate(path, detections(rows), ground_truth=as_scored_set(dataset))
    assert got.mean_curve().shape == RECALLS.shape
    assert got.mean_curve().mean() == pytest.approx(got.stats["AP"], abs=1e-9)
    assert got.mean_curve(0.75).mean() == pytest.approx(got.stats["AP75"], abs=1e-9)
    known = int(np.argmax(got.ap))
    assert got.mean_curve(0.5, known).mean() == pytest.approx(got.ap50[known], abs=1e-9)
    assert len(IOU_THRESHOLDS) == got.precision.shape[0]


def test_vectorised_means_equal_single_means():
    """To the last bit, whichever numbers are undefined."""
    random = np.random.default_rng(3)
    for shape in ((5, 10, 101), (101, 1), (101, 10, 80), (3, 0), (0, 4)):
        values = random.random(shape)
        values[random.random(shape[0]) < 0.3] = -1
        for one in values[::4]:
            one[random.random(one.shape) < 0.5] = -1
        expected = [one[one > -1].mean() if (one > -1).any() else -1.0 for one in values]
        assert mean_defined(values).tolist() == expected


def test_curves_of_many_classes():
    """A curve copies only the numbers of its class, however many classes there are."""
    random, count = np.random.default_rng(0), 500
    precision = random.random((10, 101, count))
    precision[:, :, 7] = -1
    got = Evaluation(
        {}, (), (), *[np.zeros(count)] * 3, None, None, precision, None, None, None, "", []
    )
    tracemalloc.start()
    curves = [got.mean_curve(0.75, index) for index in (3, 7)]
    assert tracemalloc.get_traced_memory()[1] < precision.nbytes / 100
    tracemalloc.stop()
    assert curves[0].tolist() == precision[5, :, 3].tolist() and np.isnan(curves[1]).all()
    np.testing.assert_allclose(
        got.mean_curve(0.5), np.delete(precision[0], 7, axis=1).mean(1), rtol=1e-12
    )
    np.testing.assert_allclose(
        got.mean_curve(), np.delete(precision, 7, axis=2).mean((0, 2)), rtol=1e-12
    )


def test_images_left_out_are_no_part_of_the_score():
    """The same as a file without them."""
    dataset, rows = next(
        pair for pair in map(random_set, range(100)) if len(pair[0]["images"]) > 3 and pair[1]
    )
    gone = [dataset["images"][0]["id"], dataset["images"][2]["id"]]
    rest = [row for row in rows if row["image_id"] not in gone]
    part = dict(dataset, images=[row for row in dataset["images"] if row["id"] not in gone])
    kept = [row["id"] for row in part["images"]]
    left = evaluate("a.json", detections(rest), ground_truth=as_scored_set(dataset).of_images(kept))
    expected = evaluate("a.json", detections(rest), ground_truth=as_scored_set(part))
    assert left.stats == expected.stats and left.per_class() == expected.per_class()
    assert left.image_ids.tolist() == expected.image_ids.tolist() == sorted(kept)


def test_columns_stand_below_each_other_on_a_terminal(tmp_path):
    """Han letters take two columns, an accent of its own none."""
    path, wide, accents = (
        tmp_path / "set.json",
        "\u4ea4\u901a\u4fe1\u53f7\u706f",
        "re\u0301sume\u0301",
    )
    names = [wide, accents, "cat"]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1}],
                "categories": [{"id": row, "name": name} for row, name in enumerate(names)],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 0, "bbox": [10, 10, 20, 20]}
                ],
            }
        )
    )
    got = evaluate(path, Detections([1] * 3, [[10, 10, 20, 20]] * 3, [0.5] * 3, [0, 1, 2]))
    lines = format_classes(got).splitlines()
    assert lines[0].startswith("class" + " " * 5 + "     AP")
    assert lines[1].startswith(wide + "  1.000"), "ten columns already"
    assert lines[2].startswith(accents + " " * 4 + "      -") and lines[3].startswith(
        "cat" + " " * 7 + "      -"
    )


def test_table_of_classes(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1}],
                "categories": [{"id": 4, "name": "disc"}, {"id": 2, "name": "star"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 20, 20]}
                ],
            }
        )
    )
    got = evaluate(path, Detections([1], [[10, 10, 20, 20]], [0.5], [4]))
    assert format_classes(got).splitlines()[1:] == [
        "disc   1.000  1.000  1.000        1           1",
        "(1 more without objects and detections)",
    ]
    got = evaluate(path, Detections([1, 1], [[10, 10, 20, 20]] * 2, [0.5, 0.5], [4, 2]))
    assert format_classes(got).splitlines()[2:] == [
        "star       -      -      -        0           1"
    ]
    assert [row["AP"] for row in got.per_class()] == pytest.approx([-1, 1]) and list(
        got.stats
    ) == list(STAT_NAMES)
