"""The evaluate command through its command line, with a network of random weights that knows its
classes."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

mx = pytest.importorskip("mxnet")

from ssd.__main__ import main  # noqa: E402
from ssd.config import load_recipe  # noqa: E402
from ssd.datasets.coco import load_coco  # noqa: E402
from ssd.evaluation.detections import Detections  # noqa: E402
from ssd.evaluation.scoring import STAT_NAMES, score_detections  # noqa: E402
from ssd.model.detector import build_detector  # noqa: E402
from ssd.model.initialization import initialize  # noqa: E402
from ssd.model.parameters import by_structural_name  # noqa: E402
from ssd.model.weights import save_weights  # noqa: E402
from ssd.model.weights_info import WeightsInfo, pack_info  # noqa: E402
from tests.training.tiny import tiny_data  # noqa: E402

ANNOTATIONS = os.path.join("annotations", "bbox_only_instances_val2017.json")
NAMES, IDS = ("circle", "square", "triangle"), (3, 7, 11)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """data: six images; weights.params of a random network with its classes, bare.params without;
    run: two checkpoints, the first of a network that finds nothing."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = tiny_data(folder / "data", train_images=1, val_images=6)
    with open(os.path.join(data, ANNOTATIONS)) as file:
        categories = json.load(file)["categories"]
    assert (
        tuple(row["name"] for row in categories) == NAMES
        and tuple(row["id"] for row in categories) == IDS
    )
    config = load_recipe("ssd-resnet34-shapes").with_values(width=0.125, boxes_per_image=20)
    network = build_detector(config).network
    initialize(network, 1, mx.cpu())
    for name, parameter in by_structural_name(network).items():
        if name.startswith("predictors.") and name.endswith(
            "weight"
        ):  # boxes near the default ones
            values = parameter.data()
            values[: len(values) // 2] *= 0.02  # of each box four offsets, then four logits
            parameter.set_data(values)
    info = WeightsInfo(config, IDS, NAMES)
    save_weights(network, str(folder / "weights.params"), info)
    save_weights(network, str(folder / "bare.params"))
    tensors = {
        name: parameter.data().asnumpy() for name, parameter in by_structural_name(network).items()
    }
    for step in (10, 20):
        checkpoint = folder / "run" / "checkpoints" / f"step-{step:08d}"
        os.makedirs(checkpoint)
        scale = {10: 0, 20: 1}[step]
        np.savez(
            checkpoint / "parameters.npz",
            metadata=pack_info(info),
            **{
                name: values * scale if "head" in name else values
                for name, values in tensors.items()
            },
        )
        (checkpoint / "state.json").write_text(json.dumps({"steps_per_epoch": 5}))
    return folder


def evaluate(workspace, *flags, weights="weights.params", data=True):
    """Status of the command."""
    where = ["--data-dir", workspace / "data"] if data else []
    return main(
        [
            str(one)
            for one in (
                "evaluate",
                "--weights",
                *([workspace / weights] if weights else []),
                *where,
                "--cache-dir",
                workspace / "cache",
                "--device",
                "cpu",
                "--eval-batch-size",
                "4",
                "--data-threads",
                "1",
                *flags,
            )
        ]
    )


@pytest.fixture(scope="module")
def first(workspace, tmp_path_factory):
    """The result of a plain evaluation, and the file of its detections."""
    folder = tmp_path_factory.mktemp("first")
    status = evaluate(
        workspace,
        "--json-output",
        folder / "result.json",
        "--save-detections",
        folder / "found.json",
        "--report",
        folder / "report",
    )
    assert status == 0
    return json.loads((folder / "result.json").read_text()), folder


def test_numbers_equal_pycocotools(first, workspace):
    result, folder = first
    annotations = workspace / "data" / ANNOTATIONS
    found = Detections.from_json(folder / "found.json")
    expected = score_detections(annotations, found, per_class=True, scorer="pycocotools")
    assert (
        len(found) == result["detections"] > 0
        and result["images"] == 6
        and result["left_out"] == []
    )
    assert result["AP"] >= 0
    for name in STAT_NAMES:
        assert result[name] == pytest.approx(expected[name], abs=1e-9)
    assert [row["name"] for row in result["per_class"]] == list(NAMES)
    for row in result["per_class"]:
        assert row["AP"] == pytest.approx(expected["AP/" + row["name"]], abs=1e-9)
        assert row["detections"] == int((found.category_id == row["id"]).sum())
    with open(annotations) as file:
        assert sum(row["objects"] for row in result["per_class"]) == len(
            json.load(file)["annotations"]
        )
    page = (folder / "report" / "report.html").read_text()
    assert page.count("<svg") >= 5 and f"{result['AP']:.3f}" in page


def test_classes_are_mapped_by_name(first, workspace, tmp_path, capsys):
    """The same data set with its categories in another order and with other ids: the same numbers,
    by name; and any annotation file beside any folder of images."""
    with open(workspace / "data" / ANNOTATIONS) as file:
        content = json.load(file)
    ids = {3: 700, 7: 5, 11: 90}
    content["categories"] = [
        dict(row, id=ids[row["id"]]) for row in reversed(content["categories"])
    ]
    content["annotations"] = [
        dict(row, category_id=ids[row["category_id"]]) for row in content["annotations"]
    ]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    flags = ["--annotations", other, "--images", workspace / "data" / "val2017"]
    assert evaluate(workspace, *flags, "--json", data=False) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["AP"] == pytest.approx(first[0]["AP"], abs=1e-12)
    ours, theirs = (
        {row["name"]: (row["AP"], row["objects"], row["detections"]) for row in one["per_class"]}
        for one in (result, first[0])
    )
    assert ours == theirs and {row["name"]: row["id"] for row in result["per_class"]} == dict(
        zip(NAMES, (700, 5, 90))
    )
    assert f"on {other}, scored by {result['scorer']}" in err.splitlines()[0]

    content["categories"][0]["name"] = "star"
    other.write_text(json.dumps(content))
    assert evaluate(workspace, *flags, data=False) == 2
    assert "its 3 classes do not include 'star' of" in capsys.readouterr().err
    content["categories"][0]["name"] = "Triangle"  # misspelt is no class with an AP of 0
    other.write_text(json.dumps(content))
    assert evaluate(workspace, *flags, data=False) == 2
    assert (
        f"its 3 classes do not include 'Triangle' of {other}; did you mean triangle?"
        in capsys.readouterr().err
    )
    content["categories"].append({"id": 8, "name": "hexagon"})
    other.write_text(json.dumps(content))
    # weights that do not know their classes
    settings = ["--recipe", "ssd-resnet34-shapes", "--width", "0.125"]
    assert evaluate(workspace, *flags, *settings, weights="bare.params", data=False) == 2
    assert "a network of 3 classes" in capsys.readouterr().err


def test_a_data_set_with_fewer_classes(first, workspace, tmp_path, capsys):
    """Triangles are not asked for, the others stand in another order with other ids: the numbers of
    pycocotools on the file, with the detections of all classes filtered by hand."""
    with open(workspace / "data" / ANNOTATIONS) as file:
        content = json.load(file)
    ids = {7: 90, 3: 5}
    content["categories"] = [{"id": 90, "name": "square"}, {"id": 5, "name": "circle"}]
    rows = json.loads((first[1] / "found.json").read_text())
    filtered = [
        dict(row, category_id=ids[row["category_id"]]) for row in rows if row["category_id"] in ids
    ]
    assert 0 < len(filtered) < len(rows)
    # Objects where the untrained network detects some, so that scores are not 0.
    sizes = {row["id"]: np.array([row["width"], row["height"]]) for row in content["images"]}
    inside = [
        row
        for row in filtered
        if min(row["bbox"][:2]) >= 0
        and min(row["bbox"][2:]) > 1
        and (np.add(row["bbox"][:2], row["bbox"][2:]) <= sizes[row["image_id"]]).all()
    ]
    assert len(inside) > 9
    content["annotations"] = [
        dict(
            id=number,
            image_id=row["image_id"],
            category_id=90 if number % 3 else 5,
            bbox=row["bbox"],
            area=row["bbox"][2] * row["bbox"][3],
            iscrowd=0,
        )
        for number, row in enumerate(inside, start=1)
    ]
    (tmp_path / "few.json").write_text(json.dumps(content))
    (tmp_path / "filtered.json").write_text(json.dumps(filtered))
    expected = score_detections(
        tmp_path / "few.json",
        Detections.from_json(tmp_path / "filtered.json"),
        per_class=True,
        scorer="pycocotools",
    )

    flags = ["--annotations", tmp_path / "few.json", "--images", workspace / "data" / "val2017"]
    assert (
        evaluate(
            workspace,
            *flags,
            "--json",
            "--save-detections",
            tmp_path / "found.json",
            "--report",
            tmp_path / "report",
            data=False,
        )
        == 0
    )
    out, err = capsys.readouterr()
    result = json.loads(out)
    line = (
        "left out: detections of 1 of the weights' 3 classes, which the data set does not have "
        "('triangle')"
    )
    assert json.loads((tmp_path / "found.json").read_text()) == filtered and result[
        "detections"
    ] == len(filtered)
    assert result["AP"] > 0 and {name: result[name] for name in STAT_NAMES} == pytest.approx(
        {name: expected[name] for name in STAT_NAMES}, abs=1e-9
    )
    assert {row["name"]: row["AP"] for row in result["per_class"]} == pytest.approx(
        {name: expected["AP/" + name] for name in ("circle", "square")}, abs=1e-9
    )
    assert result["AP50"] > 0.1 and result["AR100"] > 0.1 and result["objects"] == len(inside)
    assert {row["name"]: row["objects"] for row in result["per_class"]} == {
        "square": len(inside) - len(inside) // 3,
        "circle": len(inside) // 3,
    }
    assert result["classes_left_out"] == ["triangle"] and err.splitlines().count(line) == 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("triangle") == 1 and "detections of 1 of the weights" in page

    assert (
        evaluate(
            workspace, *flags, "--json-output", tmp_path / "all.json", weights="run", data=False
        )
        == 0
    )
    err = capsys.readouterr().err
    same = json.loads((tmp_path / "all.json").read_text())["results"][1]
    assert {name: same[name] for name in STAT_NAMES} == {name: result[name] for name in STAT_NAMES}
    assert same["per_class"] == result["per_class"]
    assert err.splitlines().count(line) == 1


def test_weights_without_metadata_take_the_recipe(first, workspace, capsys):
    assert (
        evaluate(
            workspace,
            "--recipe",
            "ssd-resnet34-shapes",
            "--width",
            "0.125",
            "--boxes-per-image",
            "20",
            "--json",
            weights="bare.params",
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert [result[name] for name in STAT_NAMES] == [first[0][name] for name in STAT_NAMES]


def test_a_table_of_several_weights(first, workspace, tmp_path, capsys, monkeypatch):
    """The data set is loaded, and described, once for all."""
    loads = []
    monkeypatch.setattr(
        "ssd.datasets.coco.load_coco",
        lambda *args, **options: loads.append(args) or load_coco(*args, **options),
    )
    assert (
        evaluate(
            workspace,
            "--sweep-output",
            tmp_path / "sweep",
            "--json-output",
            tmp_path / "all.json",
            weights="run",
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert len(loads) == 1 and sum("boxes, 3 categories" in line for line in err.splitlines()) == 1
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["step 10 (epoch 2)", "step 20 (epoch 4)"]
    with open(tmp_path / "sweep" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"]) for row in rows] == [("10", "2.0"), ("20", "4.0")]
    assert float(rows[1]["AP50"]) == pytest.approx(first[0]["AP50"], abs=1e-6)
    assert [one["step"] for one in json.loads((tmp_path / "all.json").read_text())["results"]] == [
        10,
        20,
    ]
    picture = (tmp_path / "sweep" / "sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10000


def test_a_corrupt_image_and_no_detections(workspace, tmp_path, capsys):
    """The rest is done: the numbers are those of a data set without the image; nothing above the
    threshold."""
    data = tmp_path / "data"
    shutil.copytree(workspace / "data", data)
    with open(data / ANNOTATIONS) as file:
        content = json.load(file)
    bad = content["images"][2]
    path = data / "val2017" / bad["file_name"]
    path.write_bytes(path.read_bytes()[:700])
    status = evaluate(
        workspace,
        "--data-dir",
        data,
        "--json-output",
        tmp_path / "rest.json",
        "--save-detections",
        tmp_path / "rest-found.json",
    )
    err = capsys.readouterr().err
    assert (
        status == 1
        and f"1 of 6 images could not be used ({bad['file_name']})" in err.splitlines()[-1]
    )
    result = json.loads((tmp_path / "rest.json").read_text())
    assert result["images"] == 5 and result["left_out"] == [bad["file_name"]]
    part = tmp_path / "part.json"
    part.write_text(
        json.dumps(
            dict(
                content,
                images=[row for row in content["images"] if row is not bad],
                annotations=[row for row in content["annotations"] if row["image_id"] != bad["id"]],
            )
        )
    )
    expected = score_detections(
        part, Detections.from_json(tmp_path / "rest-found.json"), scorer="pycocotools"
    )
    assert {name: result[name] for name in STAT_NAMES} == pytest.approx(expected, abs=1e-9)

    assert (
        evaluate(
            workspace, "--data-dir", data, "--score-threshold", "1", "--report", tmp_path / "report"
        )
        == 1
    )
    assert "0 detections on 5 images" in capsys.readouterr().err
    page = (tmp_path / "report" / "report.html").read_text()
    assert bad["file_name"] in page and page.count("<svg") >= 5


def test_an_image_that_became_bad_after_its_check(workspace, tmp_path, capsys):
    """With --check-images exists nothing was decoded: DALI fails, the bad image is found and the
    rest is done."""
    data = tmp_path / "data"
    shutil.copytree(workspace / "data", data)
    name = sorted(os.listdir(data / "val2017"))[4]
    (data / "val2017" / name).write_bytes(b"no image")
    status = evaluate(workspace, "--data-dir", data, "--check-images", "exists", "--json")
    out, err = capsys.readouterr()
    assert status == 1 and json.loads(out)["left_out"] == [name] and json.loads(out)["images"] == 5


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--weights", "NO"], "--weights NO: no such file"),
        (["--weights", "PLACE/data"], "PLACE/data: a folder without weights"),
        (["--weights", "PLACE/no*.params"], "no such file matches"),
        (
            ["--annotations", "PLACE/data/x.json", "--images", "PLACE"],
            "--annotations PLACE/data/x.json: no such file",
        ),
        (["--annotations", "PLACE/weights.params"], "go together"),
        (["--scorer", "guess"], "scorer guess: not one of"),
        (["--report", "PLACE/data"], "--report PLACE/data: exists already"),
        (
            ["--json-output", "PLACE/weights.params"],
            "--json-output PLACE/weights.params: exists already",
        ),
        (["--save-detections", "PLACE/none/a.json"], "no such folder"),
        (
            ["--weights", "PLACE/weights.params", "PLACE/bare.params", "--report", "PLACE/new"],
            "names 2",
        ),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--weights", "PLACE/data/DATA"], "not a file of MXNet arrays"),
    ],
)
def test_user_errors_are_one_line(workspace, capsys, flags, words):
    flags = [flag.replace("PLACE", str(workspace)).replace("DATA", ANNOTATIONS) for flag in flags]
    given = [] if "--weights" in flags else ["--weights", str(workspace / "weights.params")]
    data = [] if "--annotations" in flags else ["--data-dir", str(workspace / "data")]
    assert main(["evaluate", *given, *data, *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words.replace("PLACE", str(workspace)) in err
    assert not (workspace / "new").exists()
