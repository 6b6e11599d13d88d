"""The user's own data set by the command line: split, trained at another image size, fine-tuned."""

import json
import os
import shutil

import mxnet as mx
import pytest

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import read_info
from ssd.training.setup import take_weights
from tests.training.tiny import ssd, tiny_data

FLAGS = [
    "--recipe",
    "ssd-resnet34-own",
    "--device",
    "cpu",
    "--width",
    "0.125",
    "--batch-size",
    "4",
    "--image-size",
    "64",
    "--data-threads",
    "1",
    "--seed",
    "3",
    "--max-steps",
    "1",
    "--no-augment",
    "--no-report",
]


def own_data(folder, names):
    """FOLDER/images and FOLDER/annotations/{train,val}.json, split from one file whose categories
    have these names."""
    source = tiny_data(folder / "source", train_images=16, val_images=1)
    os.makedirs(folder / "mine")
    shutil.move(os.path.join(source, "train2017"), folder / "mine" / "images")
    with open(os.path.join(source, "annotations", "bbox_only_instances_train2017.json")) as file:
        content = json.load(file)
    content["categories"] = [
        dict(id=entry["id"], name=name) for entry, name in zip(content["categories"], names)
    ]
    kept = {entry["id"] for entry in content["categories"]}
    content["annotations"] = [
        entry for entry in content["annotations"] if entry["category_id"] in kept
    ]
    (folder / "mine" / "all.json").write_text(json.dumps(content))
    assert (
        main(
            [
                "split-data",
                str(folder / "mine" / "all.json"),
                "--val-fraction",
                "0.25",
                "--output",
                str(folder / "mine" / "annotations"),
            ]
        )
        == 0
    )
    return folder / "mine"


def train(data, output, *flags):
    return ssd(
        "train",
        *FLAGS,
        "--data-dir",
        data,
        "--cache-dir",
        os.path.dirname(output),
        "--output",
        output,
        *flags,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    data = own_data(folder, ("cup", "plate", "spoon"))
    result = train(data, str(folder / "run"))
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_classes_and_default_boxes_are_computed_printed_and_saved(trained):
    run, shown = trained
    assert (
        "4 classes with the background; images of 64 pixels: feature maps of 8, 4, 2, 1 cells, 372 "
        "default boxes" in shown
    )
    recipe = load_recipe(str(run / "recipe.yaml"))
    assert recipe.model.num_classes == 4 and sizes_of(recipe).steps == (
        (8, 8),
        (16, 16),
        (32, 32),
        (64, 64),
    )
    text = (run / "recipe.yaml").read_text()
    assert "num_classes: 4" in text and "steps: []" in text, (
        "computed values are not written back into the settings"
    )
    info = read_info(str(run / "weights.params"))
    assert info.category_names == ("cup", "plate", "spoon")
    assert info.config.model == recipe.model and info.config.default_boxes == recipe.default_boxes


def test_fine_tuning_with_other_classes(trained, tmp_path):
    """Two classes, one of which has a name that the weights know."""
    data = own_data(tmp_path, ("fork", "cup"))
    weights = str(trained[0] / "weights.params")
    result = train(
        data,
        str(tmp_path / "run"),
        "--weights",
        weights,
        "--fine-tune",
        "--base-lr",
        "1e-9",
        "--weight-decay",
        "0",
    )
    assert result.returncode == 0, result.stderr
    [line] = [
        line
        for line in result.stdout.splitlines()
        if line.startswith(f"fine-tuning from {weights}: ")
    ]
    assert "the logits of background, cup, while those of fork are initialised" in line
    assert '"submission_division", "value": "open"' in result.stdout
    old, new = (mx.nd.load(str(path)) for path in (weights, tmp_path / "run" / "weights.params"))
    bias = [arrays["predictors.0.conv.bias"].asnumpy() for arrays in (old, new)]
    assert bias[0][:16] == pytest.approx(bias[1][:16], abs=1e-5), "offsets of four boxes"
    assert bias[0][16:].reshape(4, 4)[:, 1] == pytest.approx(
        bias[1][16:].reshape(4, 3)[:, 2], abs=1e-5
    ), "cup"


def test_weights_of_other_classes_are_refused_without_the_flag(trained):
    """With a hint if the flag would help, and a line if only the names differ."""
    config = load_recipe(str(trained[0] / "recipe.yaml"))
    path, lines = str(trained[0] / "weights.params"), []
    for changes, names, hint in (
        (dict(num_classes=3), ("fork", "cup"), True),
        (dict(num_classes=3, width=0.25), ("fork", "cup"), False),
    ):
        network = build_detector(config.with_values(**changes)).network
        initialize(network, 0, mx.cpu())
        with pytest.raises(UserError) as error:
            take_weights(network, path, False, names, lines.append)
        assert str(error.value).endswith("; --fine-tune takes what fits") == hint
    network = build_detector(config).network
    initialize(network, 0, mx.cpu())
    take_weights(network, path, False, ("cup", "plate", "spoon"), lines.append)
    take_weights(network, path, False, ("cup", "plate", "fork"), lines.append)
    assert (
        lines[0] == f"weights: {path}" and "(cup, plate, spoon) and are taken by number" in lines[1]
    )


def test_fine_tune_needs_weights(tmp_path, capsys):
    data = own_data(tmp_path, ("cup", "plate", "spoon"))
    assert main(["train", *FLAGS, "--data-dir", str(data), "--fine-tune"]) == 2
    assert "--fine-tune: needs --weights" in capsys.readouterr().err
