"""One rank of test_watchdog.py: takes steps with a stand-in for Horovod's collectives, and commits
a given fault.

RANK SIZE FOLDER FAULT VICTIM: the victim commits the fault in step 3, the others stay in its
collective.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from ssd.watchdog.watchdog import Watchdog

TIMEOUT, STALL, STEPS = 1.5, 1.6, 5
LONG_TIMEOUT = 600


def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.005)


def main():
    rank, size, folder, fault, victim = (
        int(word) if word.isdigit() else word for word in sys.argv[1:6]
    )
    address = os.path.join(folder, "address")
    broken = os.path.join(folder, "broken")

    def exchange(offer):
        if rank == 0:
            if fault == "unreachable":
                return offer
            if fault == "unverified connections":
                open_unverified_connections(offer)
            with open(address + ".part", "wb") as file:
                file.write(offer)
            os.rename(address + ".part", address)
            return offer
        if fault == "unreachable":
            return (
                b'{"addresses": ["127.0.0.1"], "port": 1, "process": ["far", "", "", 1, ""], '
                b'"token": "", '
                b'"answer": ""}'
            )
        wait_for_file(address)
        with open(address, "rb") as file:
            return file.read()

    def collective(step):
        with open(os.path.join(folder, f"{rank}.{step}"), "w"):
            pass
        for other in range(size):
            path = os.path.join(folder, f"{other}.{step}")
            while not os.path.exists(path):
                if os.path.exists(broken):
                    raise RuntimeError("Horovod has been shut down")
                time.sleep(0.005)

    def stopping(cause):
        with open(os.path.join(folder, f"stopped.{rank}"), "w") as file:
            file.write(cause)
        if fault == "endless on_stop":
            threading.Event().wait()
        if fault == "on_stop fails":
            raise OSError("no space left")

    signal.signal(signal.SIGTERM, lambda *_: None)  # as a launcher sends it to the survivors
    with open(os.path.join(folder, f"pid.{rank}"), "w") as file:
        file.write(str(os.getpid()))
    # Short limits only where they are tested: on a busy machine a rank may have to wait for a core.
    limits = (
        (TIMEOUT, STALL)
        if fault in ("stopped", "hangs", "all stopped")
        else (LONG_TIMEOUT, LONG_TIMEOUT)
    )
    watchdog = Watchdog(
        rank,
        size,
        exchange,
        limits[0],
        stopping,
        limits[1],
        connect_limit=1.0 if fault == "unreachable" else 20.0,
    )
    try:
        for step in range(1, STEPS + 1):
            watchdog.note("epoch 1, training", step)
            if step == 3 and rank == victim:
                commit(fault, watchdog, folder, size)
            watchdog.note("epoch 1, waiting", step, waiting=True)
            collective(step)
            if fault == "all stopped" and step == 3 and rank == 0:
                wait_for_file(os.path.join(folder, "continue"))
    except RuntimeError:
        with open(os.path.join(folder, f"collective-failed.{rank}"), "w"):
            pass
        watchdog.await_failure_report()
        raise
    except ValueError as error:
        print("the victim's own traceback", file=sys.stderr, flush=True)
        # its collectives break before its watchdog hears of it, and the others have noticed
        with open(broken, "w"):
            pass
        for other in set(range(size)) - {rank}:
            wait_for_file(os.path.join(folder, f"collective-failed.{other}"))
        watchdog.failed(f"{type(error).__name__}: {error}")
        raise
    watchdog.close()
    if fault == "after the goodbye" and rank == victim:
        os._exit(0)


def commit(fault, watchdog, folder, size):
    if fault == "raises":
        raise ValueError("bad\nbatch")
    if fault in ("killed", "endless on_stop", "on_stop fails"):
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stopped, collectives fail":
        with open(os.path.join(folder, "broken"), "w"):
            pass
    if fault.startswith("stopped"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "early _exit":
        os._exit(0)
    if fault == "early sys.exit":
        sys.exit(0)
    if fault == "uncaught":
        watchdog.await_failure_report = None
        raise TypeError("nobody caught me")
    if fault == "hangs":
        threading.Event().wait()


def open_unverified_connections(offer):
    """Connections that send too early, something wrong, too much, or nothing."""
    import json
    import socket

    port = json.loads(offer)["port"]
    for content in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * 100000,
        b'{"token": "?", "rank": 1}\n',
        b"[" * 9000 + b"\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"token": "\\ud800"}\n',
        b'{"rank": 1}\n',
    ):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)  # nobody reads before all have sent
        connection.send(content or b" ")
        kept.append(connection)


kept = []
if __name__ == "__main__":
    main()
