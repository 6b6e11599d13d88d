"""Detections: their checks, and files that keep them exactly."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pytest

from ssd.errors import UserError
from ssd.evaluation import detections as module
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import score_detections

GOOD = {"image_id": 1, "category_id": 2, "bbox": [0.1, 2, 3.5, 0], "score": 0.25}
FIELDS = ("image_id", "boxes_xywh", "score", "category_id")


def random_detections(count):
    rng = np.random.default_rng(count)
    return Detections(
        rng.integers(0, 2**40, count),
        rng.random((count, 4)) * 640,
        rng.random(count),
        rng.integers(1, 91, count),
    )


def assert_equal(left, right):
    for name in FIELDS:
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), name


@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize("kind", ["json", "npz"])
def test_files_keep_every_bit(tmp_path, count, kind):
    written, path = random_detections(count), tmp_path / ("found." + kind)
    getattr(written, "to_" + kind)(path)
    read = getattr(Detections, "from_" + kind)(path)
    assert_equal(read, written)
    assert len(read) == count and read.boxes_xywh.shape == (count, 4) and read.source == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # nothing temporary is left


def test_json_is_cocos_results_format(tmp_path):
    Detections([1], [[0.1, 2, 3.5, 0]], [0.25], [2]).to_json(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == [GOOD]


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 21])
def test_json_is_written_in_pieces(tmp_path, monkeypatch, count):
    """Equal to one call of json.dumps, though no call formats more than some rows."""
    seen, dumps, found = [], json.dumps, random_detections(count)
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(
        module.json, "dumps", lambda rows, **how: seen.append(len(rows)) or dumps(rows, **how)
    )
    found.to_json(tmp_path / "found.json")
    assert sum(seen) == count and max(seen, default=0) <= 7
    rows = [
        dict(image_id=image, category_id=category, bbox=box, score=score)
        for image, category, box, score in zip(
            found.image_id.tolist(),
            found.category_id.tolist(),
            found.boxes_xywh.tolist(),
            found.score.tolist(),
        )
    ]
    assert (tmp_path / "found.json").read_text() == dumps(rows, separators=(",", ":"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "found.npz"
    random_detections(3).to_npz(path)

    def fails(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "savez", fails)
    with pytest.raises(OSError):
        random_detections(5).to_npz(path)
    assert len(Detections.from_npz(path)) == 3 and len(list(tmp_path.iterdir())) == 1


def test_concatenate():
    parts = [random_detections(count) for count in (2, 0, 3)]
    joined = Detections.concatenate(parts)
    assert len(joined) == 5
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(joined, name)[:2], getattr(parts[0], name))
        np.testing.assert_array_equal(getattr(joined, name)[2:], getattr(parts[2], name))
    assert len(Detections.concatenate([])) == 0 and Detections.concatenate([]).boxes_xywh.shape == (
        0,
        4,
    )


def row(**changes):
    return [GOOD, {key: value for key, value in dict(GOOD, **changes).items() if value is not ...}]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read: No such file"),
        ("", "not JSON"),
        ("nonsense", "not JSON"),
        ({"annotations": []}, "not a list of detections but an object"),
        ([GOOD, 5], "row 1: not a detection but a number"),
        ([[1, 0, 0, 1, 1, 0.5, 2]], "row 0: not a detection but a list"),
        (["image_id"], "row 0: not a detection but a string"),
        (row(score=...), "row 1: no 'score'"),
        (row(bbox=[1, 2, 3]), r"row 1: bbox \[1, 2, 3\]"),
        (row(bbox=[1, 2, "3", 4]), "row 1: bbox"),
        (row(bbox=[1, 2, True, 4]), "row 1: bbox"),
        (row(bbox=[1, 2, 3, float("nan")]), "row 1: bbox .*nan"),
        (row(bbox=[1, 2, -0.5, 4]), "row 1: bbox .*-0.5"),
        (row(bbox=[1e400, 2, 3, 4]), "row 1: bbox .*inf"),
        (row(score=float("nan")), "row 1: .*score nan"),
        (row(score=None), "row 1: .*score null"),
        (row(image_id=1.5), "row 1: image_id 1.5"),
        (row(image_id="1"), 'row 1: image_id "1"'),
        (row(category_id=2**63), "row 1: .*category_id 9223"),
        (row(category_id=None), "row 1: .*category_id null"),
    ],
)
def test_bad_json_names_its_first_bad_row(tmp_path, content, words):
    path = tmp_path / "found.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {words}") as error:
        Detections.from_json(path)
    assert "\n" not in str(error.value)


ARRAYS = {
    "image_id": np.arange(3),
    "boxes_xywh": np.ones((3, 4)),
    "score": np.ones(3),
    "category_id": np.ones(3),
}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"score": None}, "an array is missing: .*score"),
        ({"score": np.ones(2)}, "arrays differ in length: .*score 2"),
        ({"boxes_xywh": np.ones((3, 5))}, r"boxes_xywh has shape \(3, 5\)"),
        ({"score": np.ones((3, 1))}, r"score has shape \(3, 1\)"),
        ({"image_id": np.array([1, 1.5, 2])}, "row 1: image_id 1.5 is not a whole number"),
        ({"image_id": np.array(["a", "b", "c"])}, "image_id is not an array of numbers"),
        ({"score": np.array([1, 1, np.inf])}, "row 2: .*score inf"),
        ({"score": np.array([None, 1, 2], object)}, "not an .npz of arrays"),
    ],
)
def test_bad_npz_is_named(tmp_path, changes, words):
    path = tmp_path / "found.npz"
    np.savez(
        path,
        **{name: value for name, value in dict(ARRAYS, **changes).items() if value is not None},
    )
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {words}"):
        Detections.from_npz(path)


def test_other_files_are_refused_as_npz(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    array = io.BytesIO()
    np.save(array, np.ones(3))
    with zipfile.ZipFile(tmp_path / "zip", "w") as file:
        file.writestr("score.npy", b"no array")
    contents = [
        b"",
        b"PK\x03\x04",
        buffer.getvalue()[:200],
        b"nonsense",
        array.getvalue(),
        (tmp_path / "zip").read_bytes(),
    ]
    for content in contents:
        path = tmp_path / "found.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="found.npz: ") as error:
            Detections.from_npz(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="absent.npz: cannot be read: No such file"):
        Detections.from_npz(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image_id": [1, 1, 9]}, "detections: row 2: image_id 9 is not in .*a.json"),
        ({"category_id": [4, 4, 4]}, "detections: row 0: category_id 4 is not in .*a.json"),
    ],
)
def test_unknown_images_and_categories_are_named(tmp_path, changes, words):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(
            {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        )
    )
    known = dict(ARRAYS, image_id=[1, 1, 1], category_id=[1, 1, 1])
    with pytest.raises(UserError, match=words):
        score_detections(path, Detections(**dict(known, **changes)))
