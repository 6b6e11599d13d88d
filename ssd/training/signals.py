"""Requests to save and stop: SIGTERM, SIGUSR1 (Slurm's notice), Ctrl-C, and a pipe that has lost
its reader."""

from __future__ import annotations

import signal
from typing import Optional

from ssd import ends

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Records the first signal that arrives in a `with` block; the training loop reads `received`
    at every step. A second Ctrl-C interrupts at once.

    A Ctrl-C in `train | tee log` ends tee at once. So an error of the pipe is recorded as SIGPIPE.
    """

    def __init__(self):
        self.received: Optional[str] = None  #: name of the first signal: SIGTERM ...
        self._signalled = False
        self.all_ranks_exit = False  #: set by the caller when all ranks are about to exit

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        ends.when_unread(self._note_pipe)
        return self

    def __exit__(self, *_) -> None:
        ends.when_unread(None)
        for number, handler in self._before.items():
            # When the first rank exits, the launcher sends SIGTERM to the others. Ignore it if they
            # are all about to exit anyway.
            signal.signal(
                number,
                signal.SIG_IGN if self.all_ranks_exit and number != signal.SIGINT else handler,
            )

    def _note(self, number, frame) -> None:
        if number == signal.SIGINT and self._signalled:
            raise KeyboardInterrupt
        self._signalled = True
        self.received = self.received or signal.Signals(number).name

    def _note_pipe(self) -> None:
        self.received = self.received or "SIGPIPE"
