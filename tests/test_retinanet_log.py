"""RetinaNet's logs of all rounds against the official compliance checker, and what keeps a run from
the closed division."""

from __future__ import annotations

import ast
import json
import os

import pytest
import yaml
from mlperf_logging import compliance_checker
from mlperf_logging.compliance_checker import mlp_compliance

from ssd.config import load_recipe
from ssd.mlperf import MLPerfLog, check_log, departures, division_of
from ssd.rules import RULES
from ssd.training import setup
from ssd.training.schedule import build_schedule

BENCHMARK = load_recipe("retinanet-resnext50-openimages").with_values(
    rules="retinanet-5.1.0", pretrained_backbone="resnext50_32x4d.onnx"
)
ROUNDS = [name for name in RULES if name.startswith("retinanet-")]
TRAIN, VAL = 1170301, 24781
# By dropping one key at a time, and the same in logs of real submissions.
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


def wanted_tensors():
    """The 89 names, from the text of the rule of 2.0.0: sorted(...) == sorted([ names ])."""
    path = os.path.join(
        os.path.dirname(compliance_checker.__file__), "training_2.0.0", "closed_ssd.yaml"
    )
    with open(path) as file:
        rules = yaml.load(file, Loader=yaml.BaseLoader)
    check = next(rule["END"]["CHECK"] for rule in rules if "END" in rule)
    return ast.literal_eval(check[check.rindex("sorted(") + len("sorted(") : check.rindex(")")])


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
    """In this process: one for each of the many logs would take long."""
    ruleset = RULES[name].ruleset
    checker = mlp_compliance.make_checker("training", ruleset, False, False)
    try:
        return mlp_compliance.main(str(path), f"training_{ruleset}/common.yaml", checker)[0]
    except FileNotFoundError as error:  # how it takes a benchmark that the round does not have
        assert "closed_" in str(error)
        return False


def parsed(path):
    return [json.loads(line[len(":::MLLOG ") :]) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ROUNDS)
def test_a_whole_log_is_accepted(tmp_path, name, network):
    verdict, words = check_log(written(tmp_path / "log", name, network), RULES[name].ruleset)
    assert verdict and "WARNING" not in words, words


@pytest.mark.parametrize("name", ROUNDS)
def test_what_a_round_needs_and_what_not(tmp_path, name, network):
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
def test_the_target_decides_and_the_name(tmp_path, name, network):
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
    assert len(names) == 89 and sorted(names) == sorted(wanted_tensors())
    less = tmp_path / "less"
    whole = written(tmp_path / "log", "retinanet-2.1.0", network).read_text()
    less.write_text("".join(line for line in whole.splitlines(True) if f'"{names[0]}"' not in line))
    assert len(less.read_text().splitlines()) == len(whole.splitlines()) - 1
    assert not accepted(less, "retinanet-2.1.0")


# ---- the closed division


@pytest.mark.parametrize(
    "values, words",
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
        (dict(weight_decay=1e-4), ["training.weight_decay 0.0001 but 0.0"]),
        (
            dict(adam_betas=(0.9, 0.99), adam_epsilon=1e-7),
            [
                "training.adam_betas [0.9, 0.99] but [0.9, 0.999]",
                "training.adam_epsilon 1e-07 but 1e-08",
            ],
        ),
        (dict(frozen_stages=0), ["model.frozen_stages 0 but 2"]),
        (dict(target=0.3), ["evaluation.target 0.3 but 0.34"]),
        (dict(eval_every=2), ["evaluation.eval_every 2 but 1"]),
        (dict(image_size=640), ["model.image_size 640 but 800"]),
        (dict(flip_probability=0), ["augmentation.flip_probability 0.0 but 0.5"]),
        (dict(warmup_epochs=0.5), ["training.warmup_epochs 0.5 but a whole number"]),
        (
            dict(pretrained_backbone=""),
            ["random weights but run.pretrained_backbone to begin with"],
        ),
        (dict(weights="best.params"), ["run.weights but those of the backbone to begin with"]),
    ],
)
def test_what_leaves_the_closed_division(values, words):
    assert departures(BENCHMARK.with_values(**values)) == words


def test_the_small_network_leaves_it_and_ssd_keeps_its_word():
    found = departures(
        load_recipe("retinanet-resnext50-shapes").with_values(rules="retinanet-5.1.0")
    )
    for name in ("model.frozen_stages", "model.batch_norm", "model.width", "random weights"):
        assert any(words.startswith(name) for words in found), found
    assert (
        departures(load_recipe("ssd-resnet34-shapes"))
        == departures(load_recipe("ssd-resnet34-own"))
        == []
    )


def test_the_division_that_a_log_names():
    other = BENCHMARK.with_values(weight_decay=1e-4)
    assert division_of(BENCHMARK, False) == ("closed", "")
    assert division_of(BENCHMARK.with_values(submission_division="open"), False) == ("open", "")
    assert division_of(BENCHMARK, True) == division_of(other, True) == ("open", "")
    assert division_of(other.with_values(submission_division="open"), False) == ("open", "")
    assert division_of(other, False) == (
        "open",
        "MLPerf log: open division, as the closed one of retinanet-5.1.0 has not "
        "training.weight_decay 0.0001 but 0.0",
    )
    ssd = load_recipe("ssd-resnet34-shapes")
    assert division_of(ssd, False) == ("closed", "")
    assert division_of(ssd.with_values(fine_tune=True), False) == ("open", "")


@pytest.mark.parametrize("name", ROUNDS)
def test_the_open_division_asks_for_no_target(tmp_path, name, network):
    config = BENCHMARK.with_values(weight_decay=1e-4)
    assert accepted(
        written(tmp_path / "open", name, network, config, accuracy=0.1, division="open"), name
    )
    assert not accepted(written(tmp_path / "closed", name, network, config), name)
