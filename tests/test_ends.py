"""How a command ends: Ctrl-C while it imports, and outputs that are full, closed, unread or cannot
encode a text."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from ssd import ends
from ssd.commands.train import write_final_report
from ssd.training.signals import StopSignals
from tests.training.tiny import FLAGS, tiny_data

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Runs `python -m ssd` with a Ctrl-C when it starts to import a module, or once that is loaded.
DRIVER = """
import os, runpy, signal, sys
module, after, *arguments = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module and self in sys.meta_path:
            sys.meta_path.remove(self)
            if after == "after":
                __import__(name)
            os.kill(os.getpid(), signal.SIGINT)
        return None
sys.meta_path.insert(0, Finder())
sys.argv = ["ssd", *arguments]
runpy.run_module("ssd", run_name="__main__", alter_sys=True)
"""


def start(*command, env=None, **streams):
    environment = {**os.environ, "PYTHONPATH": ROOT, **(env or {})}
    streams = {**dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE), **streams}
    return subprocess.run(list(map(str, command)), env=environment, timeout=120, **streams)


def ssd(*arguments, **streams):
    return start(sys.executable, "-m", "ssd", *arguments, **streams)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    done = ssd("make-shapes", folder, "--train-images", "2", "--val-images", "2", "--seed", "3")
    assert done.returncode == 0, done.stderr
    return folder


def check(shapes, *flags):
    return (
        "check-data",
        "--data-dir",
        shapes,
        "--split",
        "val",
        "--val-annotations",
        "annotations/bbox_only_instances_val2017.json",
        "--val-images",
        "val2017",
        "--no-cache",
        *flags,
    )


def interrupted(module, after, *arguments):
    done = start(sys.executable, "-c", DRIVER, module, after, *arguments)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "module, after",
    [
        ("ssd.commandline", "before"),
        ("yaml", "after"),
        ("ssd.commands.check_data", "before"),
        ("numpy", "after"),
        ("PIL._imaging", "before"),
        ("ssd.datasets.annotation_file", "after"),
    ],
)
def test_ctrl_c_while_importing(shapes, module, after):
    assert interrupted(module, after, *check(shapes)) == (
        130,
        "python -m ssd check-data: interrupted\n",
    )


@pytest.mark.parametrize(
    "module, after",
    [("nvidia.dali.backend_impl", "before"), ("mxnet.base", "after"), ("mxnet.gluon", "before")],
)
def test_ctrl_c_while_mxnet_and_dali_are_loaded(shapes, tmp_path, module, after):
    """An interrupt may turn into an ImportError there, and a partly loaded library be torn down."""
    status = interrupted(
        module,
        after,
        "show-data",
        "--data-dir",
        shapes,
        "--output",
        tmp_path / "out",
        "--count",
        "1",
        "--recipe",
        "ssd-resnet34-shapes",
    )
    assert status == (130, "python -m ssd show-data: interrupted\n")


def test_ctrl_c_that_a_library_in_c_would_print(tmp_path):
    """NumPy's import_array prints what an import raises, and makes it an ImportError."""
    (tmp_path / "library.py").write_text(
        "import os, signal, sys, traceback\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    "
        "list(range(10))\n"
        "except BaseException:\n    traceback.print_exc()\n    raise ImportError('failed to "
        "import')\n"
    )
    code = (
        "from ssd import ends; ends.begin('small'); ends.run(lambda: print('half') or "
        "__import__('library'))"
    )
    done = start(
        sys.executable, "-c", code, env=dict(PYTHONPATH=f"{ROOT}:{tmp_path}", PYTHONUNBUFFERED="")
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"half\n", b"small: interrupted\n")


def test_ctrl_c_in_the_report_does_not_change_the_status_of_the_run(monkeypatch, capsys):
    """The rest of the report is left out too: Matplotlib may be partly imported."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd.report.curves.draw_curves", interrupt)
    monkeypatch.setattr(
        "ssd.report.run_report.report_run", lambda *_: pytest.fail("must be skipped")
    )
    monkeypatch.setattr(ends._State, "exit_in_imports", True)
    write_final_report("run")
    assert (
        capsys.readouterr().err
        == "warning: left out of run, interrupted: curves.png and report.html\n"
    )
    assert not ends._State.exit_in_imports


# A command like ours that sends itself a SIGINT at a given moment, or none.
SMALL = """
import os, signal, sys
from ssd import ends
ends.begin("small")
class Late:
    def __del__(self, kill=os.kill, number=os.getpid()):
        kill(number, 2)
def main():
    moment, text = sys.argv[1:]
    print(text)
    if moment == "work":
        os.kill(os.getpid(), signal.SIGINT)
        [None for _ in range(1000)]    # Python calls handlers between two instructions
    elif moment == "exit":
        import atexit
        atexit.register(os.kill, os.getpid(), signal.SIGINT)
    elif moment == "teardown":
        sys.modules["late"] = Late()
    return 0
ends.run(main)
"""


@pytest.mark.parametrize(
    "moment, end",
    [
        ("work", (130, b"small: interrupted\n")),
        ("teardown", (0, b"")),
        ("exit", (130, b"small: interrupted\n")),
    ],
)
def test_ctrl_c_at_the_ends_of_a_command(moment, end):
    """During Python's own teardown SIGINT would kill the process silently."""
    done = start(sys.executable, "-c", SMALL, moment, "done")
    assert (done.returncode, done.stderr) == end
    assert done.stdout == b"done\n"


def test_an_ignored_interrupt_stays_ignored(shapes):
    """As under nohup, and in the background of a script."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = start(
        sys.executable,
        "-c",
        ignoring,
        sys.executable,
        "-c",
        DRIVER,
        "yaml",
        "before",
        *check(shapes),
    )
    assert done.returncode == 0 and b"no errors" in done.stdout


# ---- outputs

COMMANDS = (("check-data",), ("plan", "--gpus", "8", "--nodes", "1"))


def arguments_of(command, shapes):
    return check(shapes) if command == ("check-data",) else command


# As in a shell, and in run_and_time.sh.
BUFFERING = [dict(PYTHONUNBUFFERED=""), dict(PYTHONUNBUFFERED="1")]
each_command = pytest.mark.parametrize(
    "command, buffering", [(COMMANDS[0], BUFFERING[0]), *zip(COMMANDS, BUFFERING[::-1])], ids=str
)


@each_command
def test_a_full_output_is_reported(shapes, command, buffering):
    with open("/dev/full", "w") as full:
        done = ssd(*arguments_of(command, shapes), stdout=full, env=buffering)
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (
        1,
        "standard output is incomplete: No space left on device",
    )
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@each_command
def test_a_pipe_that_nobody_reads(shapes, command, buffering):
    reader, writer = os.pipe()
    os.close(reader)
    done = ssd(*arguments_of(command, shapes), stdout=writer, env=buffering)
    os.close(writer)
    assert (
        done.returncode == 141
        and b"Traceback" not in done.stderr
        and b"Exception ignored" not in done.stderr
    )


def test_training_saves_when_its_reader_has_gone(tmp_path):
    data = tiny_data(tmp_path / "data", train_images=8, val_images=2)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ssd",
            "train",
            *FLAGS,
            "--data-dir",
            data,
            "--cache-dir",
            tmp_path / "cache",
            "--output",
            tmp_path / "run",
            "--epochs",
            "200",
        ],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    next(line for line in process.stdout if line.startswith(b"epoch 1 step 1/"))
    process.stdout.close()
    errors = process.communicate(timeout=120)[1].decode()
    *_, stopped, lost = errors.splitlines()
    stopped = re.match(
        r"python -m ssd train: stopped: SIGPIPE on rank 0, after step (\d+) .*; checkpoint", stopped
    )
    assert (process.returncode, lost) == (
        75,
        "standard output is incomplete: Broken pipe",
    ) and stopped, errors
    assert f"step-{int(stopped[1]):08d}" in os.listdir(tmp_path / "run" / "checkpoints")


def test_a_lost_reader_does_not_count_as_the_first_ctrl_c():
    """Ctrl-C in `train | tee log` ends tee at once, perhaps before training sees it. The checkpoint
    must still be saved."""
    with StopSignals() as signals:
        ends._State.unread()
        assert signals.received == "SIGPIPE"
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # Python calls handlers between two instructions
                pass
    assert ends._State.unread is None


def test_a_broken_pipe_is_not_reported_as_an_unwritable_file():
    """It comes from lines that are printed while a file is written."""
    from ssd.files import write_errors

    with pytest.raises(BrokenPipeError):
        with write_errors("--output out", "out"):
            raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    "script, module",
    [
        ("pth_to_onnx.py", "ssd.errors"),
        ("import_weights.py", "ssd.errors"),
        ("package_submission.py", "ssd.submission"),
        ("pth_to_onnx.py", "numpy"),
    ],
)
def test_ctrl_c_in_scripts(script, module):
    driver = DRIVER.replace(
        'runpy.run_module("ssd", run_name="__main__", alter_sys=True)',
        f'runpy.run_path({os.path.join(ROOT, "scripts", script)!r}, run_name="__main__")',
    )
    done = start(
        sys.executable,
        "-c",
        driver,
        module,
        "before",
        "--help",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr.decode()) == (130, f"{script}: interrupted\n")


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"]
)
def test_closed_streams(shapes, tmp_path, closed):
    """The work is done, and no file that is opened later gets a stream's descriptor."""
    output = tmp_path / "made"
    done = start(
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        sys.executable,
        "-m",
        "ssd",
        "make-shapes",
        output,
        "--train-images",
        "1",
        "--val-images",
        "1",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    annotations = output / "annotations" / "bbox_only_instances_val2017.json"
    assert len(json.loads(annotations.read_text())["images"]) == 1


def test_child_processes_have_open_streams():
    code = (
        "import subprocess, sys; from ssd import ends; ends.begin('small'); ends.run(lambda: "
        "subprocess.call([sys.executable, '-c', 'import os, sys; [os.fstat(number) for number in "
        "range(3)]; sys.exit(7)']))"
    )
    assert (
        start("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code).returncode
        == 7
    )


NAME = "\u65b9\u5f62 M\u00fcll \U0001f408 \udcff"
ENCODINGS = [
    ("ascii", dict(PYTHONIOENCODING="ascii")),
    ("utf-8", dict(LC_ALL="C")),
    ("utf-8", dict(LC_ALL="POSIX")),
    ("utf-8", dict(LC_ALL="C.UTF-8")),
    ("ascii", dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")),
    ("latin-1", dict(PYTHONIOENCODING="latin-1")),
    ("ascii", dict(PYTHONIOENCODING="ascii:strict")),
    ("cp1252", dict(PYTHONIOENCODING="cp1252")),
    ("utf-8", dict(PYTHONIOENCODING="utf-8:strict")),
    ("gbk", dict(PYTHONIOENCODING="gbk")),
]


@pytest.mark.parametrize("buffering", BUFFERING, ids=str)
@pytest.mark.parametrize("encoding, environment", ENCODINGS, ids=str)
def test_characters_that_an_output_cannot_encode_are_escaped(encoding, environment, buffering):
    done = start(
        sys.executable,
        "-c",
        SMALL.replace("text = sys.argv[1:]", f"text = '', {NAME!a}"),
        "",
        "",
        env={**environment, **buffering},
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        NAME.encode(encoding, "backslashreplace") + b"\n",
        b"",
    )


@pytest.mark.parametrize("encoding, environment", ENCODINGS[:2], ids=str)
def test_a_class_name_that_an_output_cannot_encode(shapes, tmp_path, encoding, environment):
    content = json.loads((shapes / "annotations" / "bbox_only_instances_val2017.json").read_text())
    content["categories"].append(dict(id=99, name=NAME))
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    done = ssd(*check(shapes, "--val-annotations", path), env=environment)
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stdout.splitlines() if b"category without a box" in line]
    assert NAME.encode(encoding, "backslashreplace") in line


def test_a_locale_that_cannot_name_a_file(shapes, tmp_path):
    environment = dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    path = tmp_path / "val.json"
    content = json.loads((shapes / "annotations" / "bbox_only_instances_val2017.json").read_text())
    content["images"][0]["file_name"] = "\u65b9.png"
    path.write_text(json.dumps(content))
    done = ssd(*check(shapes, "--val-annotations", path), env=environment)
    assert done.returncode in (1, 2) and b"Traceback" not in done.stderr, done.stderr
    assert b"the encoding of this locale, ascii, cannot name" in done.stderr + done.stdout
    assert b"PYTHONUTF8=1" in done.stderr + done.stdout
