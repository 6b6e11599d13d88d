"""Scores come with their numbers of images and objects: in tables, logs, curves, reports. Files of
older versions, without these numbers, can still be read."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ssd.checkpoints.store import CheckpointStore
from ssd.config import load_recipe, to_yaml
from ssd.evaluation import sweep
from ssd.evaluation.scored_set import ScoredSet
from ssd.evaluation.scoring import STAT_NAMES
from ssd.evaluation.scoring_backends import GroundTruth
from ssd.report import curves
from ssd.report.run_parts import read_evaluations, read_run_parts
from ssd.report.run_report import report_run
from ssd.training.metrics import Metrics
from ssd.training.progress_rows import progress_rows
from ssd.training.state import Progress
from tests.training.tiny import rows

STATS = dict(dict.fromkeys(STAT_NAMES, 0.25), APs=-1.0)
OLD = ",".join(["epoch", *STAT_NAMES]) + "\n" + ",".join(["1"] + ["0.125"] * 12) + "\n"
EXTENT = "3 images, 2 objects"


def scored():
    """Three images with two objects and a crowd."""
    boxes = GroundTruth(
        3,
        1,
        np.zeros(3, np.int64),
        np.zeros(3, np.int64),
        np.ones((3, 4)),
        np.ones(3),
        np.array([0, 1, 0]),
    )
    return ScoredSet(boxes, [1, 2, 3], {1: "x"}, dict.fromkeys([1, 2, 3], ""), "a.json")


def test_a_set_counts_its_images_and_objects():
    assert scored().extent == dict(images=3, objects=2) and str(scored()) == EXTENT


def test_rows_of_a_run_and_its_outcome(tmp_path):
    written = []
    events = SimpleNamespace(evaluated=lambda step, values: written.append((step, values)))
    metrics = Metrics(str(tmp_path), events)
    metrics.evaluation(2, 20, STATS, scored())
    [row] = rows(tmp_path / "evaluation.csv")
    assert list(row) == ["epoch", *STAT_NAMES, "images", "objects"]
    assert (row["AP"], row["APs"], row["images"], row["objects"]) == (
        "0.250000",
        "-1.000000",
        "3",
        "2",
    )
    assert written == [(20, dict(STATS, images=3, objects=2))]
    line = metrics.result(
        "success",
        Progress(steps=20, best_score=0.25),
        0.2,
        9.0,
        global_batch=4,
        seed=1,
        ranks=1,
        skipped_steps=0,
        scored=scored(),
    )
    assert f"best mAP 0.2500 on {EXTENT} after" in line
    outcome = json.loads((tmp_path / "summary.json").read_text())
    assert (outcome["eval_images"], outcome["eval_objects"]) == (3, 2)


def test_events(tmp_path):
    pytest.importorskip("tensorboardX")
    from ssd.training.tensorboard import Events

    found = {}
    events = Events(str(tmp_path), 1)
    events._writer.add_scalar = lambda tag, value, step: found.update({tag: (value, step)})
    events.evaluated(7, dict(STATS, images=3, objects=2))
    events.close()
    assert found["evaluation/images"] == (3.0, 7) and found["evaluation/objects"] == (2.0, 7)
    assert "evaluation/APs" not in found and found["evaluation/AP"] == (0.25, 7)


def test_a_run_of_an_older_version_is_resumed(tmp_path):
    """Its rows are kept, without the numbers that they do not have; new rows are complete, and the
    reports read both."""
    path = tmp_path / "evaluation.csv"
    path.write_text(OLD)
    assert [row["AP"] for row in read_evaluations(tmp_path)] == [0.125]
    metrics = Metrics(str(tmp_path))
    metrics.set_aside(2, 10, 1)
    metrics.evaluation(2, 20, STATS, scored())
    with open(path, newline="") as file:
        assert {len(row) for row in csv.reader(file)} == {15}
    old, new = rows(path)
    assert (old["images"], old["objects"], new["images"], new["objects"]) == ("", "", "3", "2")
    old, new = read_evaluations(tmp_path)
    assert "images" not in old and old["AP"] == 0.125 and new["images"] == 3 and new["AP"] == 0.25
    metrics = Metrics(str(tmp_path))
    metrics.set_aside(3, 20, 2)  # and once more
    assert metrics.scores == [(1, 0.125), (2, 0.25)] and len(read_evaluations(tmp_path)) == 2


def test_the_display():
    metrics = Metrics(None)
    metrics.evaluation(2, 20, STATS, scored())
    config = load_recipe("ssd-resnet34-shapes")
    run = SimpleNamespace(
        metrics=metrics,
        config=config,
        steps_per_epoch=10,
        pending=None,
        train_set=SimpleNamespace(images_with_boxes=[0]),
        progress=Progress(steps=20, best_score=0.25, best_epoch=2),
    )
    assert dict(progress_rows(run))["mAP"] == f"0.2500 (epoch 2), the best so far   on {EXTENT}"


def test_best_json(tmp_path):
    store = CheckpointStore(str(tmp_path), 2)
    store.save(1, {"parameters": {"x": np.zeros(1, np.float32)}}, {})
    store.mark_best(1, 0.25, scored().extent)
    assert json.loads((tmp_path / "best.json").read_text()) == dict(
        step=1, score=0.25, images=3, objects=2
    )
    store.close()
    again = CheckpointStore(str(tmp_path), 2)
    assert again.best() == (1, 0.25)
    again.close()


def make_run(folder, evaluations):
    (folder / "recipe.yaml").write_text(
        to_yaml(load_recipe("ssd-resnet34-shapes").with_values(data_dir="/gone"))
    )
    (folder / "train.csv").write_text(
        "epoch,step,images,seconds,class_loss,offset_loss,learning_rate,"
        "images_per_second,data_wait_share\n1,1,4,0.0,40,4,0.001,0,0\n"
    )
    (folder / "evaluation.csv").write_text(evaluations)
    (folder / "summary.json").write_text(
        json.dumps(dict(status="success", target=0.2, seconds=1.0))
    )


NEW = (
    ",".join(["epoch", *STAT_NAMES, "images", "objects"])
    + "\n"
    + ",".join(["2"] + ["0.25"] * 12 + ["3", "2"])
    + "\n"
)


@pytest.mark.parametrize("evaluations, extent", [(NEW, " on " + EXTENT), (OLD, "")])
def test_curves_and_report_of_a_run(tmp_path, evaluations, extent, monkeypatch):
    make_run(tmp_path, evaluations)
    best = {"": 0.125}.get(extent, 0.25)
    assert (
        curves._title(curves.read_history(str(tmp_path)))
        == f"ssd-resnet34-shapes, best mAP {best:.4f}{extent}"
    )
    assert f"mAP {best:.4f}{extent} after epoch" in read_run_parts(str(tmp_path)).summary
    figure = dict(curves.curve_figures(str(tmp_path)))["mAP on the validation images"]
    assert (EXTENT in figure) == bool(extent)
    monkeypatch.setattr("ssd.report.curves.curve_figures", lambda folder: [])  # seen above
    report_run(str(tmp_path), lambda line: None)  # without its data set
    page = (tmp_path / "report.html").read_text()
    assert f"The twelve numbers{extent}<" in page


def test_the_table_of_several_weights(tmp_path):
    results = [dict(STATS, weights=name, images=3, objects=2) for name in ("a.params", "b.params")]
    head, *lines = sweep.format_sweep(results).splitlines()
    assert head.split()[-2:] == ["images", "objects"]
    assert all(
        line.split()[-3:-1] == ["3", "2"] or line.split()[-2:] == ["3", "2"] for line in lines
    )
    sweep.write_sweep(str(tmp_path / "sweep"), results)
    assert [(row["images"], row["objects"]) for row in rows(tmp_path / "sweep" / "sweep.csv")] == [
        ("3", "2")
    ] * 2
