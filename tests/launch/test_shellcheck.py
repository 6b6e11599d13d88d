"""shellcheck over every shell script of the repository."""

import os
import shutil
import subprocess

import pytest

from tests.training.tiny import ROOT


def shell_scripts():
    """Paths in the repository of files with a shell's ending or first line; what git ignores is
    left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = []
    for path in filter(None, listed.split("\0")):
        whole = os.path.join(ROOT, path)
        if not os.path.isfile(whole):
            continue
        with open(whole, "rb") as file:
            first = file.readline(200)
        if path.endswith((".sh", ".sub")) or (
            first.startswith(b"#!") and first.rstrip().endswith(b"sh")
        ):
            found.append(path)
    return found


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    scripts = shell_scripts()
    for expected in (
        "run.sub",
        "run_and_time.sh",
        "scripts/setup.sh",
        ".ci/run",
        "tests/launch/spank/enroot",
    ):
        assert expected in scripts
    result = subprocess.run(
        ["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_scripts_that_are_run_are_executable():
    for path in shell_scripts():
        name = os.path.basename(path)
        assert (
            name.startswith("config_")
            or name == "run.sub"
            or os.access(os.path.join(ROOT, path), os.X_OK)
        ), path
