#!/usr/bin/env python3
"""Print, for pip, the packages that a container's base image lacks. The Dockerfile runs it before
the code is copied.

    container_packages.py pyproject.toml constraints.txt REQUIREMENTS BASE

pyproject.toml names the packages, constraints.txt their versions. Writes two files for
`pip install -r REQUIREMENTS -c BASE`, and one line per package to standard output. The base image's
own MXNet, NumPy, Horovod and DALI are never replaced: they must be there, and NumPy's version is
what BASE holds. Needs the standard library and any pip.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

FROM_BASE = ("mxnet", "numpy", "horovod", "nvidia-dali-cuda120")
# Of no use to training, evaluation, scoring and their report: videos and export.
NOT_NEEDED = ("av", "onnxruntime")
# What counts and checks the score is taken at the pinned version; for the others the image's own
# version will do.
EXACT = ("pycocotools", "mlperf-logging", "hotcoco", "faster-coco-eval")
MODULES = {
    "nvidia-dali-cuda120": "nvidia.dali",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "opencv-python-headless": "cv2",
}
# onnx 1.17.0 wants NumPy 1.20; which one NVIDIA's image has is not written in its release notes.
FOR_OLD_NUMPY = {"onnx": "onnx==1.12.0"}


def applies(requirement: Requirement) -> bool:
    """Whether a requirement is one on this Python."""
    return requirement.marker is None or requirement.marker.evaluate()


def pins(constraints: str) -> dict:
    """What constraints.txt pins for this Python: {name: version}."""
    with open(constraints, encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    found = [one for one in map(Requirement, filter(None, lines)) if applies(one)]
    return {one.name.lower(): str(one.specifier)[2:] for one in found}


def needed(pyproject: str) -> list:
    """The names in [project] dependencies that apply to this Python."""
    with open(pyproject, encoding="utf-8") as file:
        block = re.search(r"^dependencies = (\[.*?^\])", file.read(), re.MULTILINE | re.DOTALL)
    assert block, f"{pyproject}: no dependencies"
    # A TOML array of strings, with its comments, is a Python list.
    return [
        one.name.lower()
        for one in map(Requirement, ast.literal_eval(block.group(1)))
        if applies(one)
    ]


def importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES.get(name, name.replace("-", "_"))) is not None
    except ImportError:  # the package around a submodule is missing
        return False


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main(pyproject: str, constraints: str, requirements: str, base: str) -> int:
    for name in FROM_BASE:
        if not importable(name):
            print(
                f"container_packages.py: the base image has no {MODULES.get(name, name)}; "
                "FROM_IMAGE_NAME must name one with MXNet, NumPy, Horovod and DALI",
                file=sys.stderr,
            )
            return 1
    import numpy

    old_numpy = tuple(map(int, numpy.__version__.split(".")[:2])) < (1, 20)
    lacking = []
    versions = pins(constraints)
    for name in needed(pyproject):
        pin = versions[name]
        if name in FROM_BASE or name in NOT_NEEDED:
            continue
        found = installed(name)
        if found == pin if name in EXACT else importable(name):
            print(f"{name}: the base image's {found or 'own'} (pinned {pin})")
        else:
            lacking.append(
                FOR_OLD_NUMPY[name] if old_numpy and name in FOR_OLD_NUMPY else f"{name}=={pin}"
            )
            print(f"{name}: installing {lacking[-1]}" + (f" over {found}" if found else ""))
    with open(requirements, "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lacking))
    with open(base, "w", encoding="utf-8") as file:
        file.write(f"numpy=={numpy.__version__}\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
