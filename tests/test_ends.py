"""How a command ends: Ctrl-C while it imports, and outputs that are full, closed, unread or of few letters."""
import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Runs `python -m ssd` with a Ctrl-C at the moment that a module is looked for, or once it is loaded.
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
    environment = {**os.environ, "PYTHONPATH": ROOT, "SLOT_HELD": "1", **(env or {})}
    return subprocess.run(list(map(str, command)), env=environment, timeout=120, **streams)


def ssd(*arguments, env=None, **streams):
    streams = {**dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE), **streams}
    return start(sys.executable, "-m", "ssd", *arguments, env=env, **streams)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    done = ssd("make-shapes", folder, "--train-images", "2", "--val-images", "2", "--seed", "3")
    assert done.returncode == 0, done.stderr
    return folder


def check(shapes, *flags):
    return ("check-data", "--data-dir", shapes, "--split", "val", "--val-annotations",
            "annotations/bbox_only_instances_val2017.json", "--val-images", "val2017", "--no-cache", *flags)


MOMENTS = ("ssd.commandline", "argparse", "ssd.config", "yaml", "ssd.sections", "ssd.commands.check_data", "numpy",
           "ssd.datasets.coco", "PIL._imaging", "ssd.datasets.image_checks", "ssd.datasets.annotation_file")


def interrupted(module, after, *arguments):
    done = start(sys.executable, "-c", DRIVER, module, after, *arguments, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("module, after", [(module, "before") for module in MOMENTS]
                         + [(module, "after") for module in MOMENTS[::3]])
def test_ctrl_c_while_importing(shapes, module, after):
    assert interrupted(module, after, *check(shapes)) == (130, "python -m ssd check-data: interrupted\n")


@pytest.mark.parametrize("module, after", [
    ("nvidia.dali.backend_impl", "before"), ("nvidia.dali.fn", "after"), ("mxnet", "before"),
    ("mxnet.base", "after"), ("mxnet.gluon", "before")])
def test_ctrl_c_while_mxnet_and_dali_are_loaded(shapes, tmp_path, module, after):
    """Where an interrupt may come out as an ImportError, and half of a library be taken down."""
    status = interrupted(module, after, "show-data", "--data-dir", shapes, "--output", tmp_path / "out",
                         "--count", "1", "--recipe", "ssd-resnet34-shapes")
    assert status == (130, "python -m ssd show-data: interrupted\n")


def test_an_ignored_interrupt_stays_ignored(shapes):
    """As under nohup, and in the background of a script."""
    ignoring = ("import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
                "os.execv(sys.argv[1], sys.argv[1:])")
    done = start(sys.executable, "-c", ignoring, sys.executable, "-c", DRIVER, "yaml", "before", *check(shapes),
                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0 and b"no errors" in done.stdout


# ---- outputs

COMMANDS = (("check-data",), ("summary", "--recipe", "ssd-resnet34-shapes"), ("plan", "--gpus", "8", "--nodes", "1"), ("--help",))


def arguments_of(command, shapes):
    return check(shapes) if command == ("check-data",) else command


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_full_output_is_said(shapes, command):
    with open("/dev/full", "w") as full:
        done = ssd(*arguments_of(command, shapes), stdout=full)
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (
        1, "standard output is not whole: No space left on device")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS[:3], ids=lambda command: command[0])
def test_a_pipe_that_nobody_reads(shapes, command):
    reader, writer = os.pipe()
    os.close(reader)
    done = ssd(*arguments_of(command, shapes), stdout=writer)
    os.close(writer)
    assert done.returncode == 141 and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams(shapes, tmp_path, closed):
    """The work is done, and no file that is opened later takes the place of a stream."""
    output = tmp_path / "made"
    done = start("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "ssd", "make-shapes", output,
                 "--train-images", "1", "--val-images", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    annotations = output / "annotations" / "bbox_only_instances_val2017.json"
    assert len(json.loads(annotations.read_text())["images"]) == 1


NAME = "\u65b9\u5f62 M\u00fcll \U0001f408 \udcff"


@pytest.mark.parametrize("encoding, environment", [
    ("ascii", dict(PYTHONIOENCODING="ascii")), ("utf-8", dict(LC_ALL="C")), ("utf-8", dict(LC_ALL="POSIX")),
    ("utf-8", dict(LC_ALL="C.UTF-8")), ("ascii", dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")),
    ("latin-1", dict(PYTHONIOENCODING="latin-1")), ("ascii", dict(PYTHONIOENCODING="ascii:strict")),
    ("cp1252", dict(PYTHONIOENCODING="cp1252")), ("utf-8", dict(PYTHONIOENCODING="utf-8:strict")),
    ("gbk", dict(PYTHONIOENCODING="gbk"))], ids=str)
def test_letters_that_an_output_lacks_are_escaped(shapes, tmp_path, encoding, environment):
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
    if done.returncode == 2:
        assert b"the encoding of this locale, ascii, cannot name the file" in done.stderr
