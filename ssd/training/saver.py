"""The checkpoints of a run: when they are saved, and what is said of them."""

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
    """Saves checkpoints of a run; on ranks other than 0 it only takes part in gathering what they
    hold.

    A checkpoint that cannot be written is no reason to end a run that goes well: it is said aloud,
    and training goes on.
    """

    def __init__(self, run: RunState):
        self._run = run
        settings = run.config.recovery
        self.interval = SaveInterval(settings.save_interval)
        self._store = None
        self._saved = None  # step of the last checkpoint
        if run.first and not self.interval.never:
            self._store = CheckpointStore(
                os.path.join(run.folder.path, FOLDER), settings.keep_checkpoints
            )

    def save(self) -> None:
        """A checkpoint of this moment between two steps, written while training goes on; one of
        each step is enough. Collective."""
        steps = self._run.progress.steps
        if self.interval.never or self._saved == steps:
            return
        arrays, state = recovery.capture(self._run)
        if self._store is not None:
            # What is raised first may be the failure of the one before; this one is not handed over
            # then.
            self.warned(self._store.save, steps, arrays, state) or self.warned(
                self._store.save, steps, arrays, state
            )
        self._saved = steps
        self.interval.saved()

    def hold(self, step: int) -> None:
        """Keeps the checkpoint of `step` until `scored`."""
        if self._store is not None:
            self._store.held.add(step)

    def scored(self, step: int, score: float, best: bool, extent: Dict[str, int]) -> None:
        """The weights after `step` have this mAP. extent: see
        ssd.evaluation.scored_set.ScoredSet."""
        if self._store is not None:
            if best:
                self.warned(self._store.mark_best, step, score, extent)
            self._store.held.discard(step)

    def where(self) -> str:
        """The end of a last line: waits for the checkpoint, and says how to go on."""
        if self.interval.never:
            return "; no checkpoint, as --save-interval is never"
        if self._store is None:
            return ""
        folder = self._run.folder.path
        # A failure may have been said before, when nothing more was saved after it: what counts is
        # what is there.
        if not (self.warned(self._store.wait) and self._store.has(self._saved)):
            return (
                f"; no checkpoint of step {self._saved} could be saved, --resume {folder} goes on "
                "from an older one"
            )
        return f"; checkpoint of step {self._saved} saved, go on with --resume {folder}"

    def close(self) -> None:
        if self._store is not None:
            self.warned(self._store.close)

    def warned(self, act, *arguments) -> bool:
        """Writes something; whether it could be written."""
        try:
            act(*arguments)
            return True
        except UserError as error:
            print(
                f"warning: {error}; training goes on, what was saved before stays as it is",
                file=sys.stderr,
                flush=True,
            )
            return False
