"""A score computed in another process, which is restarted once if it dies."""

from __future__ import annotations

import os
import sys
from typing import Dict, Optional

import numpy as np

from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring_process import ScoringProcess

ATTEMPTS = 2  # a scorer that dies is restarted once


class RepeatedScoring:
    """Scores one set of detections, in another process. `close` ends it."""

    def __init__(self, dataset, truth: str, rows: np.ndarray, folder: str, name: str, title: str):
        """truth: file of the data set's ScoredSet; rows: see inference.detection_rows; name: of the
        detections file in `folder`, which is kept; title: what is scored, for a line on standard
        error."""
        self._truth, self._dataset, self._rows = truth, dataset, rows
        self._folder, self._name, self._title = folder, name, title
        self._attempts = 0
        self._start()

    def _start(self) -> None:
        self._attempts += 1
        self._process = ScoringProcess()
        self._process.start(
            self._truth, as_detections(self._rows, self._dataset), self._folder, name=self._name
        )

    def is_ready(self) -> bool:
        """Whether `poll` returns a result or raises."""
        try:
            return self._process.poll() is not None
        except RuntimeError:
            return True

    def poll(self) -> Optional[Dict[str, float]]:
        """The numbers once they are ready, None before. Restarts a scorer that died; if that one
        dies too, RuntimeError names the file of the detections."""
        try:
            return self._process.poll()
        except RuntimeError as error:
            self._process.close()
            if self._attempts >= ATTEMPTS:
                raise RuntimeError(
                    f"{error}; its detections are in {os.path.join(self._folder, self._name)}.npz"
                ) from None
            print(f"scoring of {self._title}: {error}; scored again", file=sys.stderr, flush=True)
            self._start()
            return None

    def close(self) -> None:
        """End the scorer if it still runs."""
        self._process.close()


def as_detections(rows: np.ndarray, dataset) -> Detections:
    """Rows (n, 7) of image index, xywh, score, class as COCO detections with the data set's
    ids."""
    image, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    return Detections(
        np.asarray(dataset.image_ids)[image],
        rows[:, 1:5],
        rows[:, 5],
        np.asarray(dataset.category_ids, np.int64)[label - 1],
        images=dataset.image_ids,
    )
