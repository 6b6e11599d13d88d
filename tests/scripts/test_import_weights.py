"""scripts/import_weights.py: a checkpoint of the published RetinaNet, in PyTorch's two file
formats."""

import argparse
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.weights import load_detector, read_info
from tests.reference import retinanet_vectors as vectors

torch = pytest.importorskip("torch")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ("person", "traffic light", "dog")


def script(*arguments):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "import_weights.py"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def tensors():
    """The reference's names, shapes and types, for three classes: what torchvision's modules save,
    counters and all."""
    config = load_recipe("retinanet-resnext50-coco").with_values(num_classes=4)
    shapes = {
        name: parameter.shape
        for name, parameter in build_detector(config).network.reference_parameters().items()
    }
    return {name: vectors.weight(name, shape) for name, shape in shapes.items()}


def state_of(tensors):
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    state["backbone.body.bn1.num_batches_tracked"] = torch.tensor(3)
    return state


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "old format"])
def test_a_checkpoint_becomes_weights(tmp_path, tensors, classes, zipped):
    """With optimizer, schedule and a pickled argument list beside the state dict, as the reference
    saves it."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], lr=1e-4)
    parameter.grad = torch.ones(3)
    optimizer.step()
    content = {
        "model": {f"module.{name}": value for name, value in state_of(tensors).items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 1, "_last_lr": [1e-4]},
        "args": argparse.Namespace(lr=1e-4, data_path="/data", image_size=[800, 800]),
        "epoch": 4,
    }
    source, target = tmp_path / "checkpoint.pth", tmp_path / "detector.params"
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    done = script(source, target, "--recipe", "retinanet-resnext50-coco", "--classes", classes)
    assert done.returncode == 0, done.stderr
    assert "301 tensors" in done.stdout and "3 classes from 'person' to 'dog'" in done.stdout
    info = read_info(str(target))
    assert (
        info.category_names == NAMES
        and info.category_ids == (0, 1, 2)
        and info.config.data.antialias is False
    )
    detector = load_detector(info.config, str(target), mx.cpu())
    for name, parameter in detector.network.reference_parameters().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), tensors[name])
    again = script(source, target, "--recipe", "retinanet-resnext50-coco", "--classes", classes)
    assert again.returncode == 2 and "exists already; --force overwrites it" in again.stderr


def test_what_cannot_be_imported_is_one_line(tmp_path, tensors, classes):
    recipe = ("--recipe", "retinanet-resnext50-coco", "--classes", classes)

    def refused(change, words, arguments=recipe):
        state = state_of(tensors)
        change(state)
        path, target = tmp_path / "file.pth", tmp_path / "out.params"
        torch.save(state, path)
        done = script(path, target, *arguments)
        assert done.returncode == 2 and not target.exists()
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr

    refused(
        lambda state: state.pop("backbone.fpn.extra_blocks.p6.bias"),
        "another network's: missing backbone.fpn.extra_blocks.p6.bias",
    )
    refused(lambda state: state.update(fc=torch.zeros(2)), "unexpected fc")
    refused(
        lambda state: state.update({"backbone.body.bn1.bias": torch.zeros(65)}),
        "backbone.body.bn1.bias has shape (65,), not (64,)",
    )
    refused(
        lambda state: state["backbone.body.bn1.bias"].fill_(float("nan")),
        "backbone.body.bn1.bias is not finite",
    )
    refused(
        lambda state: state.pop("head.classification_head.cls_logits.bias"),
        "not a RetinaNet of MLPerf's reference",
    )
    refused(lambda state: None, "a network of 3 classes", ())
    refused(
        lambda state: None,
        "recipe retinanet-resnext50-coco has no class list of its own",
        recipe[:2],
    )
    (tmp_path / "text.pth").write_text("hello")
    done = script(tmp_path / "text.pth", tmp_path / "out.params", *recipe)
    assert done.returncode == 2 and "text.pth: not a PyTorch file" in done.stderr
    done = script(tmp_path / "none.pth", tmp_path / "out.params", *recipe)
    assert done.returncode == 2 and "cannot be read: No such file" in done.stderr


def test_nothing_in_a_checkpoint_is_run(tmp_path, classes):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/run",)

    torch.save({"model": {"a": torch.zeros(1)}, "args": Evil()}, tmp_path / "evil.pth")
    done = script(tmp_path / "evil.pth", tmp_path / "out.params", "--classes", classes)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
