"""scripts/setup.sh, test.sh and pins.py, on a copy with a PATH of chosen programs. Nothing is
downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the scripts use of a plain Debian, besides Python and the compilers.
PROGRAMS = (
    "bash cat dirname env find flock grep mkdir mktemp mv nproc printf rm sed sha256sum tail uname"
).split()


def run(command, path=None, **variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHON", "PYENV_ROOT", "VIRTUAL_ENV", "PYTHONPATH")
    }
    if path is not None:
        environment["PATH"] = str(path)
    environment.update({name: str(value) for name, value in variables.items()})
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def script(path, text):
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the scripts in a folder with blanks; the first test that gets that far makes its
    .venv."""
    root = tmp_path_factory.mktemp("some clone") / "with blanks"
    (root / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "pins.py"):
        shutil.copy(str(ROOT / "scripts" / name), str(root / "scripts"))
    shutil.copy(str(ROOT / "pyproject.toml"), str(root))
    return root


@pytest.fixture
def programs(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:  # printf is bash's own
            (folder / name).symlink_to(found)
    return folder


def real_python():
    """The interpreter behind this virtual environment."""
    return Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info[:2])


def test_no_python_at_all(clone, programs, tmp_path):
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "setup: needed: a Python 3.8 to 3.11 with venv (Debian 12: apt-get install python3-venv)"
    )
    assert done.stderr.endswith("found: no Python at all\n")
    assert not (clone / ".venv").exists()


def test_only_pythons_that_will_not_do(clone, programs, tmp_path):
    # What the shim of a version that is not installed does, a version too new, and one without
    # venv.
    script(programs / "python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    script(programs / "python3", "echo 'is 3.13.0' >&2; exit 1")
    script(
        programs / "python",
        "echo 'is 3.9.2 without venv (Debian package python3.9-venv)' >&2; exit 1",
    )
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{programs}/python3 is 3.13.0, {programs}/python is 3.9.2 without venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_python_named_by_the_user_is_taken_or_refused(clone, programs, tmp_path):
    script(programs / "python3", "echo 'is 3.13.0' >&2; exit 1")
    for named, message in (
        ("/no/such/python", "PYTHON=/no/such/python does not exist"),
        (programs / "python3", "python3 is 3.13.0; needed: a Python 3.8 to 3.11"),
    ):
        done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path, PYTHON=named)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert message in done.stderr


@pytest.mark.parametrize("python", ["python3.11", "python"])
def test_real_version_check(clone, programs, python, tmp_path):
    """The check itself, on this interpreter, told that it is another version."""
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text("import sys\nsys.version_info = (3, 12, 1, 'final', 0)\nexec(sys.argv[1])\n")
    script(programs / python, f'exec "{real_python()}" "{wrapper}" "$2"')
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path)
    assert done.returncode == 1 and f"{programs}/{python} is 3.12.1\n" in done.stderr


@pytest.mark.parametrize("missing", [["cmake"], ["make"], ["g++"], ["cmake", "make", "g++"]])
def test_missing_build_tools(clone, programs, tmp_path, missing):
    for name in {"cmake", "make", "g++"} - set(missing):
        script(programs / name, "exit 1")
    done = run(
        [clone / "scripts/setup.sh"],
        programs,
        HOME=tmp_path,
        PYTHON=real_python(),
        XDG_CACHE_HOME=tmp_path / "cache",
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"apt-get install {' '.join(missing)} (" in done.stderr
    assert "requirements" not in done.stdout  # before any long work


def wheel_folder(clone, programs, tmp_path, **variables):
    done = run(
        [clone / "scripts/setup.sh", "--wheel"],
        programs,
        HOME=tmp_path,
        PYTHON=real_python(),
        **variables,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_wheel_is_kept_by_python_mxnet_horovod_and_mpi(clone, programs, tmp_path):
    folder = wheel_folder(clone, programs, tmp_path)
    assert folder.parent == tmp_path / ".cache/ssd-benchmark/wheels"
    assert "cp{}{}".format(*sys.version_info[:2]) in folder.name and folder.name.endswith("_no-mpi")
    assert wheel_folder(clone, programs, tmp_path, XDG_CACHE_HOME=tmp_path / "a b").parent == (
        tmp_path / "a b/ssd-benchmark/wheels"
    )

    # mpicxx without its headers is no MPI.
    script(programs / "mpicxx", "exit 1")
    assert wheel_folder(clone, programs, tmp_path) == folder
    script(programs / "mpicxx", "exit 0")
    assert wheel_folder(clone, programs, tmp_path).name == folder.name.replace("_no-mpi", "_mpi")
    (programs / "mpicxx").unlink()

    pins = clone / "pyproject.toml"
    before = pins.read_text()
    try:
        for old, new in (
            ('"mxnet==1.9.1"', '"mxnet==1.9.9"'),
            ('"horovod==0.28.1"', '"horovod==0.28.9"'),
        ):
            assert old in before
            pins.write_text(before.replace(old, new))
            version, other = old.strip('"').split("=="), new.strip('"').split("==")
            assert wheel_folder(clone, programs, tmp_path).name == folder.name.replace(
                "-".join(version), "-".join(other)
            )
    finally:
        pins.write_text(before)


def test_half_written_wheel_is_not_taken(clone, programs, tmp_path):
    """What a killed build leaves behind: then cmake is asked for, as if the cache were empty."""
    folder = wheel_folder(clone, programs, tmp_path)
    (folder / ".building.abc").mkdir(parents=True)
    (folder / ".building.abc/horovod-0.28.1-py3-none-any.whl").write_bytes(b"half")
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path, PYTHON=real_python())
    assert done.returncode == 1 and "apt-get install cmake make g++" in done.stderr


def test_failure_shows_the_log(clone, programs, tmp_path):
    """With a wheel in the cache and no way to download: pip's last lines, then the log's path."""
    folder = wheel_folder(clone, programs, tmp_path)
    folder.mkdir(parents=True)
    (folder / "horovod-0.28.1-cp1-none-any.whl").write_bytes(b"")
    done = run(
        [clone / "scripts/setup.sh"],
        programs,
        HOME=tmp_path,
        PYTHON=real_python(),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=tmp_path,
        PIP_CONFIG_FILE=os.devnull,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"setup: installing requirements failed; the whole log: {clone}/.venv/setup.log"
    )
    assert "No matching distribution found" in done.stderr
    assert not (clone / ".venv/setup.stamp").exists()


def test_second_run_is_silent():
    stamp = ROOT / ".venv/setup.stamp"
    if not stamp.exists():
        pytest.skip("this checkout was not set up by scripts/setup.sh")
    before = stamp.stat().st_mtime_ns, stamp.read_text()
    for argument in ([], ["--test"] if "tests" in before[1].split() else []):
        done = run([ROOT / "scripts/setup.sh", *argument])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (stamp.stat().st_mtime_ns, stamp.read_text()) == before  # nothing was installed again


def test_unknown_argument():
    done = run([ROOT / "scripts/setup.sh", "--tset"])
    assert done.returncode == 1
    assert done.stderr == "setup: unknown argument --tset; known: --test, --wheel, --help\n"


def pins(*arguments):
    done = run([sys.executable, ROOT / "scripts/pins.py", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_requirement_is_pinned():
    lines = pins("requirements", "--extra", "build", "--extra", "test")
    assert "numpy==1.23.5" in lines and any(line.startswith("pytest==") for line in lines)
    for line in lines:
        assert "==" in line.split(";")[0], line
    without = pins("requirements", "--without", "horovod", "--without", "gluoncv")
    assert set(lines) - set(without) >= {"horovod==0.28.1", "gluoncv==0.10.5.post0"}
    assert pins("version", "mxnet") == ["1.9.1"]
    assert run([sys.executable, ROOT / "scripts/pins.py", "version", "pillow"]).returncode == 1


def test_shellcheck():
    program = shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(
        path
        for pattern in ("*.sh", "*.sub", "scripts/*.sh", "tests/**/*.sh", ".ci/run")
        for path in ROOT.glob(pattern)
    )
    assert ROOT / "scripts/setup.sh" in scripts
    # -P: "$root/config_x.sh" in a script is looked for in the repository's root.
    done = run([program, "-x", "-P", ROOT, *scripts])
    assert done.returncode == 0, done.stdout
