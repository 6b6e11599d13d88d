"""Settings that follow from the data set, and the split of one annotation file into two."""

import json
import os

import pytest

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.data.resolve import resolve
from ssd.datasets.coco import load_coco
from ssd.datasets.locate import cache_folder, check_classes, dataset_paths
from ssd.datasets.shapes import make_shapes
from ssd.datasets.split import keep_categories
from ssd.errors import UserError
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.detector import describe_sizes

OWN = load_recipe("ssd-resnet34-own")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return str(
        make_shapes(
            tmp_path_factory.mktemp("shapes") / "set",
            train_images=30,
            val_images=1,
            seed=2,
            size_range=(64, 80),
            report=lambda line: None,
        )
    )


def annotations(folder):
    return os.path.join(folder, "annotations", "bbox_only_instances_train2017.json")


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def test_where_checks_are_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder(OWN) == "/cache/ssd-benchmark/annotations"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(OWN) == "/home/me/.cache/ssd-benchmark/annotations"
    monkeypatch.setattr(
        "os.path.expanduser", lambda path: path
    )  # so it answers for a user without a home
    assert cache_folder(OWN) is None and cache_folder(OWN.with_values(cache_dir="here")) == "here"


def test_a_category_that_is_none_is_left_out():
    content = dict(categories=[3, {"id": 1, "name": "cup"}], annotations=[], images=[])
    assert keep_categories(content, ["cup"], "all.json")["categories"] == [{"id": 1, "name": "cup"}]


def test_classes_are_counted(shapes):
    dataset = load_coco(
        annotations(shapes), os.path.join(shapes, "train2017"), report=lambda line: None
    )
    assert OWN.model.num_classes == 0
    check_classes(dataset, OWN, "train")
    assert resolve(OWN, dataset).model.num_classes == 4
    explicit = OWN.with_values(num_classes=4)
    assert resolve(explicit, dataset) == explicit
    with pytest.raises(
        UserError, match="3 categories and the background are 4 classes.*num_classes is 7"
    ):
        check_classes(dataset, OWN.with_values(num_classes=7), "train")
    resolved = resolve(OWN, dataset)
    assert describe_sizes(resolved, sizes_of(resolved)) == (
        "4 classes with the background; images of 300 pixels: feature maps of 38, 19, 10, 5, 3, 1 "
        "cells, 8,732 default boxes from 21 to 315 pixels"
    )


def test_a_network_of_uncounted_classes_is_refused():
    from ssd.model.detector import build_detector

    with pytest.raises(UserError, match="num_classes is 0.*--num-classes"):
        build_detector(OWN).network


def test_absolute_paths_need_no_data_folder(shapes):
    config = OWN.with_values(
        data_dir="no such folder",
        train_annotations=annotations(shapes),
        train_images=os.path.join(shapes, "train2017"),
    )
    assert dataset_paths(config, "train") == (
        annotations(shapes),
        os.path.join(shapes, "train2017"),
    )
    with pytest.raises(UserError, match="--data-dir no such folder: no such folder"):
        dataset_paths(config, "val")
    with pytest.raises(
        UserError, match="--val-annotations .*annotations/val.json: no such file; .* split-data"
    ):
        dataset_paths(config.with_values(data_dir=shapes), "val")


# ---- split-data


def test_split_parts_the_images_and_loses_nothing(shapes, tmp_path, capsys):
    assert (
        main(
            [
                "split-data",
                annotations(shapes),
                "--val-fraction",
                "0.2",
                "--output",
                str(tmp_path / "a"),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    complete = read(annotations(shapes))
    train, val = (read(tmp_path / "a" / name) for name in ("train.json", "val.json"))
    assert (len(train["images"]), len(val["images"])) == (24, 6)
    for section in ("images", "annotations"):
        assert sorted(entry["id"] for part in (train, val) for entry in part[section]) == sorted(
            entry["id"] for entry in complete[section]
        )
    for part in (train, val):
        ids = {image["id"] for image in part["images"]}
        assert {entry["image_id"] for entry in part["annotations"]} <= ids
        assert part["categories"] == complete["categories"]
    assert f"train.json: 24 images, {len(train['annotations'])} boxes (" in shown

    # Which images are chosen follows from ids and seed, not from the order in the file.
    (tmp_path / "turned.json").write_text(
        json.dumps(dict(complete, images=complete["images"][::-1]))
    )
    chosen = {}
    for name, path, seed in (
        ("again", annotations(shapes), "0"),
        ("turned", tmp_path / "turned.json", "0"),
        ("other", annotations(shapes), "1"),
    ):
        assert (
            main(
                [
                    "split-data",
                    str(path),
                    "--val-fraction",
                    "0.2",
                    "--seed",
                    seed,
                    "--output",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
        chosen[name] = {image["id"] for image in read(tmp_path / name / "val.json")["images"]}
    assert (
        chosen["again"]
        == chosen["turned"]
        == {image["id"] for image in val["images"]}
        != chosen["other"]
    )
    assert (tmp_path / "again" / "val.json").read_bytes() == (
        tmp_path / "a" / "val.json"
    ).read_bytes()


def test_split_keeps_the_categories_that_are_named(shapes, tmp_path, capsys):
    assert (
        main(
            [
                "split-data",
                annotations(shapes),
                "--categories",
                "triangle",
                "circle",
                "--val-fraction",
                "0.3",
                "--output",
                str(tmp_path / "two"),
            ]
        )
        == 0
    )
    parts = [read(tmp_path / "two" / name) for name in ("train.json", "val.json")]
    wanted = {
        entry["id"]: entry["image_id"]
        for entry in read(annotations(shapes))["annotations"]
        if entry["category_id"] in (3, 11)
    }
    assert {entry["id"] for part in parts for entry in part["annotations"]} == set(wanted)
    assert {image["id"] for part in parts for image in part["images"]} == set(wanted.values())
    assert [[entry["name"] for entry in part["categories"]] for part in parts] == [
        ["circle", "triangle"]
    ] * 2
    assert (
        main(
            [
                "split-data",
                annotations(shapes),
                "--val-fraction",
                "0.3",
                "--output",
                str(tmp_path / "all"),
            ]
        )
        == 0
    )
    complete = {image["id"] for image in read(tmp_path / "all" / "val.json")["images"]}
    assert {image["id"] for image in parts[1]["images"]} <= complete, "no image changes sides"


def test_what_a_split_refuses(shapes, tmp_path, capsys):
    path, out = annotations(shapes), str(tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "val.json").write_text("mine")
    for arguments, words in (
        (
            [path, "--val-fraction", "1.5", "--output", out],
            "--val-fraction 1.5: must be between 0 and 1",
        ),
        ([path, "--val-fraction", "0.01", "--output", out], "of the 30 images"),
        (
            [path, "--categories", "cirkle", "--output", out],
            "--categories cirkle: not a category of",
        ),
        ([path, "--output", str(tmp_path / "taken")], "val.json exists already"),
        ([str(tmp_path / "none.json"), "--output", out], "none.json does not exist"),
    ):
        assert main(["split-data", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert not os.path.exists(out) and (tmp_path / "taken" / "val.json").read_text() == "mine"
