"""The checkpoints of a run: when to save them, and what to print about them."""

from __future__ import annotations

import os
import sys
from typing import Dict

from ssd.checkpoints.store import FOLDER, CheckpointStore
from ssd.errors import UserError
from ssd.training import recovery
from ssd.training.interval import SaveInterval
from ssd.training.state import RunState


class Saver:
    """Saves checkpoints of a run. Ranks other than 0 only take part in gathering the content.

    A checkpoint that cannot be written is no reason to end a good run: it prints a warning, and
    training continues.
    """

    def __init__(self, run: RunState):
        self._run = run
        settings = run.config.recovery
        self.interval = SaveInterval(settings.save_interval)
        self._store = None
        self._saved = None  # step of the last checkpoint
        if run.is_first and not self.interval.never:
            self._store = CheckpointStore(
                os.path.join(run.folder.path, FOLDER), settings.keep_checkpoints
            )

    def save(self) -> None:
        """Saves a checkpoint between two steps, at most one for each step; it is written while
        training continues. Collective."""
        steps = self._run.progress.steps
        if self.interval.never or self._saved == steps:
            return
        arrays, state = recovery.capture(self._run)
        if self._store is not None:
            # If the first call raises the failure of the previous checkpoint, it has not saved this
            # one.
            self.try_write(self._store.save, steps, arrays, state) or self.try_write(
                self._store.save, steps, arrays, state
            )
        self._saved = steps
        self.interval.saved()

    def hold(self, step: int) -> None:
        """Keeps the checkpoint of `step` until `scored` is called."""
        if self._store is not None:
            self._store.held.add(step)

    def scored(self, step: int, score: float, best: bool, extent: Dict[str, int]) -> None:
        """Records the mAP of the weights after `step`. extent: see
        ssd.evaluation.scored_set.ScoredSet."""
        if self._store is not None:
            if best:
                self.try_write(self._store.mark_best, step, score, extent)
            self._store.held.discard(step)

    def resume_hint(self) -> str:
        """The end of a run's last line: how to resume. Waits for the checkpoint."""
        if self.interval.never:
            return "; no checkpoint, as --save-interval is never"
        if self._store is None:
            return ""
        folder = self._run.folder.path
        # A failure may have been reported already. What counts is whether the checkpoint exists.
        if not (self.try_write(self._store.wait) and self._store.has(self._saved)):
            return (
                f"; no checkpoint of step {self._saved} could be saved, --resume {folder} "
                "continues from an older one"
            )
        return f"; checkpoint of step {self._saved} saved, continue with --resume {folder}"

    def close(self) -> None:
        if self._store is not None:
            self.try_write(self._store.close)

    def try_write(self, act, *arguments) -> bool:
        """Calls act(*arguments), which writes something. Prints a warning if it fails; returns
        whether it succeeded."""
        try:
            act(*arguments)
            return True
        except UserError as error:
            print(
                f"warning: {error}; training continues, earlier checkpoints and files are kept",
                file=sys.stderr,
                flush=True,
            )
            return False
