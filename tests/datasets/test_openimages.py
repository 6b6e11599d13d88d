"""Open Images' CSV files to COCO JSON: rows by hand, every kind of malformed row, sizes from files
and from CSV."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd.datasets import openimages_boxes, openimages_sizes
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.coco import load_coco
from ssd.datasets.openimages_boxes import id_numbers, read_boxes
from ssd.datasets.openimages_classes import mlperf_classes, read_class_labels, read_class_list
from ssd.datasets.openimages_sizes import image_size, jpeg_size
from ssd.datasets.prepare_json import main
from ssd.errors import UserError
from tests.datasets.openimages_files import CLASSES, HEADER, row, save_jpeg

ROOT = Path(__file__).resolve().parents[2]
FRUIT = ("--classes", "Banana", "Apple")
ROWS = [
    row(2, "banana", "0.1,0.35,0.2,0.7", "1,0,1,0,0"),
    row(2, "person", "0,1,0,1"),
    row(0xA1B2C3D4E5F60718, "apple", "0,1,0,0.5", "0,1,0,1,-1"),
    row(2, "apple", "0.25,0.5,0.125,1", "0,0,-1,0,0"),
    row(5, "person", "0,1,0,1"),
]


@pytest.fixture
def files(tmp_path):
    """The folder of a box file of ROWS, class descriptions, and images 2 (40 x 30) and a1b2... (64
    x 48)."""
    (tmp_path / "images").mkdir()
    save_jpeg(tmp_path / "images" / f"{2:016x}.jpg", 40, 30)
    save_jpeg(tmp_path / "images" / "a1b2c3d4e5f60718.jpg", 64, 48, progressive=True)
    (tmp_path / "classes.csv").write_text(CLASSES)
    write(tmp_path, *ROWS)
    return tmp_path


def write(folder, *rows, header=HEADER, end="\n"):
    (folder / "boxes.csv").write_bytes(
        end.join([*([header] if header else []), *rows, ""]).encode()
    )


def run(folder, *arguments, images=True, capsys=None):
    """(exit status, lines of standard output, of standard error)."""
    arguments = [
        "--from",
        "openimages",
        folder / "boxes.csv",
        folder / "out.json",
        "--class-descriptions",
        folder / "classes.csv",
        *(("--images", folder / "images") if images else ()),
        *arguments,
    ]
    status = main(list(map(str, arguments)))
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err.splitlines()


def content(folder):
    return json.loads((folder / "out.json").read_text())


def refusal(result, folder):
    """The one line of a refusal, which leaves no output."""
    status, out, err = result
    assert status == 2 and not out and len(err) == 1 and not (folder / "out.json").exists()
    return err[0]


def test_row_by_row(files, capsys):
    status, out, err = run(files, *FRUIT, capsys=capsys)
    assert status == 0 and not err
    assert out == [
        f"{files}/out.json: 2 images, 3 boxes, 2 categories; 2 boxes are groups (iscrowd 1)",
        f"{files}/out.json: 2 boxes have a flag of -1 (unknown), which counts as true",
    ]
    found = content(files)
    assert found["categories"] == [
        dict(id=0, name="Apple", supercategory=None),
        dict(id=1, name="Banana", supercategory=None),
    ]
    assert found["images"] == [
        dict(id=1, file_name="0000000000000002.jpg", width=40, height=30),
        dict(id=2, file_name="a1b2c3d4e5f60718.jpg", width=64, height=48),
    ]
    flags = dict(
        IsOccluded=False, IsTruncated=False, IsGroupOf=False, IsDepiction=False, IsInside=False
    )
    box = [0.1 * 40, 0.2 * 30, (0.35 - 0.1) * 40, (0.7 - 0.2) * 30]
    assert found["annotations"] == [
        dict(
            id=1,
            image_id=1,
            category_id=1,
            bbox=box,
            area=box[2] * box[3],
            iscrowd=1,
            **dict(flags, IsOccluded=True, IsGroupOf=True),
        ),
        dict(
            id=2,
            image_id=1,
            category_id=0,
            bbox=[10, 3.75, 10, 26.25],
            area=262.5,
            iscrowd=1,
            **dict(flags, IsGroupOf=True),
        ),
        dict(
            id=3,
            image_id=2,
            category_id=0,
            bbox=[0, 0, 64, 24],
            area=1536,
            iscrowd=0,
            **dict(flags, IsTruncated=True, IsDepiction=True, IsInside=True),
        ),
    ]
    assert sorted(os.listdir(str(files))) == ["boxes.csv", "classes.csv", "images", "out.json"]
    data = load_coco(files / "out.json", files / "images", report=lambda line: None)
    assert data.category_ids == (0, 1) and data.box_classes.tolist() == [2, 1, 1]
    assert data.box_crowd.tolist() == [True, True, False]


def test_as_a_program(files):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "prepare-json.py"),
            "--from=openimages",
            "boxes.csv",
            "o.json",
            "--class-descriptions",
            "classes.csv",
            "--images",
            "images",
            *FRUIT,
        ],
        cwd=str(files),
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 0
        and done.stdout.startswith("o.json: 2 images, 3 boxes")
        and not done.stderr
    )
    for arguments in (
        ["--from", "openimages"],
        ["--from", "openimages", "boxes.csv", "p.json", "--max-images", "0"],
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "prepare-json.py"), *arguments],
            cwd=str(files),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert main(["--from", "imagenet", "a", "b"]) == 2 and main(["--from"]) == 2


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 22])
def test_layouts_of_the_same_rows(files, capsys, block, monkeypatch):
    """Old and new columns in any order, line breaks, byte order mark, no last line break, quotes,
    column names of classes: one result."""
    monkeypatch.setattr(openimages_boxes, "BLOCK", block)
    assert run(files, *FRUIT, capsys=capsys)[0] == 0
    expected = content(files)
    text = (files / "boxes.csv").read_text()
    names, *rows = [line.split(",") for line in text.splitlines()]
    short = "\n".join(",".join(cells[:13]) for cells in (names, *rows)) + "\n"
    swapped = "\n".join(",".join(cells[::-1]) for cells in (names, *rows)) + "\n"
    quoted = (
        "\n".join(
            ",".join(f'"{cell}"' if "0." in cell else cell for cell in cells)
            for cells in (names, *rows)
        )
        + "\n"
    )
    for changed in (
        short,
        swapped,
        quoted,
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        text[:-1],
        text + "\n\n",
        text.replace("\n", "\n\n"),
        "\ufeff" + short.replace("\n", "\r\n")[:-2],
    ):
        (files / "boxes.csv").write_bytes(changed.encode())
        assert run(files, *FRUIT, "--overwrite", capsys=capsys)[::2] == (0, []), changed[:40]
        assert content(files) == expected
    write(files, *ROWS)
    for changed in (
        "LabelName,DisplayName\n" + CLASSES,
        "name,id\n"
        + "".join(",".join(line.split(",")[::-1]) + "\n" for line in CLASSES.splitlines()),
        CLASSES.replace("\n", "\r\n"),
        "\ufeff" + CLASSES,
        CLASSES.replace("Zebra", '"Zebra, plain"'),
    ):
        (files / "classes.csv").write_bytes(changed.encode())
        assert run(files, *FRUIT, "--overwrite", capsys=capsys)[0] == 0
        assert content(files) == expected


BAD_ROWS = [
    (row(2, "apple", "0,1,0,1")[:-4], "too few or too many fields", "20 instead of 21"),
    (row(2, "apple", "0,1,0,1") + ",0", "too few or too many fields", "22 instead of 21"),
    ("0", "too few or too many fields", "1 instead of 21"),
    (row(2, "pear", "0,1,0,1"), "unknown label", "'/m/0pear'"),
    (row(2, "apple", "0,1,0,1").replace("0000000000000002", "2"), "16 hexadecimal digits", "'2'"),
    (
        row(2, "apple", "0,1,0,1").replace("0000000000000002", "000000000000000G"),
        "16 hexadecimal digits",
        "G'",
    ),
    (
        row(2, "apple", "0,1,0,1").replace("0000000000000002", "../../000000etc/"),
        "16 hexadecimal digits",
        "../..",
    ),
    (
        row(2, "apple", "0,1,0,1").replace("0000000000000002", "é00000000000000"),
        "16 hexadecimal digits",
        "é",
    ),
    (row(2, "apple", "0,x,0,1"), "no number", "XMax 'x'"),
    (row(2, "apple", "0,NaN,0,1"), "no number", "XMax 'NaN'"),
    (row(2, "apple", "0,,0,1"), "no number", "XMax ''"),
    (row(2, "apple", "0,inf,0,1"), "no number", "XMax 'inf'"),
    (row(2, "apple", "-0.01,1,0,1"), "outside [0, 1]", "XMin '-0.01'"),
    (row(2, "apple", "0,1,0,1.5"), "outside [0, 1]", "YMax '1.5'"),
    (row(2, "apple", "0.6,0.5,0,1"), "XMin > XMax", "XMin '0.6', YMin '0', XMax '0.5'"),
    (row(2, "apple", "0,1,0.3,0.2"), "XMin > XMax or YMin > YMax", "YMin '0.3'"),
    (row(2, "apple", "0.5,0.5,0,1"), "without area", "XMin '0.5'"),
    (row(2, "apple", "0,1,0,1", "0,0,2,0,0"), "none of 1, 0, -1", "IsGroupOf '2'"),
    (row(2, "apple", "0,1,0,1", "0,0,,0,0"), "none of 1, 0, -1", "IsGroupOf ''"),
]


@pytest.mark.parametrize("bad, kind, value", BAD_ROWS)
def test_bad_rows(files, capsys, bad, kind, value):
    """Left out and counted, line and value named; refused where there are too many."""
    assert run(files, *FRUIT, capsys=capsys)[0] == 0
    expected = content(files)
    write(files, *ROWS[:2], bad, *ROWS[2:])
    status, out, err = run(files, *FRUIT, "--overwrite", "--max-bad", "0.2", capsys=capsys)
    assert status == 0 and content(files) == expected
    assert (
        len(err) == 1 and err[0].startswith("left out: 1 x ") and f"{files}/boxes.csv:4: " in err[0]
    )
    assert kind in err[0] and value in err[0]
    (files / "out.json").unlink()
    line = refusal(run(files, *FRUIT, capsys=capsys), files)
    assert (
        kind in line
        and f"{files}/boxes.csv:4: " in line
        and "1 of 6 rows, and --max-bad is 0.01" in line
    )


def test_kinds_of_bad_rows_are_counted(files, capsys):
    write(files, *ROWS, *[bad for bad, _, _ in BAD_ROWS], row(2, "apple", "0,2,0,1"))
    status, _, err = run(files, *FRUIT, "--max-bad", "1", capsys=capsys)
    assert (
        status == 0
        and len(err) == 8
        and [line.split(" x ")[0] for line in err].count("left out: 3") == 2
    )
    assert sum(int(line.split()[2]) for line in err) == len(BAD_ROWS) + 1


@pytest.mark.parametrize("name", openimages_boxes.COLUMNS)
def test_a_missing_column(files, capsys, name):
    write(files, *ROWS, header=HEADER.replace(name, "Other", 1))
    line = refusal(run(files, *FRUIT, capsys=capsys), files)
    assert f"{files}/boxes.csv:1: no column {name} in " in line


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "boxes.csv: the file is empty"),
        ("\ufeff", "boxes.csv: the file is empty"),
        ("\n".join(ROWS), "boxes.csv:1: the first line must name the columns"),
        (HEADER, "holds no box of the 2 classes in 0 rows"),
        (HEADER + "\n", "holds no box"),
        (HEADER + "\n" + ROWS[1] + "\n", "holds no box of the 2 classes in 1 rows"),
        (
            HEADER + "\n" + ROWS[0] + "\n" + ROWS[2][:50],
            "boxes.csv:3: the file ends in the middle of a row",
        ),
        (
            HEADER + "\n" + ROWS[0] + "\n" + ROWS[2][:4],
            "boxes.csv:3: the file ends in the middle of a row: 'a1b2'",
        ),
        (HEADER.replace("XMax", "XMin"), "column XMin occurs 2 times"),
    ],
)
def test_files_that_are_refused(files, capsys, text, words):
    (files / "boxes.csv").write_bytes(text.encode())
    assert words in refusal(run(files, *FRUIT, capsys=capsys), files)


def test_text_that_is_no_utf8(files, capsys):
    (files / "boxes.csv").write_bytes((HEADER + "\n" + ROWS[0] + "\n").encode() + b"\xff\xfe\n")
    assert "is not UTF-8 text" in refusal(run(files, *FRUIT, capsys=capsys), files)
    (files / "classes.csv").write_bytes(b"\xff\xfe\x00")
    assert "classes.csv" in refusal(run(files, *FRUIT, capsys=capsys), files)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the file is empty"),
        ("\n\n", "holds no class"),
        ("LabelName,DisplayName\n", "holds no class"),
        ("a,b\n/m/0apple,Apple\n", "classes.csv:1: neither a label"),
        (CLASSES + "/m/0pear\n", "classes.csv:5: '/m/0pear'"),
        (CLASSES + "Pear,/m/0pear\n", "classes.csv:5: 'Pear,/m/0pear' is no label"),
        (CLASSES + "/m/0apple,Pear\n", "label /m/0apple is both 'Apple' and 'Pear'"),
        (CLASSES.replace("Banana", "Bananas"), "class Banana: no label in "),
    ],
)
def test_class_descriptions_that_are_refused(files, capsys, text, words):
    (files / "classes.csv").write_text(text)
    assert words in refusal(run(files, *FRUIT, capsys=capsys), files)


def test_classes_are_numbered_by_their_list(files, capsys):
    assert "class Appel: no label" in refusal(
        run(files, "--classes", "Appel", capsys=capsys), files
    )
    assert run(files, "--classes", "Zebra", "Banana", capsys=capsys)[1][-1].endswith(
        "1 categories have no box"
    )
    assert [entry["name"] for entry in content(files)["categories"]] == ["Banana", "Zebra"]
    (files / "list.txt").write_text("Zebra\nApple\n\n")
    assert run(files, "--class-list", files / "list.txt", "--overwrite", capsys=capsys)[0] == 0
    assert [entry["name"] for entry in content(files)["categories"]] == ["Zebra", "Apple"]
    (files / "list.txt").write_text("Zebra\nApple\nZebra\n")
    with pytest.raises(UserError, match="list.txt:3: class 'Zebra' occurs twice"):
        read_class_list(files / "list.txt")


def test_the_benchmarks_classes():
    names = mlperf_classes()
    assert len(names) == 264 and names[0] == "Airplane" and names[-1] == "Zucchini"
    assert list(names) == sorted(names, key=str.encode) and {
        "Egg (Food)",
        "Lavender (Plant)",
    } < set(names)


def test_names_with_a_comma(tmp_path):
    (tmp_path / "c.csv").write_text('LabelName,DisplayName\n/m/1,"Egg, boiled"\n/g/2,Zebra\n')
    assert read_class_labels(tmp_path / "c.csv") == {"/m/1": "Egg, boiled", "/g/2": "Zebra"}


def test_output_is_not_replaced_unasked(files, capsys):
    (files / "out.json").write_text("mine")
    status, _, err = run(files, *FRUIT, capsys=capsys)
    assert status == 2 and "exists already; --overwrite replaces it" in err[0]
    assert (files / "out.json").read_text() == "mine"
    assert run(files, *FRUIT, "--overwrite", capsys=capsys)[0] == 0 and content(files)["images"]
    (files / "out.json").unlink()
    (files / "out.json").mkdir()
    assert "no regular file" in run(files, *FRUIT, "--overwrite", capsys=capsys)[2][0]


def test_a_write_that_fails_leaves_nothing(files, capsys, monkeypatch):
    def fail(*_):
        yield "["
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssd.datasets.openimages._json", fail)
    assert "cannot be written: No space left" in refusal(run(files, *FRUIT, capsys=capsys), files)
    assert sorted(os.listdir(str(files))) == ["boxes.csv", "classes.csv", "images"]


# ---- images and sizes ----


def test_images_without_a_file_are_counted(files, capsys):
    (files / "images" / f"{2:016x}.jpg").unlink()
    status, out, err = run(files, *FRUIT, capsys=capsys)
    assert status == 0 and err == [
        f"left out: 1 x image without a file; the first: {2:016x}.jpg in {files}/images"
    ]
    assert [entry["file_name"] for entry in content(files)["images"]] == ["a1b2c3d4e5f60718.jpg"]
    assert [(entry["id"], entry["image_id"]) for entry in content(files)["annotations"]] == [(1, 1)]
    (files / "images" / "a1b2c3d4e5f60718.jpg").write_bytes(b"no image")
    (files / "out.json").unlink()
    assert "none of the 2 images with a box is present" in run(files, *FRUIT, capsys=capsys)[2][0]
    save_jpeg(files / "images" / f"{2:016x}.jpg", 40, 30)
    assert "1 x image file without a readable size" in run(files, *FRUIT, capsys=capsys)[2][0]


def test_sizes_are_kept_and_taken(files, capsys, monkeypatch):
    sizes = files / "sizes.csv"
    assert run(files, *FRUIT, "--sizes", sizes, capsys=capsys)[0] == 0
    expected = content(files)
    assert (
        sizes.read_text()
        == "ImageID,Width,Height\n0000000000000002,40,30\na1b2c3d4e5f60718,64,48\n"
    )
    monkeypatch.setattr(openimages_sizes, "image_size", lambda path: 1 / 0)
    assert (
        run(files, *FRUIT, "--sizes", sizes, "--overwrite", capsys=capsys)[0] == 0
        and content(files) == expected
    )
    assert run(files, *FRUIT, "--sizes", sizes, "--overwrite", images=False, capsys=capsys)[0] == 0
    assert content(files) == expected
    sizes.write_text("Height,ImageID,Width\r\n48,a1b2c3d4e5f60718,64\r\n48,a1b2c3d4e5f60718,64\r\n")
    status, _, err = run(
        files, *FRUIT, "--sizes", sizes, "--overwrite", images=False, capsys=capsys
    )
    assert (
        status == 0 and "1 x image without a file" in err[0] and "sizes.csv does not know" in err[0]
    )
    monkeypatch.undo()
    assert (
        run(files, *FRUIT, "--sizes", sizes, "--overwrite", capsys=capsys)[0] == 0
        and content(files) == expected
    )
    assert len(sizes.read_text().splitlines()) == 3, "what was read is added"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the file is empty"),
        ("ImageID,Width\n", "sizes.csv:1: no column Height"),
        ("0000000000000002,40,30\n", "sizes.csv:1: no column ImageID"),
        (
            "ImageID,Width,Height\n0000000000000002,40\n",
            "sizes.csv:2: '0000000000000002,40' is no image id with",
        ),
        ("ImageID,Width,Height\n0000000000000002,40,0\n", "is no image id with"),
        ("ImageID,Width,Height\n0000000000000002,4e1,30\n", "is no image id with"),
        ("ImageID,Width,Height\n2,40,30\n", "sizes.csv:2: image id '2' is not 16"),
        (
            "ImageID,Width,Height\n0000000000000002,40,30\n0000000000000002,40,31\n",
            "sizes.csv:3: image 0000000000000002 occurs twice, with 40 x 30 and 40 x 31 pixels",
        ),
    ],
)
def test_sizes_that_are_refused(files, capsys, text, words):
    (files / "sizes.csv").write_text(text)
    assert words in refusal(
        run(files, *FRUIT, "--sizes", files / "sizes.csv", capsys=capsys), files
    )


def test_what_is_needed(files, capsys):
    assert "--images or --sizes is needed" in refusal(
        run(files, *FRUIT, images=False, capsys=capsys), files
    )
    assert "sizes.csv: does not exist" in refusal(
        run(files, *FRUIT, "--sizes", files / "sizes.csv", images=False, capsys=capsys), files
    )
    assert (
        "no such folder" in run(files, *FRUIT, "--overwrite", capsys=capsys)[2][0]
        if not (files / "images").exists()
        else True
    )
    (files / "images" / "x").mkdir()
    missing = run(
        files, "--classes", "Apple", "--images", files / "none", images=False, capsys=capsys
    )
    assert "image folder " in missing[2][0] and "cannot be read" in missing[2][0]


def test_header_reader_against_pillow(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned: not applied
    for index, options in enumerate(
        [
            {},
            {"progressive": True},
            {"exif": exif},
            {"comment": b"\xff\xc0" * 900},
            {"icc_profile": bytes(70000)},
            {"restart_marker_blocks": 1},
        ]
    ):
        path = str(tmp_path / f"{index}.jpg")
        save_jpeg(path, 37 + index, 91, **options)
        assert jpeg_size(path) == (37 + index, 91)
    intact = Path(path).read_bytes()
    for end in range(0, 200, 3):
        Path(path).write_bytes(intact[:end])
        assert jpeg_size(path) in (None, (42, 91))
    Image.new("RGB", (5, 7)).save(path, "PNG")
    assert jpeg_size(path) is None and image_size(path) == (5, 7)


def test_many_images_in_threads(tmp_path):
    ids = np.sort(np.random.default_rng(0).integers(0, 2**63, 60, np.int64).astype(np.uint64))
    for index, name in enumerate(ids.tolist()):
        save_jpeg(tmp_path / f"{name:016x}.jpg", 8 + index, 9)
    problems = Problems()
    sides = openimages_sizes.image_sizes(ids, tmp_path, None, problems, threads=5)
    assert sides.tolist() == [[8 + index, 9] for index in range(60)] and not problems


def test_ids_are_their_digits():
    names = [
        "0000000000000000",
        "ffffffffffffffff",
        "0123456789abcdef",
        "ABCDEF0123456789",
        "12",
        "0" * 17,
    ]
    numbers, good = id_numbers(names)
    assert good.tolist() == [True] * 3 + [False] * 3
    assert [openimages_boxes.id_text(number) for number in numbers[:3]] == names[:3]
    assert numbers.dtype == np.uint64 and len(id_numbers([])[0]) == 0


def test_max_images_are_the_smallest_ids_whatever_the_order(files, capsys):
    rows = [
        row(image, "apple", f"0,{0.1 * number:.1f},0,1")
        for number, image in enumerate([9, 4, 9, 7, 4, 1 << 63, 7], start=1)
    ]
    (files / "sizes.csv").write_text(
        "ImageID,Width,Height\n" + "".join(f"{image:016x},100,10\n" for image in (4, 7, 9, 1 << 63))
    )
    write(files, *rows)
    options = ("--classes", "Apple", "--sizes", files / "sizes.csv", "--overwrite")
    assert run(files, *options, images=False, capsys=capsys)[0] == 0
    every = content(files)
    assert [entry["file_name"][:16] for entry in every["images"]] == [
        f"{image:016x}" for image in (4, 7, 9, 1 << 63)
    ]
    widths = [(entry["image_id"], round(entry["bbox"][2])) for entry in every["annotations"]]
    assert widths == [
        (1, 20),
        (1, 50),
        (2, 40),
        (2, 70),
        (3, 10),
        (3, 30),
        (4, 60),
    ]  # the file's order
    assert run(files, *options, "--max-images", "2", images=False, capsys=capsys)[0] == 0
    assert content(files)["images"] == every["images"][:2]
    assert content(files)["annotations"] == every["annotations"][:4]


def test_read_boxes_reports_progress(files, monkeypatch):
    monkeypatch.setattr(openimages_boxes, "BLOCK", 64)
    calls = []
    boxes = read_boxes(
        files / "boxes.csv",
        {"/m/0apple": 0, "/m/0banana": 1, "/m/0person": -1},
        Problems(),
        lambda *numbers: calls.append(numbers),
    )
    size = (files / "boxes.csv").stat().st_size
    assert (
        boxes.rows == 5 and len(boxes.classes) == 3 and calls[-1] == (size, size) and len(calls) > 5
    )


# ---- whatever stands in the file: a result or one line ----

VALID = "\n".join([HEADER, *ROWS, ""]).encode()


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
    st.integers(1, 300),
)
def test_damaged_box_files(tmp_path, offset, put, lost, block):
    path, problems = tmp_path / "boxes.csv", Problems()
    path.write_bytes(VALID[:offset] + put + VALID[offset + lost :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openimages_boxes, "BLOCK", block)
        try:
            boxes = read_boxes(path, {"/m/0apple": 0, "/m/0banana": 1, "/m/0person": -1}, problems)
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
            str(error).encode()
            return
    assert all(len(line.splitlines()) == 1 for line in problems.lines())
    assert (
        len(boxes.image) == len(boxes.ltrb) == len(boxes.classes) == len(boxes.flags) <= boxes.rows
    )
    assert ((boxes.ltrb >= 0) & (boxes.ltrb <= 1)).all() and (
        boxes.ltrb[:, :2] < boxes.ltrb[:, 2:]
    ).all()
    assert ((boxes.classes == 0) | (boxes.classes == 1)).all() and (boxes.flags < 32).all()
