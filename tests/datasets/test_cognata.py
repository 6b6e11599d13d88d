"""Cognata's folders to COCO JSON: a synthetic sample of the layout against what the public loader
makes of it, every kind of malformed file and row, and both splits.

cognata_sample holds no data of Cognata's: coloured rectangles of 480 x 270 pixels under its names.
expected.json is the result of mlcommons/abtf-ssd-pytorch at 2d8ee7d on it, in its order and with
its fixed table of labels.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd.datasets import cognata, cognata_rows
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.coco import load_coco
from ssd.datasets.cognata import published_split, validation_scenarios
from ssd.datasets.cognata_rows import CLASSES, BadInput, parse_box, png_size, read_rows
from ssd.datasets.prepare_json import main

SAMPLE = Path(__file__).with_name("cognata_sample")
EXPECTED = json.loads((SAMPLE / "expected.json").read_text())
NOON, EVENING = "10001_Urban_Clear_Noon", "10011_Urban_Rain_Evening"
FIRST, SECOND = "Cognata_Camera_01_8M", "Cognata_Camera_02_8M"
HEADER = "object_class,object_class_name,bounding_box_2D,center_distance"
CAR = '8,Car,"[10.5, 20, 30, 40.25]",50'


@pytest.fixture
def root(tmp_path):
    """A copy of the sample."""
    shutil.copytree(str(SAMPLE), str(tmp_path / "root"))
    (tmp_path / "root" / "expected.json").unlink()
    return tmp_path / "root"


def run(root, *arguments, capsys):
    """(exit status, lines of standard output, of standard error); written to ROOT/annotations."""
    status = main(
        list(map(str, ["--from", "cognata", root, "--output", root / "annotations", *arguments]))
    )
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err.splitlines()


def content(root):
    """(train.json, val.json)."""
    return [
        json.loads((root / "annotations" / name).read_text()) for name in ("train.json", "val.json")
    ]


def refusal(result, root):
    """The one line of a refusal, which writes nothing."""
    status, out, err = result
    assert status == 2 and not out and len(err) == 1 and not (root / "annotations").exists()
    return err[0]


def by_id(parts):
    """({image id: image}, {image id: its annotations}) of both files together."""
    images, boxes = {}, {}
    for part in parts:
        images.update((image["id"], image) for image in part["images"])
        for entry in part["annotations"]:
            boxes.setdefault(entry["image_id"], []).append(entry)
    return images, boxes


# ---- the sample


def test_the_sample_is_what_the_public_loader_makes_of_it(root, capsys):
    status, out, err = run(root, capsys=capsys)
    assert (status, err) == (0, [])
    images, boxes = by_id(content(root))
    assert sorted(images) == list(range(1, 12)) == sorted(boxes)
    for number, frame in enumerate(EXPECTED["frames"], start=1):
        height, width = frame["height_width"]
        assert images[number] == dict(
            id=number, file_name=frame["image"], width=width, height=height
        )
        assert [entry["category_id"] for entry in boxes[number]] == frame["labels"]
        assert [entry["bbox"] for entry in boxes[number]] == [
            [left, top, right - left, bottom - top]
            for left, top, right, bottom in frame["boxes_ltrb_pixels"]
        ]
    together = [entry for number in sorted(boxes) for entry in boxes[number]]
    assert [entry["id"] for entry in together] == list(range(1, 58)) and len(together) == EXPECTED[
        "kept_boxes"
    ]
    assert all(
        entry["iscrowd"] == 0 and entry["area"] == entry["bbox"][2] * entry["bbox"][3]
        for entry in together
    )
    assert out[:2] == [
        f"{root}: 12 frames of 2 scenarios and 2 cameras, 1 without an object left",
        f"{root}: 121 rows; left out by the filters: 28 x class that is not trained on, 12 x area "
        "below 50 square pixels, 12 x side below 8 pixels, 12 x more than 300 m away",
    ]
    assert len(out) == 6 and out[2].startswith(
        f"{root}/annotations/train.json: 9 images of 2 scenarios, 46 boxes ("
    )


def test_the_published_split_in_its_order(root, capsys):
    assert run(root, "--split", "published", capsys=capsys)[0] == 0
    train, val = content(root)
    assert [image["file_name"] for image in train["images"]] == EXPECTED["train"]
    assert [image["file_name"] for image in val["images"]] == EXPECTED["validation"]
    for part in (train, val):
        assert [category["name"] for category in part["categories"]] == [
            name for _, name in CLASSES
        ]
        assert [category["id"] for category in part["categories"]] == list(range(1, 15))
        order = [image["id"] for image in part["images"]]
        assert list(dict.fromkeys(entry["image_id"] for entry in part["annotations"])) == order
    assert {str(number): label for label, (number, _) in enumerate(CLASSES, start=1)} == {
        number: label for number, label in EXPECTED["fixed_labels"].items() if label
    }


def test_the_split_by_scenario(root, capsys):
    assert run(root, capsys=capsys)[0] == 0
    published, boxes = by_id(content(root))
    status, out, _ = run(root, "--split", "scenario", "--overwrite", capsys=capsys)
    assert status == 0 and out[2] == f"{root}: for validation: {EVENING}"
    parts = content(root)
    assert by_id(parts) == (published, boxes), (
        "a frame and its boxes have one id, whatever the split"
    )
    for part, scenario, count in zip(parts, (NOON, EVENING), (6, 5)):
        names = [image["file_name"] for image in part["images"]]
        assert (
            len(names) == count
            and names == sorted(names)
            and {name.split("/")[0] for name in names} == {scenario}
        )
    assert (
        run(
            root, "--split", "scenario", "--val-scenarios", NOON + "/", "--overwrite", capsys=capsys
        )[0]
        == 0
    )
    assert content(root) == [dict(parts[1]), dict(parts[0])]


def test_training_takes_it(root, capsys, tmp_path):
    """With the images in their folders: names are relative to ROOT, which is the image folder."""
    assert run(root, capsys=capsys)[0] == 0
    data = load_coco(root / "annotations" / "train.json", root, report=lambda line: None)
    assert (
        data.num_images == 9
        and data.num_classes == 15
        and data.file_names[0] == EXPECTED["train"][0]
    )
    frames = {frame["image"]: frame for frame in EXPECTED["frames"]}
    for index, name in enumerate(data.file_names):
        mine = data.box_image == index
        assert data.box_classes[mine].tolist() == frames[name]["labels"]
        np.testing.assert_allclose(
            data.boxes_ltrb[mine], frames[name]["boxes_ltrb_pixels"], rtol=0, atol=1e-12
        )
    assert (
        load_coco(root / "annotations" / "val.json", root, report=lambda line: None).num_images == 2
    )


def test_as_a_program(root):
    program = Path(__file__).resolve().parents[2] / "prepare-json.py"
    done = subprocess.run(
        [sys.executable, str(program), "--from", "cognata", ".", "--output", "annotations"],
        cwd=str(root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith(".: 12 frames") and not done.stderr
    assert [image["file_name"] for image in content(root)[1]["images"]] == EXPECTED["validation"]
    assert sorted(os.listdir(str(root))) == sorted([NOON, EVENING, "annotations"])
    assert sorted(os.listdir(str(root / "annotations"))) == ["train.json", "val.json"]


def test_equal_input_gives_equal_files_whatever_the_threads(root, capsys):
    bad_rows(root, CAR, '99,Car,"[1, 2, 30, 40]",1', "8,Car,bad,1")
    texts = set()
    for jobs in (1, 2, 7):
        status, out, err = run(root, "--jobs", jobs, "--max-bad", 0.5, "--overwrite", capsys=capsys)
        texts.add(
            (
                status,
                *out,
                *err,
                *((root / "annotations" / name).read_text() for name in cognata.FILES),
            )
        )
    assert len(texts) == 1 and next(iter(texts))[0] == 0


# ---- which scenarios and cameras


def test_scenarios_and_cameras_in_the_order_given(root, capsys):
    assert (
        run(root, "--scenarios", EVENING, NOON, "--cameras", SECOND, FIRST, capsys=capsys)[0] == 0
    )
    images, _ = by_id(content(root))
    folders = list(
        dict.fromkeys(images[number]["file_name"].rsplit("/", 1)[0] for number in sorted(images))
    )
    assert folders == [
        f"{scenario}/{camera}_png" for scenario in (EVENING, NOON) for camera in (SECOND, FIRST)
    ]
    assert run(root, "--scenarios", NOON, "--cameras", SECOND, "--overwrite", capsys=capsys)[0] == 0
    assert len(by_id(content(root))[0]) == 3


def test_other_folders_do_not_matter(root, capsys):
    (root / "zips").mkdir()
    (root / NOON / f"{FIRST}_ann_laneline").mkdir()
    (root / NOON / f"{FIRST}_ann_laneline" / "0000000033.csv").write_text("not read")
    (root / NOON / f"{FIRST}_png" / ".DS_Store").write_text("hidden")
    (root / "notes.txt").write_text("a file")
    status, out, err = run(root, capsys=capsys)
    assert status == 0 and not err and "12 frames of 2 scenarios and 2 cameras" in out[0]
    (root / NOON / f"{FIRST}_png" / "0000000033.jpg").write_text("seen")
    assert run(root, "--overwrite", capsys=capsys)[2] == [
        "note: 1 x file that is neither PNG nor CSV; the first: "
        f"{root}/{NOON}/{FIRST}_png/0000000033.jpg"
    ]


def test_a_scenario_without_a_camera(root, capsys):
    for part in ("_png", "_ann"):
        shutil.rmtree(str(root / EVENING / (SECOND + part)))
    status, out, err = run(root, capsys=capsys)
    assert status == 0 and "9 frames of 2 scenarios and 2 cameras" in out[0]
    assert err == [
        f"note: 1 x scenario without a camera's folders; the first: {EVENING} has no {SECOND}"
    ]
    shutil.rmtree(str(root / "annotations"))
    assert (
        refusal(run(root, "--cameras", FIRST, SECOND, capsys=capsys), root)
        == f"prepare-json.py: error: --cameras {SECOND}: no folder {root}/{EVENING}/{SECOND}_png"
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ("--scenarios", "10001_Urban_Clear_Nun"),
            f"--scenarios 10001_Urban_Clear_Nun: not in ROOT; did you mean {NOON}?",
        ),
        (
            ("--cameras", "Cognata_Camera_9"),
            "--cameras Cognata_Camera_9: not in ROOT; did you mean Cognata_Camera_0",
        ),
        (("--scenarios", NOON, NOON + "/"), f"--scenarios {NOON}: given twice"),
        (("--scenarios", ".."), "--scenarios ..: not in ROOT"),
        (
            ("--val-scenarios", NOON),
            "--val-scenarios goes with --split scenario, not with --split published",
        ),
        (
            ("--split", "scenario", "--val-scenarios", "1"),
            "--val-scenarios 1: not one of the 2 scenarios",
        ),
        (
            ("--split", "scenario", "--val-scenarios", NOON, EVENING),
            "no scenario is left for training",
        ),
        (
            ("--split", "scenario", "--scenarios", NOON),
            f"no scenario is left for training, of {NOON}",
        ),
    ],
)
def test_missing_scenarios_and_cameras_are_one_line(root, capsys, arguments, words):
    assert words.replace("ROOT", str(root)) in refusal(run(root, *arguments, capsys=capsys), root)


def test_wrong_roots(root, capsys, tmp_path):
    assert (
        f"{root}/{NOON}: holds {FIRST}_png or {FIRST}_ann itself; give the folder above"
        in refusal(run(root / NOON, capsys=capsys), root / NOON)
    )
    (tmp_path / "empty").mkdir()
    assert "none of its folders holds a folder CAMERA_png" in refusal(
        run(tmp_path / "empty", capsys=capsys), root
    )
    assert "cannot be read: No such file" in refusal(
        run(tmp_path / "none", capsys=capsys), tmp_path / "none"
    )


def test_existing_output(root, capsys):
    (root / "annotations").mkdir()
    (root / "annotations" / "val.json").write_text("mine")
    status, _, err = run(root, capsys=capsys)
    assert status == 2 and err == [
        f"prepare-json.py: error: output {root}/annotations/val.json exists already; --overwrite "
        "replaces it"
    ]
    assert os.listdir(str(root / "annotations")) == ["val.json"]
    assert run(root, "--overwrite", capsys=capsys)[0] == 0 and len(content(root)) == 2
    shutil.rmtree(str(root / "annotations"))
    (root / "annotations").write_text("a file")
    assert f"--output {root}/annotations: cannot be written" in run(root, capsys=capsys)[2][0]


def test_a_write_that_fails_leaves_nothing(root, capsys, monkeypatch):
    def fail(*_):
        yield "["
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cognata, "_json", fail)
    assert "cannot be written: No space left" in run(root, capsys=capsys)[2][0]
    assert os.listdir(str(root / "annotations")) == []


# ---- files that are wrong


def test_files_are_paired_by_stem(root, capsys):
    """By position, a missing file would shift all that follow it."""
    (root / NOON / f"{FIRST}_ann" / "0000000033.csv").unlink()
    (root / EVENING / f"{FIRST}_png" / "0000000033.png").unlink()
    status, out, err = run(root, "--max-bad", 0.2, capsys=capsys)
    assert status == 0 and out[0].startswith(f"{root}: 12 frames")
    assert err == [
        "left out: 1 x image without its CSV file; the first: 0000000033 in "
        f"{root}/{NOON}/{FIRST}_png",
        "left out: 1 x CSV file without its image; the first: 0000000033 in "
        f"{root}/{EVENING}/{FIRST}_ann",
    ]
    images, boxes = by_id(content(root))
    frames = {frame["image"]: frame for frame in EXPECTED["frames"]}
    assert len(images) == 9
    for number, image in images.items():
        assert [entry["category_id"] for entry in boxes[number]] == frames[image["file_name"]][
            "labels"
        ]


def damage_png(root, data):
    (root / NOON / f"{FIRST}_png" / "0000000066.png").write_bytes(data)


def damage_csv(root, data):
    (root / NOON / f"{FIRST}_ann" / "0000000066.csv").write_bytes(data)


@pytest.mark.parametrize(
    "damage, data, words",
    [
        (damage_png, b"", "image that is no PNG with a size: ROOT/0000000066.png: begins with b''"),
        (damage_png, b"\xff\xd8\xff\xe0JFIF", "image that is no PNG with a size"),
        (damage_csv, b"", "CSV file that is empty: ROOT/0000000066.csv"),
        (
            damage_csv,
            b"\n",
            "CSV file without a column: ROOT/0000000066.csv: column object_class occurs 0 times, "
            "in ''",
        ),
        (
            damage_csv,
            HEADER.replace("bounding_box_2D", "box").encode(),
            "column bounding_box_2D occurs 0 times, in "
            "'object_class,object_class_name,box,center_distance'",
        ),
        (damage_csv, (HEADER + ",object_class").encode(), "column object_class occurs 2 times"),
        (
            damage_csv,
            (HEADER + "\n8,Sch\xf6n").encode("latin-1"),
            "CSV file that is no CSV of UTF-8 text: ROOT",
        ),
        (
            damage_csv,
            HEADER.encode() + b'\n8,"' + b"x" * 200000,
            "CSV file that is no CSV of UTF-8 text: ROOT",
        ),
    ],
)
def test_bad_files(root, capsys, damage, data, words):
    damage(root, data)
    folder = root / NOON / f"{FIRST}_{'png' if damage is damage_png else 'ann'}"
    line = refusal(run(root, capsys=capsys), root)
    assert words.replace("ROOT", str(folder)) in line and line.endswith(
        "1 of 12 frames, and --max-bad is 0.01"
    )
    status, _, err = run(root, "--max-bad", 0.1, capsys=capsys)
    assert status == 0 and len(err) == 1 and err[0].startswith("left out: 1 x ")
    assert len(by_id(content(root))[0]) == 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_without_permission(root, capsys):
    (root / NOON / f"{FIRST}_ann" / "0000000066.csv").chmod(0)
    (root / NOON / f"{FIRST}_png" / "0000000033.png").chmod(0)
    line = refusal(run(root, capsys=capsys), root)
    assert "image that cannot be read" in line and "1 x CSV file that cannot be read" in line


def test_the_header_reader_against_pillow(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    for mode, size in (
        ("RGB", (3840, 2160)),
        ("L", (1, 7)),
        ("P", (300, 2)),
        ("RGBA", (5, 5)),
        ("I;16", (40, 30)),
    ):
        Image.new(mode, size).save(str(path))
        assert png_size(path) == size
    intact = path.read_bytes()
    for position in range(33):
        changed = bytearray(intact)
        changed[position] ^= 1
        for data in (bytes(changed), intact[:position]):
            path.write_bytes(data)
            with pytest.raises(BadInput):
                png_size(path)
    path.write_bytes(intact[:33])
    assert png_size(path) == (40, 30), "nothing but the header is read"


# ---- rows


def write_rows(root, *rows, header=HEADER, end="\n"):
    damage_csv(root, end.join([header, *rows, ""]).encode())


def bad_rows(root, *rows):
    write_rows(root, *rows)
    return root / NOON / f"{FIRST}_ann" / "0000000066.csv"


def labels_and_boxes(root, clip=False, size=(480, 270)):
    found = read_rows(root / NOON / f"{FIRST}_ann" / "0000000066.csv", size, clip)
    return found.labels, found.boxes


@pytest.mark.parametrize(
    "row, words",
    [
        ("8,Car", "row with too few or too many fields: CSV:3: 2 instead of 4: '8,Car'"),
        (CAR + ",1", "row with too few or too many fields: CSV:3: 5 instead of 4"),
        ('99,Car,"[1, 2, 30, 40]",1', "row with an unknown object_class: CSV:3: '99'"),
        ('Car,Car,"[1, 2, 30, 40]",1', "row with an unknown object_class: CSV:3: 'Car'"),
        (',Car,"[1, 2, 30, 40]",1', "row with an unknown object_class: CSV:3: ''"),
        ('8,Car,"1, 2, 30, 40",1', "box that is no list of four numbers: CSV:3: '1, 2, 30, 40'"),
        ('8,Car,"[1, 2, 30]",1', "box that is no list of four numbers: CSV:3: '[1, 2, 30]'"),
        ('8,Car,"[1, 2, 30, 40, 50]",1', "box that is no list of four numbers"),
        ('8,Car,"[1 2 30 40]",1', "box that is no list of four numbers"),
        ('8,Car,"[[1, 2, 30, 40]]",1', "box that is no list of four numbers"),
        ('8,Car,"[1, 2, 30, 4_0]",1', "box that is no list of four numbers"),
        (
            "8,Car,\"[1, 2, 30, __import__('os').mkdir('x')]\",1",
            "box that is no list of four numbers",
        ),
        ("8,Car,[],1", "box that is no list of four numbers: CSV:3: '[]'"),
        ("8,Car,,1", "box that is no list of four numbers: CSV:3: ''"),
        ('8,Car,"[1, 2, nan, 40]",1', "box with NaN or infinity: CSV:3: '[1, 2, nan, 40]'"),
        ('8,Car,"[1, 2, 30, 1e999]",1', "box with NaN or infinity"),
        (
            '8,Car,"[30, 2, 1, 40]",1',
            "box with xmin > xmax or ymin > ymax: CSV:3: '[30, 2, 1, 40]'",
        ),
        ('8,Car,"[1, 40, 30, 2]",1', "box with xmin > xmax or ymin > ymax"),
        ('8,Car,"[1, 2, 1, 40]",1', "box without area: CSV:3: '[1, 2, 1, 40]'"),
        ('8,Car,"[0, 0, 0, 0]",1', "box without area"),
        ('8,Car,"[1, 2, 30, 40]",near', "row without a distance in metres: CSV:3: 'near'"),
        ('8,Car,"[1, 2, 30, 40]",nan', "row without a distance in metres"),
        ('8,Car,"[1, 2, 30, 40]",', "row without a distance in metres: CSV:3: ''"),
        (
            '8,Car,"[400, 2, 481.5, 40]",1',
            "box outside the image: CSV:3: '[400, 2, 481.5, 40]' in 480 x 270 pixels",
        ),
        ('8,Car,"[-1.01, 2, 30, 40]",1', "box outside the image"),
        ('8,Car,"[1, -3, 30, 40]",1', "box outside the image"),
        ('8,Car,"[1, 2, 30, 271.5]",1', "box outside the image"),
    ],
)
def test_bad_rows(root, capsys, row, words):
    path = bad_rows(root, CAR, row, CAR)
    line = refusal(run(root, "--max-bad", 0, capsys=capsys), root)
    assert words.replace("CSV:", f"{path}:") in line and line.endswith(
        ": 1 of 112 rows, and --max-bad is 0"
    )
    status, _, err = run(root, capsys=capsys)
    kind = words.split(": CSV")[0]
    assert (
        status == 0
        and len(err) == 1
        and err[0].startswith(f"left out: 1 x {kind}; the first: {path}:3: ")
    )
    images, boxes = by_id(content(root))
    assert (
        len(images) == 11 and [entry["bbox"] for entry in boxes[2]] == [[10.5, 20, 19.5, 20.25]] * 2
    )
    assert not Path("x").exists()


@pytest.mark.parametrize(
    "row, left",
    [
        ('8,Car,"[0, 0, 8, 8]",300', True),
        ('8,Car,"[0, 0, 7.99, 80]",1', False),
        ('8,Car,"[0, 0, 80, 7.99]",1', False),
        ('8,Car,"[0, 0, 80, 8]",300.01', False),
        ('8,Car,"[0, 0, 5, 5]",1', False),
        ('2,Pole,"[0, 0, 80, 80]",1', False),
        ("25,Parking,nonsense,far", False),
        ('31,Fence,"[9, 9, 1, 1]",1', False),
        ('44,Animal,"[-1, -1, 481, 271]",-3', True),  # a pixel outside, which the loader cuts
        ('14,Pedestrian,"[-5, 0, 2, 30]",301', False),  # outside, but too far away to matter
        (' 8 ,Car," [ 1 , 2e0 , +30 , 40. ] ", 50 ', True),
    ],
)
def test_the_filters_and_their_edges(root, row, left):
    write_rows(root, row)
    found = read_rows(root / NOON / f"{FIRST}_ann" / "0000000066.csv", (480, 270))
    assert (
        len(found.labels) == left
        and found.rows == 1
        and not found.problems
        and sum(found.filtered) == (not left)
    )


def test_boxes_can_be_cut_at_the_image(root):
    write_rows(
        root,
        '8,Car,"[-10, 5, 30, 300]",1',
        '8,Car,"[480, 5, 490, 30]",1',
        '8,Car,"[-100, 5, 4, 300]",1',
        '8,Car,"[-0.5, 5, 30, 40]",1',
    )
    assert labels_and_boxes(root) == ([4], [[-0.5, 5, 30, 40]])
    assert labels_and_boxes(root, clip=True) == ([4, 4], [[0, 5, 30, 270], [-0.5, 5, 30, 40]])
    found = read_rows(root / NOON / f"{FIRST}_ann" / "0000000066.csv", (480, 270), clip=True)
    assert [kind for kind, _ in found.problems] == [cognata_rows.OUTSIDE] and found.filtered == [
        0,
        0,
        1,
        0,
    ]


def test_columns_are_found_by_name(root):
    write_rows(root, CAR)
    expected = labels_and_boxes(root)
    assert expected == ([4], [[10.5, 20, 30, 40.25]])
    write_rows(
        root,
        'x,50,"[10.5, 20, 30, 40.25]",8',
        header="\ufeffnote,center_distance,bounding_box_2D,object_class",
    )
    assert labels_and_boxes(root) == expected, "another order, no name, a byte order mark"
    for end in ("\r\n", "\n\n"):
        write_rows(root, CAR, end=end)
        assert labels_and_boxes(root) == expected
    write_rows(root, CAR.replace("Car", '"a\nb"'), CAR.replace("8,", "9,"))
    found = read_rows(root / NOON / f"{FIRST}_ann" / "0000000066.csv", (480, 270))
    assert found.labels == [4, 10]
    assert [what.split(": ", 1)[0].rsplit(":", 1)[1] for what in found.renamed] == ["3", "4"], (
        "lines of the file"
    )


def test_classes_with_another_name_are_reported(root, capsys):
    path = bad_rows(root, CAR, CAR.replace("Car", "Van"), CAR.replace("Car", "Bus"))
    status, _, err = run(root, capsys=capsys)
    assert status == 0 and err == [
        f"note: 2 x object whose class has another name; the first: {path}:3: 8 is named 'Van', "
        "not Car"
    ]
    assert [entry["category_id"] for entry in by_id(content(root))[1][2]] == [4, 4, 4]


def test_nothing_left(root, capsys):
    for path in root.glob("*/*_ann/*.csv"):
        path.write_text(HEADER + "\n")
    assert (
        "of 12 frames 0 have an object, and of these 0 would be for training and 0 for validation"
        in refusal(run(root, capsys=capsys), root)
    )
    write_rows(root, CAR)
    assert "of these 1 would be for training and 0 for validation; both need one" in refusal(
        run(root, capsys=capsys), root
    )


# ---- splits


@pytest.mark.parametrize("count", [0, 1, 2, 11, 32, 79560])
def test_published_split(count):
    train, val = published_split(count)
    assert len(train) == round(0.8 * count) and sorted(train + val) == list(range(count))
    again = list(range(count))
    random.Random(5).shuffle(again)
    assert train + val == again


def test_validation_scenarios_are_of_every_kind():
    kinds = [
        f"{road}_{weather}_{hour}"
        for road in ("Urban", "Highway")
        for weather in ("Clear", "Rain", "HeavyRain")
        for hour in ("Morning", "Noon", "Afternoon", "Evening")
    ]
    names = [f"{10001 + index}_{kinds[index % len(kinds)]}" for index in range(26)]
    chosen = validation_scenarios(names)
    assert (
        len(chosen) == 5
        and chosen == validation_scenarios(names[::-1])
        and set(chosen) <= set(names)
    )
    for word in ("Urban", "Highway"):
        assert 2 <= sum(word in name for name in chosen) <= 3
    for word in ("Clear", "_Rain", "HeavyRain"):
        assert any(word in name for name in chosen)
    assert validation_scenarios(["b", "a"]) == ["b"] and validation_scenarios(["c", "b", "a"]) == [
        "c"
    ]


# ---- whatever stands in the files: a result or one line


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.text(alphabet="[](){},0123456789.eE+-_ naif\n'\"x\u0664", max_size=25) | st.text(max_size=10)
)
def test_any_box_text(text):
    box = parse_box(text)
    assert box is None or (len(box) == 4 and all(type(side) is float for side in box))


VALID = (SAMPLE / NOON / f"{FIRST}_ann" / "0000000066.csv").read_bytes()


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, len(VALID)),
    st.binary(max_size=5) | st.sampled_from([b"\n", b",", b'"', b"\r\n", b"\0", b"nan"]),
    st.integers(0, 30),
)
def test_damaged_csv_files(tmp_path, offset, put, lost):
    path, problems = tmp_path / "rows.csv", Problems()
    path.write_bytes(VALID[:offset] + put + VALID[offset + lost :])
    try:
        found = read_rows(path, (480, 270))
    except BadInput as bad:
        problems.add(*bad.args)
    else:
        for kind, what in found.problems:
            problems.add(kind, what)
        assert len(found.labels) == len(found.boxes)
        assert found.rows == len(found.labels) + len(found.problems) + sum(found.filtered)
        for label, (left, top, right, bottom) in zip(found.labels, found.boxes):
            assert 1 <= label <= 14 and -1 <= left < right <= 481 and -1 <= top < bottom <= 271
    for line in problems.lines():
        assert len(line.splitlines()) == 1 and line.isprintable() and str(path) in line
