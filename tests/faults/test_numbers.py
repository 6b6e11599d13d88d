"""Losses, gradients and weights that are not finite."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ssd.checkpoints.files import load_checkpoint
from ssd.errors import UserError
from ssd.training.interval import SaveInterval
from ssd.training.optimizer import LossScale
from ssd.training.outcome import NotFinite
from ssd.training.train import Training
from tests.faults.launch import run
from tests.training.tiny import rows, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.mark.parametrize(
    "fault, text",
    [
        ("nan-loss", "loss of rank 1 is not finite for "),
        ("nan-gradient", "gradient of backbone.conv1.weight is not finite on rank 1"),
        ("nan-weights", "weights of rank 1: predictors.2.conv.weight is not finite"),
    ],
)
def test_two_ranks_stop_before_the_update(data, tmp_path, fault, text):
    result = run(
        f"{fault}:1:3",
        data,
        tmp_path / "out",
        "--max-steps",
        "9",
        "--save-interval",
        "1steps",
        "--keep-checkpoints",
        "9",
        ranks=2,
    )
    last = [line for line in result.output.splitlines() if "ssd train: stopped: " in line]
    assert len(last) == 1 and text in last[0] and "step 3, before the update" in last[0]
    assert result.status != 0 and not result.survivors
    with open(tmp_path / "out" / "not-finite.json") as file:
        found = json.load(file)
    assert found["step"] == 3 and [len(rank["images"]) for rank in found["ranks"]] == [2, 2]
    if fault == "nan-loss":
        assert (
            found["ranks"][1]["losses"] == [found["ranks"][1]["images"][1]]
            and not found["ranks"][0]["losses"]
        )
        assert found["ranks"][1]["images"][1] in last[0]
    if fault == "nan-gradient":
        assert all(name in last[0] for name in found["ranks"][1]["images"])
    with open(tmp_path / "out" / "mlperf.log") as file:
        assert '"aborted"' in file.read().splitlines()[-1]


def test_the_last_good_state_is_saved(data, tmp_path):
    """Saved because of the bad step 3, it has the same bytes as in a clean run after step 2."""
    bad = run(
        "nan-gradient:0:3",
        data,
        tmp_path / "bad",
        "--save-interval",
        "1000steps",
        "--max-steps",
        "4",
        "--eval-every",
        "9",
    )
    assert bad.status == 3 and "checkpoint of step 2 saved" in bad.last_line()
    clean = run(
        "none:0:1",
        data,
        tmp_path / "clean",
        "--save-interval",
        "1steps",
        "--max-steps",
        "2",
        "--eval-every",
        "9",
    )
    assert clean.status == 0
    saved = [
        load_checkpoint(tmp_path / name / "checkpoints" / "step-00000002").arrays
        for name in ("bad", "clean")
    ]
    assert sorted(saved[0]) == ["momenta", "parameters", "ranks"]
    for part in saved[0]:
        for name, value in saved[0][part].items():
            np.testing.assert_array_equal(value, saved[1][part][name], err_msg=f"{part} {name}")


def test_float16s_overflow_skips_the_step(data, tmp_path):
    """The step counts in the data and the schedule; weights and momenta do not change."""
    result = run(
        "nan-overflow:0:3",
        data,
        tmp_path / "out",
        "--max-steps",
        "4",
        "--save-interval",
        "1steps",
        "--keep-checkpoints",
        "9",
        "--eval-every",
        "9",
    )
    assert result.status == 0, result.output[-2000:]
    assert (
        "epoch 1 step 3: gradients overflow, the step is skipped (1 so far); loss scale is now 8"
        in result.output
    )
    saved = [
        load_checkpoint(tmp_path / "out" / "checkpoints" / f"step-{step:08d}")
        for step in (1, 2, 3, 4)
    ]
    for part in ("parameters", "momenta"):
        for name, value in saved[1].arrays[part].items():
            np.testing.assert_array_equal(value, saved[2].arrays[part][name], err_msg=name)
    assert (
        saved[2].arrays["momenta"]["backbone.conv1.weight"]
        != saved[3].arrays["momenta"]["backbone.conv1.weight"]
    ).any()
    assert [checkpoint.state["loss_scale"]["value"] for checkpoint in saved] == [8, 16, 8, 8]
    assert [row["step"] for row in rows(tmp_path / "out" / "train.csv")] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("scale, ends", [(LossScale(8, 2), False), (LossScale(1, 0), True)])
def test_a_bad_loss_of_a_skipped_step_is_reported_and_ends_no_run(scale, ends):
    """If the loss scale changes, the check of every step decides."""
    ranks = SimpleNamespace(mean=lambda values, name: values)
    display = SimpleNamespace(shows_steps=True)
    training = Training(None, ranks, None, None, signals=None, watch=None, display=display)
    training.train_data = SimpleNamespace(wait_seconds=0.0)
    training.state = SimpleNamespace(
        step=SimpleNamespace(scale=scale, lock_wait=SimpleNamespace(seconds=0.0)),
        global_batch=4,
        steps_per_epoch=2,
        metrics=SimpleNamespace(
            mean_losses=lambda: np.array([np.nan, 1.0]), report=lambda *_: "line"
        ),
    )
    with pytest.raises(NotFinite) if ends else contextlib.nullcontext():
        training.report(1, 1, 0.1)


def test_loss_scale():
    scale = LossScale(128, 3)
    assert all(scale.accepts(True) for _ in range(3)) and scale.value == 256
    assert scale.accepts(False) and scale.value == 128 and scale.skipped == 1
    assert scale.accepts(True) and scale.accepts(True) and scale.value == 128, "the count restarts"
    other = LossScale(1, 3)
    other.restore(scale.state())
    assert other.accepts(True) and other.value == 256
    assert not LossScale(1, 3).accepts(False), "float16's range does not explain this overflow"
    assert not LossScale(128, 0).accepts(False) and LossScale(128, 0).accepts(True)


def test_save_interval():
    now = [0.0]
    minutes = SaveInterval("1min", clock=lambda: now[0])
    now[0] = 59.0
    assert not minutes.due_now() and not minutes.due_at(7, 7)
    now[0] = 61.0
    assert minutes.due_now() and not minutes.due_now(), (
        "True once: the other ranks get the flag a step later"
    )
    minutes.saved()
    now[0] = 120.0
    assert not minutes.due_now()
    now[0] = 121.0
    assert minutes.due_now()
    assert [step for step in range(1, 13) if SaveInterval("2epochs").due_at(step, 3)] == [6, 12]
    assert [step for step in range(1, 13) if SaveInterval("5 steps").due_at(step, 3)] == [5, 10]
    assert SaveInterval("never").never and not SaveInterval("never").due_at(1, 1)
    for text in ("5", "0steps", "1.5epochs", "-1steps", "daily", ""):
        with pytest.raises(UserError, match="--save-interval"):
            SaveInterval(text)
