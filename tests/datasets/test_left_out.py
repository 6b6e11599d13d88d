"""prepare-json.py and split-data, which rewrite annotations: they refuse what training refuses,
and COCO's own training file needs no flag but the one that training needs too."""

import copy
import json

import pytest

from ssd.__main__ import main as ssd
from ssd.datasets.coco import load_ground_truth
from ssd.datasets.prepare_json import main as prepare
from ssd.errors import UserError
from tests.datasets import odd_files

# As COCO's own file has it: a box a part of a pixel over the edge is no error, one without a height
# is.
BOX = [29.65, 3.33, 1.03, 0.0]


def coco_like():
    """Its box without a height is of 'star', that of image 2 reaches a little out."""
    content = odd_files.content()
    content["annotations"][0].update(bbox=BOX, area=0.0, category_id=3, segmentation=[[1, 2, 3]])
    content["annotations"][2]["bbox"] = [10, 5, 50.4, 20]
    return content


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco_like()))
    return path


def test_prepare_json_takes_cocos_own_file(file, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert prepare([str(file), str(out)]) == 0
    line = capsys.readouterr().err
    assert (
        line.count("\n") == 1
        and "1 x empty box; the first: annotation 1 of image 1 ('1.jpg')" in line
    )
    assert "training refuses it without --skip-bad-annotations" in line
    written = json.loads(out.read_text())["annotations"]
    assert len(written) == 12 and written[0]["bbox"] == BOX and "segmentation" not in written[0]
    with pytest.raises(UserError, match="empty box"):
        load_ground_truth(out)
    assert prepare([str(file), str(out), "--skip-bad-annotations"]) == 0
    assert "left out: 1 x empty box" in capsys.readouterr().err
    assert len(json.loads(out.read_text())["annotations"]) == 11
    assert len(load_ground_truth(out).box_image) == 11


def test_prepare_json_without_numpy(file, tmp_path, capsys, monkeypatch):
    """It makes the files on machines that have Python alone: nothing is checked then, which it
    says."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert prepare([str(file), str(tmp_path / "out.json")]) == 0
    assert "not checked, as this Python has no NumPy" in capsys.readouterr().err
    assert prepare([str(file), str(tmp_path / "new.json"), "--skip-bad-annotations"]) == 2
    assert "needs NumPy" in capsys.readouterr().err and not (tmp_path / "new.json").exists()


def split(file, output, *flags):
    return ssd(["split-data", str(file), "--output", str(output), "--val-fraction", "0.5", *flags])


def test_split_data_asks_for_the_flag_that_training_asks_for(file, tmp_path, capsys):
    assert split(file, tmp_path / "a") == 2
    line = capsys.readouterr().err
    assert (
        "empty box: annotation 1 of image 1" in line
        and "--skip-bad-annotations leaves out what is bad" in line
    )
    assert not (tmp_path / "a").exists()
    assert split(file, tmp_path / "a", "--skip-bad-annotations") == 0
    assert "left out: 1 x empty box" in capsys.readouterr().out
    parts = [json.loads((tmp_path / "a" / name).read_text()) for name in ("train.json", "val.json")]
    assert sum(len(part["annotations"]) for part in parts) == 11


def test_what_is_of_other_categories_does_not_matter(file, tmp_path, capsys):
    """As with cats and dogs of COCO, whose boxes without a height are of a hot dog and a fork."""
    assert split(file, tmp_path / "a", "--categories", "disc", "bar") == 0
    out = capsys.readouterr().out
    assert "of other categories, and so not checked: 1 x empty box" in out
    for name in ("train.json", "val.json"):
        data = load_ground_truth(tmp_path / "a" / name)
        assert set(data.category_names) == {"disc", "bar"} and len(data.box_image)
    assert split(file, tmp_path / "b", "--categories", "star") == 2
    assert "empty box" in capsys.readouterr().err


def corners(content):
    for row in content["annotations"]:
        left, top, width, height = row["bbox"]
        left, top = 58 - width, 38 - height  # as far from the image's origin as fits
        row["bbox"] = [left, top, left + width, top + height]


def shares(content):
    for row in content["annotations"]:
        row["bbox"] = [side / 60 for side in row["bbox"]]


@pytest.mark.parametrize(
    "change, words", [(corners, "left, top, right, bottom"), (shares, "shares of the image")]
)
def test_boxes_in_another_format(tmp_path, capsys, change, words):
    content = copy.deepcopy(odd_files.content())
    change(content)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    flag = "--skip-bad-annotations"
    for flags in ([], [flag]):
        assert split(file, tmp_path / "split", *flags) == 2 and words in capsys.readouterr().err
        assert (
            prepare([str(file), str(tmp_path / "out.json"), *flags]) == 2
            and words in capsys.readouterr().err
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
    assert split(file, tmp_path / "split", flag, "--max-left-out", "1") == 0
    assert prepare([str(file), str(tmp_path / "out.json"), flag, "--max-left-out", "1"]) == 0


@pytest.mark.parametrize("bad", range(1, 7))
def test_more_than_half(tmp_path, capsys, bad):
    """Of twelve boxes six may be left out, one each of six images, and a share that is asked
    for."""
    content = odd_files.content()
    for row in content["annotations"][: 2 * bad : 2] + content["annotations"][1:3]:
        row["area"] = -1
    file, gone = (
        tmp_path / "a.json",
        len({row["id"] for row in content["annotations"] if row["area"] == -1}),
    )
    file.write_text(json.dumps(content))
    for share in (0.5, 0.1, 0.75):
        arguments = ["--skip-bad-annotations"] + (
            [] if share == 0.5 else ["--max-left-out", str(share)]
        )
        status = prepare([str(file), str(tmp_path / "out.json"), *arguments])
        assert status == (2 if gone > share * 12 else 0)
        assert split(file, tmp_path / f"split{share}", *arguments) == status
        err = capsys.readouterr().err
        assert (
            f"{gone} of 12 boxes would be left out, more than the share of --max-left-out {share:g}"
            in err
        ) == (status == 2)


@pytest.mark.parametrize("value", ["2", "-0.1", "x", "nan"])
def test_a_share_is_from_0_to_1(file, tmp_path, capsys, value):
    with pytest.raises(SystemExit) as end:
        prepare([str(file), str(tmp_path / "out.json"), "--max-left-out", value])
    assert end.value.code == 2 and "--max-left-out" in capsys.readouterr().err
