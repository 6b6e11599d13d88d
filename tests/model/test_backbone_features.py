"""From a PyTorch file through ONNX into Gluon: the same features in all three."""

import mxnet as mx
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from ssd.config import load_recipe
from ssd.model.backbones.onnx_file import read_backbone, write_backbone
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize, load_backbone
from ssd.model.torch_file import read_state_dict


@pytest.mark.parametrize("zipped", [False, True], ids=["old format", "zip format"])
def test_gluon_pytorch_and_onnxruntime_agree(tmp_path, zipped):
    import onnxruntime
    import torch

    from tests.torch_resnet34 import reference

    expected = reference(seed=4)
    pth, onnx = str(tmp_path / "resnet34.pth"), str(tmp_path / "resnet34.onnx")
    torch.save(expected.state_dict, pth, _use_new_zipfile_serialization=zipped)
    write_backbone(read_state_dict(pth), onnx, "resnet34")

    network = build_detector(load_recipe("ssd-resnet34-coco")).network
    initialize(network, 0, mx.cpu())
    load_backbone(network, read_backbone(onnx, "resnet34"), onnx)
    gluon = network.backbone(mx.nd.array(expected.images)).asnumpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    ort = session.run(["features"], {"images": expected.images})[0]

    scale = np.abs(expected.features).max()
    for name, features in (("gluon", gluon), ("onnxruntime", ort)):
        assert features.shape == (2, 256, 38, 38)
        assert np.abs(features - expected.features).max() < 1e-4 * scale, name
    assert np.abs(expected.features).std() > 0.05 * scale, "features that are not next to constant"


@pytest.mark.slow
def test_training_starts_from_an_onnx_backbone(tmp_path):
    """Through the command line: the loaded tensors are those of the file, a narrower network
    refuses it by name."""
    from tests.torch_resnet34 import reference
    from tests.training.tiny import tiny_data, train

    onnx = str(tmp_path / "resnet34.onnx")
    state = {
        name: tensor.numpy()
        for name, tensor in reference(batch=1, height=32, width=32).state_dict.items()
    }
    write_backbone(state, onnx, "resnet34")
    data = tiny_data(tmp_path / "set", train_images=4, val_images=1)
    refused = train(data, tmp_path / "narrow", "--pretrained-backbone", onnx)
    assert refused.returncode == 2
    assert (
        "conv1.weight has shape (64, 3, 7, 7), not (8, 3, 7, 7)" in refused.stderr.splitlines()[-1]
    )

    run = train(
        data,
        tmp_path / "run",
        "--pretrained-backbone",
        onnx,
        "--width",
        "1",
        "--max-steps",
        "1",
        "--batch-size",
        "1",
        "--eval-batch-size",
        "1",
    )
    assert run.returncode == 0, run.stderr
    saved = mx.nd.load(str(tmp_path / "run" / "weights.params"))
    # The first step's rate is 0 (warm-up), so the weights are still those of the file.
    np.testing.assert_array_equal(saved["backbone.conv1.weight"].asnumpy(), state["conv1.weight"])
    np.testing.assert_array_equal(
        saved["backbone.stages.2.5.conv2.weight"].asnumpy(), state["layer3.5.conv2.weight"]
    )
