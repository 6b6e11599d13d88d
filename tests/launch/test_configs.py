"""The config_*.sh: exports only, complete, and flags that `python -m ssd train` has."""

import glob
import os
import re
import subprocess

import pytest

from ssd.__main__ import build_parser
from ssd.commandline import read_settings
from ssd.mlperf import departures
from tests.training.tiny import ROOT

CONFIGS = sorted(os.path.basename(path) for path in glob.glob(os.path.join(ROOT, "config_*.sh")))
NAMES = (
    "SYSTEM NNODES WALLTIME NEXP NGPU NSOCKET SOCKETCORES HT RECIPE BATCHSIZE NUMEPOCHS "
    "EXTRA_PARAMS SUBMISSION_ORG SUBMISSION_PLATFORM"
).split()
# Nodes, GPUs of a node, batch, epochs, warm-up epochs, base rate of RetinaNet's systems: the
# reference's configurations of the DGX A100, and Fujitsu's of MLPerf v3.0 (epochs at most are ours
# there).
RETINANET = {
    "config_DGXA100_001x08x032_retinanet.sh": (1, 8, 32, 8, 1, 1e-4),
    "config_DGXA100_008x08x008_retinanet.sh": (8, 8, 8, 8, 1, 1e-4),
    "config_DGXA100_032x08x032_retinanet.sh": (32, 8, 32, 35, 1, 1e-4),
    "config_PG_retinanet.sh": (1, 10, 24, 8, 0, 8.5e-5),
}
QUICKSTARTS = {"config_quickstart.sh", "config_quickstart_retinanet.sh"}
# Nodes, GPUs of a node, batch, epochs, warm-up epochs, base rate, weight decay, decay epochs and
# GPUs of a BatchNorm of the published systems.
PUBLISHED = {
    "config_PG.sh": (1, 4, 114, 65, 3, 0.003157, 1.3e-4, (44, 55), 1),
    "config_DGXA100_001x08x114.sh": (1, 8, 114, 65, 5, 0.003157, 1.3e-4, (44, 55), 1),
    "config_DGXA100_008x08x024.sh": (8, 8, 24, 70, 15, 0.004, 1.7e-4, (48, 60), 2),
    "config_DGXA100_128x08x003.sh": (128, 8, 3, 90, 35, 0.004, 4e-5, (68, 85), 8),
}


def variables_of(config):
    """What sourcing the config adds to an empty environment."""
    shown = subprocess.run(
        ["env", "-i", "bash", "-c", 'source "$1" && env -0', "bash", os.path.join(ROOT, config)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    values = dict(line.split("=", 1) for line in shown.rstrip("\0").split("\0"))
    return {
        name: value
        for name, value in values.items()
        if name not in ("PWD", "SHLVL", "_", "OLDPWD", "PATH")
    }


def settings_of(values):
    """What `python -m ssd train` makes of the flags that run_and_time.sh builds."""
    argv = [
        "train",
        "--recipe",
        values["RECIPE"],
        "--batch-size",
        values["BATCHSIZE"],
        "--epochs",
        values["NUMEPOCHS"],
        "--data-dir",
        "/data",
        "--output",
        "/results/x",
        "--submission-org",
        values["SUBMISSION_ORG"],
        "--submission-platform",
        values["SUBMISSION_PLATFORM"],
        *values["EXTRA_PARAMS"].split(),
    ]
    return read_settings(build_parser(["train"]).parse_args(argv))


def test_there_is_a_config_for_every_system():
    assert set(CONFIGS) == set(PUBLISHED) | set(RETINANET) | QUICKSTARTS


@pytest.mark.parametrize("config", CONFIGS)
def test_complete_and_exports_only(config):
    values = variables_of(config)
    assert set(NAMES) <= set(values) and all(values[name] for name in NAMES)
    assert (
        {"BACKBONE"}
        <= set(values) - set(NAMES)
        <= {"PGNNODES", "DGXNNODES", "PRETRAINED_DIR", "BACKBONE"}
    )
    assert values["SYSTEM"] == config[len("config_") : -len(".sh")]
    with open(os.path.join(ROOT, config)) as file:
        text = file.read().replace("\\\n", " ")
    for line in text.splitlines():
        assert not line.strip() or line.startswith("#") or re.match(r"export [A-Z_]+=", line), line
    assert re.fullmatch(r"\d\d:\d\d:00", values["WALLTIME"])
    assert values["NNODES"] == values.get("PGNNODES", values.get("DGXNNODES", "1"))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_line_is_one_that_train_takes(config):
    values = variables_of(config)
    settings = settings_of(values)
    assert settings.training.batch_size == int(values["BATCHSIZE"])
    assert settings.run.submission_platform == values["SUBMISSION_PLATFORM"]
    assert settings.run.clear_cache
    assert values["BACKBONE"] == settings.model.backbone


@pytest.mark.parametrize("config", sorted(PUBLISHED))
def test_values_of_the_published_systems(config):
    values, training = variables_of(config), settings_of(variables_of(config)).training
    assert PUBLISHED[config] == (
        int(values["NNODES"]),
        int(values["NGPU"]),
        training.batch_size,
        training.epochs,
        training.warmup_epochs,
        training.base_lr,
        training.weight_decay,
        training.decay_epochs,
        training.batch_norm_ranks,
    )
    closed = [epoch for k in range(11) for epoch in (40 + 4 * k, 50 + 5 * k)]
    assert set(training.decay_epochs) <= set(closed), (
        "[40, 50] * (1 + k/10) is what the closed division allows"
    )


@pytest.mark.parametrize("config", sorted(RETINANET))
def test_values_of_retinanets_systems(config):
    values, settings = variables_of(config), settings_of(variables_of(config))
    training = settings.training
    assert RETINANET[config] == (
        int(values["NNODES"]),
        int(values["NGPU"]),
        training.batch_size,
        training.epochs,
        training.warmup_epochs,
        training.base_lr,
    )
    closed = settings.with_values(
        rules="retinanet-5.1.0", pretrained_backbone="resnext50_32x4d-7cdf4587.onnx"
    )
    assert departures(closed) == [], "what the closed division fixes is left as it is"


def test_a_config_sourced_after_another_names_its_own_backbone():
    """One shell, one config after the other: what the first exports must not stay."""
    script = "".join(
        f'source "{os.path.join(ROOT, config)}"; echo "$BACKBONE"; '
        for config in ("config_PG.sh", "config_PG_retinanet.sh", "config_DGXA100_001x08x114.sh")
    )
    shown = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["resnet34", "resnext50_32x4d", "resnet34"]


@pytest.mark.parametrize("config", sorted(set(RETINANET) | {"config_quickstart_retinanet.sh"}))
def test_the_launch_scripts_take_retinanets_configs(config, tmp_path):
    """run_and_time.sh makes the command of them, run_with_docker.sh looks for the backbone that
    they name."""
    (tmp_path / "resnet34-333f7ec4.onnx").touch()
    environment = dict(
        PATH=os.environ["PATH"],
        HOME=str(tmp_path),
        DATADIR=str(tmp_path),
        RUNDIR=str(tmp_path / "run"),
        PYTHON=os.path.join(ROOT, "tests/launch/fake_training.py"),
        BIND="no",
        CONT="ssd",
        LOGDIR=str(tmp_path / "logs"),
    )

    def sourced(command, **more):
        script = f'. "{os.path.join(ROOT, config)}"; NNODES=1; exec {command}'
        return subprocess.run(
            ["bash", "-c", script],
            env=dict(environment, **more),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    values = variables_of(config)
    done = sourced("./run_and_time.sh")
    assert done.returncode == 0, done.stderr
    for flag, name in (("recipe", "RECIPE"), ("batch-size", "BATCHSIZE"), ("epochs", "NUMEPOCHS")):
        assert f"--{flag} {values[name]} " in done.stdout
    assert " ".join(values["EXTRA_PARAMS"].split()) in done.stdout
    done = sourced("./run_with_docker.sh", PRETRAINED_DIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"run_with_docker.sh: PRETRAINED_DIR={tmp_path}: exactly one file "
        "resnext50_32x4d-*.onnx is needed (scripts/get_backbone.sh resnext50_32x4d makes it)"
    )
