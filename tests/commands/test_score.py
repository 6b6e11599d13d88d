"""The score command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ssd.__main__ import main
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import score_detections

FOUND = Detections([1, 1], [[10, 10, 20, 20], [0, 0, 5, 5]], [0.5, 0.75], [1, 1])


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1}],
                "categories": [{"id": 1, "name": "disc"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
                ],
            }
        )
    )
    return path


def test_json_has_all_digits_and_classes(annotations, tmp_path, capsys):
    FOUND.to_json(tmp_path / "found.json")
    arguments = [
        "score",
        "--annotations",
        str(annotations),
        "--detections",
        str(tmp_path / "found.json"),
        "--json",
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == score_detections(annotations, FOUND)
    assert main(arguments + ["--per-class"]) == 0
    assert json.loads(capsys.readouterr().out)["AP/disc"] == pytest.approx(0.5)


def test_bad_input_is_one_line_and_status_2(annotations, tmp_path, capsys):
    assert main(["score", "--annotations", str(annotations), "--detections", "absent.json"]) == 2
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err
        == "python -m ssd score: error: absent.json: cannot be read: No such file or directory\n"
    )


def test_import_and_help_need_no_pycocotools():
    code = (
        "import sys; sys.modules['pycocotools'] = sys.modules['mxnet'] = sys.modules['cv2'] = "
        "None\n"
        "from ssd import drawing; from ssd.evaluation import scoring; from ssd.__main__ import "
        "main\n"
        "main(['score', '--help'])"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    helped = subprocess.run(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True
    )
    assert b"pixels of the original image" in b" ".join(helped.stdout.split())
