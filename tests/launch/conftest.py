"""A Docker engine and the image of the Dockerfile, made once for all tests that ask for them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.launch.docker_engine import build, engine, missing
from tests.training.tiny import ROOT


@pytest.fixture(scope="session")
def docker_environment():
    with engine() as environment:
        yield environment


@pytest.fixture(scope="session")
def base(docker_environment):
    made = subprocess.run(
        [os.path.join(ROOT, "tests/launch/base_image.sh"), "--docker", "cpu-stack"],
        env=docker_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if made.returncode == 3:
        missing(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    return "cpu-stack"


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A copy of the project, to be changed, with what must stay out of the image."""
    folder = str(tmp_path_factory.mktemp("clone") / "ssd")
    shutil.copytree(
        ROOT,
        folder,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "data", "runs", ".hypothesis", ".pytest_cache", "__pycache__"
        ),
    )
    shutil.copytree(
        os.path.join(ROOT, "ssd/data"), os.path.join(folder, "ssd/data"), dirs_exist_ok=True
    )
    for name in (
        "data/coco/x.jpg",
        ".git/HEAD",
        ".venv/bin/python",
        "runs/r/weights.params",
        "ssd/__pycache__/x.pyc",
    ):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(bytes(4_000_000))
    return folder


@pytest.fixture(scope="session")
def image(docker_environment, base, clone):
    build(docker_environment, base, clone)
    return "ssd"
