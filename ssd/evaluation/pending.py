"""A score that is on its way: computed in another process, told to every rank."""
from __future__ import annotations

import sys
from typing import Dict, Optional, Tuple

import numpy as np

from ssd.evaluation.scoring import STAT_NAMES


class PendingScore:
    """Starts scorings on rank 0 and tells all ranks when one is done.

    While a score is pending, every `poll` is collective. Between scorings it costs nothing.
    """

    def __init__(self, dataset, folder: Optional[str], ranks):
        """`dataset`: the validation set; `folder`: the run's, None but on rank 0; `ranks`: see training.ranks."""
        self.dataset, self.folder, self.ranks = dataset, folder, ranks
        self.epoch = self.process = None

    def start(self, epoch: int, rows: np.ndarray) -> None:
        """`rows`: all ranks' detections, as ssd.evaluation.inference.detection_rows gives them."""
        assert self.epoch is None, "one score at a time"
        self.epoch = epoch
        if self.ranks.rank == 0:
            from ssd.evaluation.scoring_process import ScoringProcess
            self.process = ScoringProcess()
            self.process.start(self.dataset.path, as_detections(rows, self.dataset), self.folder,
                               name=f"detections-epoch-{epoch}")

    def poll(self, wait: bool = False) -> Optional[Tuple[int, Dict[str, float]]]:
        """(epoch, COCO's twelve numbers) once, when they are known on every rank; else None."""
        if self.epoch is None:
            return None
        values = np.full(1 + len(STAT_NAMES), np.nan)
        if self.process is not None:
            try:
                stats = self.process.result() if wait else self.process.poll()
            except RuntimeError as error:
                print(f"scoring of epoch {self.epoch} failed: {error}", file=sys.stderr, flush=True)
                values[0] = 2
            else:
                values[0] = stats is not None
                if stats is not None:
                    values[1:] = [stats[name] for name in STAT_NAMES]
        values = self.ranks.all_from_first(values, "score")
        if values[0] == 2:
            raise RuntimeError(f"scoring of epoch {self.epoch} failed on rank 0")
        if not values[0]:
            return None
        epoch, self.epoch = self.epoch, None
        self.close()
        return epoch, dict(zip(STAT_NAMES, map(float, values[1:])))

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None


def as_detections(rows: np.ndarray, dataset):
    """Rows (n, 7) of image index, xywh, score, class as COCO detections with the data set's own ids."""
    from ssd.evaluation.detections import Detections
    image, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    return Detections(np.asarray(dataset.image_ids)[image], rows[:, 1:5], rows[:, 5],
                      np.asarray(dataset.category_ids, np.int64)[label - 1])
