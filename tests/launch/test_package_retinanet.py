"""Submission packages of RetinaNet: names and checkers of each round, and what gets its data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.mlperf import MLPerfLog
from ssd.rules import RULES
from ssd.submission import SYSTEM_FIELDS, package
from ssd.training import setup
from ssd.training.schedule import build_schedule
from tests.launch.test_package_submission import MINUTES, SCORE
from tests.mlperf_values import tensor_names

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = dict(
    dict.fromkeys(SYSTEM_FIELDS, "N/A"),
    submitter="An organisation",
    division="closed",
    status="Available on-premise",
)
CONFIG = "config_DGXA100_001x08x032_retinanet.sh"


class Network:
    """The 89 tensors and a BatchNorm's scale, by the names of the reference."""

    class Tensor:
        def __init__(self, name):
            self.name = name

    def reference_parameters(self):
        names = {name[len("module.") :]: self.Tensor("x_weight") for name in tensor_names("2.0.0")}
        return dict(names, **{"backbone.body.bn1.weight": self.Tensor("x_gamma")})


def write_logs(folder, name, epoch=4, global_batch=256, division="closed"):
    folder.mkdir()
    paths = []
    config = load_recipe("retinanet-resnext50-openimages")
    schedule = build_schedule(config.training, global_batch, 1170301)
    for number, minutes in enumerate(MINUTES):
        raw = folder / "raw"
        with MLPerfLog(raw, enabled=True, rules=RULES[name]) as log:
            log.submission("An organisation", "DGX", division, "onprem")
            log.cache_clear(True)
            log.init_start()
            log.seed(100 + number)
            setup.log_hyperparameters(
                log, config, schedule, Network(), 1170301, 24781, global_batch
            )
            log.init_stop()
            log.run_start()
            for each in range(1, epoch + 1):
                log.epoch_start(each)
                log.epoch_stop(each)
                log.eval_start(each)
                log.eval_accuracy(each, 0.3421 if each == epoch else 0.3)
                log.eval_stop(each)
            log.run_stop("success")
        events = [json.loads(line[len(":::MLLOG ") :]) for line in raw.read_text().splitlines()]
        start = next(event["time_ms"] for event in events if event["key"] == "run_start")
        events[-1]["time_ms"] = start + round(minutes * 60000)
        raw.unlink()
        paths.append(folder / f"trial_{number}.log")
        paths[-1].write_text("".join(f":::MLLOG {json.dumps(event)}\n" for event in events))
    return paths


def make(tmp_path, logs, name, system=SYSTEM):
    (tmp_path / "system.json").write_text(json.dumps(system))
    return package(
        logs,
        tmp_path / "out",
        "dgx_a100",
        tmp_path / "system.json",
        CONFIG,
        ROOT,
        rules=RULES[name],
    )


@pytest.mark.parametrize(
    "name, benchmark",
    [
        ("retinanet-2.0.0", "ssd"),
        ("retinanet-3.1.0", "ssd"),
        ("retinanet-4.1.0", "ssd"),
        ("retinanet-5.1.0", "retinanet"),
    ],
)
def test_a_package_of_a_round(tmp_path, name, benchmark):
    logs = write_logs(tmp_path / "logs", name)
    (tmp_path / "system.json").write_text(json.dumps(SYSTEM))
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "package_submission.py"),
            "--rules",
            name,
            "--output",
            str(tmp_path / "out"),
            "--system",
            "dgx_a100",
            "--description",
            str(tmp_path / "system.json"),
            "--config",
            CONFIG,
            *map(str, logs),
        ],
        cwd=str(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"Score: {SCORE:.3f} minutes\n" in done.stdout and "RCP found" in done.stdout
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "results" / "dgx_a100" / benchmark).iterdir()) == [
        "result_%d.txt" % number for number in range(5)
    ]
    assert [path.name for path in (out / "benchmarks").iterdir()] == [benchmark]
    ours = out / "benchmarks" / benchmark / "implementations" / "dgx_a100"
    lines = (ours / "init_datasets.sh").read_text().splitlines()[3:]
    assert lines == [
        './scripts/download_openimages.py "${DATADIR:?}"',
        './scripts/get_backbone.sh resnext50_32x4d "${PRETRAINED_DIR:?}"',
    ]
    assert (
        (ours / "run_and_time.sh").read_text().endswith(f"\n. ./{CONFIG}\n./run_with_docker.sh\n")
    )
    assert "Open Images into DATADIR" in (ours / "README.md").read_text()
    settings = json.loads((ours / "dgx_a100_mxnet.json").read_text())["hyperparameters"]
    assert settings["train_samples"] == 1170301 and settings["opt_name"] == "adam"


def test_what_gets_the_data_is_there():
    for rules in RULES.values():
        for line in rules.downloads:
            path = ROOT / line.split()[0]
            assert path.is_file() and os.access(str(path), os.X_OK), line


def test_convergence_points_are_those_of_the_round(tmp_path):
    """Global batch 1,024 in 6 epochs: a point of 3.0.0 on; before, between 512 and 4,096, where 6
    are too few."""
    made = make(
        tmp_path, write_logs(tmp_path / "logs", "retinanet-5.1.0", 6, 1024), "retinanet-5.1.0"
    )
    assert made.convergence.startswith("RCP") and made.scaling == 1
    other = tmp_path / "early"
    other.mkdir()
    with pytest.raises(UserError, match="package checker refuses the package: .*RCP Test Failed"):
        make(other, write_logs(other / "logs", "retinanet-2.0.0", 6, 1024), "retinanet-2.0.0")


@pytest.mark.parametrize(
    "name, epoch, batch, words",
    [
        ("retinanet-5.1.0", 3, 256, "RCP Test Failed"),
        ("retinanet-4.1.0", 15, 8192, "submit RCP with BS = 8192"),
    ],
)
def test_a_convergence_that_nobody_knows_is_refused(tmp_path, name, epoch, batch, words):
    with pytest.raises(UserError, match="package checker refuses the package: .*" + words):
        make(tmp_path, write_logs(tmp_path / "logs", name, epoch, batch), name)


def test_a_log_of_another_round_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="trial_0.log: submission_benchmark is 'ssd', not 'retinanet'"
    ):
        make(tmp_path, write_logs(tmp_path / "logs", "retinanet-4.1.0"), "retinanet-5.1.0")


def test_the_status_of_the_system_is_in_the_checkers_words(tmp_path):
    with pytest.raises(
        UserError, match="package checker refuses the package: .*System description"
    ):
        make(
            tmp_path,
            write_logs(tmp_path / "logs", "retinanet-5.1.0"),
            "retinanet-5.1.0",
            dict(SYSTEM, status="onprem"),
        )
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "package_submission.py"),
            "--rules",
            "retinanet-5.1.0",
            "--describe",
            str(tmp_path / "logs" / "trial_0.log"),
        ],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout)["status"] == "Available on-premise"
