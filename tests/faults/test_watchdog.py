"""Faults of one rank, with real processes: all end in time, and the last line reports the cause."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from ssd.watchdog.end import END_SECONDS, STATUS_RANK_FAILED
from ssd.watchdog.messages import Process, kill, this_process
from ssd.watchdog.watchdog import Watchdog
from tests.faults.watchdog_worker import LONG_TIMEOUT, STALL, STEPS, TIMEOUT
from tests.training.tiny import ROOT
from tests.waiting import SLOW_MACHINE, wait_until


class Run:
    """`size` ranks of watchdog_worker; as a context manager, none survives it."""

    def __init__(self, folder, size, fault, victim):
        self.folder, self.size = folder, size
        self.output = open(folder / "output", "wb")
        self.start = time.monotonic()
        self.ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.faults.watchdog_worker",
                    str(rank),
                    str(size),
                    str(folder),
                    fault,
                    str(victim),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
            )
            for rank in range(size)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.output.close()
        for process in self.ranks:
            process.kill()
            process.wait()

    def end(self, limit):
        """All exit statuses, and the lines of the combined output. Everything has to end within
        `limit` s of the start."""
        deadline = self.start + limit + SLOW_MACHINE
        statuses = [process.wait(max(0.1, deadline - time.monotonic())) for process in self.ranks]
        return statuses, (self.folder / "output").read_text().splitlines()

    def file(self, name):
        """The content of a file, once it exists."""
        wait_until((self.folder / name).exists, name)
        return (self.folder / name).read_text()


@pytest.mark.parametrize("size, victim", [(2, 0), (2, 1), (3, 0), (3, 2)])
@pytest.mark.parametrize(
    "fault, status, text, limit",
    [
        ("raises", 4, "failed at step 3 (epoch 1, training): ValueError: bad batch", 0),
        ("uncaught", 4, "failed at step 3 (epoch 1, training): TypeError: nobody caught me", 0),
        ("killed", -9, "is gone (killed, crashed, or left early): last seen at step ", 0),
        ("early _exit", 0, "is gone (killed, crashed, or left early): last seen at step ", 0),
        ("early sys.exit", 4, "left early, at step 3 (epoch 1, training)", 0),
        ("stopped", -9, "does not answer for ", TIMEOUT),
        ("hangs", 4, f"hangs: no progress for {STALL} s at step 3 (epoch 1, training)", STALL),
    ],
)
def test_a_rank_fails(tmp_path, size, victim, fault, status, text, limit):
    with Run(tmp_path, size, fault, victim) as run:
        statuses, lines = run.end(limit + END_SECONDS)
        pid = run.file(f"pid.{victim}")
    wanted = [STATUS_RANK_FAILED] * size
    wanted[victim] = status
    assert statuses == wanted, lines
    assert lines[-1].startswith(
        f"python -m ssd train: stopped: rank {victim} of {size} (host {socket.gethostname()}, "
        f"process {pid}) {text}"
    )
    if fault == "stopped":
        assert re.search(
            r"answer for \d+\.\d s \(stopped, frozen, or its node is lost\): ", lines[-1]
        )
    if fault == "raises":
        assert lines[:-1] == ["the victim's own traceback"]
    elif fault == "uncaught":
        assert lines[-2] == "TypeError: nobody caught me"
        assert lines.count("Traceback (most recent call last):") == 1
    else:
        assert len(lines) == 1
    if status in (-9, 0):
        # a survivor may still have been finishing the step before
        assert re.search(r"last seen at step [0-3] \(.+\), rank \d is at step [23]$", lines[-1])
    for rank in range(size):
        if statuses[rank] == STATUS_RANK_FAILED:
            assert run.file(f"stopped.{rank}").startswith(f"rank {victim} of {size} (host ")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_blamed_when_collectives_fail_before_its_timeout(tmp_path, victim):
    with Run(tmp_path, 2, "stopped, collectives fail", victim) as run:
        statuses, lines = run.end(END_SECONDS)
        assert time.monotonic() - run.start < LONG_TIMEOUT
    assert statuses[victim] == -9 and statuses[1 - victim] == STATUS_RANK_FAILED
    assert (
        len(lines) == 1
        and f" stopped: rank {victim} of 2 (host " in lines[0]
        and "does not answer" in lines[0]
    )


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("fault", ["none", "unverified connections"])
def test_a_run_without_failures_prints_nothing(tmp_path, size, fault):
    with Run(tmp_path, size, fault, 9) as run:
        statuses, lines = run.end(0)
        assert statuses == [0] * size and lines == []
        assert not (tmp_path / "stopped.0").exists()


def test_no_rank_is_blamed_after_its_goodbye(tmp_path):
    with Run(tmp_path, 3, "after the goodbye", 0) as run:
        assert run.end(0) == ([0, 0, 0], [])


def test_an_unreachable_rank_warns_and_continues(tmp_path):
    with Run(tmp_path, 2, "unreachable", 9) as run:
        statuses, lines = run.end(0)
    assert statuses == [0, 0] and len(lines) == 1
    assert lines[0].startswith(
        "warning: rank 1 is not watched: no connection to rank 0 (host far, port 1): 127.0.0.1: "
    )


@pytest.mark.parametrize(
    "fault, more",
    [
        ("endless on_stop", []),
        ("on_stop fails", ["warning: while stopping: OSError: no space left"]),
    ],
)
def test_on_stop_cannot_keep_a_process_alive(tmp_path, fault, more):
    with Run(tmp_path, 2, fault, 1) as run:
        statuses, lines = run.end(END_SECONDS)
    assert statuses == [4, -9] and lines[:-1] == more and ": stopped: rank 1 of 2 " in lines[-1]


def test_a_run_whose_ranks_are_all_suspended_resumes(tmp_path):
    with Run(tmp_path, 2, "all stopped", 9) as run:
        run.file(f"1.{STEPS - 1}")
        for process in run.ranks:
            process.send_signal(signal.SIGSTOP)
        for process in run.ranks:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(2 * TIMEOUT)  # what is tested: more time passes than a silent rank is given
        for process in run.ranks:
            process.send_signal(signal.SIGCONT)
        (tmp_path / "continue").write_text("")
        assert run.end(2 * TIMEOUT) == ([0, 0], [])


def test_a_single_rank_opens_nothing():
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    watchdog = Watchdog(0, 1, exchange=None, timeout=1)
    assert watchdog.stall == 10, "ten times --rank-timeout"
    watchdog.note("training", 1)
    watchdog.await_failure_report()
    watchdog.failed("an error that nobody waits for")
    watchdog.close()
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before


def test_only_the_same_process_is_killed():
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        with open(f"/proc/{child.pid}/stat", encoding="utf-8") as file:
            start = file.read().rpartition(")")[2].split()[19]
        itself = this_process()._replace(pid=child.pid, start=start)
        assert not kill(itself._replace(machine="another"))
        assert not kill(
            itself._replace(start=str(int(start) - 1))
        )  # its number was another's before
        assert not kill(this_process()), "never this one"
        assert child.poll() is None
        assert kill(itself) and child.wait(SLOW_MACHINE) == -signal.SIGKILL
        assert not kill(itself) and isinstance(itself, Process)
    finally:
        child.kill()
        child.wait()
