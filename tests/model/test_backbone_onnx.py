from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from ssd.errors import UserError
from ssd.model.backbones.onnx_file import (
    check_backbone_tensors,
    read_backbone,
    read_initializers,
    write_backbone,
)
from ssd.model.backbones.resnet_specs import backbone_shapes, classifier_shapes

ROOT = Path(__file__).resolve().parents[2]


def tensors(shapes=None, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: generator.uniform(0.1, 1, shape).astype(np.float32)
        for name, shape in (shapes or backbone_shapes("resnet34")).items()
    }


def convert(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/pth_to_onnx.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch")
    from tests.torch_resnet34 import reference

    return reference(batch=2, height=300, width=300)


def run_onnx(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": images})[0]


def test_names_and_shapes_are_pytorchs(reference):
    of_torch = {
        name: tuple(tensor.shape)
        for name, tensor in reference.state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    assert classifier_shapes("resnet34") == of_torch
    assert backbone_shapes("resnet34") == {
        name: shape for name, shape in of_torch.items() if not name.startswith(("layer4", "fc"))
    }


def test_sizes_against_published_numbers():
    """torchvision documents 21,797,672 parameters for ResNet-34; running statistics are not
    counted."""
    learned = {
        name: np.prod(shape)
        for name, shape in classifier_shapes("resnet34").items()
        if "running" not in name
    }
    assert sum(learned.values()) == 21797672
    # The v1.1 rule set wants 119 names: 20 of the extra features, 12 of the heads, 3 for each
    # convolution with its BatchNorm in the backbone.
    assert (
        sum(len(shape) == 4 for shape in backbone_shapes("resnet34").values())
        == (119 - 20 - 12) // 3
    )


@pytest.mark.parametrize("old_format", [True, False])
def test_onnxruntime_gives_pytorchs_features(tmp_path, reference, old_format):
    torch = pytest.importorskip("torch")
    pth, path = tmp_path / "r.pth", tmp_path / "r.onnx"
    torch.save(reference.state_dict, str(pth), _use_new_zipfile_serialization=not old_format)
    done = convert(pth, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r".*r\.pth: fc and layer4 \(\d+ tensors\) dropped: .*\n", done.stdout)
    features = run_onnx(path, reference.images)
    assert features.shape == reference.features.shape == (2, 256, 38, 38)
    # Float32 through 29 convolutions: 1e-4 of the largest value, far below what a wrong stride
    # gives.
    assert np.abs(features - reference.features).max() < 1e-4 * np.abs(reference.features).max()
    assert sorted(os.listdir(str(tmp_path))) == ["r.onnx", "r.pth"]


def test_other_sizes_and_a_single_image(tmp_path):
    pytest.importorskip("torch")
    from tests.torch_resnet34 import reference

    odd = reference(seed=1, batch=1, height=75, width=130)
    arrays = {name: tensor.numpy() for name, tensor in odd.state_dict.items()}
    write_backbone(arrays, str(tmp_path / "r.onnx"), "resnet34", report=lambda line: None)
    features = run_onnx(tmp_path / "r.onnx", odd.images)
    assert features.shape == (1, 256, 10, 17)
    assert np.abs(features - odd.features).max() < 1e-4 * np.abs(odd.features).max()


def test_initializers_come_back_exactly_and_unfused(tmp_path):
    path, given = str(tmp_path / "r.onnx"), tensors()
    write_backbone(given, path, "resnet34")
    read = read_backbone(path, "resnet34")
    assert list(read) == list(given)
    for name in given:
        assert np.array_equal(read[name], given[name]), name
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("BatchNormalization") == kinds.count("Conv") == 29


def test_a_classification_network_is_accepted_and_the_rest_dropped_with_a_message():
    intact = tensors(classifier_shapes("resnet34"))
    intact["bn1.num_batches_tracked"] = np.array(1)
    reported = []
    assert list(check_backbone_tensors(intact, "resnet34", "file.onnx", reported.append)) == list(
        backbone_shapes("resnet34")
    )
    assert len(reported) == 1 and reported[0].startswith(
        "file.onnx: fc and layer4 (37 tensors) dropped"
    )  # 7 * 5 + 2
    check_backbone_tensors(tensors(), "resnet34", "file.onnx", reported.append)
    assert len(reported) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.pop("layer2.0.downsample.0.weight"),
            r"missing tensor layer2\.0\.downsample\.0\.weight$",
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if "layer3" in n],
            r"missing tensor layer3\.0\.conv1\.weight and 64 more",
        ),
        (lambda t: t.update(extra=np.zeros(3, "f4")), r"unexpected tensor extra of shape \(3,\)"),
        (
            lambda t: t.update({"layer3.6.conv1.weight": np.zeros((256, 256, 3, 3), "f4")}),
            r"unexpected tensor layer3\.6\.conv1\.weight",
        ),
        (
            lambda t: t.update({"bn1.weight": np.ones(63, "f4")}),
            r"bn1\.weight has shape \(63,\) instead of \(64,\)",
        ),
        (
            lambda t: t.update({"fc.weight": np.ones((10, 512), "f4")}),
            r"fc\.weight has shape \(10, 512\) instead of \(1000, 512\)",
        ),
        (
            lambda t: t.update({"bn1.weight": np.ones(64, "f2")}),
            r"bn1\.weight has type float16 instead of float32",
        ),
        (
            lambda t: t["layer1.0.conv1.weight"].fill(np.nan),
            r"layer1\.0\.conv1\.weight holds NaN or infinity",
        ),
        (lambda t: t["bn1.running_var"].fill(-1), r"bn1\.running_var holds a negative variance"),
    ],
)
def test_wrong_tensors_are_refused_by_name(tmp_path, change, message):
    wrong, path = tensors(), tmp_path / "r.onnx"
    change(wrong)
    with pytest.raises(UserError, match="^some file: .*" + message):
        check_backbone_tensors(wrong, "resnet34", "some file")
    with pytest.raises(UserError, match=message):
        write_backbone(wrong, str(path), "resnet34")
    assert not path.exists()


def test_files_that_are_no_backbone(tmp_path):
    path = tmp_path / "r.onnx"
    write_backbone(tensors(), str(path), "resnet34")
    intact = path.read_bytes()
    for content in (b"", b"text", intact[: len(intact) // 2], intact[:-1], b"\x80\x02}."):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"r\.onnx: not an ONNX file"):
            read_initializers(str(path))
    with pytest.raises(UserError, match="missing.onnx: cannot be read: No such file"):
        read_initializers(str(tmp_path / "missing.onnx"))


def test_weights_outside_the_file_or_of_a_damaged_size_are_refused(tmp_path):
    path = str(tmp_path / "r.onnx")
    write_backbone(tensors(), path, "resnet34")
    external = onnx.TensorProto.EXTERNAL
    for spoil, message in (
        (lambda t: setattr(t, "data_location", external), "in another file"),
        (lambda t: setattr(t, "raw_data", b"abc"), "conv1.weight is damaged"),
        (lambda t: setattr(t, "name", "bn1.bias"), "two tensors named bn1.bias"),
    ):
        model = onnx.load(path)
        spoil(model.graph.initializer[0])
        (tmp_path / "spoilt.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=f"spoilt.onnx: .*{message}"):
            read_initializers(str(tmp_path / "spoilt.onnx"))


def test_conversion_refuses_in_one_line(tmp_path):
    output = tmp_path / "out.onnx"
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    for arguments, message in (
        ([bad, output], "bad.pth: .*posix.system"),
        ([tmp_path / "none.pth", output], "none.pth: cannot be read"),
    ):
        done = convert(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert re.fullmatch(rf"pth_to_onnx\.py: .*{message}.*\n", done.stderr)
    output.write_bytes(b"mine")
    done = convert(bad, output)
    assert done.returncode == 2 and "out.onnx: exists already; --force" in done.stderr
    assert output.read_bytes() == b"mine" and sorted(os.listdir(str(tmp_path))) == [
        "bad.pth",
        "out.onnx",
    ]


def get_backbone(*arguments):
    return subprocess.run(
        [str(ROOT / "scripts/get_resnet34_backbone.sh"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


class TestGetBackbone:
    @pytest.fixture
    def pth(self, tmp_path, reference):
        torch = pytest.importorskip("torch")
        path = tmp_path / "mirror of it.pth"
        torch.save(reference.state_dict, str(path), _use_new_zipfile_serialization=False)
        return path

    def test_local_file(self, tmp_path, pth, reference):
        digits = hashlib.sha256(pth.read_bytes()).hexdigest()[:8]
        named = pth.rename(tmp_path / f"resnet34-{digits}.pth")
        folder = tmp_path / "new folder"
        done = get_backbone("--file", named, folder)
        assert (done.returncode, done.stderr) == (0, "")
        read = read_backbone(str(folder / f"resnet34-{digits}.onnx"), "resnet34")
        name = "layer3.5.conv2.weight"
        assert np.array_equal(read[name], reference.state_dict[name].numpy())
        again = get_backbone("--file", named, folder)
        assert again.returncode == 0 and "exists already" in again.stdout

    def test_download_is_resumed_and_checked(self, tmp_path, pth):
        content = pth.read_bytes()
        digits = hashlib.sha256(content).hexdigest()[:8]
        folder = tmp_path / "out"
        folder.mkdir()
        part = folder / f"{pth.name.replace(' ', '%20')}.part"
        part.write_bytes(content[:1000])
        url = pth.as_uri()
        wrong = get_backbone("--url", url, "--sha256-prefix", "0" * 8, folder)
        assert wrong.returncode == 1 and "does not begin with 00000000" in wrong.stderr
        assert os.listdir(str(folder)) == []
        for start in (content[:1000], content):  # cut off, and complete but not yet renamed
            part.write_bytes(start)
            done = get_backbone("--url", url, "--sha256-prefix", digits, folder)
            assert (done.returncode, done.stderr) == (0, "")
            (folder / f"resnet34-{digits}.onnx").unlink()
            (folder / part.name[: -len(".part")]).unlink()

    def test_errors_in_one_line(self, tmp_path):
        named = tmp_path / "resnet34-333f7ec4.pth"
        named.write_bytes(b"\x80\x02}.")
        plain = tmp_path / "resnet34.pth"
        plain.write_bytes(b"x")
        for arguments, message in (
            (["--file", named], "resnet34-333f7ec4.pth: its SHA-256 does not begin with 333f7ec4"),
            (["--file", plain], "resnet34.pth has no 8 digits"),
            (["--file", tmp_path / "resnet34-00000000.pth"], "no such file"),
            (["--file", plain, "--sha256-prefix", "xyz"], "8 to 64 hexadecimal digits"),
            (["--url", (tmp_path / "gone-00000000.pth").as_uri()], "download of .* failed"),
            (["--url", "a", "--file", "b"], "exclude each other"),
            (["--file"], "--file needs a value"),
            (["--fiel", "b"], "unknown option --fiel"),
        ):
            done = get_backbone(
                *arguments, *([] if arguments[-1] == "--file" else [tmp_path / "out"])
            )
            assert done.returncode == 1
            assert re.search(rf"get_resnet34_backbone: .*{message}", done.stderr), done.stderr
            assert done.stderr.count("get_resnet34_backbone:") == 1
        assert named.exists()
