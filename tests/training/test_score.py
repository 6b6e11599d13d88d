"""A score that is awaited while the training goes on."""
import time
import types

import numpy as np

from ssd.evaluation.scoring import STAT_NAMES
from ssd.training.score import PendingScore


def dataset(path="annotations.json"):
    return types.SimpleNamespace(path=path, image_ids=np.array([7, 2 ** 40, 9]), category_ids=(3, 18, 5))


def test_a_scorer_that_dies_twice_is_a_failure_with_its_reason(tmp_path, capfd):
    """The annotation file is gone when the score is asked for: named, and no process is left."""
    ranks = types.SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    pending = PendingScore(dataset(str(tmp_path / "gone.json")), str(tmp_path), ranks)
    assert not pending.is_ready() and pending.detections() is None
    pending.start(5, 70, np.empty((0, 7)))
    assert pending.place() == dict(epoch=5, step=70) and len(pending.detections()) == 0
    deadline = time.monotonic() + 60
    score = None
    while score is None and time.monotonic() < deadline:
        score = pending.take()
    assert score.stats is None and "gone.json" in score.failure and "detections-epoch-5.npz" in score.failure
    assert "scored again" in capfd.readouterr().err
    pending.close()


def test_a_score_is_taken_once(tmp_path):
    """Ranks may be told of it twice, or too early."""
    ranks = types.SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    pending = PendingScore(dataset(), str(tmp_path), ranks)
    assert pending.take() is None
    pending.epoch, pending.step = 5, 70
    assert pending.take() is None, "rank 0 has not started it"
    pending._scoring = types.SimpleNamespace(poll=lambda: dict.fromkeys(STAT_NAMES, 0.5), close=lambda: None)
    assert pending.take().stats["AP"] == 0.5 and pending.take() is None
