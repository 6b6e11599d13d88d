"""`export`: files that give the live network's detections, and nothing else is kept."""

import json
import os

import numpy as np
import pytest

from ssd.__main__ import main
from ssd.config import load_recipe

NAMES = (
    "circle",
    "\u65b9\u5f62 \U0001f408 \udcff",
    "tri angle é",
)  # \udcff: half of a surrogate pair, no text


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network with weights that were never trained, but know their classes."""
    import mxnet as mx

    from ssd.model.detector import build_detector
    from ssd.model.initialization import initialize
    from ssd.model.weights import save_weights
    from ssd.model.weights_info import WeightsInfo

    config = load_recipe("ssd-resnet34-shapes").with_values(width=0.125, boxes_per_image=50)
    network = build_detector(config).network
    initialize(network, 4, mx.cpu())
    images = mx.nd.array(np.random.default_rng(0).standard_normal((2, 3, 300, 300)))
    for _ in range(
        30
    ):  # running statistics like a trained network's, not 0 and 1: set by the backward pass
        with mx.autograd.record():
            total = sum(part.mean() for part in network(images))
        total.backward()
    assert network.backbone.bn1.running_mean.data().asnumpy().any()
    for head in network.predictors:  # else scores would be 0 or 1, and say little
        head.conv.weight.set_data(head.conv.weight.data() * 0.05)
    path = str(tmp_path_factory.mktemp("weights") / "weights.params")
    save_weights(network, path, WeightsInfo(config, (3, 7, 1), NAMES))
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("export") / "files")
    assert main(["export", "--weights", weights, "--output", folder, "--name", "shapes"]) == 0
    return folder


def test_files_and_messages(weights, tmp_path, capfd):
    folder = str(tmp_path / "files")
    assert main(["export", "--weights", weights, "--output", folder, "--format", "onnx"]) == 0
    out, err = capfd.readouterr()
    assert sorted(os.listdir(folder)) == ["detector.json", "detector.onnx"]
    assert "onnx   equal: " in out and " 0 without a counterpart" in out and "Traceback" not in err
    assert int(out.split("equal: ")[1].split()[0]) > 100


def test_onnx_metadata_and_batch_sizes(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        os.path.join(exported, "shapes.onnx"), providers=["CPUExecutionProvider"]
    )
    metadata = session.get_modelmeta().custom_metadata_map
    with open(os.path.join(exported, "shapes.json"), encoding="utf-8") as file:
        beside = json.load(file)
    assert json.loads(metadata["class_names"]) == list(NAMES) == beside["class_names"]
    assert json.loads(metadata["category_ids"]) == [3, 7, 1]
    assert (
        json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
        and json.loads(metadata["image_size"]) == 300
    )
    images = np.random.default_rng(1).standard_normal((5, 3, 300, 300)).astype(np.float32)
    together = session.run(["ids", "scores", "boxes"], {"images": images})
    assert [part.shape for part in together] == [(5, 50, 1), (5, 50, 1), (5, 50, 4)]
    for index in range(5):
        alone = session.run(["ids", "scores", "boxes"], {"images": images[index : index + 1]})
        for part, one in zip(together, alone):
            np.testing.assert_allclose(part[index], one[0], rtol=1e-4, atol=1e-4)
    ids, scores, boxes = together
    assert set(np.unique(ids)) <= {-1, 0, 1, 2} and (np.diff(scores[:, :, 0]) <= 0).all()
    assert ((ids >= 0) == (scores > 0.05)).all() and (boxes[ids[:, :, 0] < 0] == -1).all()


@pytest.mark.filterwarnings("ignore:Cannot decide type")
def test_gluon_files_load_without_this_package(exported):
    import mxnet as mx

    block = mx.gluon.SymbolBlock.imports(
        os.path.join(exported, "shapes-symbol.json"),
        ["data"],
        os.path.join(exported, "shapes-0000.params"),
    )
    ids, scores, boxes = block(mx.nd.random.normal(shape=(2, 3, 300, 300)))
    assert ids.shape == (2, 50, 1) and scores.shape == (2, 50, 1) and boxes.shape == (2, 50, 4)
    assert float(boxes.max().asscalar()) > 2  # pixels


@pytest.mark.parametrize("kind", ["onnx", "gluon"])
def test_a_wrong_file_is_detected_and_deleted(weights, tmp_path, monkeypatch, capfd, kind):
    import mxnet as mx

    from ssd.tools import export_formats

    written = getattr(export_formats, f"write_{kind}")

    def tampered(stem, network, *rest):
        bias = network.predictors[0].conv.bias
        value = bias.data().copy()
        bias.set_data(value + 0.1 * mx.nd.arange(value.size) / value.size)
        try:
            written(stem, network, *rest)
        finally:
            bias.set_data(value)

    monkeypatch.setattr(export_formats, f"write_{kind}", tampered)
    folder = str(tmp_path / "files")
    assert main(["export", "--weights", weights, "--output", folder, "--format", kind]) == 1
    out, err = capfd.readouterr()
    assert "DIFFERENT" in out and "none is kept" in err and os.listdir(str(tmp_path)) == []


def test_detections_without_a_counterpart_are_counted():
    from ssd.commands.export import accepted, compare

    live = np.array(
        [[1, 0.9, 0.1, 0.1, 0.2, 0.2], [2, 0.5, 0.3, 0.3, 0.4, 0.4], [-1, -1, 0, 0, 0, 0]],
        np.float64,
    )

    def outputs(rows):
        rows = np.array(rows, np.float64)
        return [rows[:, :1], rows[:, 1:2], rows[:, 2:] * 300]

    good = [[0, 0.9, 0.1, 0.1, 0.2, 0.2], [1, 0.50005, 0.3, 0.3, 0.4, 0.4], [-1, -1, 0, 0, 0, 0]]
    same = compare(outputs(good), live, (300, 300), 0.05)
    assert accepted(same) and same.detections == 2 and same.score == pytest.approx(5e-5)
    other_class = compare(outputs([good[0], [0, *good[1][1:]], good[2]]), live, (300, 300), 0.05)
    assert other_class.missing == 2 and not accepted(other_class)
    moved = compare(outputs([[0, 0.9, 0.1, 0.1, 0.2, 0.201]] + good[1:]), live, (300, 300), 0.05)
    assert moved.missing == 2 and not accepted(moved)
    at_threshold = compare(
        outputs(good[:1] + [[-1, -1, 0, 0, 0, 0]] * 2), live, (300, 300), 0.49995
    )
    assert accepted(at_threshold)


@pytest.mark.parametrize("command, package", [("export", "onnxruntime"), ("predict", "av")])
def test_a_missing_package_is_one_line(weights, tmp_path, monkeypatch, capsys, command, package):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else found(name, *rest),
    )
    (tmp_path / "clip.mp4").write_bytes(b"video")
    inputs = [str(tmp_path / "clip.mp4")] if command == "predict" else []
    assert main([command, *inputs, "--weights", weights, "--output", str(tmp_path / "new")]) == 2
    assert f"the package {package} is not installed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--weights", "{tmp}/nothing.params", "--output", "{tmp}/new"], "nothing.params"),
        (["--weights", "{weights}", "--output", "{full}"], "holds files already"),
        (["--weights", "{weights}", "--output", "{tmp}/new", "--name", "a/b"], "--name"),
        (
            ["--weights", "{weights}", "--output", "{tmp}/new", "--images", "{tmp}/none*.jpg"],
            "none*.jpg",
        ),
        (
            ["--weights", "{weights}", "--output", "{tmp}/new", "--recipe", "ssd-resnet34-coco"],
            "weights.params",
        ),
    ],
)
def test_bad_input_is_one_line(weights, tmp_path, capsys, flags, words):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    names = dict(weights=weights, tmp=tmp_path, full=full)
    assert main(["export"] + [flag.format(**names) for flag in flags]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(err) == 1 and words in err[0]
    assert os.listdir(str(tmp_path)) == ["full"] and (full / "file").read_text() == "mine"
