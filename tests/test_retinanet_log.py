"""RetinaNet's logs for all rounds, checked by the official compliance checker, and the settings
that the closed division does not allow."""

from __future__ import annotations

import json

import pytest
from mlperf_logging.compliance_checker import mlp_compliance

from ssd.config import load_recipe
from ssd.mlperf import MLPerfLog, check_log, departures, division_of
from ssd.rules import RULES
from ssd.training import setup
from ssd.training.schedule import build_schedule
from tests.mlperf_values import tensor_names

BENCHMARK = load_recipe("retinanet-resnext50-openimages").with_values(
    rules="retinanet-5.1.0", pretrained_backbone="resnext50_32x4d.onnx"
)
ROUNDS = [name for name in RULES if name.startswith("retinanet-")]
TRAIN, VAL = 1170301, 24781
# Found by dropping one key at a time, in our logs and in those of real submissions.
NEEDED = {
    "submission_division",
    "submission_benchmark",
    "cache_clear",
    "init_start",
    "init_stop",
    "run_start",
    "run_stop",
    "epoch_start",
    "epoch_stop",
    "eval_start",
    "eval_stop",
    "eval_accuracy",
    *RULES["retinanet-5.1.0"].hyperparameters,
}
NOT_ALWAYS = {
    "submission_org": "2.0.0 2.1.0 3.0.0 3.1.0 4.0.0 4.1.0 5.1.0",
    "submission_platform": "2.0.0 2.1.0 3.0.0 3.1.0 4.0.0 4.1.0 5.1.0",
    "submission_status": "2.0.0 2.1.0 3.0.0 3.1.0 4.0.0",
    "weights_initialization": "2.0.0 2.1.0",
    "seed": "",
    "eval_result": "",
}


@pytest.fixture(scope="module")
def network():
    from ssd.model.detector import build_detector

    return build_detector(BENCHMARK).network


def written(path, name, network, config=BENCHMARK, accuracy=0.3421, division="closed"):
    """The log of a run of four epochs at global batch 256, as training writes it."""
    with MLPerfLog(path, enabled=True, rules=RULES[name]) as log:
        log.submission("An organisation", "a machine", division, "onprem")
        log.cache_clear(True)
        log.init_start()
        log.seed(7)
        setup.log_hyperparameters(
            log, config, build_schedule(config.training, 256, TRAIN), network, TRAIN, VAL, 256
        )
        log.init_stop()
        log.run_start()
        for epoch in range(1, 5):
            log.epoch_start(epoch)
            log.epoch_stop(epoch)
            log.eval_start(epoch)
            log.eval_accuracy(epoch, accuracy if epoch == 4 else 0.2, images=VAL, objects=190000)
            log.eval_result(epoch, {"AP": 0.2, "images": VAL, "objects": 190000})
            log.eval_stop(epoch)
        log.run_stop("success")
    return path


def accepted(path, name):
    """Whether the checker accepts a log. In this process: one process per log would take too
    long."""
    ruleset = RULES[name].ruleset
    checker = mlp_compliance.make_checker("training", ruleset, False, False)
    try:
        return mlp_compliance.main(str(path), f"training_{ruleset}/common.yaml", checker)[0]
    except FileNotFoundError as error:  # raised for a benchmark that the round does not have
        assert "closed_" in str(error)
        return False


def parsed(path):
    return [json.loads(line[len(":::MLLOG ") :]) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ROUNDS)
def test_a_complete_log_is_accepted(tmp_path, name, network):
    success, output = check_log(written(tmp_path / "log", name, network), RULES[name].ruleset)
    assert success and "WARNING" not in output, output


@pytest.mark.parametrize("name", ROUNDS)
def test_the_keys_that_a_round_requires(tmp_path, name, network):
    path = written(tmp_path / "log", name, network)
    lines = path.read_text().splitlines(True)
    keys = {event["key"] for event in parsed(path)}
    assert keys == NEEDED | set(NOT_ALWAYS)
    for key in sorted(keys):
        (tmp_path / "less").write_text(
            "".join(line for line in lines if f'"key": "{key}"' not in line)
        )
        needed = key in NEEDED or RULES[name].ruleset in NOT_ALWAYS[key].split()
        assert accepted(tmp_path / "less", name) is not needed, key


@pytest.mark.parametrize("name", ROUNDS)
def test_target_and_benchmark_are_checked(tmp_path, name, network):
    assert not accepted(written(tmp_path / "missed", name, network, accuracy=0.3399), name)
    assert accepted(written(tmp_path / "reached", name, network, accuracy=0.34), name)
    other = {"ssd": "retinanet-5.1.0", "retinanet": "retinanet-4.1.0"}[RULES[name].benchmark]
    assert not accepted(written(tmp_path / "other", other, network), name)


def test_values_are_those_of_the_run(tmp_path, network):
    events = parsed(written(tmp_path / "log", "retinanet-5.1.0", network))
    values = {event["key"]: event["value"] for event in events}
    assert {key: values[key] for key in RULES["retinanet-5.1.0"].hyperparameters} == dict(
        train_samples=TRAIN,
        eval_samples=VAL,
        global_batch_size=256,
        gradient_accumulation_steps=1,
        opt_name="adam",
        opt_base_learning_rate=1e-4,
        opt_weight_decay=0,
        opt_learning_rate_warmup_epochs=1,
        opt_learning_rate_warmup_factor=1e-3,
    )
    for key in ("epoch_start", "epoch_stop", "eval_start", "eval_stop", "eval_accuracy"):
        assert [event["metadata"]["epoch_num"] for event in events if event["key"] == key] == [
            1,
            2,
            3,
            4,
        ]


def test_the_tensors_are_the_89_of_the_rules(tmp_path, network):
    names = setup.INITIALIZED["reference"](network)
    assert len(names) == 89 and sorted(names) == sorted(tensor_names("2.0.0"))
    less = tmp_path / "less"
    lines = written(tmp_path / "log", "retinanet-2.1.0", network).read_text().splitlines(True)
    less.write_text("".join(line for line in lines if f'"{names[0]}"' not in line))
    assert len(less.read_text().splitlines()) == len(lines) - 1
    assert not accepted(less, "retinanet-2.1.0")


# ---- the closed division


@pytest.mark.parametrize(
    "values, found",
    [
        ({}, []),
        (
            dict(
                batch_size=8,
                epochs=35,
                base_lr=1.45e-4,
                warmup_epochs=0,
                warmup_factor=0.1,
                layout="NHWC",
                dtype="float16",
                eval_batch_size=5,
                decode="gpu",
                data_dir="/data",
                check_images="header",
                loss_scale=1024,
            ),
            [],
        ),
        (dict(weight_decay=1e-4), ["training.weight_decay 0.0, not 0.0001"]),
        (
            dict(adam_betas=(0.9, 0.99), adam_epsilon=1e-7),
            [
                "training.adam_betas [0.9, 0.999], not [0.9, 0.99]",
                "training.adam_epsilon 1e-08, not 1e-07",
            ],
        ),
        (dict(frozen_stages=0), ["model.frozen_stages 2, not 0"]),
        (dict(target=0.3), ["evaluation.target 0.34, not 0.3"]),
        (dict(eval_every=2), ["evaluation.eval_every 1, not 2"]),
        (dict(image_size=640), ["model.image_size 800, not 640"]),
        (dict(flip_probability=0), ["augmentation.flip_probability 0.5, not 0.0"]),
        (dict(warmup_epochs=0.5), ["training.warmup_epochs an integer, not 0.5"]),
        (dict(pretrained_backbone=""), ["run.pretrained_backbone, not random weights"]),
        (dict(weights="best.params"), ["run.pretrained_backbone, not run.weights"]),
    ],
)
def test_settings_that_the_closed_division_does_not_allow(values, found):
    assert departures(BENCHMARK.with_values(**values)) == found


def test_the_small_network_is_for_the_open_division():
    found = departures(
        load_recipe("retinanet-resnext50-shapes").with_values(rules="retinanet-5.1.0")
    )
    for name in (
        "model.frozen_stages",
        "model.batch_norm",
        "model.width",
        "run.pretrained_backbone",
    ):
        assert any(text.startswith(name) for text in found), found
    assert (
        departures(load_recipe("ssd-resnet34-shapes"))
        == departures(load_recipe("ssd-resnet34-own"))
        == []
    )


def test_the_division_of_a_log():
    other = BENCHMARK.with_values(weight_decay=1e-4)
    assert division_of(BENCHMARK, False) == ("closed", "")
    assert division_of(BENCHMARK.with_values(submission_division="open"), False) == ("open", "")
    assert division_of(BENCHMARK, True) == division_of(other, True) == ("open", "")
    assert division_of(other.with_values(submission_division="open"), False) == ("open", "")
    assert division_of(other, False) == (
        "open",
        "MLPerf log: open division, since the closed one of retinanet-5.1.0 requires "
        "training.weight_decay 0.0, not 0.0001",
    )
    ssd = load_recipe("ssd-resnet34-shapes")
    assert division_of(ssd, False) == ("closed", "")
    assert division_of(ssd.with_values(fine_tune=True), False) == ("open", "")


@pytest.mark.parametrize("name", ROUNDS)
def test_the_open_division_requires_no_target(tmp_path, name, network):
    config = BENCHMARK.with_values(weight_decay=1e-4)
    assert accepted(
        written(tmp_path / "open", name, network, config, accuracy=0.1, division="open"), name
    )
    assert not accepted(written(tmp_path / "closed", name, network, config), name)
