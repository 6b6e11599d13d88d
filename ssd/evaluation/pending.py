"""A score that is on its way: computed in another process, told to every rank."""
from __future__ import annotations

import os
import sys
from typing import Dict, NamedTuple, Optional

import numpy as np

from ssd.evaluation.scoring import STAT_NAMES

_UNKNOWN, _KNOWN, _FAILED = range(3)
ATTEMPTS = 2    # a scorer that was killed is started once more


class Score(NamedTuple):
    """COCO's twelve numbers (name to fraction) of the weights after `step`, or why there are none."""
    epoch: int
    step: int
    stats: Optional[Dict[str, float]]
    failure: str = ""


class PendingScore:
    """Scores on rank 0, in another process, and tells all ranks. One score at a time."""

    def __init__(self, dataset, folder: Optional[str], ranks):
        """`dataset`: the validation set; `folder`: the run's, None but on rank 0; `ranks`: see training.ranks."""
        self.dataset, self.folder, self.ranks = dataset, folder, ranks
        self.epoch = self._process = self._rows = None
        self._attempts = 0

    def start(self, epoch: int, step: int, rows: np.ndarray) -> None:
        """`rows`: all ranks' detections, as ssd.evaluation.inference.detection_rows gives them."""
        assert self.epoch is None, "one score at a time"
        self.epoch, self.step, self._rows, self._attempts = epoch, step, rows, 0
        if self.ranks.rank == 0:
            self._name = self._file_name()
            self._start()

    def _start(self) -> None:
        from ssd.evaluation.scoring_process import ScoringProcess
        self._attempts += 1
        self._process = ScoringProcess()
        self._process.start(self.dataset.path, as_detections(self._rows, self.dataset), self.folder, name=self._name)

    def _file_name(self) -> str:
        name = f"detections-epoch-{self.epoch}"
        if os.path.exists(os.path.join(self.folder, name + ".npz")):
            name += f"-again-at-step-{self.step}"    # of a resumed run: the file of the part before stays
        return name

    def is_ready(self) -> bool:
        """Whether this rank knows that `take` would give something; always False but on rank 0."""
        if self._process is None:
            return False
        try:
            return self._process.poll() is not None
        except RuntimeError:
            return True

    def take(self) -> Optional[Score]:
        """The score, once, on every rank; None if it is not known yet. Collective.

        A scorer that died is started again, once; the score of one that died again is a failure.
        """
        if self.epoch is None:
            return None
        values = np.array([_UNKNOWN] + [np.nan] * len(STAT_NAMES))
        failure = ""
        if self._process is not None:
            try:
                stats = self._process.poll()
            except RuntimeError as error:
                failure = str(error)
                self._process.close()
                values[0] = _FAILED
                if self._attempts < ATTEMPTS:
                    print(f"scoring of epoch {self.epoch}: {failure}; scored again", file=sys.stderr, flush=True)
                    values[0] = _UNKNOWN
                    self._start()
            else:
                values[0] = _UNKNOWN if stats is None else _KNOWN
                if stats is not None:
                    values[1:] = [stats[name] for name in STAT_NAMES]
        values = self.ranks.all_from_first(values, "score")
        if values[0] == _UNKNOWN:
            return None
        if values[0] == _FAILED:
            return Score(self.epoch, self.step, None, f"{failure}; its detections are in "
                         f"{os.path.join(self.folder, self._name)}.npz" if failure else "see rank 0")
        score = Score(self.epoch, self.step, dict(zip(STAT_NAMES, map(float, values[1:]))))
        self.epoch = self._rows = None
        self.close()
        return score

    def detections(self) -> Optional[np.ndarray]:
        """The rows that are being scored, for a checkpoint; None without."""
        return self._rows if self.epoch is not None else None

    def place(self) -> Dict[str, int]:
        """Whose detections these are."""
        return dict(epoch=self.epoch, step=self.step)

    def close(self) -> None:
        """Ends the scorer if it runs."""
        if self._process is not None:
            self._process.close()
            self._process = None


def as_detections(rows: np.ndarray, dataset):
    """Rows (n, 7) of image index, xywh, score, class as COCO detections with the data set's own ids."""
    from ssd.evaluation.detections import Detections
    image, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    return Detections(np.asarray(dataset.image_ids)[image], rows[:, 1:5], rows[:, 5],
                      np.asarray(dataset.category_ids, np.int64)[label - 1])
