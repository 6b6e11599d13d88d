"""Files of a run besides log and weights: versions, TensorBoard events, curves; also of a run in
two parts."""

import glob
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ssd import __version__, files
from ssd.config import load_recipe
from ssd.training import setup, versions
from ssd.training.metrics import TRAIN_COLUMNS, Metrics
from tests.training.tiny import FLAGS, ROOT, rows, ssd, tiny_data

REPORTING = [flag for flag in FLAGS if flag != "--no-report"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that ended after step 3, lost its last checkpoint, and was resumed after step 2, with a
    report."""
    root = tmp_path_factory.mktemp("run")
    data = tiny_data(root / "set")
    flags = [
        "--data-dir",
        data,
        "--cache-dir",
        root / "cache",
        "--output",
        root / "out",
        "--tensorboard",
        "--eval-every",
        "1",
    ]
    first = ssd(
        "train",
        *FLAGS,
        *flags,
        "--max-steps",
        "3",
        "--save-interval",
        "2steps",
        env={"OMP_WAIT_POLICY": "passive", "MXNET_SOME_TOKEN": "hush"},
    )
    assert first.returncode == 0, first.stderr
    shutil.rmtree(root / "out" / "checkpoints" / "step-00000003")
    second = ssd(
        "train", *REPORTING, *flags, "--epochs", "2", "--resume", "auto", "--allow-changed-recipe"
    )
    assert second.returncode == 0, second.stderr
    return root / "out", first, second


def test_files_of_both_parts(folder):
    path, first, second = folder
    assert {
        "recipe.yaml",
        "recipe-2.yaml",
        "versions.json",
        "versions-2.json",
        "mlperf.log",
        "mlperf-2.log",
        "train.csv",
        "train-undone-by-part-2.csv",
        "evaluation.csv",
        "tensorboard",
        "curves.png",
        "report.html",
    } <= set(os.listdir(path))
    with open(path / "curves.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert [row["step"] for row in rows(path / "train.csv")] == ["1", "2", "3", "4"]
    assert "warning" not in second.stderr and str(path / "report.html") in second.stdout


def test_plain_lines_without_a_terminal(folder):
    _, first, _ = folder
    lines = [
        line for line in first.stdout.splitlines() if line.startswith("epoch 1 step 2/2  loss ")
    ]
    # The rest of the line depends on other work of the machine.
    assert len(lines) == 1 and "  waiting for data " in lines[0]
    assert "\x1b" not in first.stdout + first.stderr


def test_columns_split_the_time(folder):
    last = rows(folder[0] / "train.csv")[-1]
    assert tuple(last) == TRAIN_COLUMNS
    seconds, waiting, evaluating, locked = (
        float(last[name])
        for name in ("seconds", "data_wait_seconds", "evaluation_seconds", "lock_wait_seconds")
    )
    assert 0 <= waiting < seconds and 0 <= evaluating < seconds and 0 <= locked < seconds


def test_versions(folder):
    with open(folder[0] / "versions.json") as file:
        found = json.load(file)
    assert (
        found["python"] == sys.version
        and found["packages"]["mxnet"] == found["loaded"]["mxnet"] == "1.9.1"
    )
    assert (
        "--max-steps" in found["command_line"]
        and found["ranks"] == 1
        and found["cpu"]["usable_cores"] >= 1
    )
    assert found["ssd"] == __version__
    assert found["environment"]["OMP_WAIT_POLICY"] == "passive"
    assert found["environment"]["MXNET_SOME_TOKEN"] == "(left out)"


def test_events_of_both_parts(folder):
    """One series over both parts: events of the first part after the checkpoint are hidden."""
    scalars, hidden_from = [], None
    for path in sorted(
        glob.glob(str(folder[0] / "tensorboard" / "*tfevents*")), key=os.path.getmtime
    ):
        found, start = read_events(path)
        if start is not None:
            scalars = [entry for entry in scalars if entry[1] < start]
            hidden_from = start
        scalars += found
    assert hidden_from == 3, "the second part began after step 2"
    steps = [step for tag, step, _ in scalars if tag == "loss/total"]
    assert steps == [1, 2, 3, 4]
    by_row = {int(row["step"]): row for row in rows(folder[0] / "train.csv")}
    for tag, step, value in scalars:
        if tag.startswith("loss/") and tag != "loss/total":
            column = {"loss/classes": "class_loss", "loss/offsets": "offset_loss"}[tag]
            assert value == pytest.approx(float(by_row[step][column]), rel=1e-4)
    scores = [(step, value) for tag, step, value in scalars if tag == "evaluation/AP"]
    assert {step for step, _ in scores} == {2, 4}, (
        "detections without a score in the checkpoint are scored again"
    )
    assert scores[-1][1] == pytest.approx(
        float(rows(folder[0] / "evaluation.csv")[-1]["AP"]), abs=1e-5
    )


def read_events(path):
    """((tag, step, value) of a file's scalars, the first step whose events in earlier files it
    hides, or None)."""
    import struct

    hidden, modules = "torch" not in sys.modules, sys.modules
    if hidden:
        modules["torch"] = None
    from tensorboardX.proto.event_pb2 import Event

    if hidden:
        del modules["torch"]
    scalars, start = [], None
    with open(path, "rb") as file:
        while True:
            header = file.read(12)  # length and its checksum; then the event and its checksum
            if len(header) < 12:
                return scalars, start
            event = Event.FromString(file.read(struct.unpack("<Q", header[:8])[0]))
            file.read(4)
            if event.HasField("session_log"):
                start = event.step
            for value in event.summary.value:
                scalars.append((value.tag, event.step, value.simple_value))


def test_the_file_cache_of_the_data_set_is_dropped_wherever_it_is(tmp_path, monkeypatch):
    for name in ("boxes.json", "images/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    annotations, images = str(tmp_path / "boxes.json"), str(tmp_path / "images")
    config = load_recipe("ssd-resnet34-coco").with_values(
        data_dir="/no/such",
        train_annotations=annotations,
        val_annotations=annotations,
        train_images=images,
        val_images=images,
        clear_cache=True,
    )
    dropped, logged = [], []
    monkeypatch.setattr(
        "ssd.page_cache.drop_caches", lambda folders: dropped.extend(folders) or "all"
    )
    setup.clear_cache(
        config,
        SimpleNamespace(local_rank=0, mean=lambda values, name: values),
        SimpleNamespace(cache_clear=logged.append),
        print,
    )
    assert set(dropped) == {annotations, images} and logged == ["all"]


def test_a_missing_tensorboardx_is_reported_before_the_run(tmp_path):
    code = (
        "import sys; sys.modules['tensorboardX'] = None; from ssd.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    data = tmp_path / "set"
    for name in (
        "annotations/bbox_only_instances_train2017.json",
        "annotations/bbox_only_instances_val2017.json",
        "train2017/x",
        "val2017/x",
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("{}")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "train",
            "--tensorboard",
            "--data-dir",
            data,
            "--output",
            tmp_path / "out",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "tensorboardX is not installed" in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_code_version_of_a_checkout_and_elsewhere(tmp_path, monkeypatch):
    # A git hook that runs the tests sets these, and git would use the hook's repository.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    assert versions.code_version(str(tmp_path)) is None

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    found = versions.code_version(str(tmp_path))
    assert len(found["commit"]) == 40 and found["changed"] is False
    (tmp_path / "file").write_text("2")
    assert versions.code_version(str(tmp_path))["changed"] is True


def test_a_folder_of_an_older_version_is_resumed(tmp_path):
    """Rows of a part with fewer columns are kept, and the file gets the columns of the new rows."""
    (tmp_path / "train.csv").write_text("epoch,step,images\n1,1,4\n1,2,8\n2,3,12\n")
    (tmp_path / "evaluation.csv").write_text("epoch,AP\n1,-1.0\n")
    metrics = Metrics(str(tmp_path))
    metrics.set_aside(2, 2, 1)
    found = rows(tmp_path / "train.csv")
    assert [row["images"] for row in found] == ["4", "8"] and tuple(found[0]) == TRAIN_COLUMNS
    assert metrics.scores == [(1, 0.0)]


def test_partial_files_of_a_killed_part_are_removed(tmp_path):
    (tmp_path / "mlperf.log").touch()
    (tmp_path / f".weights.params.{files.system_id()}-{2**22 + 1}-7.partial").touch()
    (tmp_path / "mine.partial").touch()
    config = load_recipe("ssd-resnet34-shapes").with_values(output=str(tmp_path), resume="auto")
    assert setup.open_folder(config).part == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.partial", "mlperf.log"]
