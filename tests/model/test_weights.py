"""Weight files with metadata: settings, normalisation and classes beside the tensors."""

import json
import os

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.parameters import by_structural_name
from ssd.model.weights import load_weights, read_info, read_tensors, save_weights
from ssd.model.weights_info import WeightsInfo, pack_info

CONFIG = load_recipe("ssd-resnet34-shapes").with_values(
    width=0.125, score_threshold=0.25, nms_iou=0.4, pixel_mean=(0.5, 0.25, 0.125)
)
INFO = WeightsInfo(CONFIG, (3, 11, 7), ("circle", "Quadrat \N{WHITE SQUARE}", "triangle"))


@pytest.fixture(scope="module")
def network():
    network = build_detector(CONFIG).network
    initialize(network, 1, mx.cpu())
    return network


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("weights") / "weights.params")
    save_weights(network, path, INFO)
    return path


def with_content(saved, path, content):
    """A copy of the file with another metadata array."""
    tensors = mx.nd.load(saved)
    tensors["metadata"] = mx.nd.array(content, dtype=content.dtype)
    mx.nd.save(str(path), tensors)
    return str(path)


def with_json(saved, path, change):
    content = json.loads(mx.nd.load(saved)["metadata"].asnumpy().tobytes().decode())
    change(content)
    return with_content(saved, path, np.frombuffer(json.dumps(content).encode(), np.uint8))


def test_what_is_saved_is_read(saved):
    info = read_info(saved)
    assert (info.category_ids, info.category_names) == (INFO.category_ids, INFO.category_names)
    for section in ("recipe", "model", "default_boxes", "detection"):
        assert getattr(info.config, section) == getattr(CONFIG, section)
    assert info.config.data.pixel_mean == (0.5, 0.25, 0.125)
    assert info.config.data.pixel_std == CONFIG.data.pixel_std
    np.testing.assert_array_equal(pack_info(info), pack_info(INFO))


def test_tensors_are_as_without_metadata(network, saved, tmp_path):
    plain = str(tmp_path / "plain.params")
    save_weights(network, plain)
    assert read_info(plain) is None, "an older file"
    old, new = read_tensors(plain), read_tensors(saved)
    assert set(old) == set(new) == set(by_structural_name(network))
    for path in (plain, saved):
        other = build_detector(CONFIG).network
        initialize(other, 2, mx.cpu())
        load_weights(other, path)
        for name, parameter in by_structural_name(other).items():
            np.testing.assert_array_equal(parameter.data().asnumpy(), new[name].asnumpy())


def test_gluon_reads_it(network, saved):
    other = build_detector(CONFIG).network
    other.load_parameters(saved, ignore_extra=True)
    for name, parameter in other.collect_params().items():
        np.testing.assert_array_equal(
            parameter.data().asnumpy(), network.collect_params()[name].data().asnumpy()
        )


def test_npz(network, tmp_path):
    arrays = {
        name: parameter.data().asnumpy() for name, parameter in by_structural_name(network).items()
    }
    path = str(tmp_path / "parameters.npz")
    np.savez(path, **arrays)
    assert read_info(path) is None
    np.savez(path, metadata=pack_info(INFO), **arrays)
    assert read_info(path).category_names == INFO.category_names
    load_weights(network, path)


def test_a_recipe_that_is_a_file_reads_back(network, tmp_path):
    import dataclasses

    path = str(tmp_path / "weights.params")
    save_weights(
        network, path, dataclasses.replace(INFO, config=dataclasses.replace(CONFIG, recipe="mine"))
    )
    info = read_info(path)
    assert info.config.recipe == "mine" and info.config.model == CONFIG.model
    assert info.config.training == load_recipe("ssd-resnet34-coco").training


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: content.update(format=2), r"metadata: format 2; this program knows 1"),
        (lambda content: content.pop("format"), r"format None"),
        (
            lambda content: (
                content["settings"]["model"].pop("width") and content.update(recipe="mine")
            ),
            r"model\.width is missing",
        ),
        (
            lambda content: (
                content["settings"]["data"].pop("pixel_std") and content.update(recipe="mine")
            ),
            r"data\.pixel_std is missing",
        ),
        (
            lambda content: content["settings"]["model"].update(wings=2),
            "unknown setting 'model.wings'",
        ),
        (
            lambda content: content["settings"]["model"].update(width="broad"),
            "width: a number is needed, not 'broad'",
        ),
        (lambda content: content["settings"].update(model=[1]), "settings by section"),
        (lambda content: content.update(recipe=7), "no recipe's name"),
        (lambda content: content["category_names"].pop(), "2 category_names for 4 classes"),
        (
            lambda content: content["category_ids"].__setitem__(0, 11),
            "category_ids: 11 occurs twice",
        ),
        (lambda content: content["category_ids"].__setitem__(0, "a"), r"category_ids: \['a'"),
        (
            lambda content: content.update(category_names="abc"),
            "category_names: 'abc' is no list of str",
        ),
    ],
)
def test_malformed_metadata_is_named(saved, tmp_path, change, words):
    path = with_json(saved, tmp_path / "bad.params", change)
    with pytest.raises(UserError, match=words) as raised:
        read_info(path)
    assert str(raised.value).startswith(f"weights {path}: metadata") and "\n" not in str(
        raised.value
    )


def test_metadata_that_is_no_json(saved, tmp_path):
    for content, words in (
        (np.frombuffer(b"\x80\x04pickle", np.uint8), "not JSON"),
        (np.frombuffer(b"[7]", np.uint8), "instead of an object"),
        (np.frombuffer(b"[" * 100000, np.uint8), "not JSON"),
        (np.zeros((2, 2), np.float32), "not bytes but float32"),
    ):
        path = with_content(saved, tmp_path / "bad.params", content)
        with pytest.raises(UserError, match=words):
            read_info(path)


def test_what_is_no_weights_file(tmp_path):
    path = tmp_path / "weights.params"
    with pytest.raises(UserError, match="no such file"):
        read_info(path)
    with pytest.raises(UserError, match="a folder; name a file in it"):
        read_info(tmp_path)
    path.write_bytes(b"not a weight file")
    with pytest.raises(UserError, match="not a file of MXNet arrays"):
        read_info(path)
    mx.nd.save(str(path), {"name": mx.nd.ones(1)})
    path.write_bytes(path.read_bytes().replace(b"name", b"n\xe1me"))  # a flipped bit
    with pytest.raises(UserError, match="not a file of MXNet arrays"):
        read_info(path)


def test_a_file_is_replaced_as_a_whole(network, tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(b"old")
    save_weights(network, str(path), INFO)
    assert (
        os.listdir(tmp_path) == ["weights.params"]
        and read_info(path).category_ids == INFO.category_ids
    )


def test_weights_of_tensor_cores_fit_a_cpu(tmp_path):
    """NHWC and float16, padded channels and all: as made here of a network in NCHW, they give that
    network again."""
    plain = CONFIG.with_values(num_classes=5)
    config = plain.with_values(layout="NHWC", dtype="float16")
    network, other = build_detector(plain).network, build_detector(plain).network
    for seed, one in enumerate((network, other)):
        initialize(one, seed, mx.cpu())
    wanted = {
        name: parameter.data().asnumpy() for name, parameter in by_structural_name(network).items()
    }
    info = WeightsInfo(config, (1, 2, 3, 4), ("a", "b", "c", "d"))
    tensors, padded = {"metadata": mx.nd.array(pack_info(info), dtype=np.uint8)}, 0
    for name, parameter in by_structural_name(build_detector(config).network).items():
        value = wanted[name].transpose(0, 2, 3, 1) if wanted[name].ndim == 4 else wanted[name]
        filled = np.full(parameter.shape, 7, value.dtype)
        filled[tuple(slice(0, length) for length in value.shape)] = value
        padded += filled.shape != value.shape
        tensors[name] = mx.nd.array(filled, dtype=parameter.dtype)
    assert padded == 13, (
        "the first convolution, and weight and bias of six heads with 36 or 54 channels"
    )
    path = str(tmp_path / "weights.params")
    mx.nd.save(path, tensors)
    load_weights(other, path)
    for name, parameter in by_structural_name(other).items():
        np.testing.assert_allclose(parameter.data().asnumpy(), wanted[name], rtol=1e-3, atol=1e-6)
    tensors.pop("metadata")
    mx.nd.save(path, tensors)
    with pytest.raises(UserError, match="has shape"):
        load_weights(other, path)


def test_a_failed_write_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "weights.params"
    path.write_bytes(b"old")

    def fails(name, _):
        with open(name, "wb") as file:
            file.write(b"half")
        raise mx.MXNetError("Traceback (most recent call last):\n  No space left on device\n")

    monkeypatch.setattr(mx.nd, "save", fails)
    with pytest.raises(
        UserError,
        match=r"^weights .*: cannot be written: No space left on device \(\d+ bytes are free",
    ):
        save_weights(network, str(path))
    assert os.listdir(tmp_path) == ["weights.params"] and path.read_bytes() == b"old"
