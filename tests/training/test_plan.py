"""`python -m ssd plan`: its arithmetic compared with the network, the loaders' rules and published
results."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from ssd.commands import plan as plan_command
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.rules import RULES
from ssd.training import plan
from ssd.training.mlperf_results import BENCHMARKS, SSD
from tests.training.plans import command, planned

COCO = load_recipe("ssd-resnet34-coco")


# ---- epochs


def test_convergence_points_are_mlperfs():
    points = plan.convergence_points(RULES["ssd-1.1.0"])
    assert [batch for batch, _ in points] == [1024, 1536, 2048, 4096]
    assert [round(epochs) for _, epochs in points] == [50, 55, 65, 87]
    # 37 runs at 4,096 without the smallest and the largest: 21 of 85 and 14 of 90 epochs.
    assert points[3][1] == pytest.approx((21 * 85 + 14 * 90) / 35)


@pytest.mark.parametrize(
    "batch, epochs", [(456, 50), (912, 50), (1024, 50), (1280, 52.5), (1536, 55)]
)
def test_epochs_between_the_points(batch, epochs):
    assert plan.expected_epochs(SSD, batch)[0] == pytest.approx(epochs)


def test_epochs_rise_with_the_batch_and_name_their_source():
    epochs = [plan.expected_epochs(SSD, batch)[0] for batch in range(456, 4097, 8)]
    assert epochs == sorted(epochs)
    assert "at 1024 and 1536" in plan.expected_epochs(SSD, 1280)[1]
    assert "at 2048 and 4096" in plan.expected_epochs(SSD, 3072)[1]


@pytest.mark.parametrize("batch", [1, 32, 455, 4097, 8192])
def test_a_batch_without_published_results_is_refused(batch):
    with pytest.raises(UserError, match=f"global batch {batch}: .* from 456 .* to 4096"):
        plan.expected_epochs(SSD, batch)


# ---- the published results


def test_plans_agree_with_published_results():
    rows = plan.check_published(SSD)
    assert [row["global_batch"] for row in rows] == [456, 912, 1536, 3072]
    assert [row["published_minutes"] for row in rows] == [20.92, 8.26, 1.52, 0.454]
    assert max(abs(row["epochs_error"]) for row in rows) < 3
    # At 128 nodes a run takes 27 s, including a start-up that the plan does not count.
    assert [abs(row["minutes_error"]) < limit for row, limit in zip(rows, (1, 1, 5, 11))] == [
        True
    ] * 4


def test_check_prints_every_row(capsys):
    assert command("--check") == 0
    shown = capsys.readouterr().out
    for result, row in zip(SSD.results, plan.check_published(SSD)):
        line = next(line for line in shown.splitlines() if line.startswith(result.name))
        assert f"{result.minutes:.3f}" in line and f"{row['epochs_error']:+.1f}%" in line
        assert f"{row['minutes_error']:+.1f}%" in line
    assert command("--check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == plan.check_published(SSD)


def test_published_results_are_those_of_the_configs(capsys):
    configs = {config.name: config for config in plan_command.system_configs()}
    assert set(configs) == {result.config for result in SSD.results}
    for result in SSD.results:
        config = configs[result.config]
        assert (config.nodes, config.gpus, config.batch) == (
            result.nodes,
            result.gpus,
            result.batch,
        )
        found = planned(capsys, "--nodes", result.nodes, "--gpus", result.gpus)
        assert found["config"] == result.config and found["published_minutes"] == result.minutes
        assert found["global_batch"] == result.global_batch
        assert found["images_per_second"] == pytest.approx(result.images_per_second)
        # Our training stops as soon as the score is known, theirs at the end of the epoch.
        assert 0.8 * result.minutes < found["expected_minutes"] < result.minutes


# ---- one system


def test_the_numbers_of_config_pg(capsys):
    found = planned(capsys, "--nodes", 1, "--gpus", 4)
    assert found["batch_size"] == 114
    assert found["peak_learning_rate"] == pytest.approx(0.04498725)  # as in the published log
    assert found["weight_decay"] == 1.3e-4
    assert found["steps_per_epoch"] == 257 and found["warmup_steps"] == int(3 * 117266 / 456)
    assert found["decay_epochs"] == [44, 55] and found["decay_steps"] == [44 * 257, 55 * 257]
    assert found["expected_steps"] == 50 * 257 and found["evaluations"] == 10
    assert found["gradient_bytes"] == 2 * 20016520 + 4 * 9856
    assert found["allreduce_bytes_per_gpu_and_step"] == pytest.approx(1.5 * found["gradient_bytes"])
    assert found["allreduce_bytes_per_gpu_and_second"] == pytest.approx(
        1.5 * found["gradient_bytes"] * 4833 / 456
    )
    assert found["host_memory_per_node"] == 4 * found["host_memory_per_rank"]


def test_flags_override_the_config(capsys):
    found = planned(
        capsys,
        "--gpus",
        4,
        "--batch",
        114,
        "--base-lr",
        "0.002",
        "--dtype",
        "float32",
        "--layout",
        "NCHW",
    )
    assert (
        found["config"] == "config_PG.sh"
        and found["warmup_epochs"] == 3
        and found["weight_decay"] == 1.3e-4
    )
    assert found["peak_learning_rate"] == pytest.approx(0.002 * 456 / 32)
    assert found["gradient_bytes"] == 4 * (19962678 + 9856)


def test_a_recipe_replaces_the_config(capsys):
    found = planned(capsys, "--gpus", 4, "--batch", 114, "--recipe", "ssd-resnet34-coco")
    assert found["weight_decay"] == 5e-4
    assert any("config_PG.sh" in note and "not used" in note for note in found["notes"])


def test_a_system_without_a_config_names_the_nearest(capsys):
    found = planned(capsys, "--nodes", 2, "--gpus", 8, "--batch", 64)
    assert found["config"] is None and found["batch_size"] == 64
    assert any("config_DGXA100_001x08x114.sh is nearest (912)" in note for note in found["notes"])
    assert not any("BatchNorm" in note for note in found["notes"]), (
        "published runs had 24 images together"
    )


def test_a_config_joins_gpus_as_the_published_runs_did(capsys):
    found = planned(capsys, "--nodes", 128, "--gpus", 8)
    assert (found["batch_size"], found["batch_norm_span"]) == (3, 24)
    assert not any("BatchNorm" in note for note in found["notes"])
    alone = planned(capsys, "--nodes", 128, "--gpus", 8, "--batch-norm-ranks", 1)
    assert any(
        "BatchNorm sees 3 images together; published runs had at least 24" in note
        for note in alone["notes"]
    )
    assert command("--nodes", 8, "--gpus", 8) == 0
    assert "batch 24 each, BatchNorm over 48" in capsys.readouterr().out
    assert command("--nodes", 1, "--gpus", 9, "--batch", 114, "--batch-norm-ranks", 2) == 2
    assert (
        "--batch-norm-ranks 2: 9 ranks cannot be divided into groups of 2"
        in capsys.readouterr().err
    )


def test_a_stated_throughput_gives_the_minutes(capsys):
    slow = planned(capsys, "--gpus", 4, "--images-per-second", 1000)
    fast = planned(capsys, "--gpus", 4, "--images-per-second", 2000)
    last_score = SSD.score_seconds / 60
    assert (slow["expected_minutes"] - last_score) == pytest.approx(
        2 * (fast["expected_minutes"] - last_score)
    )
    assert slow["expected_minutes"] > 50 * 117266 / 1000 / 60
    assert slow["read_bytes_per_second"] == pytest.approx(1000 * slow["file_bytes_per_image"])
    assert slow["images_per_second_source"] == "--images-per-second"


def test_a_cache_does_not_save_all_the_reading(capsys):
    """DALI's reader still opens every file."""
    for megabytes, cached in (
        (22000, 22000 * 2**20 * 4 / (117266 * 640 * 480 * 3)),
        (10**6, 1),
        (0, 0),
    ):
        found = planned(capsys, "--gpus", 4, "--decode", "cache", "--cache-size", megabytes)
        assert found["cached_share"] == pytest.approx(cached)
        assert found["read_share_after_first_epoch"] == pytest.approx(1 - cached + 0.6 * cached)
    assert command("--gpus", 4) == 0
    assert (
        "after epoch 1, 66% of that, in as many files (cache, of 85% of the images)"
        in capsys.readouterr().out
    )


def test_the_table_holds_the_numbers(capsys):
    assert command("--gpus", 4) == 0
    shown = capsys.readouterr().out
    for text in (
        "0.0449872 at its peak",
        "3 epochs, 771 steps",
        "44 (step 11,308), 55 (step 14,135)",
        "config_PG.sh",
        "50.0 of at most 65 (12,850 steps)",
        "4,833 images/s: the published rate",
        "20.5 (published: 20.92)",
        "40.1 MB a step; each GPU sends 60.1 MB",
        "163 kB an image, 790 MB/s",
    ):
        assert text in shown, text


def test_one_gpu_sends_nothing():
    found = plan.make_plan(COCO.with_values(batch_size=512), 1, 1)
    assert found["allreduce_bytes_per_gpu_and_step"] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--nodes", 1], "--gpus"),
        (["--gpus", 0, "--batch", 456], "--gpus 0: must be at least 1"),
        (["--nodes", -1, "--gpus", 4], "--nodes -1: must be at least 1"),
        (["--gpus", 1], "global batch 32: .* from 456"),
        (["--nodes", 64, "--gpus", 8, "--batch", 9], "global batch 4608"),
        (["--nodes", 1000, "--gpus", 200, "--batch", 1], "200000 images a step, COCO has 117266"),
        (["--gpus", 4, "--epochs", 49], "--epochs 49: .* 50.0 epochs"),
        (["--nodes", 64, "--gpus", 8, "--batch", 6], "--epochs 65: .* 76.0 epochs"),
        (["--gpus", 4, "--images-per-second", 0], "--images-per-second 0.0: must be above 0"),
        (["--gpus", 4, "--images-per-second", "nan"], "--images-per-second nan"),
        (["--gpus", 4, "--batch", "many"], "many"),
        (
            ["--gpus", 4, "--recipe", "ssd-resnet34-shapes", "--batch", 128],
            "width 0.25: .* for 1.0",
        ),
        (["--gpus", 4, "--num-classes", 4], "num_classes 4: .* for 81"),
        (["--gpus", 4, "--target", 0.3], "target 0.3: .* for 0.23"),
        (["--gpus", 4, "--recipe", "no-such"], "no recipe 'no-such'"),
    ],
)
def test_unsupported_plans_are_refused_in_one_line(capsys, arguments, message):
    assert command(*arguments) == 2
    streams = capsys.readouterr()
    assert not streams.out and len(streams.err.splitlines()) == 1
    assert re.search(message, streams.err)


# ---- constants


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parameters_are_those_of_the_network(layout, dtype):
    from ssd.model.detector import build_detector

    config = COCO.with_values(layout=layout, dtype=dtype)
    convolutions = batch_norm = total = 0
    for name, parameter in build_detector(config).network.collect_params().items():
        if parameter.grad_req != "null":
            count = math.prod(parameter.shape)
            total += count * np.dtype(parameter.dtype).itemsize
            if "batchnorm" in name:
                batch_norm += count
            else:
                convolutions += count
    assert SSD.parameters[layout, dtype] == (convolutions, batch_norm)
    assert plan.gradient_bytes(SSD, config) == total


def test_the_shuffle_buffer_is_the_graphs():
    from ssd.data.graphs import CACHE_SHUFFLE_BUFFER

    assert plan.CACHE_SHUFFLE_BUFFER == CACHE_SHUFFLE_BUFFER


def test_bytes_of_annotations_are_those_of_the_arrays():
    """Per image and per box, from the sizes of the arrays of several data sets."""
    from ssd.data.samples import SampleMaker
    from ssd.datasets.coco import CocoDataset

    def total_bytes(images, boxes):
        data = CocoDataset(
            "a",
            "b",
            np.arange(images),
            tuple(f"{index:012d}.jpg" for index in range(images)),
            np.full((images, 2), 300),
            (1,),
            ("x",),
            np.tile([1.0, 1, 200, 200], (boxes, 1)),
            np.ones(boxes, np.int64),
            np.zeros(boxes, bool),
            np.sort(np.arange(boxes) % images),
        )
        made = vars(SampleMaker(COCO, data, 0))
        arrays = [
            value
            for values in (vars(data), made)
            for value in values.values()
            if isinstance(value, np.ndarray)
        ]
        names = sum(8 + sys.getsizeof(name) for name in data.file_names)
        orders = 2 * 8 * images  # indices of images with boxes, and their order in the epoch
        return sum(array.nbytes for array in arrays) + names + orders

    small, more_images, more_boxes = (
        total_bytes(1000, 3000),
        total_bytes(2000, 3000),
        total_bytes(1000, 5000),
    )
    assert (more_images - small) / 1000 == pytest.approx(plan.BYTES_PER_IMAGE, rel=0.05)
    assert (more_boxes - small) / 2000 == plan.BYTES_PER_BOX


def test_memory_of_all_decoders():
    """The shuffle buffer holds files, and never more than a rank's share of them."""
    base = COCO.with_values(batch_size=24, cache_size=100)
    on_gpu = plan.host_memory(SSD, base.with_values(decode="gpu"), 64)
    on_cpu = plan.host_memory(SSD, base.with_values(decode="cpu"), 64)
    assert on_cpu - on_gpu == pytest.approx(2 * 24 * SSD.decoded_bytes)
    for ranks, images in ((4, 4096), (64, 117266 // 64), (1024, 117266 // 1024)):
        held = plan.host_memory(SSD, base.with_values(decode="cache"), ranks) - on_gpu
        assert held == pytest.approx(images * SSD.file_bytes)


def test_every_checked_rule_set_has_a_benchmark():
    assert sorted(name for benchmark in BENCHMARKS.values() for name in benchmark.rules) == sorted(
        name for name, rules in RULES.items() if rules.ruleset
    )


def test_importing_needs_no_mxnet():
    code = "import sys, ssd.training.plan, ssd.commands.plan; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
