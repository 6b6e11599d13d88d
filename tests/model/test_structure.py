"""The network's structure, names, layouts and types."""

import os

import mlperf_logging
import mxnet as mx
import numpy as np
import pytest
import yaml

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.detections.per_class import PerClassDetections
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize, load_backbone
from ssd.model.losses.hard_negatives import HardNegativesLoss
from ssd.model.weights import load_weights, save_weights

CONFIG = load_recipe("ssd-resnet34-coco")
SMALL = CONFIG.with_values(width=0.125, num_classes=5)


def trainable(network):
    return {
        name for name, parameter in network.collect_params().items() if parameter.grad_req != "null"
    }


def names_of_the_rules():
    """The tensors of the installed checker's rule set v1.1, ssd."""
    path = os.path.join(
        os.path.dirname(mlperf_logging.__file__),
        "compliance_checker",
        "training_1.1.0",
        "closed_ssd.yaml",
    )
    with open(path) as file:
        text = file.read()
    yaml.safe_load(text)
    return set(__import__("re").findall(r"ssd0_[a-z0-9_]+", text))


def test_tensor_names_are_those_of_the_rules():
    wanted = names_of_the_rules()
    assert len(wanted) == 119
    assert trainable(build_detector(CONFIG).network) == wanted
    assert trainable(build_detector(CONFIG).network) == wanted, (
        "a second network of the process has the same names"
    )


def test_number_of_parameters():
    network = build_detector(CONFIG).network
    assert (
        sum(np.prod(network.collect_params()[name].shape) for name in trainable(network))
        == 19972534
    )


@pytest.mark.parametrize(
    "layout, dtype",
    [("NCHW", "float32"), ("NHWC", "float32"), ("NHWC", "float16"), ("NCHW", "float16")],
)
def test_every_layout_and_type_by_inference(layout, dtype):
    """NHWC and float16 run on a GPU alone: shapes and types of the complete graph with its loss are
    inferred."""
    network = build_detector(CONFIG.with_values(layout=layout, dtype=dtype)).network
    data = mx.sym.var("data")
    offsets, logits = network(data)
    targets = mx.sym.var("target_offsets"), mx.sym.var("target_classes")
    graph = mx.sym.Group(
        [offsets, logits, *HardNegativesLoss(CONFIG.loss)(offsets, logits, *targets)]
    )
    shapes = dict(
        data=network.input_shape(2), target_offsets=(2, 8732, 4), target_classes=(2, 8732)
    )
    arguments, outputs, auxiliary = graph.infer_shape(**shapes)
    assert outputs == [(2, 8732, 4), (2, 8732, 81), (2,), (2,)]
    found = dict(zip(graph.list_arguments(), arguments))
    channels = 4 if (layout, dtype) == ("NHWC", "float16") else 3
    head = found["ssd0_convpredictor1_conv0_weight"]
    if layout == "NHWC":
        assert found["ssd0_resnetmlperf0_conv0_weight"] == (64, 7, 7, channels)
        assert head == (512, 3, 3, 512), "6 * 85 = 510 channels, padded to a multiple of 8"
    else:
        assert found["ssd0_resnetmlperf0_conv0_weight"] == (64, 3, 7, 7)
        assert head == (510, 512, 3, 3)
    assert network.feature_sizes() == [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
    half = np.dtype(dtype).type
    types, outputs, _ = graph.infer_type(
        data=half, target_offsets=np.float32, target_classes=np.int32
    )
    assert outputs == [half, half, np.float32, np.float32]
    for name, kind in zip(graph.list_arguments(), types):
        if name.startswith("ssd0"):
            norm = name.endswith(("_gamma", "_beta"))
            assert kind == (np.float32 if norm else half), name
            assert network.collect_params()[name].dtype in (kind, np.dtype(kind).name)


@pytest.mark.parametrize("size", [300, 512, 320])
def test_default_boxes_agree_with_the_networks_output(size):
    config = SMALL.with_values(image_size=size)
    detector = build_detector(config)
    network, boxes = detector.network, detector.default_boxes
    initialize(network, 0, mx.cpu())
    offsets, logits = network(mx.nd.zeros(network.input_shape(1)))
    assert offsets.shape == (1, len(boxes), 4) and logits.shape == (1, len(boxes), 5)
    assert boxes.min() >= 0 and boxes.max() <= 1


def test_an_image_too_small_is_refused():
    with pytest.raises(UserError, match="image_size 32 x 32: too small for 6 feature maps"):
        build_detector(
            CONFIG.with_values(
                image_size=32, extra_strides=(2, 2, 2, 1, 1), extra_pads=(1, 1, 1, 0, 0)
            )
        )


def test_predictions_are_listed_cell_by_cell():
    """One hot head channel shows up at the boxes of its shape, in the cells' order."""
    network = build_detector(SMALL).network
    initialize(network, 0, mx.cpu())
    head = network.predictors[1]
    weight, bias = head.conv.weight.data() * 0, head.conv.bias.data() * 0
    shape, coordinate = 3, 2
    bias[shape * 4 + coordinate] = 1
    head.conv.weight.set_data(weight)
    head.conv.bias.set_data(bias)
    offsets, _ = network(mx.nd.zeros(network.input_shape(1)))
    part = offsets.asnumpy()[0, 38 * 38 * 4 : 38 * 38 * 4 + 19 * 19 * 6].reshape(19, 19, 6, 4)
    expected = np.zeros_like(part)
    expected[:, :, shape, coordinate] = 1
    np.testing.assert_array_equal(part, expected)


def test_initial_weights():
    network, again, other = (build_detector(SMALL).network for _ in range(3))
    for block, seed in ((network, 1), (again, 1), (other, 2)):
        initialize(block, seed, mx.cpu())
    values = [
        {name: parameter.data().asnumpy() for name, parameter in block.collect_params().items()}
        for block in (network, again, other)
    ]
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])
        if name.endswith("_weight") or name.endswith("_bias"):
            assert (value != values[2][name]).any(), name
    head = network.predictors[0]
    weight, bias = head.conv.weight.data().asnumpy(), head.conv.bias.data().asnumpy()
    inputs = weight.shape[1]
    for begin, end in ((0, 16), (16, 16 + 4 * 5)):
        limit = np.sqrt(6 / (9 * (inputs + end - begin)))
        assert 0.98 * limit < np.abs(weight[begin:end]).max() <= limit
    limit = 1 / np.sqrt(9 * inputs)
    assert 0.8 * limit < np.abs(bias).max() <= limit


def test_weight_files(tmp_path):
    path = str(tmp_path / "weights.params")
    network, other = build_detector(SMALL).network, build_detector(SMALL).network
    initialize(network, 1, mx.cpu())
    initialize(other, 2, mx.cpu())
    save_weights(network, path)
    load_weights(other, path)
    for name, parameter in network.collect_params().items():
        np.testing.assert_array_equal(
            parameter.data().asnumpy(), other.collect_params()[name].data().asnumpy()
        )
    assert os.listdir(tmp_path) == ["weights.params"]

    wider = build_detector(SMALL.with_values(num_classes=6)).network
    initialize(wider, 0, mx.cpu())
    with pytest.raises(UserError, match=r"predictors\.0\.conv\.\w+ has shape"):
        load_weights(wider, path)
    network.backbone.save_parameters(path)
    with pytest.raises(UserError, match="another network's: missing"):
        load_weights(network, path)
    for content in (b"", b"not a weight file", open(path, "rb").read()[:-100]):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(UserError, match="not a file of MXNet arrays, or cut short"):
            load_weights(network, path)
    with pytest.raises(UserError, match="no such file"):
        load_weights(network, str(tmp_path / "none"))


def test_backbone_tensors_are_checked():
    network = build_detector(SMALL).network
    initialize(network, 0, mx.cpu())
    tensors = {
        name: np.zeros(parameter.shape, np.float32)
        for name, parameter in network.backbone.torchvision_parameters().items()
    }
    load_backbone(network, tensors, "file")
    for name, change, words in (
        ("bn1.bias", lambda tensors: tensors.pop("bn1.bias"), "file: missing tensor bn1.bias"),
        ("fc", lambda tensors: tensors.update(fc=np.zeros(1)), "file: unexpected tensor fc"),
        (
            "conv1.weight",
            lambda tensors: tensors.update({"conv1.weight": np.zeros((8, 3, 3, 3))}),
            "file: tensor conv1.weight has shape (8, 3, 3, 3), not (8, 3, 7, 7)",
        ),
        (
            "bn1.weight",
            lambda tensors: tensors.update({"bn1.weight": np.full(8, np.nan)}),
            "file: tensor bn1.weight is not finite",
        ),
    ):
        broken = dict(tensors)
        change(broken)
        with pytest.raises(UserError) as error:
            load_backbone(network, broken, "file")
        assert str(error.value) == words


def test_detections_of_odd_output():
    """No detection at all, overflowing offsets, and a batch's images kept apart."""
    boxes = np.array(
        [[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.21], [0.2, 0.2, 0.1, 0.1]], np.float32
    )
    block = PerClassDetections(boxes, 4, CONFIG.default_boxes, CONFIG.detection)
    block.initialize()
    logits = np.zeros((3, 3, 4), np.float32)
    logits[:, :, 0] = 50  # background everywhere
    logits[1, 0, 2], logits[1, 1, 2], logits[1, 2, 1] = 60, 59, 58
    logits[2, 2, 3] = 60
    offsets = np.zeros((3, 3, 4), np.float32)
    offsets[2, 2] = 1e30
    rows = block(mx.nd.array(offsets), mx.nd.array(logits)).asnumpy()
    assert np.isfinite(rows).all()
    assert (rows[0, :, :2] == -1).all()
    np.testing.assert_array_equal(rows[1, :3, 0], [2, 1, -1])  # the second box overlaps the first
    np.testing.assert_allclose(
        rows[1, :2, 2:], [[0.4, 0.4, 0.6, 0.6], [0.15, 0.15, 0.25, 0.25]], atol=1e-6
    )
    np.testing.assert_array_equal(rows[2, :2, 0], [3, -1])


def test_overlap_of_exactly_the_threshold_is_dropped():
    """The reference keeps IoU < .5; half of a box of twice the size overlaps it by exactly .5."""
    boxes = np.array([[0.25, 0.25, 0.5, 0.5], [0.25, 0.125, 0.5, 0.25]], np.float32)
    block = PerClassDetections(boxes, 2, CONFIG.default_boxes, CONFIG.detection)
    block.initialize()
    logits = np.array([[[0, 9], [0, 8]]], np.float32)
    rows = block(mx.nd.zeros((1, 2, 4)), mx.nd.array(logits)).asnumpy()
    assert (rows[0, :, 0] > 0).sum() == 1


def test_loss_counts_each_box_once_where_negatives_run_short():
    """Three positives of four boxes want nine negatives: the one there is counts once, positives
    not again."""
    logits = np.array([[[1, 2], [3, 1], [0, 0], [2, 0]]], np.float32)
    classes = np.array([[1, 1, 1, 0]], np.float32)
    loss = HardNegativesLoss(CONFIG.loss)
    class_loss, offset_loss = loss(
        mx.nd.zeros((1, 4, 4)),
        mx.nd.array(logits),
        mx.nd.ones((1, 4, 4)) * 0.5,
        mx.nd.array(classes),
    )
    log_probability = logits[0] - np.log(np.exp(logits[0]).sum(1, keepdims=True))
    expected = -sum(log_probability[row, int(label)] for row, label in enumerate(classes[0])) / 3
    np.testing.assert_allclose(class_loss.asnumpy(), [expected], rtol=1e-5)
    np.testing.assert_allclose(offset_loss.asnumpy(), [4 * 0.5 * 0.25], rtol=1e-6)
