"""The MLPerf log against the official compliance checker of the installed mlperf-logging."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import yaml
from mlperf_logging import compliance_checker
from mlperf_logging.compliance_checker import mlp_compliance

from ssd.errors import UserError
from ssd.mlperf import MLPerfLog, check_log
from ssd.rules import RULES
from tests.mlperf_values import HYPERPARAMETERS, STATS, parsed, tensor_names, write_run

SSD = RULES["ssd-1.1.0"]
FOLDER = os.path.join(os.path.dirname(compliance_checker.__file__), "training_1.1.0")


def written(path, **run):
    with MLPerfLog(path, enabled=True, rules=SSD) as log:
        write_run(log, **run)
    return path


def accepted(path):
    """Whether the checker accepts a log. In this process: one process per log would take too
    long."""
    checker = mlp_compliance.make_checker("training", "1.1.0", False, False)
    return mlp_compliance.main(str(path), "training_1.1.0/common.yaml", checker)[0]


def test_a_complete_log_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "logs" / "result_0.txt")
    success, output = check_log(path, "1.1.0")
    assert success and "SUCCESS" in output and "WARNING" not in output, output
    assert accepted(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["logs"]  # no file of the checker's own


def test_a_bad_log_is_not_accepted_and_the_reason_given(tmp_path):
    path = written(tmp_path / "log", names=tensor_names()[:-1])
    success, output = check_log(path, "1.1.0")
    assert not success and "FAILED" in output and "initialized_tensors" in output
    # The checker itself raises KeyError here.
    (tmp_path / "crash").write_text(':::MLLOG {"time_ms": 1}\n')
    success, output = check_log(tmp_path / "crash", "1.1.0")
    assert not success and "KeyError" in output
    success, output = check_log(path, ruleset="9.9.9")
    assert not success and "invalid choice" in output
    with pytest.raises(UserError, match="absent: no such log"):
        check_log(tmp_path / "absent", "1.1.0")


ONCE = [
    "submission_org",
    "submission_platform",
    "submission_division",
    "submission_status",
    "submission_benchmark",
    "init_stop",
    "run_start",
    "run_stop",
] + list(HYPERPARAMETERS)
AT_LEAST_ONCE = [
    "cache_clear",
    "init_start",
    "eval_start",
    "eval_stop",
    "eval_accuracy",
    "epoch_start",
    "epoch_stop",
    "weights_initialization",
]


@pytest.mark.parametrize("key", ONCE + AT_LEAST_ONCE)
def test_a_log_without_a_required_key_fails(tmp_path, key):
    lines = written(tmp_path / "log").read_text().splitlines(True)
    kept = [line for line in lines if f'"key": "{key}"' not in line]
    assert len(kept) < len(lines)
    (tmp_path / "less").write_text("".join(kept))
    assert not accepted(tmp_path / "less")


def test_every_key_of_the_rules_is_written(tmp_path):
    keys = {event["key"] for event in parsed(written(tmp_path / "log").read_text())}
    wanted = set()
    for name in ("common.yaml", "closed_common.yaml", "closed_ssd.yaml"):
        with open(os.path.join(FOLDER, name)) as file:
            rules = yaml.load(file, Loader=yaml.BaseLoader)
        wanted |= {rule["KEY"]["NAME"] for rule in rules if "KEY" in rule}
    assert keys - wanted == {"seed", "eval_result"}
    assert wanted - keys == {"block_start", "block_stop"}


def test_119_tensors_are_required(tmp_path):
    names = tensor_names()
    assert len(names) == 119
    assert not accepted(written(tmp_path / "118", names=names[1:]))
    assert not accepted(written(tmp_path / "120", names=names + ["ssd0_extra"]))
    assert not accepted(written(tmp_path / "renamed", names=names[1:] + ["ssd0_extra"]))


@pytest.mark.parametrize(
    "run, wanted",
    [
        ({"accuracy": 0.2299}, False),
        ({"accuracy": 0.23001}, True),
        ({"accuracy": 1.0}, False),
        ({"accuracy": 0.12, "status": "aborted"}, False),
        # The checker does not check the status: the accuracy decides.
        ({"status": "aborted"}, True),
        ({"hyperparameters": dict(HYPERPARAMETERS, max_samples=2)}, False),
        (
            {
                "hyperparameters": dict(
                    HYPERPARAMETERS, opt_learning_rate_decay_boundary_epochs=[48, 60]
                )
            },
            True,
        ),
        (
            {
                "hyperparameters": dict(
                    HYPERPARAMETERS, opt_learning_rate_decay_boundary_epochs=[44, 54]
                )
            },
            False,
        ),
        ({"hyperparameters": dict(HYPERPARAMETERS, opt_learning_rate_warmup_steps=0)}, False),
    ],
)
def test_which_values_are_accepted(tmp_path, run, wanted):
    assert accepted(written(tmp_path / "log", **run)) is wanted


def test_file_and_standard_output_have_the_same_lines_once(tmp_path, capsys):
    text = written(tmp_path / "log").read_text()
    printed = capsys.readouterr()
    assert printed.out == text and printed.err == ""
    submission, hyperparameters, tensors, epochs, others = 5, 11, 119, 2 * 6, 6
    assert (
        text.count("\n")
        == len(parsed(text))
        == submission + hyperparameters + tensors + epochs + others
    )
    assert MLPerfLog(None, enabled=True, rules=SSD).submission("o", "p", "open", "research") is None
    assert len(parsed(capsys.readouterr().out)) == 5


def test_events_are_as_in_the_rules(tmp_path):
    events = parsed(written(tmp_path / "log").read_text())
    last = {event["key"]: event for event in events}

    def value(key):
        return last[key]["value"]

    assert value("seed") == 17 and value("submission_benchmark") == "ssd" and value("cache_clear")
    assert value("opt_base_learning_rate") == HYPERPARAMETERS["opt_base_learning_rate"]
    assert value("opt_learning_rate_decay_boundary_epochs") == [44, 55]
    assert value("eval_accuracy") == float(np.float32(0.2314)) and value("eval_result") == STATS
    metadata = last["eval_accuracy"]["metadata"]
    assert {name: metadata[name] for name in ("epoch_num", "images", "objects")} == {
        "epoch_num": 2,
        "images": 5000,
        "objects": 36335,
    }
    assert last["run_stop"]["metadata"]["status"] == "success"
    assert last["epoch_start"]["metadata"]["epoch_num"] == 2
    assert last["run_start"]["event_type"] == "INTERVAL_START"
    assert last["run_stop"]["event_type"] == "INTERVAL_END"
    # The file with the call, relative to the repository, and not mlperf.py.
    assert {event["metadata"]["file"] for event in events} == {"tests/mlperf_values.py"}


def test_a_disabled_log_writes_nothing_and_still_checks(tmp_path, capsys):
    path = tmp_path / "log"
    with MLPerfLog(path, enabled=False, rules=SSD) as log:
        write_run(log)
        with pytest.raises(AssertionError, match="run_start twice"):
            log.run_start()
    assert not path.exists() and capsys.readouterr().out == ""


def test_an_existing_log_is_refused_and_kept(tmp_path):
    path = tmp_path / "log"
    path.write_text("another run\n")
    with pytest.raises(UserError, match="log: this log exists and is not empty"):
        MLPerfLog(path, enabled=True, rules=SSD)
    assert path.read_text() == "another run\n"
    path.write_text("")
    MLPerfLog(path, enabled=True, rules=SSD).close()
    with pytest.raises(UserError, match="cannot write the MLPerf log: Is a directory"):
        MLPerfLog(tmp_path, enabled=True, rules=SSD)
    with pytest.raises(
        UserError, match="cannot write the MLPerf log: (Not a directory|File exists)"
    ):
        MLPerfLog(path / "log", enabled=True, rules=SSD)


def test_logs_of_one_process_do_not_mix(tmp_path, capsys):
    handlers = list(logging.getLogger("mllog_default").handlers), list(logging.getLogger().handlers)
    first, second = (MLPerfLog(tmp_path / name, enabled=True, rules=SSD) for name in "12")
    first.seed(1)
    second.seed(2)
    first.close()
    second.init_start()
    second.close()
    second.close()
    assert [event["value"] for event in parsed((tmp_path / "1").read_text())] == [1]
    assert [event["key"] for event in parsed((tmp_path / "2").read_text())] == [
        "seed",
        "init_start",
    ]
    assert len(parsed(capsys.readouterr().out)) == 3
    assert handlers == (logging.getLogger("mllog_default").handlers, logging.getLogger().handlers)
    assert not any(file.path.startswith(str(tmp_path)) for file in psutil.Process().open_files())


@pytest.mark.parametrize(
    "key",
    [
        "submission",
        "init_stop",
        "run_start",
        "run_stop",
        "seed",
        "hyperparameters",
        "weights_initialization",
        "epoch_start",
        "epoch_stop",
        "eval_start",
        "eval_stop",
        "eval_accuracy",
        "eval_result",
    ],
)
def test_an_event_cannot_be_logged_twice(tmp_path, key):
    arguments = {
        "submission": ("o", "p", "closed", "onprem"),
        "run_stop": ("success",),
        "seed": (1,),
        "weights_initialization": (["ssd0_expand_conv0_bias"],),
        "eval_accuracy": (1, 0.3),
        "eval_result": (1, STATS),
        "init_stop": (),
        "run_start": (),
        "hyperparameters": (),
    }
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        write_run(log)
        before = (tmp_path / "log").read_text()
        with pytest.raises(AssertionError, match="twice"):
            getattr(log, key)(
                *arguments.get(key, (1,)), **(HYPERPARAMETERS if key == "hyperparameters" else {})
            )
    assert (tmp_path / "log").read_text() == before


def test_our_own_mistakes_are_assertions(tmp_path):
    log = MLPerfLog(tmp_path / "log", enabled=True, rules=SSD)
    nan = float("nan")
    for mistake in (
        log.init_stop,
        log.run_start,
        lambda: log.run_stop("success"),
        lambda: log.epoch_start(1),
        lambda: log.eval_stop(1),
        lambda: log.cache_clear(None),
        lambda: log.eval_accuracy(1, 23.0),
        lambda: log.eval_accuracy(1, nan),
        lambda: log.eval_result(1, {"AP": nan}),
    ):
        with pytest.raises(AssertionError):
            mistake()
    with pytest.raises(TypeError):
        log.seed(1.5)
    log.close()
    with pytest.raises(AssertionError, match="after close"):
        log.seed(1)
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"org": " "}, "organisation, not ' '"),
        ({"platform": None}, "platform, not None"),
        ({"division": "Closed"}, "division must be one of closed, open, not 'Closed'"),
        ({"status": "x"}, "status must"),
    ],
)
def test_a_bad_submission_is_the_users_mistake(tmp_path, changes, message):
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log, pytest.raises(
        UserError, match=message
    ):
        log.submission(
            **dict(dict(org="o", platform="p", division="closed", status="onprem"), **changes)
        )
    assert (tmp_path / "log").read_text() == ""


def slow_line(log, entered, leave):
    """A thread that is in the middle of writing epoch_start(2), until `leave` is set."""
    write = log._mllogger.start

    def slowly(*arguments, **options):
        entered.set()
        leave.wait(20)
        write(*arguments, **options)

    log._mllogger.start = slowly
    thread = threading.Thread(target=log.epoch_start, args=(2,))
    thread.start()
    assert entered.wait(20)
    return thread


def test_an_abort_is_the_last_line_whatever_other_threads_log(tmp_path):
    """The watchdog's thread ends the log while the training loop continues: we once saw an
    epoch_start after run_stop."""
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        log.submission("o", "p", "closed", "onprem")
        log.init_start()
        log.init_stop()
        log.run_start()
        leave = threading.Event()
        thread = slow_line(log, threading.Event(), leave)
        threading.Timer(0.2, leave.set).start()
        log.abort(patience=20)
        thread.join()
        log.epoch_stop(2)
        log.end("success")
    keys = [event["key"] for event in parsed((tmp_path / "log").read_text())]
    assert keys[-3:] == ["run_start", "epoch_start", "run_stop"] and keys.count("run_stop") == 1
    assert '"aborted"' in (tmp_path / "log").read_text().splitlines()[-1]


def test_an_abort_does_not_wait_for_a_line_that_hangs(tmp_path):
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        log.init_start()
        log.init_stop()
        log.run_start()
        leave = threading.Event()
        thread = slow_line(log, threading.Event(), leave)
        log.abort(patience=0.1)
        assert '"aborted"' in (tmp_path / "log").read_text().splitlines()[-1]
        leave.set()
        thread.join()


def test_the_end_is_logged_once_and_only_after_the_start(tmp_path):
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        log.end("success")
        log.abort()
    assert (tmp_path / "log").read_text() == ""
    with MLPerfLog(tmp_path / "log", enabled=True, rules=SSD) as log:
        log.init_start()
        log.init_stop()
        log.run_start()
        log.end("success")
        log.end("aborted")
        log.abort()
    stops = [
        event for event in parsed((tmp_path / "log").read_text()) if event["key"] == "run_stop"
    ]
    assert [event["metadata"]["status"] for event in stops] == ["success"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_line_that_cannot_be_written_raises():
    log = MLPerfLog("/dev/full", enabled=True, rules=SSD)
    for action in (lambda: log.seed(1), log.close):  # no buffered line is lost without an error
        with pytest.raises(OSError, match="No space left"):
            action()


def test_importing_loads_neither_mxnet_nor_mlperf_logging():
    code = (
        "import sys; sys.modules['mlperf_logging'] = sys.modules['mxnet'] = None; import ssd.mlperf"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=os.path.dirname(os.path.dirname(__file__))
    )
