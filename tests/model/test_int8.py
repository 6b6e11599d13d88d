"""Networks in 8-bit integers: of every kind, near the float32 network; the ranges in a file; the
command."""

import json

import mxnet as mx
import numpy as np
import pytest

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model import int8
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.int8 import best_range, measure_ranges, quantize
from ssd.model.weights import INT8, WeightsInfo, load_weights, read_info, read_ranges, save_weights
from tests.small_recipes import first_of_each_kind, small
from tests.training.tiny import tiny_data

pytestmark = pytest.mark.skipif(
    not mx.runtime.Features().is_enabled("MKLDNN"), reason="this MXNet has no oneDNN"
)


def network_of(recipe, folder):
    """A small network whose running statistics are those of its inputs, as after training."""
    config = load_recipe(small(recipe, folder))
    network = build_detector(config).network
    initialize(network, 0, mx.cpu())
    images = mx.nd.array(np.random.default_rng(0).standard_normal(network.input_shape(8)))
    for _ in range(30):
        with mx.autograd.record():
            total = sum(part.mean() for part in network(images))
        total.backward()
    return config, network, images


@pytest.mark.parametrize("recipe", first_of_each_kind())
def test_every_kind_of_network_is_close_to_float32(recipe, tmp_path):
    _, network, images = network_of(recipe, tmp_path)
    integers, layers = quantize(network, measure_ranges(network, [images]))
    assert len(layers.int8) >= len(layers.others) >= 1, layers
    # A shared head's layer has a convolution for each map.
    own = {network.prefix + name for name in layers.layer.values()}
    assert own <= {name.rpartition("_")[0] for name in network.collect_params()}
    for exact, part in zip(network(images), integers(images)):
        exact, part = exact.asnumpy().ravel(), part.asnumpy().ravel()
        # First weights are no trained network, whose detections benchmarks/int8.md compares: a
        # wrong layer gives 0.
        assert 0.75 < np.corrcoef(exact, part)[0, 1] < 1
    operators = {node["op"] for node in json.loads(integers._cached_graph[1].tojson())["nodes"]}
    assert "_contrib_requantize" not in operators, "the convolutions give 8 bits themselves"


@pytest.mark.parametrize("recipe", ["ssd-resnet34-shapes", "ssd-resnet50-shapes"])
def test_projected_shortcuts_with_negative_numbers(recipe, tmp_path, monkeypatch):
    """What they are added to stays in float32, as MXNet's sums of integers read them as
    positive."""
    _, network, images = network_of(recipe, tmp_path)
    ranges = measure_ranges(network, [images])

    def error():
        integers, layers = quantize(network, ranges)
        pairs = [
            (exact.asnumpy(), part.asnumpy())
            for exact, part in zip(network(images), integers(images))
        ]
        return max(((part - exact) ** 2).mean() / exact.var() for exact, part in pairs), layers

    ours, layers = error()
    assert any("add_act" in name for name in layers.int8) and any(
        "add_act" in name for name in layers.others
    )
    monkeypatch.setattr(int8, "_signed_sums", lambda *_: [])
    theirs, layers = error()
    assert not any("add_act" in name for name in layers.others)
    assert ours < 0.5 * theirs


def test_the_range_that_keeps_numbers_best():
    """Against all ends one after the other, by rounding the numbers themselves."""
    rng = np.random.default_rng(4)
    heavy = rng.standard_t(3, 20000).astype(np.float32)
    for numbers, levels in ((heavy, 127), (np.maximum(heavy, 0), 255)):

        def error(end):
            steps = np.clip(np.round(numbers * (levels / end)), -levels, levels)
            return ((steps * (end / levels) - numbers) ** 2).sum()

        least, greatest = best_range(numbers)
        end, most = max(-least, greatest), np.abs(numbers).max()
        assert error(end) <= 1.03 * min(map(error, np.linspace(0.02, 1, 50) * most))
        assert numbers.min() <= least <= 0 < greatest <= numbers.max() + 1e-6
    # The least of what one number loses by a cut at t, (50 - t)^2, and 200,000 by rounding, 200,000
    # (t / 127)^2 / 12.
    end = 50 / (1 + 200000 / 12 / 127**2)
    assert best_range(np.append(rng.standard_normal(200000), 50))[1] == pytest.approx(end, rel=0.01)
    assert best_range(np.linspace(0, 1, 9999)) == (0, pytest.approx(1, abs=2e-3)), (
        "nothing to gain from a cut"
    )
    assert best_range(np.zeros((2, 3))) == (0, 1)


def test_ranges_are_those_of_all_images(tmp_path):
    _, network, images = network_of("ssd-resnet34-shapes", tmp_path)
    first, second = images[:4], 2 * images[4:]
    both = measure_ranges(network, [first, second])
    parts = [measure_ranges(network, [batch]) for batch in (first, second)]
    for name, pair in both.items():
        np.testing.assert_allclose(pair, np.mean([part[name] for part in parts], axis=0), rtol=1e-6)
    wanted = [best_range(batch.asnumpy()) for batch in (first, second)]
    assert any(np.allclose(pair, np.mean(wanted, axis=0), rtol=1e-5) for pair in both.values()), (
        "of the images"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    config, network, _ = network_of("ssd-resnet34-shapes", folder)
    data = tiny_data(folder / "data", train_images=6, val_images=3)
    path = str(folder / "weights.params")
    save_weights(network, path, WeightsInfo(config, (1, 2, 3), ("circle", "square", "triangle")))
    return folder, config, network, data, path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_and_those_that_take_its_file(saved, capsys, tmp_path):
    folder, config, network, data, path = saved
    output = str(tmp_path / "int8.params")
    status, out, err = run(
        capsys, "quantize", "--weights", path, "--data-dir", data, "--output", output
    )
    assert status == 0, err
    assert "convolutions compute in 8-bit integers, by the ranges of 6 images" in out
    assert read_info(output) == read_info(path) and read_ranges(path) is None
    other = build_detector(config).network
    initialize(other, 1, mx.cpu())
    load_weights(other, output)
    for one, two in zip(network.collect_params().values(), other.collect_params().values()):
        np.testing.assert_array_equal(one.data().asnumpy(), two.data().asnumpy())
    for command in (
        ["evaluate", "--data-dir", data],
        ["predict", f"{data}/val2017", "--output", tmp_path / "seen"],
    ):
        status, _, err = run(capsys, *command, "--weights", output, "--device", "cpu")
        assert status == 0 and err.count(f"{output}: computing in 8-bit integers") == 1, err
    status, out, err = run(
        capsys, "export", "--weights", output, "--output", tmp_path / "exported", "--format", "onnx"
    )
    assert status == 0 and "8-bit" not in out, err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--calibration-images", "0"], "--calibration-images 0: must be at least 1"),
        (["--output", "there.params"], "there.params: exists already"),
        (["--output", "a.onnx"], "a.onnx: the file name must end in .params"),
        (["--output", "none/a.params"], "its folder does not exist"),
        (["--weights", "none"], "none"),
        (["--data-dir", "none"], "none"),
    ],
)
def test_what_is_refused(saved, capsys, tmp_path, monkeypatch, flags, words):
    *_, data, path = saved
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.params").write_bytes(b"mine")
    status, _, err = run(
        capsys, "quantize", "--weights", path, "--data-dir", data, "--output", "new.params", *flags
    )
    assert status == 2 and words in err.splitlines()[-1] and not (tmp_path / "new.params").exists()
    assert (tmp_path / "there.params").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"format": 2, "ranges": {}}',
        b'{"format": 1, "ranges": {"a": [1]}}',
        b'{"format": 1, "ranges": {"a": [2, 1]}}',
        b'{"format": 1, "ranges": {"a": [0, NaN]}}',
        b'{"format": 1, "ranges": {"a": [0, "x"]}}',
        b'{"format": 1, "ranges": [1]}',
        b"\xff",
    ],
)
def test_ranges_that_are_none(saved, tmp_path, content):
    path = str(tmp_path / "bad.params")
    tensors = dict(
        mx.nd.load(saved[-1]),
        **{INT8: mx.nd.array(np.frombuffer(content, np.uint8), dtype=np.uint8)},
    )
    mx.nd.save(path, tensors)
    with pytest.raises(UserError, match="bad.params: int8: no ranges that quantize has written"):
        read_ranges(path)


def test_ranges_are_kept_to_the_last_digit(saved, tmp_path):
    _, config, network, _, _ = saved
    ranges = {"a": (-0.1, 1 / 3), "b": (0.0, 3.4e38)}
    save_weights(network, str(tmp_path / "a.params"), None, ranges)
    assert read_ranges(str(tmp_path / "a.params")) == ranges
    kept = mx.nd.load(str(tmp_path / "a.params"))[INT8].asnumpy().tobytes()
    assert json.loads(kept)["format"] == 1
