"""A score that is awaited while the training goes on."""

import time
import types

import numpy as np
import pytest

from ssd.datasets.coco import CocoDataset
from ssd.evaluation.detections import Detections
from ssd.evaluation.scored_set import KEPT, ScoredSet
from ssd.evaluation.scoring import STAT_NAMES
from ssd.training.score import PendingScore


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


def wait_for(pending):
    deadline = time.monotonic() + 60
    score = None
    while score is None and time.monotonic() < deadline:
        score = pending.take()
    return score


def test_a_scorer_that_dies_twice_is_a_failure_with_its_reason(tmp_path, capfd, monkeypatch):
    """What is scored against is gone when the score is asked for: named, and no process is left."""
    ranks = types.SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    pending = PendingScore(dataset(), str(tmp_path), ranks)
    monkeypatch.setattr(ScoredSet, "write", lambda self, path: None)
    assert not pending.is_ready() and pending.detections() is None
    pending.start(5, 70, np.empty((0, 7)))
    assert pending.place() == dict(epoch=5, step=70) and len(pending.detections()) == 0
    score = wait_for(pending)
    assert (
        score.stats is None and KEPT in score.failure and "detections-epoch-5.npz" in score.failure
    )
    assert "scored again" in capfd.readouterr().err
    pending.close()


def test_what_was_loaded_is_scored_and_not_the_file(tmp_path):
    """The annotation file need not be there any more, and the ids are its own."""
    ranks = types.SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    pending = PendingScore(dataset(str(tmp_path / "gone.json")), str(tmp_path), ranks)
    pending.start(1, 3, np.array([[1, 1, 2, 10, 10, 0.5, 2], [0, 1, 2, 10, 10, 0.4, 1]]))
    assert str(pending.scored) == "3 images, 1 object" and wait_for(pending).stats[
        "AP"
    ] == pytest.approx(1)
    found = Detections.from_npz(tmp_path / "detections-epoch-1.npz")
    assert found.image_id.tolist() == [2**40, 7] and found.category_id.tolist() == [18, 3]
    assert found.images.tolist() == [7, 9, 2**40]
    pending.close()


def test_a_score_is_taken_once(tmp_path):
    """Ranks may be told of it twice, or too early."""
    ranks = types.SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    pending = PendingScore(dataset(), str(tmp_path), ranks)
    assert pending.take() is None
    pending.epoch, pending.step = 5, 70
    assert pending.take() is None, "rank 0 has not started it"
    pending._scoring = types.SimpleNamespace(
        poll=lambda: dict.fromkeys(STAT_NAMES, 0.5), close=lambda: None
    )
    assert pending.take().stats["AP"] == 0.5 and pending.take() is None
