"""One annotation file after another through every command that reads one: taken by all, or refused
by all before any work, and scored by all as pycocotools scores the images and boxes that were read.
"""

from __future__ import annotations

import json

import pytest

from ssd.__main__ import main
from ssd.commands.predict import IdScheme
from ssd.config import load_recipe
from ssd.datasets.annotations import categories_of
from ssd.datasets.coco import load_coco
from ssd.datasets.locate import load_datasets
from ssd.datasets.prepare_json import ANNOTATION_KEYS, IMAGE_KEYS, write_reduced
from ssd.datasets.split import split_file
from ssd.evaluation.per_class import evaluate
from ssd.evaluation.saved_network import load_images
from ssd.evaluation.scored_set import scored_set
from ssd.evaluation.scoring import read_ground_truth, score_detections
from ssd.tools import summary
from ssd.tools.inputs import find_inputs
from tests.commands.outcomes import equal_stats, refusal, to_detections
from tests.datasets import odd_files
from tests.evaluation.odd_sets import score_directly, score_of_run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "images"
    odd_files.draw_images(folder)
    return folder


def config_of(path, images, skip):
    recipe = load_recipe("ssd-resnet34-own")
    return recipe.with_values(
        train_annotations=str(path),
        val_annotations=str(path),
        train_images=str(images),
        val_images=str(images),
        skip_bad_annotations=skip,
        max_left_out=1.0,
        cache_dir=str(path.parent / "cache"),
        check_images="header",
    )


def refusals(path, images, skip, kept):
    """The message of each command, by its name. kept: names of the images that are left."""
    config = config_of(path, images, skip)
    inputs = [one for one in find_inputs([str(images)])[0] if one.inside in kept]
    quiet = dict(report=lambda line: None)
    return {
        "load": refusal(
            lambda: load_coco(path, images, skip_bad=skip, check_images="header", **quiet)
        ),
        "train": refusal(lambda: load_datasets(config)),
        "evaluate": refusal(lambda: load_images(config, str(path), str(images), **quiet)),
        "score, report": refusal(lambda: read_ground_truth(path, skip_bad=skip)),
        "predict": refusal(lambda: IdScheme(str(path), inputs, skip, 1.0)),
        "split-data": refusal(
            lambda: split_file(str(path), str(path.parent / f"split{skip}"), 0.5, skip_bad=skip)
        ),
    }


def found(images):
    return [row for row in odd_files.found() if row["image_id"] in images]


@pytest.mark.parametrize("odd", odd_files.EVERY, ids=lambda odd: odd.name)
def test_every_command_alike(odd, images, tmp_path, capsys):
    path = tmp_path / "odd.json"
    path.write_bytes(odd_files.as_bytes(odd))
    can_be_left_out = bool(odd.images) or odd.boxes is not None
    names = {f"{image}.jpg" for image in range(1, 7) if image not in odd.images}
    said = refusals(path, images, False, names)
    for command, line in said.items():
        assert (odd.words in line) if odd.words else line == "", f"{command}: {line}"
    prepared(odd, path)
    flags = ["--annotations", str(path), "--images", str(images), "--no-cache"]
    check = ["check-data", *flags, "--jobs", "1", "--max-left-out", "1"]
    assert main(check) == (0 if not odd.words else 1 if can_be_left_out else 2)
    assert odd.words in "".join(capsys.readouterr())
    if odd.words and not can_be_left_out:
        assert main([*check, "--skip-bad-annotations"]) == 2
        assert refusal(lambda: summary.read_object_boxes(str(path)))
        assert all(refusals(path, images, True, names).values())
        return

    skip = bool(odd.words)
    said = refusals(path, images, True, names) if skip else said
    truth = odd_files.expected(odd)
    if not truth["annotations"]:
        assert (
            "no image with a box" in said["load"] and main([*check, "--skip-bad-annotations"]) == 0
        )
        return
    assert not any(said.values()), said
    assert main([*check, *["--skip-bad-annotations"] * skip]) == 0
    assert categories_of(path) == (odd_files.IDS, odd_files.NAMES)
    assert len(summary.read_object_boxes(str(path)).areas) == len(truth["annotations"])
    split_up = [
        json.loads((tmp_path / f"split{skip}" / name).read_text())
        for name in ("train.json", "val.json")
    ]
    assert sum(len(part["annotations"]) for part in split_up) == len(truth["annotations"])
    for part in split_up:  # each goes with its image
        assert {row["image_id"] for row in part["annotations"]} <= {
            row["id"] for row in part["images"]
        }
    agree(path, images, truth, skip, capsys)


def prepared(odd, path):
    """prepare-json.py accepts and refuses the same, with another message for a missing key. Boxes
    without an area, which COCO's own file has, it copies with a line."""
    target, lines = path.parent / "prepared.json", []
    passed = odd.name == "box of no width"
    for skip in (False, True):
        line = refusal(lambda: write_reduced(path, target, skip_bad=skip, report=lines.append))
        if (odd.words and not skip and not passed) or (
            odd.words and odd.boxes is None and not odd.images
        ):
            assert line and not target.exists(), line
        elif not line:
            content, truth = json.loads(target.read_text()), expected(odd, passed and not skip)
            assert content["images"] == [
                {key: row[key] for key in IMAGE_KEYS} for row in truth["images"]
            ]
            assert content["categories"] == truth["categories"]
            assert content["annotations"] == [
                {key: row[key] for key in ANNOTATION_KEYS} for row in truth["annotations"]
            ]
            target.unlink()
        else:
            assert not odd_files.expected(odd)["images"], line
    assert not passed or ("1 x empty box" in lines[0] and "training" in lines[0])


def expected(odd, whole):
    """The output of prepare-json.py; whole: with the keys that it passes on."""
    truth = odd_files.expected(odd)
    if whole:
        changed = odd_files.content()
        odd.change(changed)
        return changed
    return truth


def agree(path, images, truth, skip, capsys):
    """score, evaluate and the scorer of a run, with the numbers of pycocotools on what was read."""
    clean = path.parent / "clean.json"
    clean.write_text(json.dumps(truth))
    kept = [row["id"] for row in truth["images"]]
    rows = found(kept)
    expected = score_directly(clean, rows).stats
    assert 0.02 < expected[0] < 0.95
    detections = to_detections(rows, None)
    (path.parent / "found.json").write_text(json.dumps(rows))
    flags = [
        "--annotations",
        str(path),
        "--detections",
        str(path.parent / "found.json"),
        "--json",
        "--max-left-out",
        "1",
    ]
    flags += ["--skip-bad-annotations"] * skip
    counts = (
        f"on {len(kept)} images, {sum(not row['iscrowd'] for row in truth['annotations'])} object"
    )
    for more in ([], ["--images", str(images)]):
        capsys.readouterr()
        assert main(["score", *flags, *more]) == 0
        out, err = capsys.readouterr()
        assert equal_stats(json.loads(out), expected) and counts in err
    data = load_images(
        config_of(path, images, skip), str(path), str(images), report=lambda line: None
    )
    assert equal_stats(evaluate(path, detections, ground_truth=scored_set(data)).stats, expected)
    validation = load_datasets(config_of(path, images, skip))[1]
    path.unlink()  # the run's scorer does not look at it again
    assert equal_stats(score_of_run(validation, rows, path.parent), expected)


MISSING = [(1,), (6,), (2, 4), (1, 2, 3), (5, 6), (3,), (2,), (4,), (1, 3, 5), (1, 2, 4, 5, 6)]


@pytest.mark.parametrize("gone", MISSING, ids=str)
def test_missing_images_are_left_out_of_every_score(gone, images, tmp_path, capsys):
    """Images that cannot be read count nowhere, and their objects are not missed."""
    some, path = tmp_path / "some", tmp_path / "a.json"
    some.mkdir()
    for image in range(1, 7):
        if image not in gone:
            (some / f"{image}.jpg").write_bytes((images / f"{image}.jpg").read_bytes())
    if len(gone) > 1:
        (some / f"{gone[0]}.jpg").write_bytes(b"no image")
    path.write_text(json.dumps(odd_files.content()))
    assert "image file missing" in refusal(lambda: load_coco(path, some, report=lambda line: None))
    truth = odd_files.expected(odd_files.Odd("", images=gone))
    clean, rows = tmp_path / "clean.json", found([row["id"] for row in truth["images"]])
    clean.write_text(json.dumps(truth))
    expected = score_directly(clean, rows).stats
    validation = load_datasets(config_of(path, some, True))[1]
    own = scored_set(validation)
    assert equal_stats(score_of_run(validation, rows, tmp_path / "run"), expected), (
        "the run's own mAP"
    )
    assert validation.num_images == 6 - len(gone) == len(own.images)
    detections = to_detections(rows, validation.image_ids)
    assert equal_stats(evaluate(path, detections, ground_truth=own).stats, expected)
    assert equal_stats(score_detections(path, detections), expected), (
        "detections know which images they are of"
    )
    detections.to_npz(tmp_path / "found.npz")
    detections.to_json(tmp_path / "found.json")
    for name, more in (
        ("found.npz", []),
        ("found.json", ["--images", str(some), "--skip-bad-annotations", "--max-left-out", "1"]),
    ):
        capsys.readouterr()
        assert (
            main(
                [
                    "score",
                    "--annotations",
                    str(path),
                    "--detections",
                    str(tmp_path / name),
                    "--json",
                    *more,
                ]
            )
            == 0
        )
        out, err = capsys.readouterr()
        assert equal_stats(json.loads(out), expected) and f"on {own}" in err
    if 2 * len(gone) > 6:
        line = refusal(
            lambda: load_datasets(config_of(path, some, True).with_values(max_left_out=0.5))
        )
        assert f"{len(gone)} of 6 images would be left out" in line


@pytest.mark.parametrize("odd", odd_files.ENCODINGS[:9], ids=lambda odd: odd.name)
def test_detection_files_are_treated_alike(odd, images, tmp_path, capsys):
    truth, rows = tmp_path / "a.json", found(range(7))
    truth.write_text(json.dumps(odd_files.content()))
    (tmp_path / "found.json").write_bytes(odd.encode(json.dumps(rows)))
    assert (
        main(
            [
                "score",
                "--annotations",
                str(truth),
                "--detections",
                str(tmp_path / "found.json"),
                "--json",
            ]
        )
        == 0
    )
    assert equal_stats(json.loads(capsys.readouterr().out), score_directly(truth, rows).stats)
