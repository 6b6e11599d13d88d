"""COCO scoring against COCO's example, numbers worked out by hand, and pycocotools used
directly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssd.__main__ import main
from ssd.errors import UserError
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES, format_stats, score_detections
from tests.evaluation.odd_sets import score_directly

COCO_EVAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_eval"
needs_coco_eval = pytest.mark.skipif(
    not COCO_EVAL.is_dir(), reason="no ../shared/data/coco_eval here"
)


def annotation(number, image, category, box, **extra):
    return dict({"id": number, "image_id": image, "category_id": category, "bbox": box}, **extra)


def dataset(annotations, images=(1,), categories=(1,)):
    return {
        "images": [
            {"id": image, "file_name": "%d.jpg" % image, "width": 100, "height": 100}
            for image in images
        ],
        "categories": [{"id": category, "name": "class %d" % category} for category in categories],
        "annotations": annotations,
    }


def write(folder, content, name="annotations.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def detections(*rows):
    """rows: (image id, category id, box, score)"""
    images, categories, boxes, scores = zip(*rows) if rows else ((), (), (), ())
    return Detections(images, boxes, scores, categories)


TWO_BOXES = [annotation(1, 1, 1, [10, 10, 20, 20]), annotation(2, 1, 1, [50, 50, 40, 40])]
# exact; false; 31/40 = .775 of the second box, enough for the IoU thresholds .5 to .75, six of the
# ten
THREE_ROWS = (
    (1, 1, [10, 10, 20, 20], 0.9),
    (1, 1, [0, 70, 20, 20], 0.8),
    (1, 1, [50, 50, 31, 40], 0.7),
)
HIT_FALSE_HIT = (51 + 50 * 2 / 3) / 101  # precision 1 up to recall .5, then 2/3, at 101 recalls
BY_HAND = {
    "AP": 0.6 * HIT_FALSE_HIT + 0.4 * 51 / 101,
    "AP50": HIT_FALSE_HIT,
    "AP75": HIT_FALSE_HIT,
    "APs": 1,
    "APm": 0.6,
    "APl": -1,
    "AR1": 0.5,
    "AR10": 0.8,
    "AR100": 0.8,
    "ARs": 1,
    "ARm": 0.6,
    "ARl": -1,
}


@needs_coco_eval
@pytest.mark.parametrize("as_npz", [False, True])
def test_coco_example_to_every_printed_digit(tmp_path, capsys, as_npz):
    found = COCO_EVAL / "instances_val2014_fakebbox100_results.json"
    if as_npz:
        Detections.from_json(found).to_npz(tmp_path / "found.npz")
        found = tmp_path / "found.npz"
    status = main(
        [
            "score",
            "--annotations",
            str(COCO_EVAL / "instances_val2014_100.json"),
            "--detections",
            str(found),
        ]
    )
    printed = capsys.readouterr()
    part = (
        (COCO_EVAL / "val2014_fake_eval_res.txt")
        .read_text()
        .split("type=bbox")[1]
        .split("-----")[0]
    )
    expected = [line for line in part.splitlines() if " @[ " in line]
    assert status == 0 and printed.err.startswith("scored by ") and len(expected) == 12
    # the file was written by an older COCO API, which put one blank less after "Precision" and
    # "Recall"
    assert [line.split() for line in printed.out.splitlines()] == [
        line.split() for line in expected
    ]


def test_table_equals_pycocotools_output(tmp_path):
    path = write(tmp_path, dataset([dict(row, area=400, iscrowd=0) for row in TWO_BOXES]))
    rows = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 19], "score": 0.5}]
    direct = score_directly(path, rows)
    assert format_stats(dict(zip(STAT_NAMES, direct.stats))) == "\n".join(
        direct.printed.splitlines()[-12:]
    )


def test_numbers_worked_out_by_hand(tmp_path, capfd):
    stats = score_detections(write(tmp_path, dataset(TWO_BOXES)), detections(*THREE_ROWS))
    assert list(stats) == list(STAT_NAMES)
    assert stats == pytest.approx(BY_HAND, abs=1e-12)
    assert capfd.readouterr() == ("", "")


def test_detections_in_an_image_without_boxes_count_against(tmp_path):
    path = write(tmp_path, dataset(TWO_BOXES[:1], images=(1, 2)))
    hit = (1, 1, [10, 10, 20, 20], 0.5)
    assert score_detections(path, detections(hit))["AP"] == pytest.approx(1)
    # precision 1/2 at every recall
    assert score_detections(path, detections(hit, (2, 1, [10, 10, 20, 20], 0.9)))[
        "AP"
    ] == pytest.approx(0.5)


def test_no_detections_is_zero_and_no_ground_truth_undefined(tmp_path):
    stats = score_detections(write(tmp_path, dataset(TWO_BOXES)), detections())
    assert {name: stats[name] for name in ("AP", "AP50", "APs", "APm", "APl", "AR100", "ARl")} == {
        "AP": 0,
        "AP50": 0,
        "APs": 0,
        "APm": 0,
        "APl": -1,
        "AR100": 0,
        "ARl": -1,
    }
    stats = score_detections(write(tmp_path, dataset([])), detections(*THREE_ROWS))
    assert set(stats.values()) == {-1.0}


def test_missing_area_and_iscrowd_are_width_times_height_and_0(tmp_path):
    full = [dict(row, area=row["bbox"][2] * row["bbox"][3], iscrowd=0) for row in TWO_BOXES]
    rows = detections(*THREE_ROWS)
    assert score_detections(write(tmp_path, dataset(full)), rows) == pytest.approx(BY_HAND)
    # a mask's area decides the size class where it is given: 40 * 40 px^2 would be medium
    masks = [TWO_BOXES[0], dict(TWO_BOXES[1], area=900)]
    assert score_detections(write(tmp_path, dataset(masks)), detections(*THREE_ROWS))["APm"] == -1
    crowd = [TWO_BOXES[0], dict(TWO_BOXES[1], iscrowd=1)]
    assert score_detections(write(tmp_path, dataset(crowd)), detections(*THREE_ROWS))["AR100"] == 1


def test_an_annotation_with_id_0_is_found_like_any_other(tmp_path):
    path = write(tmp_path, dataset([dict(row, id=index) for index, row in enumerate(TWO_BOXES)]))
    assert score_detections(path, detections(*THREE_ROWS)) == pytest.approx(BY_HAND)


def test_per_class(tmp_path):
    path = write(
        tmp_path, dataset(TWO_BOXES + [annotation(3, 1, 7, [0, 0, 9, 9])], categories=(7, 1, 8))
    )
    stats = score_detections(path, detections(*THREE_ROWS), per_class=True)
    assert list(stats)[:12] == list(STAT_NAMES)
    assert {name: stats[name] for name in list(stats)[12:]} == {
        "AP/class 1": pytest.approx(BY_HAND["AP"]),
        "AP/class 7": 0,
        "AP/class 8": -1,
    }


def test_other_threads_keep_their_standard_output(tmp_path, capsys, monkeypatch):
    from pycocotools.cocoeval import COCOeval

    before = COCOeval.accumulate
    monkeypatch.setattr(
        COCOeval, "accumulate", lambda self: [print("another thread's line"), before(self)]
    )
    score_detections(
        write(tmp_path, dataset(TWO_BOXES)), detections(*THREE_ROWS), scorer="pycocotools"
    )
    assert capsys.readouterr().out == "another thread's line\n"


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "is not JSON"),
        ("[]", "is not COCO ground truth: a list"),
        ('{"images": []}', "has no 'annotations'"),
        (dataset([], images=()), "holds no image"),
        (
            dataset([annotation(5, 1, 1, [1, 2, 3])]),
            r"box is not four numbers: annotation 5 .*box \[1, 2, 3\]",
        ),
        (dataset([annotation(5, 1, 1, [1, 2, 3, float("nan")])]), "annotation 5 of image 1 .*nan"),
        (dataset([annotation(5, 1, None, [1, 2, 3, 4])]), "category None"),
        (dataset([annotation(5, 1, 1, [1, 2, 3, 4], area="x")]), "area 'x', which is text"),
        (dataset([annotation(5, 1, 1, [1, 2, 3, 4], area=float("nan"))]), "area nan"),
        (dataset([annotation(5, 1, 1, [1, 2, 3, 4], iscrowd=2)]), "iscrowd 2"),
        (
            {"images": [{"id": "a"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            "image 'a' .* is text",
        ),
    ],
)
def test_bad_annotations_are_named(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=words) as error:
        score_detections(path, detections())
    assert str(path) in str(error.value) and "\n" not in str(error.value)
