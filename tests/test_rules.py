"""Rule sets: the table, the setting that selects a row, and logs that follow it."""

from __future__ import annotations

import dataclasses
import json
import os
import typing

import mlperf_logging
import pytest
import yaml
from mlperf_logging import benchmark_meta

from ssd.config import SETTINGS, apply_values, load_recipe, to_yaml
from ssd.errors import UserError
from ssd.mlperf import MLPerfLog, check_log
from ssd.report.run_parts import read_run_parts
from ssd.rules import DEFAULT_RULES, RULES
from ssd.submission import read_trial
from ssd.training import setup
from ssd.training.plan import convergence_points, make_plan
from ssd.training.schedule import build_schedule
from tests.mlperf_values import HYPERPARAMETERS, parsed, tensor_names, write_run

SSD = RULES["ssd-1.1.0"]
CHECKED = [name for name, rules in RULES.items() if rules.ruleset]


class Network:
    """119 trained tensors and one that is not trained."""

    class Tensor(typing.NamedTuple):
        grad_req: str

    def collect_params(self):
        return dict(
            {name: self.Tensor("write") for name in tensor_names()},
            running_mean=self.Tensor("null"),
        )


def written(path, config, rules):
    """The log of a run of one epoch with the settings `config`, as training writes it."""
    with MLPerfLog(path, enabled=True, rules=rules) as log:
        log.submission("o", "p", "closed", "onprem")
        log.cache_clear(True)
        log.init_start()
        log.seed(3)
        setup.log_hyperparameters(
            log, config, build_schedule(config.training, 456, 117266), Network(), 117266, 5000, 456
        )
        log.init_stop()
        log.run_start()
        log.epoch_start(1)
        log.epoch_stop(1)
        log.eval_start(1)
        log.eval_stop(1)
        log.eval_accuracy(1, 0.25)
        log.run_stop("success")
    return path


def official(name):
    """The compliance checker's rules: key -> rule."""
    folder = os.path.join(
        os.path.dirname(mlperf_logging.__file__),
        "compliance_checker",
        f"training_{RULES[name].ruleset}",
    )
    found = {}
    for file_name in ("common.yaml", "closed_common.yaml", f"closed_{RULES[name].benchmark}.yaml"):
        with open(os.path.join(folder, file_name)) as file:
            found.update(
                (rule["KEY"]["NAME"], rule["KEY"])
                for rule in yaml.load(file, Loader=yaml.BaseLoader)
                if "KEY" in rule
            )
    return found


def test_the_setting_can_select_every_row():
    assert SETTINGS["rules"][0] == "run"
    field = SETTINGS["rules"][1]
    assert (
        field.metadata["choices"] == tuple(RULES) and field.default == DEFAULT_RULES == "ssd-1.1.0"
    )


@pytest.mark.parametrize("name", CHECKED)
def test_a_row_agrees_with_the_official_checker(name):
    rules, keys = RULES[name], official(name)
    assert set(rules.hyperparameters) <= set(keys)
    assert {key for key in keys if key.startswith("opt_")} <= set(rules.hyperparameters)
    assert keys["eval_accuracy"]["ATLEAST_ONE_CHECK"].startswith(
        f"v['value'] >= {rules.target:.3f} "
    )
    assert rules.runs == benchmark_meta.get_result_file_counts("training")[rules.benchmark]
    assert rules.weights_initialization in setup.INITIALIZED
    assert convergence_points(rules)


def test_retinanets_rows_differ_only_in_their_names():
    rows = {name: rules for name, rules in RULES.items() if name.startswith("retinanet-")}
    assert list(rows) == [
        f"retinanet-{number}"
        for number in ("2.0.0", "2.1.0", "3.0.0", "3.1.0", "4.0.0", "4.1.0", "5.0.0", "5.1.0")
    ]
    assert all(name == f"retinanet-{rules.ruleset}" for name, rules in rows.items())
    assert [rules.benchmark for rules in rows.values()] == 6 * ["ssd"] + 2 * ["retinanet"]
    assert (
        len({repr(dataclasses.replace(rules, benchmark="", ruleset="")) for rules in rows.values()})
        == 1
    )


def test_recipes_and_their_rules(tmp_path):
    found = {
        name: load_recipe(name).run.rules
        for name in ("ssd-resnet34-coco", "ssd-resnet34-shapes", "ssd-resnet34-own")
    }
    assert list(found.values()) == ["ssd-1.1.0", "ssd-1.1.0", "none"]
    for name, rules in found.items():  # the copy in the folder of an older version's run
        content = yaml.safe_load(to_yaml(load_recipe(name)))
        del content["run"]["rules"]
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        assert load_recipe(str(tmp_path / "recipe.yaml")).run.rules == rules


def test_the_rules_limit_crop_attempts():
    coco, own = load_recipe("ssd-resnet34-coco"), load_recipe("ssd-resnet34-own")
    assert own.with_values(crop_attempts=7).augmentation.crop_attempts == 7
    with pytest.raises(
        UserError,
        match="flags crop_attempts: 7 is not 1 or 50, the values that the benchmark's rules "
        r"allow \(run.rules ssd-1.1.0\)",
    ):
        apply_values(coco, {"augmentation.crop_attempts": 7}, "flags")
    free = coco.with_values(crop_attempts=7, rules="none")
    with pytest.raises(UserError, match="7 is not 1 or 50"):
        free.with_values(rules="ssd-1.1.0")
    assert free.with_values(crop_attempts=50, rules="ssd-1.1.0").augmentation.crop_attempts == 50


def test_the_log_of_a_run_is_accepted(tmp_path):
    accepted, output = check_log(
        written(tmp_path / "log", load_recipe("ssd-resnet34-coco"), SSD), SSD.ruleset
    )
    assert accepted, output


def test_the_keys_are_logged_in_the_order_of_the_table(tmp_path):
    events = parsed(written(tmp_path / "log", load_recipe("ssd-resnet34-coco"), SSD).read_text())
    keys = [event["key"] for event in events if event["key"] in SSD.hyperparameters]
    assert keys == list(SSD.hyperparameters)
    for event in events:
        if event["key"] in keys:
            assert type(event["value"]) is SSD.hyperparameters[event["key"]]


@pytest.mark.parametrize("missing", list(SSD.hyperparameters))
def test_a_missing_hyperparameter_is_our_mistake(tmp_path, missing):
    values = {key: value for key, value in HYPERPARAMETERS.items() if key != missing}
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        with pytest.raises(AssertionError, match=rf"missing \['{missing}'\], unknown \[\]"):
            log.hyperparameters(**values)
    assert (tmp_path / "log").read_text() == ""


def test_an_unknown_hyperparameter_is_our_mistake(tmp_path):
    for enabled in (True, False):  # on every rank, not only the first
        with MLPerfLog(tmp_path / "log", enabled=enabled, rules=SSD) as log:
            with pytest.raises(AssertionError, match=r"missing \[\], unknown \['opt_name'\]"):
                log.hyperparameters(opt_name="adam", **HYPERPARAMETERS)
            with pytest.raises(TypeError):
                log.hyperparameters(**dict(HYPERPARAMETERS, max_samples=1.5))


def test_without_rules_the_same_events_are_written_unchecked(tmp_path):
    def events(path):
        return [(event["key"], event["value"]) for event in parsed(path.read_text())]

    own = load_recipe("ssd-resnet34-own")
    free, checked = (
        events(written(tmp_path / name, own, rules))
        for name, rules in (("none", RULES["none"]), ("ssd", SSD))
    )
    assert [event for event in free if event not in checked] == [
        ("opt_name", "sgd"),
        ("opt_learning_rate_warmup_epochs", 1),
    ]
    assert all(event in free for event in checked)
    assert ("max_samples", 7) in events(
        written(tmp_path / "7", own.with_values(crop_attempts=7), RULES["none"])
    )
    with MLPerfLog(tmp_path / "other", enabled=True, rules=RULES["none"]) as log:
        log.submission("o", "p", "closed", "onprem")
        log.hyperparameters(opt_name="adam", opt_weight_decay=0)
    assert events(tmp_path / "other")[0] == ("submission_benchmark", "ssd")
    assert events(tmp_path / "other")[-2:] == [("opt_name", "adam"), ("opt_weight_decay", 0)]


def test_a_report_uses_the_checker_of_the_runs_rules(tmp_path):
    for name, html in (
        ("ssd-resnet34-coco", '<b class="good">accepted'),
        ("ssd-resnet34-own", None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with MLPerfLog(folder / "mlperf.log", enabled=True, rules=SSD) as log:
            write_run(log)
        (folder / "recipe.yaml").write_text(to_yaml(load_recipe(name)))
        sections = read_run_parts(str(folder)).compliance
        assert [html in section.html for section in sections] == ([True] if html else [])
        assert all("rules 1.1.0" in section.html for section in sections)


def test_the_rules_of_another_detector_are_refused():
    with pytest.raises(
        UserError, match=r"detector: ssd is not retinanet, .* \(run.rules retinanet-5.1.0\)"
    ):
        load_recipe("ssd-resnet34-coco").with_values(rules="retinanet-5.1.0")
    with pytest.raises(
        UserError, match=r"detector: retinanet is not ssd, .* \(run.rules ssd-1.1.0\)"
    ):
        load_recipe("retinanet-resnext50-openimages").with_values(rules="ssd-1.1.0")


def test_a_trial_must_have_the_benchmark_and_the_keys_of_the_rules(tmp_path):
    path = written(tmp_path / "log", load_recipe("ssd-resnet34-coco"), SSD)
    trial = read_trial(path, SSD)
    assert list(trial.settings) == list(SSD.hyperparameters) and trial.accuracy == 0.25
    text = path.read_text()
    path.write_text(text.replace(json.dumps("ssd"), json.dumps("retinanet")))
    with pytest.raises(UserError, match="log: submission_benchmark is 'retinanet', not 'ssd'"):
        read_trial(path, SSD)
    path.write_text(
        "".join(line for line in text.splitlines(True) if "opt_weight_decay" not in line)
    )
    with pytest.raises(UserError, match="no opt_weight_decay in this log"):
        read_trial(path, SSD)


def test_a_plan_needs_rules_with_published_results():
    with pytest.raises(
        UserError,
        match="run.rules none: the published results are for the rules ssd-1.1.0 and "
        "retinanet-2.0.0 to -5.1.0",
    ):
        make_plan(load_recipe("ssd-resnet34-coco").with_values(rules="none", batch_size=114), 1, 4)
