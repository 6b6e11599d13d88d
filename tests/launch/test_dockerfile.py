"""The Dockerfile with a real Docker engine, on an image of Debian with the CPU stack;
scripts/container_packages.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pip
import pytest

from tests.launch.docker_engine import build, docker
from tests.training.tiny import ROOT


def in_image(environment, image, *command):
    done = docker(environment, "run", "--rm", "--network=host", image, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages(environment, image):
    return dict(
        line.split("==")
        for line in in_image(
            environment, image, "python3", "-m", "pip", "list", "--format=freeze"
        ).split()
    )


def test_only_what_lacks_is_installed(docker_environment, base, image):
    before, after = packages(docker_environment, base), packages(docker_environment, image)
    assert {name: after.get(name) for name in before} == before
    assert {"mxnet", "numpy", "horovod", "nvidia-dali-cuda120", "psutil"} <= set(before)
    assert {"pycocotools", "mlperf-logging", "onnx", "pillow", "tqdm"} <= set(after) - set(before)


def test_code_without_data_and_history_and_the_settings(docker_environment, image):
    files = in_image(docker_environment, image, "find", "/workspace/ssd").split()
    assert {
        "/workspace/ssd/run_and_time.sh",
        "/workspace/ssd/ssd/datasets/coco.py",
        "/workspace/ssd/config_PG.sh",
        "/workspace/ssd/ssd/recipes/ssd-resnet34-coco.yaml",
    } <= set(files)
    assert not [
        name
        for name in files
        if re.search(r"/ssd/(data|\.git|\.venv|runs|tests)(/|$)|\.pyc$", name)
        and not name.startswith("/workspace/ssd/ssd/data")
    ]
    configuration = json.loads(docker(docker_environment, "image", "inspect", image).stdout)[0][
        "Config"
    ]
    assert configuration["WorkingDir"] == "/workspace/ssd"
    assert {
        "HOROVOD_CYCLE_TIME=0.1",
        "HOROVOD_CACHE_CAPACITY=2048",
        "HOROVOD_BATCH_D2D_MEMCOPIES=1",
        "HOROVOD_NUM_NCCL_STREAMS=1",
        "MXNET_CUDNN_AUTOTUNE_DEFAULT=0",
        "MXNET_EXEC_ENABLE_ADDTO=1",
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD=999",
        "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD=999",
        "MXNET_GPU_WORKER_NTHREADS=1",
        "MXNET_CPU_PRIORITY_NTHREADS=1",
        "MXNET_SAFE_ACCUMULATION=1",
        "OMP_NUM_THREADS=1",
    } <= set(configuration["Env"])


def test_a_change_of_code_rebuilds_the_last_layer_alone(docker_environment, base, clone, image):
    with open(os.path.join(clone, "ssd/training/train.py"), "a") as file:
        file.write("# changed\n")
    output = build(docker_environment, base, clone, "changed")
    steps = re.split(r"^Step \d+/\d+ : ", output, flags=re.MULTILINE)[1:]
    cached = [step.split()[0] for step in steps if "Using cache" in step]
    assert [step.split()[0] for step in steps] == ["ARG", "FROM", *cached, "COPY"], output
    assert {"RUN", "COPY", "ENV"} <= set(cached)
    assert (
        in_image(docker_environment, "changed", "tail", "-n", "1", "ssd/training/train.py")
        == "# changed\n"
    )


def test_a_base_image_without_the_stack_is_refused(docker_environment, base, clone, tmp_path):
    """An image whose Horovod is gone: the build ends with its name."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base}\nRUN rm -r /usr/local/lib/python3.11/dist-packages/horovod\n"
    )
    assert (
        docker(docker_environment, "build", "--network=host", "-t", "broken", tmp_path).returncode
        == 0
    )
    built = docker(
        docker_environment,
        "build",
        "--network=host",
        "--force-rm",
        "--build-arg",
        "FROM_IMAGE_NAME=broken",
        clone,
    )
    assert built.returncode != 0
    assert (
        "the base image has no horovod; FROM_IMAGE_NAME must name one"
        in built.stdout + built.stderr
    )


# ---- scripts/container_packages.py on bases that were not at hand


@pytest.fixture
def base_packages(tmp_path):
    """A function that runs the script on an interpreter with exactly these packages (stand-ins, pip
    apart)."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "pip").symlink_to(os.path.dirname(pip.__file__))

    def lacking(numpy, without=(), **versions):
        for name, version in dict(
            mxnet="1.9.0", numpy=numpy, horovod="0.22.1", nvidia="1", **versions
        ).items():
            if name in without:
                continue
            package = site / {"pyyaml": "yaml"}.get(name, name)
            (package / "dali").mkdir(parents=True)
            for folder in (package, package / "dali"):
                (folder / "__init__.py").write_text(f"__version__ = {version!r}\n")
            (site / f"{name}-{version}.dist-info").mkdir()
            (site / f"{name}-{version}.dist-info/METADATA").write_text(
                f"Name: {name}\nVersion: {version}\n"
            )
        done = subprocess.run(
            [
                sys.executable,
                "-S",
                os.path.join(ROOT, "scripts/container_packages.py"),
                os.path.join(ROOT, "pyproject.toml"),
                os.path.join(ROOT, "scripts/constraints.txt"),
                tmp_path / "r",
                tmp_path / "c",
            ],
            env=dict(os.environ, PYTHONPATH=str(site)),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return done.stderr
        return (tmp_path / "r").read_text().split(), (tmp_path / "c").read_text()

    return lacking


def test_old_numpy_and_packages_of_the_image_stay(base_packages):
    lines, constraint = base_packages(
        "1.17.4", pyyaml="5.3.1", pycocotools="2.0+nv0.6.0", tqdm="4.1"
    )
    assert constraint == "numpy==1.17.4\n"
    assert "onnx==1.12.0" in lines  # 1.17.0 wants NumPy 1.20
    names = {line.split("==")[0] for line in lines}
    assert {"mlperf-logging", "pycocotools", "pillow"} <= names
    assert not names & {
        "numpy",
        "mxnet",
        "horovod",
        "nvidia-dali-cuda120",
        "pyyaml",
        "tqdm",
        "gluoncv",
    }
    assert all("==" in line for line in lines)


def test_a_base_that_lacks_mxnet_is_refused(base_packages):
    message = base_packages("1.23.5", without=("mxnet",))
    assert message == (
        "container_packages.py: the base image has no mxnet; FROM_IMAGE_NAME must name one with "
        "MXNet, NumPy, Horovod and DALI\n"
    )
