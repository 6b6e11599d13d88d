"""How long a thread waits for Python's lock while it has work to do."""

from __future__ import annotations

import os
import time
from typing import Optional


class LockWait:
    """Measures how long a thread was blocked inside `with` blocks of this object: `seconds`.

    For blocks that only queue work, as a training step does on MXNet's engine: there, a thread that
    neither runs nor waits for a core is waiting for Python's lock, which another thread holds, or
    for a lock inside the library. Each call of a library releases Python's lock and takes it again,
    so a block of many calls can lose it many times. All blocks must run in the same thread.
    """

    def __init__(self):
        self.seconds = 0.0
        self._status: Optional[int] = None  # descriptor; -1 if the system has no such file
        self._start = 0.0

    def __enter__(self) -> LockWait:
        if self._status is None:
            try:
                self._status = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._status = -1
        self._start = self._blocked()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += max(0.0, self._blocked() - self._start)

    def _blocked(self) -> float:
        """Seconds up to now in which this thread neither ran nor waited for a core. Includes the
        wait for a core if the system does not report it."""
        return time.perf_counter() - time.thread_time() - self._queued()

    def _queued(self) -> float:
        """Seconds that this thread has waited for a core: the second number of Linux' schedstat
        [ns]."""
        if self._status < 0:
            return 0.0
        try:
            return int(os.pread(self._status, 64, 0).split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):
            return 0.0

    def close(self) -> None:
        """May be called twice; more blocks can be run afterwards."""
        if self._status is not None and self._status >= 0:
            os.close(self._status)
        self._status = None

    def __del__(self):
        self.close()
