"""prepare-json.py, run as a program, on synthetic and on real annotation files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
REAL = SHARED / "coco_full" / "annotations" / "instances_train2017.json"


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, str(ROOT / "prepare-json.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def annotation(**changes):
    entry = {
        "id": 5,
        "image_id": 1,
        "category_id": 9,
        "bbox": [1, 2, 3.5, 4],
        "area": 6.25,
        "iscrowd": 1,
        "segmentation": {"counts": [1, 2], "size": [3, 4]},
        "note": "kept with --keep-keys",
    }
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not None}


def write(path, *annotations, **changes):
    content = {
        "info": {},
        "licenses": [],
        "images": [
            {
                "id": 1,
                "file_name": "a.jpg",
                "width": 40,
                "height": 30,
                "license": 3,
                "coco_url": "x",
            }
        ],
        "annotations": list(annotations) or [annotation()],
        "categories": [{"id": 9, "name": "ü", "supercategory": "s"}],
    }
    content.update(changes)
    path.write_text(json.dumps(content))
    return path


def test_keeps_what_detection_reads(tmp_path):
    source, target = write(tmp_path / "in.json"), tmp_path / "out.json"
    result = run(source, target)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{target}: 1 images, 1 annotations, 1 categories\n"
    assert target.read_text() == (
        '{"images":[{"id":1,"file_name":"a.jpg","height":30,"width":40}],'
        '"annotations":[{"id":5,"image_id":1,"category_id":9,"bbox":[1,2,3.5,4],"area":6.25,'
        '"iscrowd":1}],'
        '"categories":[{"id":9,"name":"\\u00fc","supercategory":"s"}]}\n'
    )
    assert sorted(os.listdir(str(tmp_path))) == ["in.json", "out.json"]


def test_keep_keys_and_pretty_print(tmp_path):
    source, target = write(tmp_path / "in.json"), tmp_path / "out.json"
    assert run("--keep-keys", "--pretty-print", source, target).returncode == 0
    assert json.loads(target.read_text())["annotations"] == [annotation(segmentation=[])]
    assert len(target.read_text().splitlines()) > 10
    write(tmp_path / "in.json", annotation(segmentation=None))
    assert run("--keep-keys", source, target).returncode == 0
    assert "segmentation" not in target.read_text()


def test_box_only_input_is_completed(tmp_path):
    source, target = (
        write(tmp_path / "in.json", annotation(iscrowd=None, area=None)),
        tmp_path / "out.json",
    )
    assert run(source, target).returncode == 0
    entry = json.loads(target.read_text())["annotations"][0]
    assert (entry["iscrowd"], entry["area"]) == (0, 14.0)


@pytest.mark.parametrize(
    "content, named",
    [
        ("{", "not JSON"),
        ("[1]", "list at the top level"),
        ("7", "not COCO"),
        ("[" * 100000, "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        ('{"images":[],"annotations":[]}', "'categories'"),
        ('{"images":{},"annotations":[],"categories":[]}', "'images'"),
        ('{"images":[{"id":3}],"annotations":[],"categories":[]}', "image 3 has no 'file_name'"),
        ('{"images":[null],"annotations":[],"categories":[]}', "image number 0"),
        ('{"images":[],"annotations":[[]],"categories":[]}', "annotation number 0"),
        (
            '{"images":[],"annotations":[],"categories":[{"id":NaN}]}',
            "which JSON does not have: categories[0]",
        ),
    ],
)
def test_bad_content_is_one_line(tmp_path, content, named):
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run(source, target)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and named in result.stderr
    assert os.listdir(str(tmp_path)) == ["in.json"]


def test_bad_paths_are_one_line(tmp_path):
    source = write(tmp_path / "in.json")
    before = source.read_bytes()
    os.link(str(source), str(tmp_path / "hard.json"))
    (tmp_path / "soft.json").symlink_to(source)
    (tmp_path / "folder").mkdir()
    for arguments, named in [
        ((source, source), "same file"),
        ((source, tmp_path / "hard.json"), "same file"),
        ((source, tmp_path / "soft.json"), "same file"),
        ((tmp_path / "none.json", tmp_path / "o"), "does not exist"),
        ((tmp_path / "folder", tmp_path / "o"), "cannot be read"),
        ((source, tmp_path / "folder"), "not a regular file"),
        ((source, tmp_path / "none" / "o"), "cannot be written"),
        ((source, "/dev/null"), "not a regular file"),
    ]:
        result = run(*arguments)
        assert (
            result.returncode == 2 and result.stderr.count("\n") == 1 and named in result.stderr
        ), arguments
    assert source.read_bytes() == before and os.path.exists("/dev/null")
    assert run("--keep", source, tmp_path / "o").returncode == 2, "no prefix matching"


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/coco_full is absent")
@pytest.mark.parametrize("flags", [(), ("--keep-keys",)])
def test_real_file(tmp_path, flags):
    from pycocotools.coco import COCO

    target, again = tmp_path / "out.json", tmp_path / "again.json"
    assert run(*flags, REAL, target, cwd=str(tmp_path)).returncode == 0
    assert run(*flags, target, again).returncode == 0
    assert target.read_bytes() == again.read_bytes(), "nothing left to do, and deterministic"
    before, after = json.loads(REAL.read_text()), json.loads(target.read_text())
    assert [len(after[key]) for key in ("images", "annotations", "categories")] == [48, 373, 80]
    assert after["categories"] == before["categories"]
    assert all(not entry.get("segmentation") for entry in after["annotations"])
    for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd"):
        assert [a[key] for a in after["annotations"]] == [a[key] for a in before["annotations"]]
    assert sum(entry["iscrowd"] for entry in after["annotations"]) == 4
    assert any(abs(a["area"] - a["bbox"][2] * a["bbox"][3]) > 1 for a in after["annotations"])
    coco = COCO(str(target))
    assert len(coco.getAnnIds(iscrowd=True)) == 4 and len(coco.getImgIds()) == 48
