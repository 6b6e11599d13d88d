"""Every recipe of ssd/recipes at a small size, used as by a user: a new one is included
automatically.

Training, evaluation, prediction and export run on a second context, as on a GPU
(tests/second_context.py): an array made on the default one is found.
"""

import json
import os

import mxnet as mx
import numpy as np
import pytest

from ssd.__main__ import main
from ssd.config import builtin_recipes, load_recipe
from ssd.evaluation.detections import Detections
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.parameters import trained
from ssd.model.weights import load_detector, read_info, save_weights
from ssd.tools.summary import summarise
from ssd.training.step import TrainingStep
from tests.second_context import on_second_context
from tests.small_recipes import first_of_each_kind, small
from tests.training import tiny
from tests.training.one_rank import OneRank
from tests.training.tiny import rows, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set", train_images=4, val_images=4)


@pytest.fixture
def ssd(capfd):
    """Runs a command in this process; what it printed."""

    def run(*arguments):
        with on_second_context() as elsewhere:
            status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert status == 0, f"{arguments}: {err[-2000:]}"
        assert arguments[0] == "export" or not elsewhere, (
            f"{arguments}: not on the step's context: {dict(elsewhere)}"
        )
        return out

    return run


def train(recipe, data, folder, output, *flags):
    # In a process of its own: Horovod with MPI starts only once in a process.
    result = tiny.ssd(
        "train",
        "--recipe",
        small(recipe, folder),
        "--device",
        "cpu",
        "--data-dir",
        data,
        "--cache-dir",
        folder / "cache",
        "--output",
        folder / output,
        *flags,
        module="tests.second_context",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [
        float(row[name])
        for row in rows(folder / output / "train.csv")
        for name in ("class_loss", "offset_loss")
    ]


@pytest.mark.parametrize("recipe", first_of_each_kind())
def test_train_resume_evaluate_predict_export(recipe, data, tmp_path, ssd):
    losses = train(recipe, data, tmp_path, "first", "--max-steps", "1")
    losses += train(
        recipe,
        data,
        tmp_path,
        "run",
        "--resume",
        tmp_path / "first" / "checkpoints" / "step-00000001",
        "--allow-changed-recipe",
    )
    assert len(losses) == 4 and np.isfinite(losses).all(), (
        "a step before the stop and one behind it"
    )
    weights = str(tmp_path / "run" / "weights.params")

    ssd(
        "evaluate",
        "--weights",
        weights,
        "--data-dir",
        data,
        "--device",
        "cpu",
        "--cache-dir",
        tmp_path / "cache",
        "--save-detections",
        tmp_path / "detections.json",
    )
    again = Detections.from_json(str(tmp_path / "detections.json"))
    first = Detections.from_npz(str(tmp_path / "run" / "detections-epoch-2.npz"))
    assert len(again) == len(first) > 0
    for column in ("image_id", "category_id", "score", "boxes_xywh"):
        np.testing.assert_allclose(
            getattr(again, column), getattr(first, column), rtol=1e-6, atol=1e-6, err_msg=column
        )

    ssd(
        "predict",
        os.path.join(data, "val2017"),
        "--weights",
        weights,
        "--output",
        tmp_path / "predicted",
        "--device",
        "cpu",
    )
    assert len(os.listdir(str(tmp_path / "predicted"))) > 4, "a drawn image for each, and the boxes"

    # Without suppression and limits: which of two boxes of one score is kept would hang on the last
    # bit.
    limits = [
        f"--{name.replace('_', '-')}"
        for name in ("boxes_per_class", "kept_per_class", "candidates_per_map", "boxes_per_image")
        if getattr(load_recipe(recipe).detection, name) is not None
    ]
    ssd(
        "show-data",
        "--recipe",
        small(recipe, tmp_path),
        "--data-dir",
        data,
        "--output",
        tmp_path / "shown",
        "--count",
        "4",
    )
    assert len(os.listdir(str(tmp_path / "shown"))) == 2

    printed = ssd(
        "export",
        "--weights",
        lively(weights, tmp_path),
        "--output",
        tmp_path / "exported",
        "--format",
        "onnx",
        "--nms-iou",
        "1",
        *[part for limit in limits for part in (limit, "100000")],
    )
    assert "onnx   equal: " in printed and " 0 without a counterpart" in printed
    with open(str(tmp_path / "exported" / "detector.json"), encoding="utf-8") as file:
        assert json.load(file)["class_names"] == ["circle", "square", "triangle"]


def lively(weights, folder):
    """The same weights with running statistics, offsets and logits of a trained network's size:
    after two steps they are near 0 and 1, or overflow, and scores mean little."""
    info = read_info(weights)
    network = load_detector(info.config, weights, mx.cpu()).network
    images = mx.nd.array(np.random.default_rng(0).standard_normal(network.input_shape(4)))
    for _ in range(30):  # the backward pass sets running statistics
        with mx.autograd.record():
            total = sum(part.mean() for part in network(images))
        total.backward()
    spread = max(part.asnumpy().std() for part in network(images))
    last = network.predictors.collect_params(".*out_weight") or network.predictors.collect_params(
        ".*weight"
    )
    for parameter in last.values():
        parameter.set_data(parameter.data() * 0.5 / spread)
    path = str(folder / "lively.params")
    save_weights(network, path, info)
    return path


@pytest.mark.parametrize("recipe", sorted(set(builtin_recipes()) - set(first_of_each_kind())))
def test_a_recipe_of_kinds_seen_above_trains_a_step(recipe, tmp_path):
    config = load_recipe(small(recipe, tmp_path))
    detector = build_detector(config)
    initialize(detector.network, 0, mx.cpu())
    step = TrainingStep(detector.network, detector.loss, config, OneRank())
    count, generator = len(detector.default_boxes), np.random.default_rng(0)
    targets = [mx.nd.zeros((4, count, 4)), mx.nd.array(generator.integers(0, 4, (4, count)))]
    images = mx.nd.array(generator.standard_normal(detector.network.input_shape(4)))
    before = {
        name: parameter.data().asnumpy()
        for name, parameter in detector.network.collect_params().items()
        if parameter.grad_req != "null"
    }
    losses = step.gradients(images, *targets, check=True)
    step.update(1e-3)
    assert all(np.isfinite(part.asnumpy()).all() for part in losses)
    moved = sum(
        not np.array_equal(before[name], detector.network.collect_params()[name].data().asnumpy())
        for name in before
    )
    assert moved >= 0.9 * len(before), "all but some biases that have no gradient in this batch"


@pytest.mark.parametrize("recipe", first_of_each_kind())
def test_summary_shows_every_part(recipe):
    config = load_recipe(recipe)
    listed = trained(build_detector(config).network)
    assert len(set(map(id, listed.values()))) == len(listed), (
        "a parameter under two names would be updated twice"
    )
    found = summarise(config)
    for part in ("parameters", "multiply_adds"):
        assert sum(block[part] for block in found["blocks"]) == found[part] > 0
    assert all("output" in block for block in found["blocks"])
