"""`python -m ssd summary` through its real command line."""

import json

import mxnet as mx
import pytest

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import save_weights
from ssd.model.weights_info import WeightsInfo


def run(capsys, *arguments):
    status = main(["summary", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Two images of 400 x 200 pixels, four objects, one of them wrong."""
    boxes = [
        (1, [100, 50, 132, 66]),
        (1, [4, 2, 10, 10]),
        (2, [0, 0, 400, 200]),
        (2, [390, 10, 50, 10]),
    ]
    content = dict(
        images=[
            dict(id=number, file_name=f"{number}.jpg", width=400, height=200) for number in (1, 2)
        ],
        categories=[dict(id=5, name="cup"), dict(id=9, name="spoon")],
        annotations=[
            dict(id=1 + index, image_id=image, category_id=9, bbox=box, area=1, iscrowd=0)
            for index, (image, box) in enumerate(boxes)
        ],
    )
    path = tmp_path_factory.mktemp("data") / "mine.json"
    path.write_text(json.dumps(content))
    return path


def test_the_benchmarks_network(capsys):
    status, text, _ = run(capsys)
    assert status == 0
    lines = [line.split() for line in text.splitlines()]
    assert ["all", "19,972,534", "15,862.1"] in lines
    assert ["38", "x", "38", "8", "5,776", "21x21", "31x31", "30x15", "15x30"] in lines and [
        "all",
        "8,732",
    ] in lines
    assert ["backbone", "stage", "3", "256", "x", "38", "x", "38", "6,822,400", "9,841.9"] in lines
    assert "objects" not in text


def test_json_holds_what_the_text_shows(capsys, annotations):
    status, text, error = run(
        capsys,
        "--recipe",
        "ssd-resnet34-own",
        "--width",
        "0.125",
        "--image-size",
        "96",
        "--annotations",
        annotations,
        "--json",
    )
    found = json.loads(text)
    assert status == 0 and "left out: 1 bad annotations" in error
    assert found["num_classes"] == 3, "counted"
    assert [entry["cells"] for entry in found["maps"]] == [12, 6, 3, 1]
    assert (
        found["default_boxes"]
        == 4 * 144 + 6 * 36 + 4 * 9 + 4
        == sum(entry["boxes"] for entry in found["maps"])
    )
    for name in ("parameters", "multiply_adds"):
        assert (
            sum(part[name] for part in found["blocks"])
            == sum(part[name] for part in found["layers"])
            == found[name]
        )
    sizes = found["coverage"]["sizes"]
    assert [sizes[name]["boxes"] for name in ("all", "small", "medium", "large")] == [3, 1, 1, 1]
    assert sizes["small"] == dict(
        boxes=1,
        covered=0,
        mean_iou=sizes["small"]["mean_iou"],
        matched_mean=1.0,
        matched_median=1.0,
        unmatched=0,
    )
    assert sizes["large"]["covered"] == sizes["medium"]["covered"] == 1


def test_the_text(capsys, annotations):
    status, text, _ = run(
        capsys, "--width", "0.125", "--num-classes", "3", "--annotations", annotations, "--layers"
    )
    lines = [line.split() for line in text.splitlines()]
    assert status == 0 and ["small", "1", "0.0", "%"] in [line[:4] for line in lines]
    assert ["ssd0_expand_conv4_fwd", "32", "x", "1", "x", "1"] in [line[:6] for line in lines]
    assert "head 0" not in text


def test_the_network_of_a_weights_file(capsys, tmp_path):
    config = load_recipe("ssd-resnet34-own").with_values(width=0.125, image_size=64, num_classes=3)
    network = build_detector(config).network
    initialize(network, 0, mx.cpu())
    path = str(tmp_path / "mine.params")
    save_weights(network, path, WeightsInfo(config, (1, 2), ("cup", "spoon")))
    found = json.loads(run(capsys, "--weights", path, "--json")[1])
    assert (found["image_size"], found["num_classes"], found["width"], found["recipe"]) == (
        64,
        3,
        0.125,
        "ssd-resnet34-own",
    )
    save_weights(network, path)
    assert "does not state its network" in run(capsys, "--weights", path)[2]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--recipe", "ssd-resnet34-own"], "num_classes is 0"),
        (["--image-size", "20"], "--image-size: 20 must be at least 32"),
        (["--annotations", "/no/such.json"], "annotation file /no/such.json does not exist"),
        (
            ["--data-dir", "/no/such"],
            "/no/such/annotations/bbox_only_instances_train2017.json does not exist",
        ),
    ],
)
def test_user_errors_are_one_line(capsys, arguments, words):
    status, text, error = run(capsys, *arguments)
    assert status == 2 and words in error and error.count("\n") == 1 and not text
