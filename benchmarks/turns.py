"""Programs that alternate on one machine: a worker runs while all others are stopped.

Speeds measured one after the other are not comparable where other work starts and ends. So each
side is a process of its own (its memory is its own too), does one step or a few at a time, and is
stopped (SIGSTOP) while another one works: none of its idle threads spin, and none of its background
threads run. Turns in which other processes took part of the cores can be repeated.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, List, Optional

START_SECONDS = 120
DISTURBED = 0.05  # share of the cores that other processes may take during a turn
_PR_SET_PDEATHSIG = 1


class Worker:
    """One side: `members` processes behind one command line, each of which calls `serve` with the
    path that is appended to the command. Stopped but for the time of `ask`."""

    def __init__(
        self, name: str, command: List[str], members: int = 1, env: Optional[Dict[str, str]] = None
    ):
        self.name, self.others = name, []
        self._folder = tempfile.TemporaryDirectory()
        path = os.path.join(self._folder.name, "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listener.settimeout(1)
        self._process = subprocess.Popen(
            [*command, path],
            env=dict(os.environ, **(env or {})),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._files, self._pids = [], []
        deadline = time.monotonic() + START_SECONDS
        while len(self._files) < members:
            try:
                connection, _ = listener.accept()
            except socket.timeout:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise RuntimeError(f"{name}: did not start") from None
                continue
            connection.settimeout(None)
            self._files.append(connection.makefile("rw"))
            self._pids.append(self._read(self._files[-1]))
        listener.close()
        self._signal(signal.SIGSTOP)

    def ask(self, what: str, **values):
        """The reply to `what(**values)` of the worker; of several members, the list of theirs."""
        self._signal(signal.SIGCONT)
        for file in self._files:
            file.write(json.dumps(dict(values, what=what)) + "\n")
            file.flush()
        replies = [self._read(file) for file in self._files]
        self._signal(signal.SIGSTOP)
        return replies if len(replies) > 1 else replies[0]

    def undisturbed(self, what: str, patience: int, **values):
        """As `ask`, again up to `patience` times while other processes take more than DISTURBED of
        the cores. `others` holds their shares in the turns that counted."""
        for left in range(patience, -1, -1):
            before, start = self._foreign_seconds(), time.monotonic()
            reply = self.ask(what, **values)
            seconds = (time.monotonic() - start) * os.cpu_count()
            share = max(0.0, (self._foreign_seconds() - before) / seconds)
            if share <= DISTURBED or not left:
                self.others.append(share)
                return reply

    def _foreign_seconds(self) -> float:
        """Processor seconds since the machine's start that were not this worker's, those of the
        hypervisor included."""
        with open("/proc/stat", encoding="utf-8") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        for pid in self._pids:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                ticks -= sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _read(self, file):
        line = file.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended; its message is above")
        return json.loads(line)

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)

    def close(self) -> None:
        """Ends the processes; a worker's `serve` returns when its connection closes."""
        try:
            self._signal(signal.SIGCONT)
        except ProcessLookupError:
            pass
        for file in self._files:
            file.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            for pid in self._pids:  # under horovodrun, of other process groups
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def serve(path: str, handlers: Dict[str, Callable]) -> None:
    """The worker's side: answers requests until the other side disconnects."""
    # If the parent were killed, a stopped process would stay forever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    file = connection.makefile("rw")
    print(os.getpid(), file=file, flush=True)
    for line in file:
        request = json.loads(line)
        reply = handlers[request.pop("what")](**request)
        try:
            print(json.dumps(reply), file=file, flush=True)
        except BrokenPipeError:  # no one waits for it any more
            return


def in_turns(
    workers, rounds: int, patience: int, jobs: List[str], after_round=lambda: None, **values
) -> Dict[str, List[List[float]]]:
    """Per job and worker the seconds of each round: medians of the seconds that a reply lists; of
    several members, of the slowest's. The order of the workers changes from round to round."""
    seconds = {job: [[] for _ in workers] for job in jobs}
    for number in range(rounds):
        for job in jobs:
            for place in sorted(range(len(workers)), reverse=number % 2 == 1):
                reply = workers[place].undisturbed(job, patience, **values)
                if isinstance(reply[0], list):
                    reply = [max(one) for one in zip(*reply)]
                seconds[job][place].append(statistics.median(reply))
        after_round()
    return seconds


def add_arguments(parser, rounds: int, steps: int, warmup: int) -> None:
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=steps, help="of each side in a round")
    parser.add_argument(
        "--warmup", type=int, default=warmup, help="steps of each side before the first round"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=3,
        help="how often a turn is repeated in which other "
        f"processes had more than {100 * DISTURBED:.0f} %% of the cores",
    )
    for name in ("--side", "--folder", "--serve"):
        parser.add_argument(name, help=argparse.SUPPRESS)


def others(workers) -> str:
    """How much of the cores other processes had."""
    return "other processes took {} % of the cores".format(
        spread([100 * share for worker in workers for share in worker.others], "%.1f")
    )


def timed(work: Callable[[], object], times: int) -> List[float]:
    """Seconds of each of `times` calls."""
    result = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        result.append(time.perf_counter() - start)
    return result


def peak_megabytes() -> float:
    """Peak resident memory of this process. Not ru_maxrss, which starts with the parent's."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def spread(values, form: str = "%.2f") -> str:
    """'median (least to most)'."""
    return "{} ({} to {})".format(
        *tuple(form % one for one in (statistics.median(values), min(values), max(values)))
    )


def ratios(slow, fast) -> List[float]:
    """Round by round, how many times `fast` is as fast as `slow`."""
    return [a / b for a, b in zip(slow, fast)]


def machine() -> str:
    """The processor, its cores that this process may use, the load as this starts, and Python."""
    name = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next(
            (line.split(":")[1].strip() for line in file if line.startswith("model name")), name
        )
    return "%s, %d cores, load %.1f at the start, Python %s" % (
        name,
        len(os.sched_getaffinity(0)),
        os.getloadavg()[0],
        platform.python_version(),
    )


def end_workers_with_us() -> None:
    """Makes SIGTERM end this program as Ctrl-C does, through every `with`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
