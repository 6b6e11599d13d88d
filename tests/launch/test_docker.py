"""run_with_docker.sh with a real Docker engine, on an image of Debian with the CPU stack."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from tests.launch.docker_engine import Run, containers, docker, wait_for
from tests.training.tiny import FLAGS, ROOT, tiny_data

TINY = "--device cpu --clear-cache " + " ".join(FLAGS[4:])
STEP = re.compile(r"^epoch 1 step \d+/\d+ ", re.MULTILINE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("with blanks, and a comma") / "the set")


@pytest.fixture
def run(docker_environment, image, data, tmp_path):
    """Two trials of two ranks, a step each, and no container afterwards."""
    logs = tmp_path / "my logs, kept"
    yield lambda **variables: Run(
        docker_environment,
        **dict(
            dict(
                CONT=image,
                DATADIR=data,
                LOGDIR=logs,
                NGPU=2,
                NEXP=2,
                NUMEPOCHS=1,
                EXTRA_PARAMS=TINY + " --max-steps 1",
                SUBMISSION_ORG="us & them",
            ),
            **variables,
        ),
    )
    left = containers(docker_environment)
    if left:
        docker(docker_environment, "rm", "--force", *left)
    assert left == []


def test_two_trials_of_two_ranks(run):
    a_run = run()
    done = a_run()
    assert done.returncode == 0, done.stdout + done.stderr + a_run.log(1)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3 and "2 rank(s), cpu" in done.stdout
    for trial in (1, 2):
        log = a_run.log(trial)
        assert "2 ranks on cpu" in log
        result = re.findall(
            r"^RESULT,SINGLE_STAGE_DETECTOR,,(\d+),us & them,.+$", log, re.MULTILINE
        )
        assert len(result) == 1 and int(result[0]) > 0
        assert log.count('"key": "run_stop"') == 1
        assert '"key": "cache_clear", "value": "by the launcher' in log
        assert '"key": "train_samples", "value": 11' in log
        assert f"trial {trial} of 2: status 0 after " in done.stdout
    summaries = glob.glob(os.path.join(glob.escape(a_run.logs), "quickstart_*_?", "summary.json"))
    assert len(summaries) == 2
    for name in summaries:
        with open(name) as file:
            assert json.load(file)["ranks"] == 2


def test_the_data_set_is_read_only(run, data, docker_environment):
    """Training could not write there if it tried: the mounts of a container that runs."""
    process = run(NEXP=1, NUMEPOCHS=100000, EXTRA_PARAMS=TINY, NGPU=1).start()
    try:
        name = wait_for(lambda: containers(docker_environment), 60, "a container")[0]
        mounts = {
            mount["Destination"]: mount
            for mount in json.loads(docker(docker_environment, "inspect", name).stdout)[0]["Mounts"]
        }
        assert mounts["/data"]["Source"] == data and not mounts["/data"]["RW"]
        assert mounts["/results"]["RW"]
    finally:
        process.terminate()  # before the first step: nothing to save
        process.communicate(timeout=300)
        assert process.returncode == 143


def test_a_mistake_that_training_finds_is_shown_and_ends_all(run):
    """Two ranks: mpirun speaks after training."""
    a_run = run(EXTRA_PARAMS=TINY + " --num-classes 9")
    done = a_run()
    assert done.returncode == 2
    assert "training ended with status 2" in a_run.log(1) and "RESULT" not in a_run.log(1)
    assert (
        "trial 1 of 2: status 2 after " in done.stdout
        and "trial 2" not in done.stdout
        and not a_run.log(2)
    )
    cause, rest = done.stderr.splitlines()
    assert cause.startswith("    python -m ssd train: ") and "num-classes" in cause
    assert (
        rest
        == "run_with_docker.sh: no further trial, since each would fail the same way: the settings "
        "or the data are wrong"
    )


def test_a_killed_rank_fails_its_trial_and_the_next_runs(run):
    """And where the file cache cannot be dropped, this is said, and not claimed."""
    a_run = run(
        EXTRA_PARAMS=TINY.replace("--clear-cache ", "") + " --max-steps 15 --base-lr 0.001",
        NUMEPOCHS=100,
    )
    command = a_run.command()
    command["args"] = [
        "unshare",
        "--mount",
        "bash",
        "-c",
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && "
        "exec " + 'bash -c "$0"',
        command["args"][-1],
    ]
    process = subprocess.Popen(**command)
    try:
        wait_for(lambda: STEP.search(a_run.log(1)), 300, "a step of trial 1")
        os.kill(trainer_of("_1", rank=1), signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode not in (0, 2), output + errors
    assert "python -m ssd train: stopped: rank 1 of 2" in a_run.log(1)
    assert (
        f"trial 1 of 2: status {process.returncode} after " in output
        and "RESULT" not in a_run.log(1)
    )
    assert "trial 2 of 2: status 0 after " in output and "RESULT" in a_run.log(2)
    assert errors.count("the file cache could not be dropped") == 2
    for trial in (1, 2):
        assert "the file cache could not be dropped" in a_run.log(
            trial
        ) and 'cache_clear"' not in a_run.log(trial)


def trainer_of(end_of_folder, rank):
    """The process id, as seen from outside, of a rank whose --output ends like this."""
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(folder + "/cmdline", "rb") as file:
                words = file.read().decode().split("\0")
            with open(folder + "/environ", "rb") as file:
                environment = file.read().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if (
            words[1:4] == ["-m", "ssd", "train"]
            and words[words.index("--output") + 1].endswith(end_of_folder)
            and f"OMPI_COMM_WORLD_RANK={rank}" in environment
        ):
            return int(os.path.basename(folder))
    raise AssertionError(f"no rank {rank} of a run {end_of_folder}")


@pytest.mark.parametrize("name, status", [("TERM", 143), ("INT", 130)])
def test_a_signal_in_the_middle(run, name, status):
    a_run = run(
        NUMEPOCHS=100000, EXTRA_PARAMS=TINY + " --base-lr 0.001", NGPU=2 if name == "TERM" else 1
    )
    process = a_run.start()
    try:
        wait_for(lambda: STEP.search(a_run.log(1)), 300, "a step")
        process.send_signal(getattr(signal, "SIG" + name))
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status, output + errors
    assert f"SIG{name}: training saves and exits" in errors and "are kept" in errors
    assert "trial 1 of 2: status 75" in output and "trial 2" not in output
    log = a_run.log(1)
    assert "RESULT" not in log and '"key": "run_stop"' in log and '"status": "aborted"' in log
    saved = glob.glob(
        os.path.join(
            glob.escape(a_run.logs), "quickstart_*_1", "checkpoints", "step-*", "manifest.json"
        )
    )
    assert saved and not a_run.log(2)


def test_a_second_signal_ends_it_at_once(run):
    """What a frozen training leaves no other way out of: the first signal waits for it in vain."""
    a_run = run(NUMEPOCHS=100000, EXTRA_PARAMS=TINY + " --base-lr 0.001")
    process = a_run.start()
    try:
        wait_for(lambda: STEP.search(a_run.log(1)), 300, "a step")
        os.kill(trainer_of("_1", rank=0), signal.SIGSTOP)
        process.terminate()
        first = process.stderr.readline()
        process.terminate()
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "SIGTERM: training saves and exits" in first
    assert process.returncode == 143, output + errors


# ---- mistakes: one line each, before anything starts


def refused(a_run, message, timeout=120):
    done = a_run(timeout=timeout)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("run_with_docker.sh: "), (
        done.stderr
    )
    assert message in done.stderr


@pytest.mark.parametrize("name", ["CONT", "DATADIR", "LOGDIR"])
def test_missing_variables(run, name):
    a_run = run()
    a_run.variables[name] = ""
    refused(a_run, f"{name} is not set; call it as {name}=... ./run_with_docker.sh")


def test_config_not_sourced(docker_environment, tmp_path):
    environment = {
        name: value for name, value in docker_environment.items() if name in ("PATH", "HOME")
    }
    done = subprocess.run(
        [os.path.join(ROOT, "run_with_docker.sh")],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "SYSTEM NNODES NEXP NGPU" in done.stderr and "EXTRA_PARAMS" in done.stderr
    assert "source a config_*.sh first" in done.stderr


def test_bad_values(run, data, tmp_path):
    refused(run(DATADIR=tmp_path / "no such"), f"DATADIR={tmp_path}/no such: no such folder")
    (tmp_path / "file").write_text("")
    refused(run(LOGDIR=tmp_path / "file"), f"LOGDIR={tmp_path}/file: cannot be created")
    refused(run(LOGDIR="/proc/sys"), "LOGDIR=/proc/sys: user root cannot write there")
    refused(
        run(PRETRAINED_DIR=tmp_path),
        f"PRETRAINED_DIR={tmp_path}: exactly one file resnet34-*.onnx",
    )
    refused(run(PRETRAINED_DIR="/no/such"), "PRETRAINED_DIR=/no/such: no such folder")
    refused(run(NEXP="five"), "NEXP=five: a whole number of at least 1 is needed")
    refused(run(NNODES=8), "NNODES=8: this script is for one machine; run.sub is for several")
    refused(run(SYSTEM="../x"), "SYSTEM=../x: ")
    refused(run(NGPU=4096), "NGPU=4096: more ranks than the ")


def test_bad_image(run, docker_environment, base):
    refused(
        run(CONT="localhost:9/none:1"),
        "CONT=localhost:9/none:1: not found here or in a registry: ",
    )
    refused(run(CONT=base), f"CONT={base}: no /workspace/ssd/run_and_time.sh in this image")


def test_docker_not_running_or_not_installed(run, docker_environment, tmp_path):
    a_run = run()
    a_run.environment = dict(docker_environment, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    refused(a_run, "Docker does not answer: ")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("env", "bash", "grep", "mktemp", "mkdir", "rm", "id", "nproc"):
        (programs / name).symlink_to(shutil.which(name))
    a_run.environment = dict(docker_environment, PATH=str(programs))
    refused(a_run, "docker is not installed")


# ---- with GPUs, as far as that goes without one: stand-ins for nvidia-smi and docker


def stand_in(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


@pytest.fixture
def gpus(tmp_path):
    """A PATH with two GPUs and a docker that writes its arguments down, one a line, calls apart by
    an empty one."""
    folder = tmp_path / "programs"
    folder.mkdir()
    stand_in(folder, "nvidia-smi", 'for i in 0 1; do echo "GPU $i: A100 (UUID: $i)"; done\n')
    stand_in(folder, "docker", f'printf "%s\\n" "$@" "" >>"{tmp_path}/calls"\n')
    # Variables of these names, from the developer's shell, would go into the containers.
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    return dict(own, PATH=f"{folder}:{os.environ['PATH']}")


def test_a_second_call_in_the_same_second_has_another_name(gpus, data, tmp_path):
    """With one LOGDIR and without: neither log nor container of the first is touched."""
    stand_in(tmp_path / "programs", "date", "echo 261127101112\n")
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in ("", "-2"):
        (logs / f"quickstart_261127101112{number}_1.log").write_text("of another call\n")
    runs = [
        Run(gpus, CONT="ssd", DATADIR=data, LOGDIR=folder, NEXP=2)
        for folder in (logs, tmp_path / "other")
    ]
    outputs = [run().stdout for run in runs]
    assert (
        "quickstart_261127101112-3_2.log" in outputs[0]
        and "quickstart_261127101112_2.log" in outputs[1]
    )
    names = [
        re.search("container (ssd_quickstart_261127101112.*?) from", output).group(1)
        for output in outputs
    ]
    removed = re.findall("^rm\n--force\n(.*)", (tmp_path / "calls").read_text(), re.M)
    assert len(set(names)) == 2 and set(removed) == set(names)
    assert sorted(os.listdir(logs)) == [
        f"quickstart_261127101112{end}.log" for end in ("-2_1", "-3_2", "_1")
    ]
    assert (logs / "quickstart_261127101112_1.log").read_text() == "of another call\n"


def test_gpus_are_handed_over_and_counted(gpus, data, tmp_path):
    settings = dict(
        CONT="ssd",
        DATADIR=data,
        LOGDIR=tmp_path / "logs",
        NEXP=1,
        EXTRA_PARAMS="--decay-epochs 44 55",
    )
    refused(Run(gpus, NGPU=4, **settings), "NGPU=4: this machine has 2 GPUs")
    done = Run(gpus, NGPU=2, MXNET_PROFILE="a b", **settings)()
    assert done.returncode == 0 and "2 rank(s), gpu" in done.stdout, done.stderr
    calls = [call.split("\n") for call in (tmp_path / "calls").read_text().split("\n\n")]
    start = next(call for call in calls if call[0] == "run")
    assert start[start.index("--gpus") + 1] == "2" and "memlock=-1" in start
    assert {"RECIPE", "BATCHSIZE", "EXTRA_PARAMS", "MXNET_PROFILE", "DATADIR=/data"} <= set(start)
    assert "OMP_NUM_THREADS" not in start  # the image's own
    trial = next(call for call in calls if "mpirun" in call)
    assert trial[trial.index("mpirun") : trial.index("mpirun") + 6] == [
        "mpirun",
        "--allow-run-as-root",
        "--bind-to",
        "none",
        "-np",
        "2",
    ]
    assert calls[-1][:2] == ["rm", "--force"] or calls[-2][:2] == ["rm", "--force"]
