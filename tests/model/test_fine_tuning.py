"""Weights of other classes and other image sizes as a start."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.detector import build_detector
from ssd.model.fine_tuning import Head, fits, load_matching
from ssd.model.initialization import initialize
from ssd.model.parameters import by_structural_name
from ssd.model.weights import save_weights
from ssd.model.weights_info import WeightsInfo

SMALL = load_recipe("ssd-resnet34-coco").with_values(width=0.125, num_classes=4)
NAMES = ("cat", "Dog", "horse")


def network(config, seed):
    result = build_detector(config).network
    initialize(result, seed, mx.cpu())
    return result


def tensors(net):
    return {name: parameter.data().asnumpy() for name, parameter in by_structural_name(net).items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(file with metadata, file without, the tensors)."""
    folder = tmp_path_factory.mktemp("weights")
    net = network(SMALL, 1)
    save_weights(net, str(folder / "known.params"), WeightsInfo(SMALL, (3, 7, 11), NAMES))
    save_weights(net, str(folder / "silent.params"))
    return str(folder / "known.params"), str(folder / "silent.params"), tensors(net)


def logits(value, boxes, classes, label):
    """Channels of class `label` in a head's weight or bias."""
    return value[4 * boxes : 4 * boxes + boxes * classes].reshape(
        (boxes, classes) + value.shape[1:]
    )[:, label]


def test_classes_go_by_name(saved):
    path, _, old = saved
    names = ("zebra", "dog", "HORSE", "ant")
    net = network(SMALL.with_values(num_classes=5), 2)
    start = tensors(net)
    text = load_matching(net, path, names)
    found = tensors(net)
    for name, value in found.items():
        if not name.startswith("predictors."):
            np.testing.assert_array_equal(value, old[name])
            continue
        boxes = net.predictors[int(name.split(".")[1])].boxes
        np.testing.assert_array_equal(value[: 4 * boxes], old[name][: 4 * boxes])
        for label, old_label in ((0, 0), (2, 2), (3, 3)):
            np.testing.assert_array_equal(
                logits(value, boxes, 5, label), logits(old[name], boxes, 4, old_label)
            )
        for label in (1, 4):
            np.testing.assert_array_equal(
                logits(value, boxes, 5, label), logits(start[name], boxes, 5, label)
            )
    others = len(old) - 12
    assert text == (
        f"{others} of {others} tensors of backbone and extra features are taken; of 12 of 12 "
        "tensors of the heads (predictors.0.conv.weight to predictors.5.conv.bias) the offsets and "
        "the logits of background, dog, HORSE, while those of zebra, ant are initialised"
    )


def test_the_same_number_of_classes_but_other_ones(saved):
    """Equal shapes do not turn a zebra into a cat."""
    net = network(SMALL, 2)
    start = tensors(net)
    load_matching(net, saved[0], ("zebra", "horse", "cat"))
    for name, value in tensors(net).items():
        if name.startswith("predictors."):
            boxes = net.predictors[int(name.split(".")[1])].boxes
            for label, source, old_label in ((1, start, 1), (2, saved[2], 3), (3, saved[2], 1)):
                np.testing.assert_array_equal(
                    logits(value, boxes, 4, label), logits(source[name], boxes, 4, old_label)
                )


def test_weights_without_their_classes(saved):
    net = network(SMALL, 2)
    load_matching(net, saved[1], NAMES)
    for name, value in tensors(net).items():
        np.testing.assert_array_equal(value, saved[2][name])
    more = network(SMALL.with_values(num_classes=9), 2)
    start = tensors(more)
    load_matching(more, saved[1], tuple("abcdefgh"))
    bias, boxes = tensors(more)["predictors.1.conv.bias"], 6
    np.testing.assert_array_equal(bias[:24], saved[2]["predictors.1.conv.bias"][:24])
    np.testing.assert_array_equal(
        logits(bias, boxes, 9, 0), logits(saved[2]["predictors.1.conv.bias"], boxes, 4, 0)
    )
    np.testing.assert_array_equal(
        logits(bias, boxes, 9, 3), logits(start["predictors.1.conv.bias"], boxes, 9, 3)
    )


def test_another_image_size(saved):
    """512 pixels: a map more, and one more with six default boxes; what has another shape starts
    anew."""
    net = network(SMALL.with_values(image_size=512), 2)
    start = tensors(net)
    text = load_matching(net, saved[0], NAMES)
    found = tensors(net)
    new = {
        name for name in found if name not in saved[2] or found[name].shape != saved[2][name].shape
    }
    assert new == {
        f"{part}.{kind}"
        for part in (
            "expand_trans_convs.5",
            "expand_convs.5",
            "predictors.4.conv",
            "predictors.6.conv",
        )
        for kind in ("weight", "bias")
    }
    for name, value in found.items():
        np.testing.assert_array_equal(value, start[name] if name in new else saved[2][name])
    assert "initialised: " in text and "and 4 more" in text and "are initialised" not in text
    assert text.endswith("; not used: predictors.4.conv.bias, predictors.4.conv.weight")


def test_another_architecture_is_refused(saved, tmp_path):
    wide = network(SMALL.with_values(width=0.25), 2)
    before = tensors(wide)
    with pytest.raises(UserError, match=r"another architecture's: backbone\.\S+ has shape"):
        load_matching(wide, saved[0], NAMES)
    assert not fits(wide, saved[0], NAMES)
    for name, value in tensors(wide).items():
        np.testing.assert_array_equal(value, before[name])
    arrays = {name: mx.nd.array(value) for name, value in saved[2].items()}
    for name, change in (
        ("missing backbone.conv1.weight", lambda: arrays.pop("backbone.conv1.weight")),
        ("unexpected fc.weight", lambda: arrays.update({"fc.weight": mx.nd.zeros(3)})),
    ):
        kept = dict(arrays)
        change()
        mx.nd.save(str(tmp_path / "odd.params"), arrays)
        arrays = kept
        with pytest.raises(UserError, match=name):
            load_matching(network(SMALL, 2), str(tmp_path / "odd.params"), NAMES)


def test_channels_of_a_head():
    """Offsets first, then box by box the logits of all classes."""
    assert Head(boxes=2, classes=3).logits(1) == [9, 12]
