"""Every scorer against pycocotools used directly: all twelve numbers, and every category's
precision, to 1e-9."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssd.__main__ import main
from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES, score_detections
from ssd.evaluation.scoring_backends import SCORERS, load_scorer
from tests.evaluation.odd_sets import AREAS, as_scored_set, near_rows, random_set, score_directly

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SETS, SETS_A_TEST = 300, 50


@pytest.fixture(params=SCORERS)
def scorer(request):
    try:
        return load_scorer(request.param).name
    except UserError as error:
        pytest.skip(str(error))


@functools.lru_cache(maxsize=None)
def odd_set(seed):
    return random_set(seed)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """By seed: (annotation file, rows, pycocotools' result); each computed once for all
    scorers."""
    folder = tmp_path_factory.mktemp("odd")

    @functools.lru_cache(maxsize=None)
    def judge(seed):
        dataset, rows = odd_set(seed)
        path = folder / ("%d.json" % seed)
        path.write_text(json.dumps(dataset))
        return path, rows, score_directly(path, rows)

    return judge


def detections(rows):
    return Detections(
        *([row[name] for row in rows] for name in ("image_id", "bbox", "score", "category_id"))
    )


def assert_equal(scorer, path, rows, expected, truth=None):
    stats = score_detections(path, detections(rows), per_class=True, scorer=scorer, truth=truth)
    assert list(stats)[:12] == list(STAT_NAMES)
    assert list(stats.values()) == pytest.approx(
        expected.stats + expected.class_precision, abs=1e-9, rel=0
    )


@pytest.mark.parametrize("first", range(0, SETS, SETS_A_TEST))
def test_equal_to_pycocotools_on_odd_sets(scorer, judged, first):
    for seed in range(first, first + SETS_A_TEST):
        try:
            assert_equal(scorer, *judged(seed), as_scored_set(odd_set(seed)[0]))
        except AssertionError as error:
            raise AssertionError("seed %d: %s" % (seed, error)) from None


def test_the_odd_sets_are_odd():
    seen = Counter()
    for seed in range(SETS):
        dataset, rows = odd_set(seed)
        annotations, images = dataset["annotations"], {row["id"] for row in dataset["images"]}
        per_cell = Counter((row["image_id"], row["category_id"]) for row in rows).values()
        seen.update(
            {
                "crowds": any(row["iscrowd"] for row in annotations),
                "no ground truth": not annotations,
                "crowds alone": bool(annotations) and all(row["iscrowd"] for row in annotations),
                "no detections": not rows,
                "more than 100 of a class in an image": max(per_cell, default=0) > 100,
                "ties": len({row["score"] for row in rows}) < len(rows),
                "signs of zero": {str(row["score"]) for row in rows} >= {"0.0", "-0.0"},
                "no area": any(0 in row["bbox"][2:] for row in annotations),
                "detection of no area": any(0 in row["bbox"][2:] for row in rows),
                "class without ground truth": {row["id"] for row in dataset["categories"]}
                > {row["category_id"] for row in annotations}
                != set(),
                "image without boxes": bool(images - {row["image_id"] for row in annotations}),
                "unlisted": any(
                    4000 in (row["image_id"], row["category_id"]) for row in annotations
                ),
                "ids beyond 32 bits": max(images) > 2**31,
                "ids beyond 53 bits": max(images) > 2**53,
                "negative ids": min(images) < 0,
                "area at a border": bool({1024, 9216} & {row["area"] for row in annotations}),
                "detection at a border": any(
                    row["bbox"][2] * row["bbox"][3] in AREAS[2:] for row in rows
                ),
            }
        )
    assert len(seen) == 17 and min(seen.values()) >= 5, seen


def test_equal_on_the_coco_api_example(scorer):
    if not (DATA / "coco_eval").is_dir():
        pytest.skip("no ../shared/data/coco_eval here")
    path = DATA / "coco_eval" / "instances_val2014_100.json"
    rows = json.loads(
        (DATA / "coco_eval" / "instances_val2014_fakebbox100_results.json").read_text()
    )
    expected = score_directly(path, rows)
    assert expected.stats[0] == pytest.approx(0.505, abs=5e-4)
    assert_equal(scorer, path, rows, expected)


@pytest.mark.parametrize(
    "annotations",
    [
        "coco300/annotations/instances_val2017.json",
        "coco_full/annotations/instances_train2017.json",
    ],
)
def test_equal_on_real_annotations(scorer, annotations):
    path = DATA / annotations
    if not path.is_file():
        pytest.skip(f"no ../shared/data/{annotations} here")
    rows, expected = real_set(path)
    assert min(expected.stats) > 0.02, expected.stats
    assert_equal(scorer, path, rows, expected)


@functools.lru_cache(maxsize=None)
def real_set(path):
    rows = near_rows(path, seed=1)
    return rows, score_directly(path, rows)


def test_no_categories_at_all(scorer, tmp_path):
    path = tmp_path / "annotations.json"
    dataset = {"images": [{"id": 1}], "annotations": [], "categories": []}
    path.write_text(json.dumps(dataset))
    truth = as_scored_set(dataset)
    assert set(
        score_detections(path, detections([]), per_class=True, scorer=scorer, truth=truth).values()
    ) == {-1}
    with pytest.raises(UserError, match="row 0: category_id 1 is not in"):
        score_detections(
            path, Detections([1], [[1, 2, 3, 4]], [0.5], [1]), scorer=scorer, truth=truth
        )
    with pytest.raises(UserError, match="holds no category"):
        score_detections(path, detections([]), scorer=scorer)


def test_ids_are_not_rounded(scorer, tmp_path):
    near = 2**53  # the next one is no float64
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": near}, {"id": near + 1}],
                "categories": [{"id": near, "name": "a"}],
                "annotations": [
                    {"id": 1, "image_id": near + 1, "category_id": near, "bbox": [1, 2, 3, 4]}
                ],
            }
        )
    )
    found = {
        image: Detections([image], [[1, 2, 3, 4]], [0.5], [near]) for image in range(near, near + 3)
    }
    assert score_detections(path, found[near], scorer=scorer)["AP"] == 0
    assert score_detections(path, found[near + 1], scorer=scorer)["AP"] == pytest.approx(1)
    with pytest.raises(UserError, match="image_id %d is not in" % (near + 2)):
        score_detections(path, found[near + 2], scorer=scorer)


def test_a_scorer_prints_and_warns_nothing(scorer, judged, capfd):
    path, rows, _ = judged(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_detections(path, detections(rows), scorer=scorer, truth=as_scored_set(odd_set(0)[0]))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def clean(tmp_path):
    """(annotation file, rows, pycocotools' result) of a set without bad entries."""
    path, random = tmp_path / "clean.json", np.random.default_rng(4)
    boxes = [[float(side) for side in random.integers(1, 50, 4)] for _ in range(6)]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": image} for image in (1, 2, 3)],
                "categories": [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}],
                "annotations": [
                    {
                        "id": 1 + index,
                        "image_id": 1 + index % 3,
                        "category_id": (5, 9)[index % 2],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                    for index, box in enumerate(boxes)
                ],
            }
        )
    )
    rows = [
        {
            "image_id": 1 + index % 3,
            "category_id": (5, 9)[index % 2],
            "score": 1 - index / 10,
            "bbox": [side + index / 4 for side in box],
        }
        for index, box in enumerate(boxes)
    ]
    return path, rows, score_directly(path, rows)


def hide(monkeypatch, *scorers):
    for scorer in scorers:
        monkeypatch.setitem(sys.modules, SCORERS[scorer][0], None)


def test_pycocotools_is_the_fallback(monkeypatch, clean, tmp_path, capsys):
    path, rows, expected = clean
    detections(rows).to_npz(tmp_path / "found.npz")
    arguments = [
        "score",
        "--annotations",
        str(path),
        "--detections",
        str(tmp_path / "found.npz"),
        "--json",
    ]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == f"scored by {load_scorer()}, on 3 images, 6 objects\n"
    hide(monkeypatch, "hotcoco", "faster-coco-eval")
    assert main(arguments) == 0
    fallback, err = capsys.readouterr()
    assert err.startswith("scored by pycocotools 2.") and err.count("\n") == 1
    assert list(json.loads(out).values()) == pytest.approx(expected.stats, abs=1e-9)
    assert list(json.loads(fallback).values()) == expected.stats


def test_a_scorer_by_name(monkeypatch, clean, tmp_path, capsys):
    path, rows, _ = clean
    detections(rows).to_npz(tmp_path / "found.npz")
    arguments = [
        "score",
        "--annotations",
        str(path),
        "--detections",
        str(tmp_path / "found.npz"),
        "--scorer",
    ]
    assert main(arguments + ["pycocotools"]) == 0
    assert capsys.readouterr().err.startswith("scored by pycocotools ")
    assert main(arguments + ["pycoco"]) == 2
    assert capsys.readouterr().err == (
        "python -m ssd score: error: scorer pycoco: not one of hotcoco, faster-coco-eval, "
        "pycocotools\n"
    )
    hide(monkeypatch, *SCORERS)
    assert main(arguments + ["hotcoco"]) == 2
    assert capsys.readouterr().err.startswith(
        "python -m ssd score: error: no scorer: hotcoco cannot be imported ("
    )
    with pytest.raises(
        UserError, match="hotcoco .*; faster-coco-eval .*; pycocotools cannot be imported"
    ):
        load_scorer()


def test_help_names_every_scorer(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert all(scorer in help_text for scorer in SCORERS)


def test_arrays_reach_hotcoco_unchanged(judged, monkeypatch):
    """Without one Python object per box: a million of them would cost more than the score."""
    hotcoco = pytest.importorskip("hotcoco")
    given = []

    class Spy:
        COCOeval = hotcoco.COCOeval

        class COCO:
            @staticmethod
            def from_arrays(*arguments, **named):
                given.extend([*arguments[2:], *named.values()])
                return hotcoco.COCO.from_arrays(*arguments, **named)

    monkeypatch.setitem(sys.modules, "hotcoco", Spy)
    path, rows, expected = judged(2)
    stats = score_detections(
        path, detections(rows), scorer="hotcoco", truth=as_scored_set(odd_set(2)[0])
    )
    assert list(stats.values()) == pytest.approx(expected.stats, abs=1e-9)
    assert len(given) == 5 and all(isinstance(column, np.ndarray) for column in given)
