"""A score that is computed while the training continues."""

import types

import numpy as np
import pytest

from ssd.datasets.coco import CocoDataset
from ssd.evaluation.detections import Detections
from ssd.evaluation.scored_set import KEPT, ScoredSet
from ssd.evaluation.scoring import STAT_NAMES
from ssd.training.score import PendingScore
from tests.waiting import wait_until


def dataset(path="annotations.json"):
    return CocoDataset(
        path,
        "images",
        image_ids=np.array([7, 2**40, 9]),
        file_names=("a", "b", "c"),
        sizes=np.full((3, 2), 50),
        category_ids=(3, 18, 5),
        category_names=("x", "y", "z"),
        boxes_ltrb=np.array([[1.0, 2, 11, 12]]),
        box_classes=np.array([2]),
        box_crowd=np.array([False]),
        box_image=np.array([1]),
        boxes_xywh=np.array([[1.0, 2, 10, 10]]),
        box_area=np.array([100.0]),
    )


def ranks_with(rank):
    return types.SimpleNamespace(rank=rank, all_from_first=lambda values, name: values)


def wait_for_score(pending):
    return wait_until(pending.take, "a score", seconds=60)


def test_a_scorer_that_dies_twice_is_a_failure_with_its_reason(tmp_path, capfd, monkeypatch):
    """The file to score against is missing: the failure names it, and no process is left."""
    pending = PendingScore(dataset(), str(tmp_path), ranks_with(0))
    monkeypatch.setattr(ScoredSet, "write", lambda self, path: None)
    assert not pending.is_ready() and pending.detections() is None
    pending.start(5, 70, np.empty((0, 7)))
    assert pending.epoch_and_step() == dict(epoch=5, step=70) and len(pending.detections()) == 0
    score = wait_for_score(pending)
    assert (
        score.stats is None and KEPT in score.failure and "detections-epoch-5.npz" in score.failure
    )
    assert "scored again" in capfd.readouterr().err
    pending.close()


def test_the_loaded_data_set_is_scored_and_not_its_file(tmp_path):
    """The annotation file may be gone by then; the ids are those of the data set."""
    pending = PendingScore(dataset(str(tmp_path / "gone.json")), str(tmp_path), ranks_with(0))
    pending.start(1, 3, np.array([[1, 1, 2, 10, 10, 0.5, 2], [0, 1, 2, 10, 10, 0.4, 1]]))
    assert str(pending.scored) == "3 images, 1 object"
    assert wait_for_score(pending).stats["AP"] == pytest.approx(1)
    found = Detections.from_npz(tmp_path / "detections-epoch-1.npz")
    assert found.image_id.tolist() == [2**40, 7] and found.category_id.tolist() == [18, 3]
    assert found.images.tolist() == [7, 9, 2**40]
    pending.close()


def test_a_score_is_taken_once(tmp_path, monkeypatch):
    """Ranks may ask for it too early, or twice."""
    scores = iter([None, dict.fromkeys(STAT_NAMES, 0.5)])
    scoring = types.SimpleNamespace(poll=lambda: next(scores), close=lambda: None)
    monkeypatch.setattr("ssd.training.score.RepeatedScoring", lambda *_: scoring)
    pending = PendingScore(dataset(), str(tmp_path), ranks_with(0))
    assert pending.take() is None
    pending.start(5, 70, np.empty((0, 7)))
    assert pending.take() is None, "not known yet"
    assert pending.take().stats["AP"] == 0.5 and pending.take() is None
