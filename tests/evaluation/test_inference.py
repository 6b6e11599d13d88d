"""From the network's output to COCO's terms."""
import time
import types

import numpy as np

from ssd.evaluation.inference import detection_rows
from ssd.evaluation.pending import PendingScore, as_detections
from ssd.evaluation.scoring import STAT_NAMES

SIZES = np.array([[100, 50], [640, 480], [10, 20]])


def test_rows_are_pixels_of_the_original_image():
    outputs = np.full((2, 3, 6), -1.0, np.float32)
    outputs[0, 0] = [2, 0.5, 0.25, 0.5, 0.75, 1.0]
    outputs[1, 0] = [1, 0.75, -0.5, 0, 0.5, 0.5]
    outputs[1, 1] = [3, 0.25, 0, 0, 1, 1]
    rows = detection_rows(outputs, np.array([1, 0]), SIZES)
    np.testing.assert_allclose(rows, [[1, 160, 240, 320, 240, 0.5, 2],
                                      [0, -50, 0, 100, 25, 0.75, 1],
                                      [0, 0, 0, 100, 50, 0.25, 3]])


def test_padding_and_empty_images_leave_no_row():
    outputs = np.full((3, 2, 6), -1.0, np.float32)
    outputs[2, 0] = [1, 0.9, 0, 0, 1, 1]          # a padded row of the batch
    assert detection_rows(outputs, np.array([0, 2]), SIZES).shape == (0, 7)


def dataset(path="annotations.json"):
    return types.SimpleNamespace(path=path, image_ids=np.array([7, 2 ** 40, 9]), category_ids=(3, 18, 5))


def test_ids_are_the_annotation_files_own():
    rows = np.array([[1, 1, 2, 3, 4, 0.5, 2], [0, 1, 2, 3, 4, 0.25, 3]])
    detections = as_detections(rows, dataset())
    assert detections.image_id.tolist() == [2 ** 40, 7]
    assert detections.category_id.tolist() == [18, 5]
    assert detections.boxes_xywh.tolist() == [[1, 2, 3, 4]] * 2 and detections.score.tolist() == [0.5, 0.25]
    assert len(as_detections(np.empty((0, 7)), dataset())) == 0


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
    pending._process = types.SimpleNamespace(poll=lambda: dict.fromkeys(STAT_NAMES, 0.5), close=lambda: None)
    assert pending.take().stats["AP"] == 0.5 and pending.take() is None
