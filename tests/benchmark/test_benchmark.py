"""`python -m ssd benchmark`: every mode through the command line, in a tiny setting."""

import json
import os
import sys

import pytest

from ssd.__main__ import main
from tests.training.tiny import ssd, tiny_data

TINY = [
    "--recipe",
    "ssd-resnet34-shapes",
    "--device",
    "cpu",
    "--width",
    "0.125",
    "--image-size",
    "96",
    "--data-threads",
    "1",
]
SPREAD = {"median", "quartile_1", "quartile_3", "minimum", "maximum", "mean", "count"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return [
        "--data-dir",
        tiny_data(folder / "set", train_images=32, val_images=22),
        "--cache-dir",
        str(folder / "cache"),
    ]


@pytest.fixture
def benchmark(capsys):
    """Runs a mode in this process: (exit status, standard output, standard error)."""

    def run(*flags):
        status = main(["benchmark", *map(str, flags)])
        return (status, *capsys.readouterr())

    return run


def check_spread(spread, count):
    assert SPREAD <= set(spread) and spread["count"] == count
    assert (
        0
        < spread["minimum"]
        <= spread["quartile_1"]
        <= spread["median"]
        <= spread["quartile_3"]
        <= spread["maximum"]
    )
    assert spread["minimum"] <= spread["mean"] <= spread["maximum"]


def check_common(result, mode, steps):
    assert result["format"] == 1 and result["mode"] == mode and result["steps"] == steps
    machine = result["machine"]
    assert machine["processor"] and machine["cores"] >= 1 and machine["versions"]["Python"]
    assert 1e7 < result["memory"]["peak_rss_bytes"] < machine["memory_bytes"]


def check_parts(result, names):
    assert [part["name"] for part in result["parts"]] == names
    assert sum(part["share"] for part in result["parts"]) == pytest.approx(1)
    for part in result["parts"]:
        assert part["seconds"]["median"] >= 0


def check_arithmetic(result, training):
    """Of the network at a width of an eighth, on 96 pixels."""
    from ssd.config import load_recipe
    from ssd.model.detector import build_detector
    from ssd.model.operations import forward_multiply_adds, training_multiply_adds

    count = training_multiply_adds if training else forward_multiply_adds
    network = build_detector(
        load_recipe("ssd-resnet34-shapes").with_values(width=0.125, image_size=96)
    ).network
    arithmetic = result["arithmetic"]
    assert arithmetic["operations_per_image"] == 2 * count(network)
    assert arithmetic["operations_per_second"] == pytest.approx(
        2 * count(network) * result["images_per_second"]["median"]
    )
    for name, share in arithmetic["share_of_peak"].items():
        assert share == pytest.approx(
            arithmetic["operations_per_second"] / arithmetic["peaks"][name]["median"]
        )
    assert set(arithmetic["share_of_peak"]) == {"convolution", "matrix_product"}


def images_with_boxes(data):
    with open(
        os.path.join(data[1], "annotations", "bbox_only_instances_train2017.json"), encoding="utf-8"
    ) as file:
        return len({row["image_id"] for row in json.load(file)["annotations"]})


def read_trace(path):
    with open(path, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    begun = [event["name"] for event in events if event["ph"] == "B"]
    assert sorted(begun) == sorted(event["name"] for event in events if event["ph"] == "E")
    return begun


def test_train(data, tmp_path):
    """Real batches; in a separate process, because it starts Horovod."""
    run = ssd(
        "benchmark",
        "train",
        *TINY,
        *data,
        "--batch-size",
        2,
        "--steps",
        2,
        "--warmup",
        1,
        "--json",
        tmp_path / "out.json",
        "--trace",
        tmp_path / "trace.json",
    )
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    check_common(result, "train", 2)
    check_spread(result["step_seconds"], 2)
    check_spread(result["images_per_second"], 2)
    assert result["images_per_second"]["minimum"] == pytest.approx(
        2 / result["step_seconds"]["maximum"]
    )
    check_parts(result, ["data wait", "forward", "backward", "allreduce", "check", "update"])
    check_arithmetic(result, training=True)
    assert 0 <= result["lock_wait_share"] < 1 and "Python's lock" in run.stdout
    assert (
        0 <= result["data_wait_share"] < 1 and result["ranks"] == 1 and result["global_batch"] == 2
    )
    assert result["data"].endswith("train2017.json")
    for word in (
        "images/s",
        "matrix peak",
        "peak memory",
        "  backward",
        result["machine"]["processor"],
    ):
        assert word in run.stdout
    names = read_trace(tmp_path / "trace.json")
    assert names.count("Convolution") >= 2 * 30 and "_backward_Convolution" in names, (
        "operator by operator"
    )


def test_infer(benchmark):
    status, out, _ = benchmark("infer", *TINY, "--batch-size", 2, "--steps", 2, "--json", "-")
    assert status == 0
    result = json.loads(out)
    check_common(result, "infer", 2)
    check_spread(result["step_seconds"], 2)
    check_parts(result, ["data wait", "network", "post-processing", "to the host"])
    check_arithmetic(result, training=False)
    assert result["data"] == "synthetic images" and result["batch_size"] == 2
    assert 0 <= result["detections_per_image"] <= 200


def test_infer_on_a_data_set(benchmark, data, tmp_path):
    status, out, _ = benchmark(
        "infer",
        *TINY,
        *data,
        "--eval-batch-size",
        2,
        "--steps",
        1,
        "--warmup",
        0,
        "--trace",
        tmp_path / "trace.json",
    )
    assert status == 0
    assert "val2017.json" in out and "post-processing" in out
    # Fused with what follows it, a convolution has another name.
    assert (
        len([name for name in read_trace(tmp_path / "trace.json") if "conv" in name.lower()])
        >= 2 * 30
    )


def test_data(benchmark, data):
    status, out, _ = benchmark("data", *TINY, *data, "--batch-size", 4, "--json", "-")
    assert status == 0
    result = json.loads(out)
    # Steps are as many as the warm-up leaves of the images.
    check_common(result, "data", images_with_boxes(data) // 4 - result["warmup"])
    assert len(result["stages"]) == 4 and all(
        stage["images_per_second"] > 0 for stage in result["stages"]
    )
    assert result["stages"][-1]["step_seconds"] == result["step_seconds"]
    assert result["share_of_decoding"] == pytest.approx(
        result["images_per_second"]["overall"] / result["decoding_alone"]["images_per_second"]
    )
    assert result["decoding_alone"]["images"] == 4 * result["steps"]


def test_score(benchmark):
    status, out, _ = benchmark(
        "score", "--images", 30, "--detections", 500, "--steps", 2, "--json", "-"
    )
    assert status == 0
    result = json.loads(out)
    check_common(result, "score", 2)
    assert (result["images"], result["detections"]) == (30, 500)
    assert result["boxes"] == round(30 * 36781 / 5000)
    check_parts(result, ["read annotations", "check and arrange", "score"])
    assert result["detections_per_second"]["minimum"] == pytest.approx(
        500 / result["step_seconds"]["maximum"]
    )


def test_score_of_a_given_file(benchmark, data):
    path = os.path.join(data[1], "annotations", "bbox_only_instances_val2017.json")
    status, out, _ = benchmark(
        "score",
        "--annotations",
        path,
        "--detections",
        500,
        "--steps",
        1,
        "--warmup",
        0,
        "--scorer",
        "pycocotools",
    )
    assert status == 0
    assert "22 images" in out and "by pycocotools" in out and path in out


def test_allreduce_on_two_ranks():
    launcher = [os.path.join(os.path.dirname(sys.executable), "horovodrun"), "-np", "2", "--gloo"]
    run = ssd("benchmark", "allreduce", *TINY, "--steps", 3, "--json", "-", prefix=launcher)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [
        line.split(":", 1)[1]
        for line in run.stdout.splitlines()
        if line.startswith("[") and "{" in line
    ]
    assert len(lines) == 1, "rank 0 alone prints"
    result = json.loads(lines[0])
    check_common(result, "allreduce", 3)
    check_spread(result["step_seconds"], 3)
    from ssd.config import load_recipe
    from ssd.model.detector import build_detector
    from ssd.model.operations import parameter_count

    network = build_detector(
        load_recipe("ssd-resnet34-shapes").with_values(width=0.125, image_size=96)
    ).network
    assert result["ranks"] == 2 and result["gradient_bytes"] == 4 * parameter_count(network)
    # Of two ranks, each sends as much as its gradients are.
    assert result["bus_bytes_per_second"]["maximum"] == pytest.approx(
        result["gradient_bytes"] / result["step_seconds"]["minimum"]
    )


def test_allreduce_on_one_rank_has_nothing_to_do():
    run = ssd("benchmark", "allreduce", *TINY)
    assert run.returncode == 0, run.stderr
    assert "one rank has nothing to reduce" in run.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (["trian"], "unknown mode 'trian'; did you mean train?"),
        (["train", "--steps", "0"], "--steps 0: must be at least 1"),
        (["infer", "--warmup", "-1"], "--warmup -1: must be at least 0"),
        (["train", "--batch-size", "0"], "--batch-size: 0 must be at least 1"),
        (
            ["infer", "--eval-batch-size", "two"],
            "--eval-batch-size: a whole number is needed, not 'two'",
        ),
        (["data"], "needs a data set"),
        (["score", "--trace", "new.json"], "--trace new.json: mode score has no trace"),
        (["score", "--detections", "0"], "--detections 0: must be at least 1"),
        (["score", "--annotations", "nowhere.json"], "--annotations nowhere.json: no such file"),
        (["train", "--weights", "nowhere.params"], "--weights nowhere.params: no such file"),
        (["infer", "--json", "setup.cfg/out.json"], "--json setup.cfg/out.json: no such folder"),
        (["infer", "--json", os.curdir], "--json .: exists already"),
    ],
)
def test_user_errors_are_one_line(benchmark, flags, words):
    status, out, err = benchmark(*flags)
    assert status == 2 and not out
    assert words in err and len(err.splitlines()) == 1, err


def test_more_steps_than_data(benchmark, data):
    status, _, err = benchmark("infer", *TINY, *data, "--eval-batch-size", 4, "--steps", 3)
    assert status == 2
    assert (
        "--steps 3: 3 steps, 2 of warm-up, 6 more, of 4 images each, are 44 images" in err
        and "has 22" in err
    )


def test_a_batch_larger_than_the_data(benchmark, data):
    status, _, err = benchmark("data", *TINY, *data, "--batch-size", 500)
    assert (
        status == 2
        and f"batch size 500: 500 images a step are more than the {images_with_boxes(data)} of "
        in err
    )


def test_modes_for_one_process_refuse_several_ranks(benchmark, monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "1")
    status, out, err = benchmark("score")
    assert status == 2 and not out and "benchmark score: runs on one rank only" in err
