"""RetinaNet by the command line, with a tiny network: training, resuming, and every command on its
weights."""

import json
import os

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.evaluation.detections import Detections
from ssd.model.detector import build_detector
from ssd.model.fine_tuning import load_matching
from ssd.model.initialization import initialize
from ssd.model.weights import load_detector, read_info
from tests.training.tiny import FLAGS, rows, ssd, tiny_data

TINY = [
    "--recipe",
    "retinanet-resnext50-shapes",
    "--image-size",
    "96x128",
    "--score-threshold",
    "0.001",
    *FLAGS[2:],
]


def train(data, output, *flags):
    return ssd(
        "train",
        *TINY,
        "--data-dir",
        data,
        "--cache-dir",
        os.path.join(os.path.dirname(str(output)), "cache"),
        "--output",
        output,
        *flags,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of two epochs of two steps, with an evaluation after each."""
    folder = tmp_path_factory.mktemp("run") / "out"
    result = train(data, folder, "--epochs", "2")
    assert result.returncode == 0, result.stderr
    return folder, result


def checkpoint(folder, step=4):
    path = folder / "checkpoints" / f"step-{step:08d}"
    return {
        name: dict(np.load(path / name))
        for name in ("parameters.npz", "means.npz", "variances.npz")
    }


def test_a_run_starts_at_the_prior_and_logs_its_settings(finished):
    folder, result = finished
    first = rows(folder / "train.csv")[0]
    assert 1.1 < float(first["class_loss"]) < 2, "about 1.13 if every score is .01"
    assert float(first["learning_rate"]) == pytest.approx(4e-7), "a thousandth of the rate"
    assert len(rows(folder / "evaluation.csv")) == 2, "after every epoch"
    assert (
        "open division, since the closed one of retinanet-5.1.0 requires model.frozen_stages 2, "
        "not 0" in result.stdout
    )
    with open(folder / "mlperf.log") as file:
        events = [json.loads(line.split(":::MLLOG ")[1]) for line in file]
    values = {event["key"]: event["value"] for event in events}
    assert values["submission_benchmark"] == "retinanet" and values["submission_division"] == "open"
    assert values["train_samples"] == 11 and values["eval_samples"] == 6, "images, not batches"
    assert values["opt_base_learning_rate"] == 4e-4 and values["opt_name"] == "adam"
    assert sum(event["key"] == "weights_initialization" for event in events) == 77, (
        "89 with towers of four, not one"
    )
    assert [
        event["metadata"]["epoch_num"] for event in events if event["key"] == "epoch_start"
    ] == [1, 2]


def test_a_resumed_run_is_bitwise_the_same(finished, data, tmp_path):
    result = train(
        data, tmp_path / "first", "--epochs", "2", "--max-steps", "3", "--save-interval", "3steps"
    )
    assert result.returncode == 0, result.stderr
    result = train(
        data,
        tmp_path / "second",
        "--epochs",
        "2",
        "--resume",
        tmp_path / "first" / "checkpoints" / "step-00000003",
        "--allow-changed-recipe",
    )
    assert result.returncode == 0, result.stderr
    first, again = checkpoint(finished[0]), checkpoint(tmp_path / "second")
    for name, arrays in first.items():
        assert arrays.keys() == again[name].keys()
        for tensor, value in arrays.items():
            np.testing.assert_array_equal(again[name][tensor], value, err_msg=tensor)


def test_evaluate_repeats_the_runs_score(finished, data, tmp_path):
    saved = tmp_path / "detections.json"
    result = ssd(
        "evaluate",
        "--weights",
        finished[0] / "weights.params",
        "--data-dir",
        data,
        "--device",
        "cpu",
        "--cache-dir",
        tmp_path,
        "--save-detections",
        saved,
    )
    assert result.returncode == 0, result.stderr
    # All detections with their scores: the weights also hold the filter that shrinks images.
    again, first = (
        Detections.from_json(saved),
        Detections.from_npz(finished[0] / "detections-epoch-2.npz"),
    )
    assert (
        len(first) > 100
        and read_info(str(finished[0] / "weights.params")).config.data.antialias is False
    )
    for name in ("image_id", "category_id", "score", "boxes_xywh"):
        np.testing.assert_allclose(getattr(again, name), getattr(first, name), rtol=1e-6, atol=1e-6)


def test_exported_files_give_the_networks_detections(finished, tmp_path):
    result = ssd(
        "export",
        "--weights",
        finished[0] / "weights.params",
        "--output",
        tmp_path / "files",
        "--candidates-per-map",
        "6000",
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if " equal: " in line]
    assert [line[0] for line in lines] == ["onnx", "gluon"] and all(
        int(line[2]) > 100 for line in lines
    )
    description = json.loads((tmp_path / "files" / "detector.json").read_text())
    assert (
        "not antialiased" in description["input"]["preparation"]
        and description["candidates_per_map"] == 6000
    )


def test_images_of_its_training_data(data, tmp_path):
    result = ssd(
        "show-data",
        *TINY[:2],
        "--data-dir",
        data,
        "--output",
        tmp_path / "shown",
        "--count",
        "2",
        "--cache-dir",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path / "shown")) == [
        "matched-default-boxes.png",
        "training-images.png",
    ]


def test_fine_tuning_keeps_the_classes_in_common(finished):
    path = str(finished[0] / "weights.params")
    info = read_info(path)
    config = info.config.with_values(num_classes=3)
    network = build_detector(config).network
    initialize(network, 1, mx.cpu())
    fresh = network.predictors.classification.out.weight.data().asnumpy()
    line = load_matching(network, path, ("star", "square"))
    assert "the logits of background, square, while those of star are initialised" in line
    old = (
        load_detector(info.config, path, mx.cpu())
        .network.predictors.classification.out.weight.data()
        .asnumpy()
    )
    new = network.predictors.classification.out.weight.data().asnumpy()
    index = info.category_names.index("square")
    np.testing.assert_array_equal(new[1::2], old[index::3])  # channel = box * classes + class
    np.testing.assert_array_equal(new[::2], fresh[::2])
    tower = network.predictors.regression.out.weight.data().asnumpy()
    assert np.abs(tower).sum() > 0


@pytest.mark.parametrize(
    "flags, name",
    [
        (("--boxes-per-class", "9"), "--boxes-per-class"),
        (("--momentum", "0.5"), "momentum"),
        (("--recipe", "ssd-resnet34-shapes", "--candidates-per-map", "9"), "candidates_per_map"),
    ],
)
def test_a_setting_that_the_detector_does_not_use_is_refused(data, tmp_path, flags, name):
    result = train(data, tmp_path / "out", *flags)
    assert result.returncode == 2 and name.strip("-").replace("-", "_") in result.stderr
    assert "does not use it" in result.stderr and len(result.stderr.splitlines()) == 1


def test_parts_that_do_not_fit_each_other_are_refused():
    from ssd.errors import UserError

    with pytest.raises(
        UserError, match="some take a softmax with the background, some a sigmoid per class"
    ):
        build_detector(
            load_recipe("retinanet-resnext50-coco").with_values(head="fused", head_kernel=3)
        )
    with pytest.raises(UserError, match="anchor_sizes: 5 values are needed"):
        build_detector(load_recipe("retinanet-resnext50-coco").with_values(anchor_sizes=[8, 16]))
