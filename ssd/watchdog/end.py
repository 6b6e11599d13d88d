"""Ends a process from any of its threads, after one last line."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Callable, List, Optional

from ssd.watchdog.messages import Channel

STATUS_RANK_FAILED = 4  # exit status of every process that a watchdog ends
END_SECONDS = 3.0  # for on_stop and printing together
# Seconds of these after which the failure report is printed even if on_stop still runs: mpirun
# gives a survivor one second between SIGTERM and SIGKILL.
_BEFORE_REPORT = 0.7


def end_process(
    cause: str,
    on_stop: Optional[Callable[[str], None]],
    failure_report: Optional[str],
    peers: List[Channel],
) -> None:
    """Calls on_stop(cause), prints `failure_report` (one line, or None) after the peers' last
    lines, and exits with status 4.

    Never returns, takes at most END_SECONDS seconds, and does not need the main thread.
    """
    reporter = threading.Thread(
        target=_stop_and_report, args=(cause, on_stop, failure_report, peers), daemon=True
    )
    reporter.start()
    reporter.join(END_SECONDS)  # whatever still blocks there, say a full pipe, is abandoned
    os._exit(STATUS_RANK_FAILED)


def _stop_and_report(cause, on_stop, failure_report, peers) -> None:
    stopping = threading.Thread(target=_stop, args=(cause, on_stop), daemon=True)
    stopping.start()
    until = time.monotonic() + _BEFORE_REPORT
    stopping.join(_BEFORE_REPORT)
    if failure_report is not None:
        _wait_until_gone(peers, until)
        os.write(2, failure_report.encode(errors="replace") + b"\n")
        # The main thread still runs: nothing may follow the report.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    stopping.join()


def _stop(cause, on_stop) -> None:
    try:
        if on_stop is not None:
            on_stop(cause)
    except Exception as error:  # the report matters more
        sys.stderr.write(f"warning: while stopping: {type(error).__name__}: {error}\n")
    sys.stdout.flush()
    sys.stderr.flush()


def _wait_until_gone(peers, until) -> None:
    while time.monotonic() < until and any(channel.open for channel in peers):
        for channel in peers:
            if channel.open:
                channel.receive()
        time.sleep(0.01)
