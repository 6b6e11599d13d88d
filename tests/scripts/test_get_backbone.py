"""scripts/get_backbone.sh: any backbone's file by its name, from a local copy of torchvision's
shapes."""

import hashlib
import os
import subprocess

import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.backbones.onnx_file import read_backbone
from ssd.model.backbones.onnx_graph import NAMES
from ssd.model.backbones.resnet_specs import backbone_shapes, classifier_shapes
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize, load_backbone
from tests.reference.load_mindcv import backbone_of
from tests.reference.write_mindspore import write_mindspore

torch = pytest.importorskip("torch")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def script(*arguments):
    return subprocess.run(
        [os.path.join(ROOT, "scripts", "get_backbone.sh"), *map(str, arguments)],
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """(folder, file of the whole network, its tensors, what its ONNX file is called)."""
    folder = tmp_path_factory.mktemp("resnet50")
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) ** 2
        for name, shape in classifier_shapes("resnet50").items()
    }
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    state["bn1.num_batches_tracked"] = torch.tensor(5)
    path = folder / "resnet50-copy.pth"
    torch.save(state, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(folder / f"resnet50-{digits}.pth")
    done = script("resnet50", "--file", path, folder)
    assert done.returncode == 0, done.stderr
    return folder, path, tensors, folder / f"resnet50-{digits}.onnx"


def test_the_file_becomes_the_backbones_weights(resnet50):
    import mxnet as mx

    _, _, tensors, onnx = resnet50
    read = read_backbone(str(onnx), "resnet50")
    assert list(read) == list(backbone_shapes("resnet50"))
    network = build_detector(load_recipe("ssd-resnet50-coco")).network
    initialize(network, 0, mx.cpu())
    load_backbone(network, read, str(onnx))
    parameters = network.backbone.torchvision_parameters()
    assert set(parameters) == set(read)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), tensors[name])
    assert (
        sum(
            np.prod(shape)
            for name, shape in backbone_shapes("resnet50").items()
            if "running" not in name
        )
        == 8543296
    )


def test_the_graph_gives_the_networks_features(resnet50):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, _, _, onnx = resnet50
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    [features] = session.run(None, {"images": np.zeros((1, 3, 100, 70), np.float32)})
    assert features.shape == (1, 1024, 13, 9)


def test_a_file_of_another_network_is_refused(resnet50, tmp_path):
    _, path, _, onnx = resnet50
    with pytest.raises(UserError, match="the weights of resnet50, not of resnet34"):
        read_backbone(str(onnx), "resnet34")
    done = script("resnet34", "--file", path, tmp_path)
    assert done.returncode == 1 and "the weights of resnet50, not of resnet34" in done.stderr


def test_unknown_names_are_refused():
    assert NAMES == (
        "resnet34",
        "resnet50",
        "resnext50_32x4d",
        "mobilenet_v2",
        "mobilenet_v3_large",
    )
    names = ", ".join(NAMES[:-1]) + f" or {NAMES[-1]}"  # scripts/get_backbone.sh names them too
    for arguments in ((), ("resnet18",), ("--file", "x")):
        done = script(*arguments)
        assert done.returncode == 1 and f"needed is {names}" in done.stderr
    assert names in script("--help").stdout
    done = script("mobilenet_v2", "--pyramid")
    assert (
        done.returncode == 1
        and "--pyramid: no feature pyramid works on mobilenet_v2" in done.stderr
    )


def test_mindcvs_file(tmp_path):
    """Its digits are in the result's name and are not checked, those of --sha256-prefix are."""
    shapes = {
        f"backbone.{name}": shape
        for name, shape in backbone_shapes("resnet50", pyramid=True).items()
    }
    tensors = backbone_of("ssd_resnet50_fpn", shapes, 0)
    path = tmp_path / "resnet50-e0733ab8.ckpt"
    write_mindspore(path, tensors)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    done = script("resnet50", "--mindcv", "--pyramid", "--file", path, tmp_path)
    assert done.returncode == 0 and f"are not checked; its SHA-256 is {digits}" in done.stdout, (
        done.stderr
    )
    read = read_backbone(str(tmp_path / "resnet50_pyramid-e0733ab8.onnx"), "resnet50", pyramid=True)
    np.testing.assert_array_equal(
        read["layer4.0.downsample.1.running_var"], tensors["layer4.0.down_sample.1.moving_variance"]
    )
    done = script("resnet50", "--url", path.as_uri(), "--sha256-prefix", "0" * 8, tmp_path / "new")
    assert done.returncode == 1 and "its SHA-256 does not begin with 00000000" in done.stderr
    done = script("resnet50", "--url", path.as_uri(), tmp_path / "new")
    assert done.returncode == 0 and (tmp_path / "new" / "resnet50-e0733ab8.onnx").exists(), (
        done.stderr
    )


def test_a_pyramids_backbone(tmp_path):
    """All of ResNeXt but its classifier, by the downloaded file's own name; the graph gives the
    network's three maps."""
    import mxnet as mx

    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(1)
    state = {}
    for name, shape in classifier_shapes("resnext50_32x4d").items():
        value = (
            random.standard_normal(shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
            if len(shape) > 1
            else random.uniform(0.5, 1, shape)
        )
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    torch.save(state, tmp_path / "copy.pth")
    digits = hashlib.sha256((tmp_path / "copy.pth").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "copy.pth").rename(tmp_path / f"resnext50_32x4d-{digits}.pth")
    done = script("resnext50_32x4d", "--file", path, tmp_path)
    assert (
        done.returncode == 0
        and "fc (2 tensors) dropped: the detector's backbone ends at layer4" in done.stdout
    )
    onnx = str(tmp_path / f"resnext50_32x4d-{digits}.onnx")
    network = build_detector(
        load_recipe("retinanet-resnext50-coco").with_values(image_size="96x128")
    ).network
    initialize(network, 0, mx.cpu())
    load_backbone(network, read_backbone(onnx, "resnext50_32x4d", pyramid=True), onnx)
    images = random.standard_normal((1, 3, 96, 128)).astype(np.float32)
    theirs = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"]).run(
        None, {"images": images}
    )
    for ours, wanted in zip(network.backbone.maps(mx.nd, mx.nd.array(images)), theirs):
        assert ours.shape == wanted.shape
        np.testing.assert_allclose(ours.asnumpy(), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
