"""Small copies of users' data sets, each with the right outcome."""

import contextlib
import io
import json

import pytest

from ssd.__main__ import main
from ssd.commands.predict import IdScheme
from ssd.config import load_recipe
from ssd.datasets.locate import load_datasets
from ssd.errors import UserError
from ssd.evaluation.saved_network import load_images
from ssd.evaluation.scored_set import scored_set
from ssd.evaluation.scoring import STAT_NAMES, score_detections
from ssd.tools.inputs import find_inputs
from tests.datasets import odd_files
from tests.evaluation.odd_sets import score_directly, score_of_run


@pytest.fixture
def workspace(tmp_path):
    """A folder with images/, train.json, and the settings of a training with val.json."""
    odd_files.draw_images(tmp_path / "images")
    (tmp_path / "train.json").write_text(json.dumps(odd_files.content()))
    return tmp_path


def config_of(workspace, **changes):
    return load_recipe("ssd-resnet34-own").with_values(
        **dict(
            train_annotations=str(workspace / "train.json"),
            train_images=str(workspace / "images"),
            val_annotations=str(workspace / "val.json"),
            val_images=str(workspace / "images"),
            cache_dir=str(workspace / "cache"),
            **changes,
        )
    )


def check(workspace, *flags):
    """check-data of both files, which must agree with training."""
    return main(
        [
            "check-data",
            "--data-dir",
            str(workspace),
            "--train-annotations",
            "train.json",
            "--train-images",
            "images",
            "--val-annotations",
            "val.json",
            "--val-images",
            "images",
            "--no-cache",
            "--jobs",
            "1",
            *flags,
        ]
    )


def scores(dataset, rows, folder):
    return [score_of_run(dataset, rows, folder)[name] for name in STAT_NAMES]


def directly(path, rows, images):
    """pycocotools on a complete file, of which some images count."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), "bbox")
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_area_as_text(workspace, capsys):
    """Refused before the start; check-data counts one error per box."""
    content = odd_files.content()
    for row in content["annotations"]:
        row["area"] = str(row["area"])
    (workspace / "val.json").write_text(json.dumps(content))
    assert check(workspace) == 1
    out = capsys.readouterr().out
    assert "12 errors: training would refuse" in out and "area is negative or not a number" in out
    with pytest.raises(UserError, match="area '.*', which is text"):
        load_datasets(config_of(workspace))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_validation_file_from_a_windows_tool(workspace, encoding):
    """Taken by everything; the numbers are those of the file without the mark."""
    text, rows = json.dumps(odd_files.content()), odd_files.found()
    (workspace / "val.json").write_bytes(text.encode(encoding))
    (workspace / "plain.json").write_text(text)
    (workspace / "found.json").write_bytes(json.dumps(rows).encode(encoding))
    assert check(workspace) == 0
    expected = score_directly(workspace / "plain.json", rows).stats
    assert expected[0] > 0.1
    assert scores(load_datasets(config_of(workspace))[1], rows, workspace / "run") == pytest.approx(
        expected, abs=1e-9
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert (
            main(
                [
                    "score",
                    "--annotations",
                    str(workspace / "val.json"),
                    "--detections",
                    str(workspace / "found.json"),
                    "--json",
                ]
            )
            == 0
        )
    assert list(json.loads(out.getvalue()).values()) == pytest.approx(expected, abs=1e-9)


def test_categories_in_another_order(workspace, capsys):
    """The order has no meaning: trained, scored by name, and reported."""
    content, rows = odd_files.content(), odd_files.found()
    content["categories"].reverse()
    (workspace / "val.json").write_text(json.dumps(content))
    assert check(workspace) == 0
    assert "its categories are in another order than in" in capsys.readouterr().out
    train, val = load_datasets(config_of(workspace))
    assert val.category_names == train.category_names == odd_files.NAMES
    assert scores(val, rows, workspace / "run") == pytest.approx(
        score_directly(workspace / "val.json", rows).stats, abs=1e-9
    )


def test_corner_boxes(workspace, capsys):
    """All 12 fit as corners: refused with one line, the flag or not, though some fit as sides
    too."""
    content = odd_files.content()
    for row in content["annotations"]:
        left, top, width, height = row["bbox"]
        left += 15
        width = min(width, 60 - left)
        row["bbox"] = [left, top, left + width, top + height]
    outside = sum(
        left + width > 61 or top + height > 41
        for left, top, width, height in (row["bbox"] for row in content["annotations"])
    )
    assert 0 < outside < 12
    (workspace / "val.json").write_text(json.dumps(odd_files.content()))
    (workspace / "train.json").write_text(json.dumps(content))
    words = (
        f"{outside} of 12 boxes lie outside their images, and 12 would fit as left, top, right, "
        "bottom"
    )
    assert check(workspace) == 1 and words in capsys.readouterr().out
    assert check(workspace, "--skip-bad-annotations") == 1
    for skip in (False, True):
        with pytest.raises(UserError) as error:
            load_datasets(config_of(workspace, skip_bad_annotations=skip))
        assert words in str(error.value) and "\n" not in str(error.value)
    assert "the others are just as wrong" in str(error.value)
    assert (
        len(
            load_datasets(config_of(workspace, skip_bad_annotations=True, max_left_out=1.0))[
                0
            ].box_image
        )
        == 12 - outside
    )


def test_ids_with_a_decimal_point(workspace, capsys):
    """pandas writes them; JSON does not tell 3.0 from 3."""
    content, rows = odd_files.content(), odd_files.found()
    (workspace / "plain.json").write_text(json.dumps(content))
    for row in content["annotations"]:
        row.update(image_id=float(row["image_id"]), category_id=float(row["category_id"]))
    (workspace / "val.json").write_text(json.dumps(content))
    assert "1.0" in (workspace / "val.json").read_text() and check(workspace) == 0
    expected = score_directly(workspace / "plain.json", rows).stats
    assert scores(load_datasets(config_of(workspace))[1], rows, workspace / "run") == pytest.approx(
        expected, abs=1e-9
    )


def test_missing_validation_images(workspace, capsys):
    """Left out of the scores of the run, evaluate and score: pycocotools on the images that
    were read."""
    (workspace / "val.json").write_text(json.dumps(odd_files.content()))
    rows, here = [row for row in odd_files.found() if row["image_id"] in (2, 3, 5, 6)], [2, 3, 5, 6]
    for gone in (1, 4):
        (workspace / "images" / f"{gone}.jpg").unlink()
    content = odd_files.content()
    (workspace / "train.json").write_text(
        json.dumps(
            dict(
                content,
                images=[row for row in content["images"] if row["id"] in here],
                annotations=[row for row in content["annotations"] if row["image_id"] in here],
            )
        )
    )
    config = config_of(workspace, skip_bad_annotations=True)
    right, of_all = (
        directly(workspace / "val.json", rows, images) for images in (here, range(1, 7))
    )
    assert right[0] > of_all[0] + 0.05, "counted as missed, they would show"
    val = load_datasets(config)[1]
    assert scores(val, rows, workspace / "run") == pytest.approx(right, abs=1e-9)
    own = scored_set(
        load_images(config, str(workspace / "val.json"), str(workspace / "images"), report=len)
    )
    objects = sum(row["image_id"] in here and not row["iscrowd"] for row in content["annotations"])
    assert str(own) == f"4 images, {objects} objects"
    (workspace / "found.json").write_text(json.dumps(rows))
    kept = workspace / "run" / "detections-epoch-1.npz"
    for found, more in (
        (workspace / "found.json", ["--images", str(workspace / "images")]),
        (kept, []),
    ):
        capsys.readouterr()
        assert (
            main(
                [
                    "score",
                    "--annotations",
                    str(workspace / "val.json"),
                    "--detections",
                    str(found),
                    "--json",
                    "--skip-bad-annotations",
                    *more,
                ]
            )
            == 0
        )
        out, err = capsys.readouterr()
        assert (
            list(json.loads(out).values()) == pytest.approx(right, abs=1e-9) and f"on {own}" in err
        )
    from ssd.evaluation.detections import Detections

    stats = score_detections(workspace / "val.json", Detections.from_npz(kept), truth=own)
    assert list(stats.values()) == pytest.approx(right, abs=1e-9)


def test_two_files_for_one_image(workspace):
    """Refused, with both paths."""
    for name in "ab":
        odd_files.draw_images(workspace / name)
    content = odd_files.content()
    (workspace / "flat.json").write_text(
        json.dumps(
            dict(content, images=content["images"][:1], annotations=content["annotations"][:2])
        )
    )
    inputs, _ = find_inputs([str(workspace / name / "1.jpg") for name in "ab"])
    with pytest.raises(UserError) as error:
        IdScheme(str(workspace / "flat.json"), inputs, False, 0.5)
    both = f"{workspace / 'a' / '1.jpg'} and {workspace / 'b' / '1.jpg'}"
    assert (
        str(error.value)
        == f"--annotations {workspace / 'flat.json'}: {both} are both its image '1.jpg'"
    )
    assert (
        IdScheme(str(workspace / "flat.json"), inputs[:1], False, 0.5).id_and_name(inputs[0].path)[
            "id"
        ]
        == 1
    )


@pytest.mark.parametrize(
    "text, line",
    [
        (
            "extends: ssd-resnet34-shapes\ntraining: {epochs: 3, decay_epochs: [2]}\ntraining: "
            "{batch_size: 2}\n",
            "training occurs twice, in lines 2 and 3",
        ),
        (
            "extends: ssd-resnet34-shapes\ntraining:\n  epochs: 3\n  decay_epochs: [2]\n  epochs: "
            "4\n",
            "training.epochs occurs twice, in lines 3 and 5",
        ),
    ],
)
def test_a_section_of_a_recipe_twice(workspace, capsys, text, line):
    (workspace / "twice.yaml").write_text(text)
    assert (
        main(["train", "--recipe", str(workspace / "twice.yaml"), "--data-dir", str(workspace)])
        == 2
    )
    assert (
        capsys.readouterr().err
        == f"python -m ssd train: error: recipe {workspace / 'twice.yaml'}: {line}\n"
    )
