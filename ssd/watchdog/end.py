"""How a process ends that has no way back: its last words, then nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Callable, List, Optional

from ssd.watchdog.messages import Channel

STATUS_RANK_FAILED = 4  # exit status of every process that a watchdog ends
LAST_WORDS = 3.0  # seconds that on_stop and the printing may take together
_BEFORE_VERDICT = (
    0.7  # seconds of these after which the verdict is printed even if on_stop still runs: mpirun
)
# gives a survivor one second between SIGTERM and SIGKILL


def end_process(
    cause: str,
    on_stop: Optional[Callable[[str], None]],
    verdict: Optional[str],
    peers: List[Channel],
) -> None:
    """Calls on_stop(cause), prints `verdict` (one line, or None) after the peers' last lines, and
    exits with status 4.

    Never returns, takes at most LAST_WORDS seconds, and needs no help of the main thread.
    """
    speaker = threading.Thread(
        target=_last_words, args=(cause, on_stop, verdict, peers), daemon=True
    )
    speaker.start()
    speaker.join(LAST_WORDS)  # whatever blocks there, a full pipe for one, blocks no longer
    os._exit(STATUS_RANK_FAILED)


def _last_words(cause, on_stop, verdict, peers) -> None:
    stopping = threading.Thread(target=_stop, args=(cause, on_stop), daemon=True)
    stopping.start()
    until = time.monotonic() + _BEFORE_VERDICT
    stopping.join(_BEFORE_VERDICT)
    if verdict is not None:
        _wait_until_gone(peers, until)
        os.write(2, verdict.encode(errors="replace") + b"\n")
        silence = os.open(
            os.devnull, os.O_WRONLY
        )  # the main thread still runs: nothing may follow the verdict
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    stopping.join()


def _stop(cause, on_stop) -> None:
    try:
        if on_stop is not None:
            on_stop(cause)
    except Exception as error:  # the verdict matters more
        sys.stderr.write(f"warning: while stopping: {type(error).__name__}: {error}\n")
    sys.stdout.flush()
    sys.stderr.flush()


def _wait_until_gone(peers, until) -> None:
    while time.monotonic() < until and any(channel.open for channel in peers):
        for channel in peers:
            if channel.open:
                channel.receive()
        time.sleep(0.01)
