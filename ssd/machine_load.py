"""How much of this process's cores other work takes, which slows down threads that wait for each
other."""

from __future__ import annotations

import os
from typing import Dict, Iterable, NamedTuple, Optional, Set

SAMPLE_SECONDS = 0.1  # of one measurement at the start of a process


class _Times(NamedTuple):
    """Ticks since the machine's start: of all cores, of these the busy ones, and this run's."""

    all: int
    busy: int
    own: int


class OtherWork:
    """The share that other processes take of the cores on which this one may run. Processes with
    the same command line are this run's other ranks: they, and everything that they and this one
    have started, do not count."""

    def __init__(
        self, proc: str = "/proc", pid: Optional[int] = None, cores: Optional[Iterable[int]] = None
    ):
        """proc: the folder of Linux's process files; pid: of this process; cores: numbers of those
        that it may use."""
        self._proc, self._pid = proc, os.getpid() if pid is None else pid
        self._cores = {
            f"cpu{core}" for core in (os.sched_getaffinity(0) if cores is None else cores)
        }
        self._last = self._read()

    def share(self) -> float:
        """The share [0, 1] since the last call or the start; 0 if the system does not report it."""
        now, last = self._read(), self._last
        self._last = now
        if now is None or last is None or now.all <= last.all:
            return 0.0
        others = (now.busy - last.busy) - max(0, now.own - last.own)
        return min(1.0, max(0.0, others / (now.all - last.all)))

    def _read(self) -> Optional[_Times]:
        try:
            with open(os.path.join(self._proc, "stat"), encoding="ascii") as file:
                rows = [line.split() for line in file]
            # A row per core: user, nice, system, idle, iowait, irq, softirq, steal. The columns
            # after these are included in user.
            ticks = [
                sum(part)
                for part in zip(
                    *(map(int, row[1:9]) for row in rows if row and row[0] in self._cores)
                )
            ]
            parents, own = self._processes()
        except (OSError, ValueError):
            return None
        user, nice, system, idle, waiting, *others = ticks
        ours = self._ours(parents)
        return _Times(
            sum(ticks),
            user + nice + system + sum(others),
            sum(own[pid] for pid in ours if pid in own),
        )

    def _processes(self):
        """(parent of each process, ticks of each process and its ended children)."""
        parents: Dict[int, int] = {}
        own: Dict[int, int] = {}
        for name in os.listdir(self._proc):
            if name.isdigit():
                try:
                    with open(os.path.join(self._proc, name, "stat"), "rb") as file:
                        fields = file.read().rpartition(b")")[2].split()
                    parents[int(name)] = int(fields[1])
                    own[int(name)] = sum(map(int, fields[11:15]))
                except (OSError, ValueError, IndexError):  # it has just ended
                    continue
        return parents, own

    def _ours(self, parents: Dict[int, int]) -> Set[int]:
        command = self._command(self._pid)
        ours = {
            pid
            for pid in parents
            if pid == self._pid or (command and self._command(pid) == command)
        }
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours |= more
            grown = bool(more)
        return ours

    def _command(self, pid: int) -> bytes:
        try:
            with open(os.path.join(self._proc, str(pid), "cmdline"), "rb") as file:
                return file.read()
        except OSError:
            return b""
