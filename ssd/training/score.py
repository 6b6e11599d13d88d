"""The score of an evaluation: computed beside rank 0, and broadcast to all ranks."""

from __future__ import annotations

import os
from typing import Dict, NamedTuple, Optional

import numpy as np

from ssd.evaluation.pending import RepeatedScoring
from ssd.evaluation.scored_set import KEPT, scored_set
from ssd.evaluation.scoring import STAT_NAMES
from ssd.training.ranks import Ranks

_UNKNOWN, _KNOWN, _FAILED = range(3)


class Score(NamedTuple):
    """COCO's twelve numbers (name to fraction) for the weights after `step`, or the reason why
    there are none."""

    epoch: int
    step: int
    stats: Optional[Dict[str, float]]
    failure: str = ""


class PendingScore:
    """Scores in another process beside rank 0, and broadcasts the result. One score at a time."""

    def __init__(self, dataset, folder: Optional[str], ranks: Ranks):
        """`dataset`: the validation set; `folder`: the run's on rank 0, else None."""
        self.dataset, self.folder, self.ranks = dataset, folder, ranks
        self.epoch = self._scoring = self._rows = None
        self.scored = None  # a ScoredSet, on rank 0

    def start(self, epoch: int, step: int, rows: np.ndarray) -> None:
        """`rows`: all ranks' detections, as ssd.evaluation.inference.detection_rows gives them."""
        assert self.epoch is None, "one score at a time"
        self.epoch, self.step, self._rows = epoch, step, rows
        if self.ranks.rank == 0:
            truth = os.path.join(self.folder, KEPT)
            if self.scored is None:
                self.scored = scored_set(self.dataset)
                self.scored.write(truth)
            self._scoring = RepeatedScoring(
                self.dataset, truth, rows, self.folder, self._file_name(), f"epoch {epoch}"
            )

    def _file_name(self) -> str:
        name = f"detections-epoch-{self.epoch}"
        if os.path.exists(os.path.join(self.folder, name + ".npz")):
            # In a resumed run: keeps the file of the part before.
            name += f"-again-at-step-{self.step}"
        return name

    def is_ready(self) -> bool:
        """Whether `take` would return a score, as far as this rank knows; only rank 0 knows."""
        return self._scoring is not None and self._scoring.is_ready()

    def take(self) -> Optional[Score]:
        """Returns the score on every rank, once; None if it is not known yet. Collective.

        A scorer that dies is restarted once; if it dies again, the Score is a failure.
        """
        if self.epoch is None:
            return None
        values = np.array([_UNKNOWN] + [np.nan] * len(STAT_NAMES))
        failure = ""
        if self._scoring is not None:
            try:
                stats = self._scoring.poll()
            except RuntimeError as error:
                failure = str(error)
                values[0] = _FAILED
            else:
                values[0] = _UNKNOWN if stats is None else _KNOWN
                if stats is not None:
                    values[1:] = [stats[name] for name in STAT_NAMES]
        values = self.ranks.all_from_first(values, "score")
        if values[0] == _UNKNOWN:
            return None
        if values[0] == _FAILED:
            return Score(self.epoch, self.step, None, failure or "see rank 0")
        score = Score(self.epoch, self.step, dict(zip(STAT_NAMES, map(float, values[1:]))))
        self.epoch = self._rows = None
        self.close()
        return score

    def detections(self) -> Optional[np.ndarray]:
        """The rows that are being scored, for a checkpoint; None if there are none."""
        return self._rows if self.epoch is not None else None

    def epoch_and_step(self) -> Dict[str, int]:
        """Of the weights whose detections are being scored."""
        return dict(epoch=self.epoch, step=self.step)

    def close(self) -> None:
        """Ends the scorer if it is running."""
        if self._scoring is not None:
            self._scoring.close()
            self._scoring = None
