"""`python -m ssd plan` for RetinaNet: convergence points, published results, the numbers of a
run."""

import math
import re

import numpy as np
import pytest

from ssd.commands import plan as plan_command
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.rules import RULES
from ssd.training import plan
from ssd.training.mlperf_results import RETINANET
from tests.training.plans import command, planned

OPEN_IMAGES = load_recipe("retinanet-resnext50-openimages").with_values(rules="retinanet-5.1.0")
POINTS = {
    256: 4,
    320: 4.11,
    512: 5,
    768: 5,
    1024: 6,
    1280: 6.67,
    2048: 7.89,
    2560: 8.64,
    4096: 15.15,
}
# Points that a round did not have yet.
LATER = {
    "2.0.0": {320, 768, 1024, 1280, 2048, 2560},
    "2.1.0": {320, 768, 1024, 2560},
    "3.0.0": {320, 2560},
    "3.1.0": {2560},
}


@pytest.mark.parametrize("name", RETINANET.rules)
def test_convergence_points_are_mlperfs(name):
    points = dict(plan.convergence_points(RULES[name]))
    wanted = {
        batch: epochs
        for batch, epochs in POINTS.items()
        if batch not in LATER.get(RULES[name].ruleset, ())
    }
    assert list(points) == list(wanted)
    assert list(points.values()) == pytest.approx(list(wanted.values()), abs=0.005)


@pytest.mark.parametrize(
    "batch, epochs", [(96, 4), (240, 4), (256, 4), (640, 5), (896, 5.5), (4096, 197 / 13)]
)
def test_epochs_at_and_between_the_points(batch, epochs):
    assert plan.expected_epochs(RETINANET, batch)[0] == pytest.approx(epochs)


def test_epochs_come_from_the_runs_rules():
    """2.0.0 has no points between 512 and 4,096."""
    at_5 = plan.make_plan(OPEN_IMAGES.with_values(batch_size=16), 8, 8)
    at_2 = plan.make_plan(OPEN_IMAGES.with_values(batch_size=16, rules="retinanet-2.0.0"), 8, 8)
    assert at_5["expected_epochs"] == 6
    assert at_2["expected_epochs"] == pytest.approx(np.interp(1024, [512, 4096], [5, 197 / 13]))


def test_epochs_agree_with_published_results():
    rows = {row["system"]: row for row in plan.check_published(RETINANET)}
    assert len(rows) == len(RETINANET.results) == 23
    wrong = {
        name: row["epochs_error"] for name, row in rows.items() if abs(row["epochs_error"]) > 6
    }
    # Below the first point two took one more epoch, and TensorFlow on TPUs one more than the point.
    assert wrong == {
        "v2.0 Fujitsu GX, 8 x A100": pytest.approx(-20),
        "v2.1 Fujitsu GX, 8 x A100": pytest.approx(-20),
        "v2.0 Google, 2,048 x TPU v4": pytest.approx(-12.3, abs=0.1),
    }


def test_minutes_agree_with_published_results_of_known_rate():
    rows = plan.check_published(RETINANET)
    assert {
        row["system"]: round(row["minutes_error"], 1) for row in rows if row["rate_of_its_own"]
    } == {"v3.0 NVIDIA DGX H100, 8 GPUs": 0, "v3.0 Fujitsu PRIMERGY, 10 x A100 PCIe": 2}
    for row, result in zip(rows, RETINANET.results):
        if result.nodes == 1 and result.batch >= 32 and row["expected_minutes"]:
            assert abs(row["minutes_error"]) < 6.5, row["system"]
        elif row["expected_minutes"] and not row["rate_of_its_own"]:
            # Smaller batches and more machines: slower than the rate of the GPUs.
            assert row["minutes_error"] < -25, row["system"]
        assert (row["expected_minutes"] is None) == (row["images_per_second"] is None)


def test_check_prints_every_row(capsys):
    assert command("--check", "--benchmark", "retinanet") == 0
    lines = capsys.readouterr().out.splitlines()
    for row in plan.check_published(RETINANET):
        line = next(line for line in lines if line.startswith(row["system"] + " "))
        assert f"{row['epochs_error']:+.1f}%" in line and f"{row['published_minutes']:.3f}" in line
        if row["expected_minutes"]:
            assert line.endswith(
                f"{row['minutes_error']:+.1f}%" + "*" * (not row["rate_of_its_own"])
            )
        else:
            assert "  -  " in line and line.endswith(f"{row['published_minutes']:.3f}")


def test_the_numbers_of_one_dgx(capsys):
    found = planned(capsys, "--benchmark", "retinanet", "--gpus", 8)
    assert (
        found["config"] == "config_DGXA100_001x08x032_retinanet.sh"
        and found["recipe"] == OPEN_IMAGES.recipe
    )
    assert (found["global_batch"], found["steps_per_epoch"], found["warmup_steps"]) == (
        256,
        4571,
        4571,
    )
    assert (
        found["peak_learning_rate"] == 1e-4
        and found["weight_decay"] == 0
        and found["decay_epochs"] == []
    )
    assert found["expected_epochs"] == found["evaluations"] == 4 and found["max_epochs"] == 8
    assert found["expected_minutes"] == pytest.approx(84.4) and found["published_minutes"] == 84.4
    assert found["gradient_bytes"] == 2 * 36849004 and found["storage_bytes"] == 352e9
    assert found["file_bytes_per_image"] == pytest.approx(294540, abs=1)


def test_the_numbers_of_fujitsus_system(capsys):
    found = planned(capsys, "--benchmark", "retinanet", "--gpus", 10)
    assert found["config"] == "config_PG_retinanet.sh" and found["published_minutes"] == 73.2
    assert (found["global_batch"], found["steps_per_epoch"], found["warmup_steps"]) == (
        240,
        4876,
        0,
    )
    assert found["images_per_second"] == 1110
    seconds = (4 * 1170301 + 4 * 24781 * RETINANET.evaluation_cost) / 1110
    assert found["expected_minutes"] == pytest.approx(seconds / 60)


def test_the_printed_lines(capsys):
    assert command("--recipe", OPEN_IMAGES.recipe, "--nodes", 8, "--gpus", 8, "--batch", 8) == 0
    shown = capsys.readouterr().out
    for text in (
        "0.0001 at its peak (independent of the batch)",
        "1 epochs, 2,285 steps",
        "never",
        "5.0 of at most 8",
        "from its 14.46 minutes",
        "147 MB a step",
        "352 GB",
        "14.6 million",
        "DGX H100",
        "config_DGXA100_008x08x008_retinanet.sh is for this system; as --recipe is given",
    ):
        assert text in shown, text
    assert "BatchNorm" not in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--nodes", 32, "--gpus", 8], "global batch 8192: .* from 96 .* to 4096"),
        (["--gpus", 1, "--batch", 32], "global batch 32"),
        (["--gpus", 8, "--epochs", 3], "--epochs 3: .* 4.0 epochs"),
        (["--gpus", 8, "--image-size", 640], "image_size 640: .* for 800"),
        (
            ["--gpus", 8, "--recipe", "ssd-resnet34-coco"],
            "--benchmark retinanet: needs the rules retinanet-2.0.0 to -5.1.0, but those of recipe "
            "ssd-resnet34-coco are ssd-1.1.0",
        ),
        (["--gpus", 8, "--recipe", "retinanet-resnext50-coco"], "are none"),
    ],
)
def test_unsupported_plans_are_refused_in_one_line(capsys, arguments, message):
    assert command("--benchmark", "retinanet", *arguments) == 2
    streams = capsys.readouterr()
    assert not streams.out and len(streams.err.splitlines()) == 1
    assert re.search(message, streams.err)


def test_a_recipe_without_rules_is_refused():
    with pytest.raises(UserError, match="run.rules none"):
        plan.make_plan(OPEN_IMAGES.with_values(rules="none"), 1, 8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parameters_are_those_of_the_network(layout, dtype):
    from ssd.model.detector import build_detector

    config = OPEN_IMAGES.with_values(layout=layout, dtype=dtype)
    found = [
        parameter
        for parameter in build_detector(config).network.collect_params().values()
        if parameter.grad_req != "null"
    ]
    assert len(found) == 78
    counts = [
        sum(math.prod(parameter.shape) for parameter in found if np.dtype(parameter.dtype) == kind)
        for kind in ((dtype, "float32") if dtype == "float16" else ("float32", "float16"))
    ]
    assert RETINANET.parameters[layout, dtype] == tuple(counts)


def test_configs_are_found_by_their_recipe():
    assert {config.name for config in plan_command.system_configs(OPEN_IMAGES.recipe)} >= {
        result.config for result in RETINANET.results if result.config
    }
