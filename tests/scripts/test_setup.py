"""scripts/setup.sh and standalone_python.sh, on a copy with a PATH of chosen programs. Nothing is
downloaded."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the scripts use of a plain Debian, besides Python and the compilers.
PROGRAMS = (
    "bash cat chmod dirname env find flock grep gzip mkdir mktemp mv nproc printf rm sed sha256sum "
    "tail tar "
    "uname"
).split()


def run(command, path=None, **variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name
        not in (
            "PYTHON",
            "PYENV_ROOT",
            "VIRTUAL_ENV",
            "PYTHONPATH",
            "SSD_STANDALONE_PYTHON",
            "XDG_CACHE_HOME",
        )
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
    assert not path.is_symlink()  # or the system's program would be overwritten
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the scripts in a folder with blanks; the first test that gets that far makes its
    .venv."""
    root = tmp_path_factory.mktemp("some clone") / "with blanks"
    (root / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "standalone_python.sh", "constraints.txt"):
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
        "setup: no Python 3.8 to 3.12 with venv here, and nothing to fetch one with: uv,"
    )
    assert (
        "install python3-venv of Debian 12 or Ubuntu 24.04, or name a Python in PYTHON\n"
        in done.stderr
    )
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
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path, SSD_STANDALONE_PYTHON="no")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{programs}/python3 is 3.13.0, {programs}/python is 3.9.2 without venv" in done.stderr
    assert (
        "SSD_STANDALONE_PYTHON=no forbids to fetch one; PYTHON=/path/to/python names one"
        in done.stderr
    )
    assert not (clone / ".venv").exists()


def test_python_named_by_the_user_is_taken_or_refused(clone, programs, tmp_path):
    script(programs / "python3", "echo 'is 3.13.0' >&2; exit 1")
    for named, message in (
        ("/no/such/python", "PYTHON=/no/such/python does not exist"),
        (programs / "python3", "python3 is 3.13.0; needed: a Python 3.8 to 3.12"),
    ):
        done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path, PYTHON=named)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert message in done.stderr


@pytest.mark.parametrize("python", ["python3.11", "python"])
def test_real_version_check(clone, programs, python, tmp_path):
    """The check itself, on this interpreter, told that it is another version."""
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text("import sys\nsys.version_info = (3, 13, 1, 'final', 0)\nexec(sys.argv[1])\n")
    script(programs / python, f'exec "{real_python()}" "{wrapper}" "$2"')
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path, SSD_STANDALONE_PYTHON="no")
    assert done.returncode == 1 and f"(found: {programs}/{python} is 3.13.1)" in done.stderr


# ---- a standalone Python


def archive(tmp_path, name, files):
    """A .tar.gz of these files: {path: text}."""
    path = tmp_path / name
    with tarfile.open(str(path), "w:gz") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(file)
            member.size, member.mode = len(text.encode()), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def own_version():
    return "{}.{}".format(*sys.version_info[:2])


def test_archive_of_a_standalone_python(clone, programs, tmp_path):
    """Unpacked once, into the cache folder, and taken though another Python is on PATH."""
    script(programs / "python3", f'exec "{real_python()}" "$@"')
    held = archive(
        tmp_path,
        "cpython install_only.tar.gz",
        {"python/bin/python3": f'#!/bin/sh\nexec "{real_python()}" "$@"\n'},
    )
    setup = [clone / "scripts/setup.sh", "--python", own_version()]
    for announced in (1, 0):
        done = run(setup, programs, HOME=tmp_path, SSD_STANDALONE_PYTHON=held)
        assert done.returncode == 0 and done.stderr.count("\n") == announced, done.stderr
        found = Path(done.stdout.strip())
        assert (
            found.name == "python3" and found.parents[3] == tmp_path / ".cache/ssd-benchmark/python"
        )
    assert run([found, "-c", "print(6 * 7)"]).stdout == "42\n"
    assert [path.name for path in found.parents[3].iterdir() if path.name[0] != "."] == [
        found.parents[2].name
    ]
    assert (
        run(setup, programs, HOME=tmp_path).stdout == f"{programs}/python3\n"
    )  # without the variable


@pytest.mark.parametrize(
    "files, message",
    [
        (None, "SSD_STANDALONE_PYTHON={path} is no file; it must be no or a .tar.gz"),
        ({}, "has no python/bin/python3: it is no install_only archive"),
        (
            {"python/bin/python3": "#!/bin/sh\necho 3.7\n"},
            "holds no Python 3.12 with venv that runs on this machine",
        ),
        ("half", "unpacking {path} failed: "),
    ],
)
def test_archive_that_will_not_do(clone, programs, tmp_path, files, message):
    path = tmp_path / "python.tar.gz"
    if files == "half":
        path.write_bytes(
            archive(tmp_path, "whole", {"python/bin/python3": "#!/bin/sh\n" * 99}).read_bytes()[:60]
        )
    elif files is not None:
        path = archive(tmp_path, "python.tar.gz", files)
    done = run(
        [clone / "scripts/setup.sh", "--python", "3.12"],
        programs,
        HOME=tmp_path,
        SSD_STANDALONE_PYTHON=path,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert message.format(path=path) in done.stderr.splitlines()[-1]
    store = tmp_path / ".cache/ssd-benchmark/python"
    assert [one.name for one in store.iterdir()] == [".setup.lock"]


def test_uv_on_path_fetches_a_python(clone, programs, tmp_path):
    """A stand-in for uv; its folder, and that no settings of the user's count."""
    script(
        programs / "uv",
        """
[ "$*" = "python install 3.9" ] && [ "$UV_NO_CONFIG" = 1 ] || exit 1
flock -n "$UV_PYTHON_INSTALL_DIR/.lock" cat || exit 1  # it locks this file
bin=$UV_PYTHON_INSTALL_DIR/cpython-3.9.25-linux-x86_64-gnu/bin
mkdir -p "$bin"
printf '#!/bin/sh\\necho 3.9\\n' >"$bin/python3.9"
chmod +x "$bin/python3.9\"""",
    )
    setup = [clone / "scripts/setup.sh", "--python", "3.9"]
    done = run(setup, programs, HOME=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "setup: no Python 3.9 with venv here: fetching a standalone one (about 30 MB) with uv into "
        f"{tmp_path}/.cache/ssd-benchmark; SSD_STANDALONE_PYTHON=no forbids it, "
        "PYTHON=/path/to/python avoids it\n"
    )
    path = f"{tmp_path}/.cache/ssd-benchmark/python/cpython-3.9.25-linux-x86_64-gnu/bin/python3.9\n"
    assert done.stdout == path
    (programs / "uv").unlink()  # from now on it is there
    for variables in ({}, {"SSD_STANDALONE_PYTHON": "no"}):
        done = run(setup, programs, HOME=tmp_path, **variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, path, "")


def test_uv_that_reaches_nothing(clone, programs, tmp_path):
    script(
        programs / "uv",
        "echo 'error: Failed to install' >&2; echo '  Caused by: no route to host' >&2; exit 1",
    )
    done = run([clone / "scripts/setup.sh"], programs, HOME=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 2
    assert done.stderr.splitlines()[1].startswith(
        "setup: uv python install 3.11 failed: Caused by: no route to host; "
    )
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    "page, message",
    [
        ('<a href="../../files/uv.whl#sha256=0123">uv</a>', "does not list uv "),
        (None, "failed: curl: not found"),
    ],
)
def test_index_without_uv(clone, programs, tmp_path, page, message):
    """Without any Python: curl asks the index that PIP_INDEX_URL names."""
    body = (
        "echo 'curl: not found' >&2; exit 22"
        if page is None
        else f"""
while [ "$1" != -o ]; do shift; done
printf '%s' '{page}' >"$2"
[ "$3" = https://mirror.example/simple/uv/ ]"""
    )
    script(programs / "curl", body)
    script(programs / "cmake", "exit 1")
    done = run(
        [clone / "scripts/setup.sh"],
        programs,
        HOME=tmp_path,
        PIP_INDEX_URL="https://mirror.example/simple/",
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 2
    assert (
        message in done.stderr.splitlines()[1]
        and "https://mirror.example/simple/uv/" in done.stderr
    )


# ---- what is made of a Python that is there


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
    script(programs / "mpicxx", "cat >/dev/null; exit 1")  # a compiler reads what it gets
    assert wheel_folder(clone, programs, tmp_path) == folder
    script(programs / "mpicxx", "cat >/dev/null")
    assert wheel_folder(clone, programs, tmp_path).name == folder.name.replace("_no-mpi", "_mpi")
    (programs / "mpicxx").unlink()

    pins = clone / "scripts/constraints.txt"
    before = pins.read_text()
    try:
        for old, new in (("mxnet==1.9.1", "mxnet==1.9.9"), ("horovod==0.28.1", "horovod==0.28.9")):
            assert old in before
            pins.write_text(before.replace(old, new))
            version, other = old.split("=="), new.split("==")
            assert wheel_folder(clone, programs, tmp_path).name == folder.name.replace(
                "-".join(version), "-".join(other)
            )
    finally:
        pins.write_text(before)


def test_wheel_of_another_python_is_renamed(clone, programs, tmp_path):
    """Then no compiler is asked for: what is missing is what it would be installed from."""
    folder = wheel_folder(clone, programs, tmp_path)
    other = folder.parent / folder.name.replace("cp{}{}".format(*sys.version_info[:2]), "cp39")
    other.mkdir(parents=True)
    (other / "horovod-0.28.1-cp39-cp39-linux_x86_64.whl").write_bytes(b"")
    done = run(
        [clone / "scripts/setup.sh"],
        programs,
        HOME=tmp_path,
        PYTHON=real_python(),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=tmp_path,
        PIP_CONFIG_FILE=os.devnull,
    )
    assert (
        done.returncode == 1
        and "installing MXNet failed" in done.stderr
        and "apt-get" not in done.stderr
    )


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
        f"setup: installing MXNet failed; the whole log: {clone}/.venv/setup.log"
    )
    assert "ERROR: " in done.stderr  # of pip
    assert not (clone / ".venv/setup.stamp").exists()


def test_second_run_is_silent():
    stamp = ROOT / ".venv/setup.stamp"
    if not stamp.exists():
        pytest.skip("this checkout was not set up by scripts/setup.sh")
    before = stamp.stat().st_mtime_ns, stamp.read_text()
    for argument in (
        [],
        *(
            ["--" + name.rstrip("s")]
            for name in ("tests", "comparison")
            if name in before[1].split()
        ),
    ):
        done = run([ROOT / "scripts/setup.sh", *argument])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (stamp.stat().st_mtime_ns, stamp.read_text()) == before  # nothing was installed again


def test_unknown_argument():
    done = run([ROOT / "scripts/setup.sh", "--tset"])
    assert done.returncode == 1
    assert (
        done.stderr == "setup: unknown argument --tset; known: --test, --comparison, --wheel, "
        "--python, --help\n"
    )


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
