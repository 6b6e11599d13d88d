"""The generated data set: its properties, and that it is reproducible."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from ssd.datasets.coco import load_coco
from ssd.datasets.shapes import CATEGORIES, FIRST_ID, draw_image, make_shapes
from ssd.errors import UserError

SMALL = dict(train_images=30, val_images=15, seed=3, size_range=(96, 160))


def quiet(line):
    pass


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "a" / "set", report=quiet, **SMALL)


def test_passes_our_own_checks(shapes):
    sets = [
        load_coco(
            shapes / "annotations" / f"bbox_only_instances_{split}.json",
            shapes / split,
            report=quiet,
        )
        for split in ("train2017", "val2017")
    ]
    train, val = sets
    assert (train.num_images, val.num_images) == (30, 15)
    assert len(train.images_with_boxes) == 28 and len(val.images_with_boxes) == 14
    assert not set(train.image_ids) & set(val.image_ids) and not set(train.file_names) & set(
        val.file_names
    )
    assert train.category_ids == val.category_ids == (3, 7, 11) and train.num_classes == 4
    for data in sets:
        assert set(data.box_classes) == {1, 2, 3}
        assert (
            data.sizes.min() >= 96
            and data.sizes.max() <= 160
            and len({tuple(s) for s in data.sizes}) > 5
        )
        assert 1 <= np.bincount(data.box_image).max() <= 6
    assert sorted(os.listdir(str(shapes.parent))) == ["set"], "nothing left beside it"


def test_annotations_are_coco(shapes):
    seen = set()
    for split in ("train2017", "val2017"):
        content = json.loads(
            (shapes / "annotations" / f"bbox_only_instances_{split}.json").read_text()
        )
        assert content["categories"] == list(CATEGORIES)
        for entry in content["annotations"]:
            assert set(entry) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
            assert entry["iscrowd"] == 0 and entry["image_id"] >= FIRST_ID[split]
            of_box = entry["bbox"][2] * entry["bbox"][3]
            assert 0.2 * of_box < entry["area"] <= of_box
            assert entry["id"] not in seen
            seen.add(entry["id"])


def test_same_seed_same_bytes(shapes, tmp_path):
    again = make_shapes(tmp_path / "again", report=quiet, **SMALL)
    assert digest(again) == digest(shapes)
    other = digest(make_shapes(tmp_path / "other", report=quiet, **{**SMALL, "seed": 4}))
    assert all(other[name] != value for name, value in digest(shapes).items())


def test_boxes_are_tight():
    """Distinguished by colour, the object reaches each of its box's four sides and does not leave
    it."""
    found = 0
    for key in range(120):
        image, objects = draw_image(np.random.default_rng(key), (200, 300), empty=False)
        if len(objects) != 1:
            continue
        _, (x, y, w, h), area = objects[0]
        pixels = np.asarray(image, np.float64)
        outside = np.ones(pixels.shape[:2], bool)
        outside[y : y + h, x : x + w] = False
        background = np.median(pixels[outside], axis=0)
        inside = pixels[y : y + h, x : x + w]
        centre = np.median(inside[h * 2 // 5 : h * 3 // 5, w * 2 // 5 : w * 3 // 5], axis=(0, 1))
        # By the projection on the line between both colours: the object is what is nearer to its
        # own.
        part = (inside - background) @ (centre - background) / ((centre - background) ** 2).sum()
        mine = part > 0.5
        assert abs(mine.sum() - area) < 0.06 * area
        touching = part > 0.25  # a corner's last pixel is half covered, and textured
        assert (
            touching[0].any()
            and touching[-1].any()
            and touching[:, 0].any()
            and touching[:, -1].any()
        )
        part = (pixels - background) @ (centre - background) / ((centre - background) ** 2).sum()
        assert (part[outside] > 0.5).mean() < 0.001, "nothing of the object outside its box"
        found += 1
    assert found >= 5


def test_colours_of_a_class_are_one_family_of_hues():
    """Red, green and blue, each with its spread: families that colour jitter of 18 degrees keeps
    apart."""
    hues = {0: [], 1: [], 2: []}
    for key in range(60):
        image, objects = draw_image(np.random.default_rng(key), (100, 160), empty=False)
        pixels = np.asarray(image.convert("HSV"), np.float64)[..., 0] * 360 / 255
        for category, (x, y, w, h), _ in objects:
            part = pixels[y + h * 3 // 8 : y + h * 5 // 8 + 1, x + w * 3 // 8 : x + w * 5 // 8 + 1]
            hues[category].append(np.median((part - 120 * category + 180) % 360) - 180)
    for category, found in hues.items():
        assert len(found) > 30
        # 0.08 of the circle is 29 degrees; texture and an object on top blur a few
        assert np.percentile(np.abs(found), 95) < 36 and np.ptp(found) > 40, category


def test_existing_folders(shapes, tmp_path):
    before, lines = digest(shapes), []
    times = [path.stat().st_mtime_ns for path in sorted(shapes.rglob("*"))]
    make_shapes(shapes, report=lines.append, **SMALL)
    assert "already" in lines[0] and times == [
        path.stat().st_mtime_ns for path in sorted(shapes.rglob("*"))
    ]
    with pytest.raises(UserError, match="other shapes already: seed 3, not 5"):
        make_shapes(shapes, report=quiet, **{**SMALL, "seed": 5})
    assert digest(shapes) == before

    (tmp_path / "empty").mkdir()
    tiny = dict(train_images=1, val_images=1, size_range=[64, 64], report=quiet)
    folder = make_shapes(tmp_path / "empty", **tiny)
    victim = next((folder / "train2017").iterdir())
    victim.write_bytes(b"short")
    with pytest.raises(UserError, match="but one file was changed: train2017/"):
        make_shapes(folder, **tiny)
    (folder / "shapes.json").write_text("[]")
    with pytest.raises(UserError, match="something else"):
        make_shapes(folder, **tiny)
    with pytest.raises(UserError, match="not a folder"):
        make_shapes(victim, **tiny)
    with pytest.raises(UserError, match="cannot be written"):
        make_shapes(victim / "below", **tiny)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(train_images=0), "train_images"),
        (dict(val_images=True), "val_images"),
        (dict(seed=-1), "seed"),
        (dict(seed=1.5), "seed"),
        (dict(size_range=(300, 200)), "size_range"),
        (dict(size_range=(1, 200)), "size_range"),
        (dict(size_range=5), "size_range"),
        (dict(train_images=10**9), "train_images"),
    ],
)
def test_parameters_are_checked(tmp_path, changes, named):
    with pytest.raises(UserError, match=named):
        make_shapes(tmp_path / "set", report=quiet, **{**SMALL, **changes})
    assert not list(tmp_path.iterdir())
