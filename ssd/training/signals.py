"""SIGTERM, SIGUSR1 (Slurm's notice), Ctrl-C and a pipe that nobody reads any more as a wish to save
and leave."""

from __future__ import annotations

import signal
from typing import Optional

from ssd import ends

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Notes the first of the signals, in a `with` block; the training loop looks at `received` at
    every step. A second Ctrl-C interrupts at once.

    A Ctrl-C in `train | tee log` ends tee at once: where the pipe would raise an error, SIGPIPE is
    noted too.
    """

    def __init__(self):
        self.received: Optional[str] = None  #: name of the first signal, SIGTERM and the like
        self._signalled = False
        self.leaving = False  #: set by the caller when all ranks are about to leave

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        ends.when_unread(self._note_pipe)
        return self

    def __exit__(self, *_) -> None:
        ends.when_unread(None)
        for number, handler in self._before.items():
            # A launcher sends SIGTERM to the ranks that are not gone yet: when all leave, they go
            # by themselves.
            signal.signal(
                number, signal.SIG_IGN if self.leaving and number != signal.SIGINT else handler
            )

    def _note(self, number, frame) -> None:
        if number == signal.SIGINT and self._signalled:
            raise KeyboardInterrupt
        self._signalled = True
        self.received = self.received or signal.Signals(number).name

    def _note_pipe(self) -> None:
        self.received = self.received or "SIGPIPE"
