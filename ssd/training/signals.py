"""SIGTERM, SIGUSR1 (Slurm's notice) and Ctrl-C as a wish to save and leave."""
from __future__ import annotations

import signal
from typing import Optional

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Notes the first of the signals, in a `with` block; the training loop looks at `received` at every step. A
    second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received: Optional[str] = None    #: name of the first signal, SIGTERM and the like
        self.leaving = False                   #: set by the caller when all ranks are about to leave

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            # A launcher sends SIGTERM to the ranks that are not gone yet: when all leave, they go by themselves.
            signal.signal(number, signal.SIG_IGN if self.leaving and number != signal.SIGINT else handler)

    def _note(self, number, frame) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
