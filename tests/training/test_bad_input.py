"""A user's mistake ends the program with status 2 and one line that names the problem."""

import json
import os
import shutil

import mxnet as mx
import numpy as np
import pytest

from tests.training.tiny import tiny_data, train


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture
def data(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "set")


def annotations(data, split="train"):
    return os.path.join(data, "annotations", f"bbox_only_instances_{split}2017.json")


def rewrite(path, change):
    with open(path) as file:
        content = json.load(file)
    change(content)
    with open(path, "w") as file:
        json.dump(content, file)


def refused(result, *texts, status=2):
    """Asserts the status, no traceback, and that the last line contains `texts`; returns all
    lines."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in lines[-1], lines
    return lines


@pytest.mark.parametrize(
    "content, message",
    [("{", "not JSON"), ("[1, 2]", "is not COCO ground truth"), ('{"images": 3}', "COCO")],
)
def test_annotation_file_that_is_none(data, tmp_path, content, message):
    with open(annotations(data), "w") as file:
        file.write(content)
    refused(train(data, tmp_path / "out"), annotations(data), message)


def test_zero_images(data, tmp_path):
    rewrite(annotations(data), lambda content: content.update(images=[], annotations=[]))
    refused(train(data, tmp_path / "out"), annotations(data), "no image")


def test_missing_annotation_file(data, tmp_path):
    os.remove(annotations(data, "val"))
    refused(train(data, tmp_path / "out"), annotations(data, "val"), "no such file")
    assert not os.path.exists(tmp_path / "out"), "no folder for a run that cannot start"


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_image_that_cannot_be_decoded(data, tmp_path, damage):
    name = sorted(os.listdir(os.path.join(data, "train2017")))[3]
    path = os.path.join(data, "train2017", name)
    content = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(
            {"empty": b"", "text": b"not an image", "cut": content[: len(content) // 2]}[damage]
        )
    refused(train(data, tmp_path / "out"), name)


def test_an_unchecked_bad_image_is_reported_during_training(data, tmp_path):
    for name in os.listdir(os.path.join(data, "train2017")):
        with open(os.path.join(data, "train2017", name), "wb") as file:
            file.write(b"not an image")
    result = train(data, tmp_path / "out", "--check-images", "exists")
    refused(result, "train2017", "cannot be decoded")
    assert '"run_stop"' in result.stdout and '"aborted"' in result.stdout


def test_bad_box(data, tmp_path):
    def change(content):
        content["annotations"][2]["bbox"] = [1, 2, -3, 4]

    rewrite(annotations(data), change)
    lines = refused(train(data, tmp_path / "out"), annotations(data))
    assert len(lines) == 1
    assert not os.path.exists(tmp_path / "out"), "the folder of a refused run can be used again"
    skipped = train(data, tmp_path / "out", "--skip-bad-annotations", "--max-steps", "1")
    assert skipped.returncode == 0, skipped.stderr


def test_wrong_number_of_classes(data, tmp_path):
    refused(
        train(data, tmp_path / "out", "--num-classes", "81"),
        annotations(data),
        "--num-classes 4 would fit",
    )


def test_categories_that_differ(data, tmp_path):
    rewrite(
        annotations(data, "val"), lambda content: content["categories"][1].update(name="Square")
    )
    refused(
        train(data, tmp_path / "out"),
        annotations(data, "val"),
        "7 'Square' is not among them",
        "mean square?",
    )
    assert not os.path.exists(tmp_path / "out")


def test_batch_larger_than_the_data(data, tmp_path):
    refused(train(data, tmp_path / "out", "--batch-size", "50"), "--batch-size 50")


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="this machine has a GPU")
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--device", "gpu"], "--device gpu: MXNet sees no GPU"),
        (["--dtype", "float16"], "--dtype float16: needs a GPU"),
        (["--layout", "NHWC"], "--layout NHWC: needs a GPU"),
        (["--decode", "cache"], "--decode cache: needs a GPU"),
    ],
)
def test_gpu_where_there_is_none(data, tmp_path, flags, message):
    lines = refused(train(data, tmp_path / "out", *flags), message)
    assert len(lines) == 1


@pytest.mark.parametrize("flag", ["--pretrained-backbone", "--weights"])
def test_weights_that_are_none(data, tmp_path, flag):
    refused(train(data, tmp_path / "out", flag, tmp_path / "none"), flag, "no such file")
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"no weights")
    refused(train(data, tmp_path / "out", flag, wrong), str(wrong))


def test_another_networks_weights(data, tmp_path):
    wrong = str(tmp_path / "wrong.params")
    mx.nd.save(wrong, {"x": mx.nd.array(np.ones(3))})
    refused(
        train(data, tmp_path / "out", "--weights", wrong, "--tensorboard"),
        wrong,
        "another network's",
    )
    assert not os.path.exists(tmp_path / "out"), "the folder of a refused run can be used again"


def test_a_log_without_a_submitter(data, tmp_path):
    refused(train(data, tmp_path / "out", "--submission-org", " "), "--submission-org ' '")
    assert not os.path.exists(tmp_path / "out")


def test_nothing_is_overwritten(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    refused(train(data, tmp_path / "out"), str(tmp_path / "out"), "holds files already")
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_loss_that_is_not_finite(data, tmp_path):
    result = train(
        data, tmp_path / "out", "--base-lr", "1e12", "--warmup-epochs", "0", "--epochs", "3"
    )
    refused(result, "stopped: epoch ", "before the update", "not finite", status=3)
    assert '"aborted"' in result.stdout
