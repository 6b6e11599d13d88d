"""A run that resumes from a checkpoint gives the same weights as an uninterrupted one."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.training import setup
from ssd.training.metrics import Metrics
from tests.training.tiny import FLAGS, ROOT, horovodrun, rows, tiny_data, train

WORKER = os.path.join(ROOT, "tests", "faults", "resume_worker.py")
RECIPE = load_recipe("ssd-resnet34-shapes")
STEPS = 5  # 2 per epoch, with an evaluation after each epoch and at the end


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


ADAM = """extends: ssd-resnet34-shapes
training:
  {optimizer: adam, adam_betas: [0.9, 0.99], adam_epsilon: 1.0e-8, base_lr: 0.001,
   schedule: constant}
"""


@pytest.mark.parametrize(
    "size, batch, recipe", [(1, 4, ""), (2, 2, ""), (1, 4, ADAM)], ids=["sgd", "two-ranks", "adam"]
)
def test_resume_after_every_step_is_bitwise(data, tmp_path, size, batch, recipe):
    path = tmp_path / "adam.yaml"
    path.write_text(recipe)
    result = subprocess.run(
        [
            *horovodrun(size),
            sys.executable,
            WORKER,
            str(tmp_path),
            *FLAGS,
            "--data-dir",
            data,
            "--cache-dir",
            str(tmp_path / "cache"),
            "--max-steps",
            str(STEPS),
            "--eval-every",
            "1",
            "--batch-size",
            str(batch),
            "--log-interval",
            "3",
            "--score-threshold",
            "0",
            "--boxes-per-image",
            "5",
            *(["--recipe", str(path)] if recipe else []),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=ROOT, PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for rank in range(size):
        for step in range(1, STEPS + 1):
            assert (
                f"rank {rank}: resumed after step {step} of {STEPS}: {STEPS - step} losses"
                in result.stdout
            )


def test_a_run_resumes_in_its_folder(data, tmp_path):
    flags = ["--eval-every", "1", "--save-interval", "1steps"]
    uninterrupted = train(data, tmp_path / "uninterrupted", *flags, "--max-steps", "6")
    first = train(data, tmp_path / "parts", *flags, "--max-steps", "4")
    assert uninterrupted.returncode == first.returncode == 0, uninterrupted.stderr + first.stderr
    second = train(data, tmp_path / "parts", *flags, "--max-steps", "6", "--resume", "auto")
    assert second.returncode == 0, second.stderr
    assert "resumed after step 4" in second.stdout
    losses = [
        [
            (row["step"], row["class_loss"], row["offset_loss"])
            for row in rows(tmp_path / run / "train.csv")
        ]
        for run in ("uninterrupted", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    names = set(os.listdir(tmp_path / "parts"))
    assert {
        "mlperf.log",
        "mlperf-2.log",
        "recipe.yaml",
        "recipe-2.yaml",
        "summary.json",
        "summary-1.json",
    } <= names
    assert [row["epoch"] for row in rows(tmp_path / "parts" / "evaluation.csv")] == ["1", "2", "3"]

    with open(tmp_path / "parts" / "mlperf-2.log") as file:
        events = [json.loads(line.split(":::MLLOG ")[1]) for line in file]
    resumed = [event for event in events if event["key"] == "resumed"]
    assert len(resumed) == 1 and resumed[0]["value"] == 4
    assert [event["value"] for event in events if event["key"] == "submission_division"] == ["open"]


def test_rows_of_repeated_steps_are_kept_in_another_file(data, tmp_path):
    """The newest checkpoint is damaged, so the run repeats the steps after the one before."""
    flags = ["--eval-every", "9", "--save-interval", "1steps", "--max-steps", "4"]
    assert train(data, tmp_path / "out", *flags).returncode == 0
    damaged = tmp_path / "out" / "checkpoints" / "step-00000004" / "momenta.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    result = train(data, tmp_path / "out", *flags, "--resume", "auto")
    assert result.returncode == 0, result.stderr
    assert (
        "momenta.npz" in result.stdout
        and "skipped" in result.stdout
        and "resumed after step 3" in result.stdout
    )
    undone = rows(tmp_path / "out" / "train-undone-by-part-2.csv")
    assert [row["step"] for row in undone] == ["4"]
    again = rows(tmp_path / "out" / "train.csv")
    assert [row["step"] for row in again] == ["1", "2", "3", "4"]
    assert again[3]["class_loss"] == undone[0]["class_loss"]


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    assert (
        train(data, folder / "out", "--max-steps", "2", "--save-interval", "1steps").returncode == 0
    )
    return folder


@pytest.mark.parametrize(
    "flags, texts",
    [
        (
            ["--base-lr", "0.5", "--hue", "3"],
            [
                "augmentation.hue: 18.0 in the checkpoint, 3.0 now",
                "training.base_lr: ",
                "--allow-changed-recipe",
            ],
        ),
        (["--seed", "9"], ["run.seed: 3 in the checkpoint, 9 now"]),
        (["--batch-size", "2"], ["another global batch"]),
        (["--width", "0.25"], ["model.width: 0.125 in the checkpoint, 0.25 now"]),
    ],
)
def test_another_recipe_is_refused(data, saved, tmp_path, flags, texts):
    result = train(data, tmp_path / "out", "--resume", saved / "out", *flags)
    assert result.returncode == 2, result.stderr
    line = result.stderr.strip().splitlines()[-1]
    for text in texts:
        assert text in line
    assert "Traceback" not in result.stderr and not os.path.exists(tmp_path / "out")


def test_another_recipe_is_allowed_by_flag(data, saved, tmp_path):
    result = train(
        data,
        tmp_path / "out",
        "--resume",
        saved / "out",
        "--base-lr",
        "0.5",
        "--allow-changed-recipe",
        "--max-steps",
        "3",
    )
    assert result.returncode == 0, result.stderr
    assert [row["step"] for row in rows(tmp_path / "out" / "train.csv")] == ["3"]
    refused = train(
        data,
        tmp_path / "other",
        "--resume",
        saved / "out",
        "--width",
        "0.25",
        "--allow-changed-recipe",
    )
    assert (
        refused.returncode == 2 and "another network's" in refused.stderr.strip().splitlines()[-1]
    )


def test_another_number_of_ranks_is_allowed_by_flag(data, tmp_path):
    """Two ranks with batch 2 resume as one with batch 4: same images and augmentation, averaged
    statistics. BatchNorm sees other batches, so the losses are close, not equal."""
    flags = ["--save-interval", "1steps", "--eval-every", "9"]
    two = train(
        data,
        tmp_path / "two",
        *flags,
        "--batch-size",
        "2",
        "--max-steps",
        "2",
        prefix=horovodrun(2),
    )
    assert two.returncode == 0, two.stdout + two.stderr
    refused = train(data, tmp_path / "one", *flags, "--resume", tmp_path / "two")
    assert (
        refused.returncode == 2
        and "ranks: 2 in the checkpoint, 1 now" in refused.stderr.splitlines()[-1]
    )
    one = train(
        data,
        tmp_path / "one",
        *flags,
        "--max-steps",
        "3",
        "--resume",
        tmp_path / "two",
        "--allow-changed-recipe",
    )
    assert one.returncode == 0, one.stderr
    both = train(
        data,
        tmp_path / "both",
        *flags,
        "--batch-size",
        "2",
        "--max-steps",
        "3",
        prefix=horovodrun(2),
    )
    assert both.returncode == 0, both.stderr
    losses = [
        float(rows(tmp_path / name / "train.csv")[-1]["offset_loss"]) for name in ("one", "both")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


def test_other_images_are_refused(saved, tmp_path):
    other = tiny_data(tmp_path / "set", train_images=16)
    result = train(other, tmp_path / "out", "--resume", saved / "out")
    assert (
        result.returncode == 2
        and "training images or boxes" in result.stderr.strip().splitlines()[-1]
    )


def test_auto_starts_a_new_run_if_there_is_no_checkpoint(data, tmp_path):
    """In a folder with the files of a run that was killed before its first checkpoint."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mlperf.log").write_text("killed\n")
    (tmp_path / "out" / "train.csv").write_text("epoch,step\n1,1\n1,2\n")
    result = train(data, tmp_path / "out", "--resume", "auto", "--max-steps", "1")
    assert result.returncode == 0 and "resumed" not in result.stdout
    files = [rows(tmp_path / "out" / name) for name in ("train.csv", "train-undone-by-part-2.csv")]
    assert [[row["step"] for row in file] for file in files] == [["1"], ["1", "2"]]
    assert (tmp_path / "out" / "mlperf.log").read_text() == "killed\n"
    nowhere = train(data, tmp_path / "other", "--resume", tmp_path / "out" / "nothing")
    assert nowhere.returncode == 2 and "nothing: no such folder" in nowhere.stderr


def test_later_checkpoints_are_not_deleted(data, saved, tmp_path):
    older = saved / "out" / "checkpoints" / "step-00000001"
    before = sorted(os.listdir(saved / "out" / "checkpoints"))
    flags = ["--resume", older, "--max-steps", "2", "--save-interval", "1steps"]
    refused = train(data, saved / "out", *flags)
    assert refused.returncode == 2 and "later checkpoints" in refused.stderr
    (tmp_path / "link").symlink_to(saved / "out")
    with pytest.raises(UserError, match="later checkpoints"):
        setup.open_folder(RECIPE.with_values(resume=str(older), output=str(tmp_path / "link")))
    assert train(data, tmp_path / "branch", *flags).returncode == 0
    assert sorted(os.listdir(saved / "out" / "checkpoints")) == before


def test_the_default_folder_is_named_by_recipe_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = setup.open_folder(dataclasses.replace(RECIPE, recipe="50%-data"))
    assert os.path.isdir(folder.path) and folder.path.startswith(os.path.join("runs", "50%-data-2"))


def test_an_empty_csv_file_is_replaced(tmp_path):
    """A power cut or a full disc leaves a new file empty."""
    (tmp_path / "evaluation.csv").touch()
    metrics = Metrics(str(tmp_path))
    metrics.set_aside(2, 1, 0)
    metrics.evaluation(1, 2, {"AP": 0.5})
    assert rows(tmp_path / "evaluation.csv") == [{"epoch": "1", "AP": "0.500000"}]


def test_rows_that_are_cut_short_are_skipped(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("epoch,step,class_loss\n1,1,0.5\n1,2,0.4\n1,3\n")
    Metrics(str(tmp_path)).set_aside(2, 1, 0)
    assert path.read_text().split() == ["epoch,step,class_loss", "1,1,0.5"]
    with open(tmp_path / "train-undone-by-part-2.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]
