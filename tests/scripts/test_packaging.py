"""pyproject.toml against scripts/constraints.txt, and the package as pip installs it, run from
another folder."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.8 to 3.10
    from pip._vendor import tomli as tomllib
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ssd

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12")
CONSTRAINTS = ROOT / "scripts/constraints.txt"
with open(ROOT / "pyproject.toml", "rb") as toml:
    PROJECT = tomllib.load(toml)["project"]


def applies(requirement, python):
    environment = {"python_version": python, "python_full_version": python + ".0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(python):
    """Of constraints.txt, for a version of Python: {name: requirements}."""
    found = {}
    for line in CONSTRAINTS.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text and applies(Requirement(text), python):
            found.setdefault(Requirement(text).name.lower(), []).append(Requirement(text))
    return found


def ranges(python):
    lines = sum(PROJECT["optional-dependencies"].values(), list(PROJECT["dependencies"]))
    return [one for one in map(Requirement, lines) if applies(one, python)]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_pin_within_its_range(python):
    pinned = pins(python)
    assert len(ranges(python)) > 25
    for requirement in ranges(python):
        (pin,) = pinned[requirement.name.lower()]
        assert re.match(r"==[^*]+$", str(pin.specifier)), pin
        assert requirement.specifier.contains(str(pin.specifier)[2:]), (str(requirement), str(pin))


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_is_of_a_dependency(python):
    # gluoncv is setup.sh's own affair: pyproject.toml says why.
    assert set(pins(python)) - {one.name.lower() for one in ranges(python)} == {"gluoncv"}


def test_pythons():
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [one for one in ("3.7", *PYTHONS, "3.13") if one + ".1" in allowed] == list(PYTHONS)


def test_container_script_reads_them():
    spec = importlib.util.spec_from_file_location(
        "container_packages", str(ROOT / "scripts/container_packages.py")
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    here = "{}.{}".format(*sys.version_info[:2])
    assert script.pins(str(CONSTRAINTS)) == {
        name: str(pin.specifier)[2:] for name, (pin,) in pins(here).items()
    }
    needed = script.needed(str(ROOT / "pyproject.toml"))
    assert needed == [
        one.name.lower() for one in map(Requirement, PROJECT["dependencies"]) if applies(one, here)
    ]


# ---- pip install .


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built without a network from a copy: a build leaves files in its folder."""
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    copy = tmp_path_factory.mktemp("source")
    for name in (
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        *(path.name for path in ROOT.glob("config_*.sh")),
    ):
        shutil.copy(str(ROOT / name), str(copy))
    shutil.copytree(
        str(ROOT / "ssd"), str(copy / "ssd"), ignore=shutil.ignore_patterns("__pycache__")
    )
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            "-w",
            str(folder),
            str(copy),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout.decode()
    (path,) = folder.iterdir()
    return path


def test_wheel_has_all_that_the_package_reads(wheel):
    with zipfile.ZipFile(str(wheel)) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ssd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "ssd/recipes/ssd-resnet34-coco.yaml",
        "ssd/datasets/openimages_mlperf_classes.txt",
    } <= files
    assert held == files | {"ssd/configs/" + path.name for path in ROOT.glob("config_*.sh")}
    assert wheel.name.split("-")[1] == ssd.__version__


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A function that runs this Python in another folder, with the wheel installed beside its
    other packages."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=str(elsewhere),
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, PYTHONPATH=str(target), COLUMNS="100"),
            capture_output=True,
            text=True,
        )

    run.target = target
    return run


@pytest.fixture
def command(python):
    """A function that runs the installed `ssd`."""
    return lambda *arguments: python(python.target / "bin/ssd", *arguments)


def test_installed_command_names_itself(command):
    done = command("--help")
    assert done.returncode == 0 and done.stdout.startswith(
        "usage: ssd [-h] [--version] COMMAND ..."
    ), done
    assert command("score", "--help").stdout.startswith("usage: ssd score ")
    assert "ssd: error: unknown command 'trian'; did you mean train?" in command("trian").stderr
    assert "ssd score: error: " in command("score", "--nonsense").stderr
    version = command("--version").stdout
    assert re.match(
        re.escape("ssd " + ssd.__version__) + r"(, MXNet \d+\.\d+\.\d+\S*)?\n$", version
    ), version


def test_installed_command_finds_its_files(command, python):
    """Recipes, class lists, and the systems that `plan` knows."""
    done = command("plan", "--nodes", 8, "--gpus", 8, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"] == "config_DGXA100_008x08x024.sh"
    done = python(
        "-c",
        """
import ssd
from ssd.config import builtin_recipes, load_recipe
from ssd.datasets.openimages_classes import MLPERF_LIST
recipes = [load_recipe(name) for name in builtin_recipes()]
print(ssd.__file__, len(recipes), len(list(open(MLPERF_LIST))))
""",
    )
    assert done.returncode == 0, done.stderr
    path, recipes, lines = done.stdout.split()
    assert Path(path).parents[1] == python.target
    assert int(recipes) == len(list((ROOT / "ssd/recipes").glob("*.yaml"))) and int(lines) == 264


def test_second_process_finds_the_installed_package(command, python):
    """Training and `evaluate` score in `python -m ssd.evaluation.scoring_child`."""
    assert command("make-shapes", "shapes", "--train-images", 2, "--val-images", 2).returncode == 0
    done = python(
        "-c",
        """
import glob
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring_process import ScoringProcess
annotations, = glob.glob("shapes/annotations/*val*.json")
with ScoringProcess() as scoring:
    scoring.start(annotations, Detections([], [], [], []), "run")
    print(len(scoring.result(timeout=60)))
""",
    )
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
