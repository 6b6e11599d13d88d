"""Scoring in a separate process, so that the training loop need not wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from typing import Dict, Optional

from ssd.evaluation.detections import Detections


class ScoringProcess:
    """`score_detections` in a separate process: the training loop neither waits for it nor shares
    Python's lock with it.

    Call `start`, then `poll` from time to time or wait for `result`; always call `close` (a `with`
    block does). One object runs one scoring. command: the arguments of another program to run
    instead of scoring_child; its standard input stays open, and empty, as long as this process
    lives.
    """

    def __init__(self, command=None):
        self._command = list(command or (sys.executable, "-m", "ssd.evaluation.scoring_child"))
        self._process = None
        self._stats = self._failure = None
        self._finalizer = None

    def start(
        self, annotation_file, detections: Detections, folder, name: str = "detections"
    ) -> None:
        """Write the detections to `folder`/`name`.npz (kept), start scoring them and return at
        once."""
        assert self._process is None, "this scoring was already started"
        folder = os.path.abspath(str(folder))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name + ".npz")
        detections.to_npz(path)
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = dict(os.environ)
        search = (package_root, os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        # The cores belong to the training.
        environment.update(
            dict.fromkeys(
                ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"),
                "1",
            )
        )
        # Files, not pipes: a full pipe would block the child while nobody reads it.
        self._output, self._errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        # A new session: a signal to the trainer's process group (which may save and exit) does not
        # reach the child.
        self._process = subprocess.Popen(
            self._command
            + ["--annotations", os.path.abspath(str(annotation_file)), "--detections", path],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        # Runs at the latest when this object is collected or the interpreter exits.
        self._finalizer = weakref.finalize(
            self, _kill_and_reap, self._process, self._output, self._errors
        )

    @property
    def pid(self) -> int:
        """The process id of the scorer that was started."""
        return self._process.pid

    def poll(self) -> Optional[Dict[str, float]]:
        """The numbers once they are ready, None before. RuntimeError if the scorer died."""
        assert self._process is not None, "nothing was started"
        if self._failure is None and self._stats is None and self._process.poll() is not None:
            self._finish()
        if self._failure is not None:
            raise RuntimeError(self._failure)
        return self._stats

    def result(self, timeout: Optional[float] = None) -> Dict[str, float]:
        """Wait for the numbers. timeout: seconds, None for no limit; a TimeoutError leaves the
        child running."""
        assert self._process is not None, "nothing was started"
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no score after {timeout:g} s") from None
        return self.poll()

    def close(self) -> None:
        """Kill the child if it still runs, and reap it. May be called any number of times."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _finish(self):
        assert not self._output.closed, "closed before the score was read"
        status = self._process.returncode
        output, errors = (_read_all(file) for file in (self._output, self._errors))
        self.close()
        if status != 0:
            lines = [line.strip() for line in errors.splitlines() if line.strip()]
            # hotcoco (Rust) prints this line, then aborts with a backtrace.
            causes = [line for line in lines if line.startswith("memory allocation of")] or lines
            last = causes[-1] if causes else "(nothing on its standard error)"
            self._failure = f"the scorer died with status {status}{_reason(status, last)}: {last}"
            return
        try:
            self._stats = {str(name): float(value) for name, value in json.loads(output).items()}
        except (ValueError, AttributeError, TypeError):
            self._failure = f"the scorer printed no numbers but {output[-200:]!r}"


def _read_all(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def _kill_and_reap(process, *files):
    if process.poll() is None:
        process.kill()
        process.wait()
    for file in (process.stdin, *files):
        file.close()


def _reason(status, last_line):
    """The meaning of a status if it is known; empty if the scorer's last line explains it."""
    if status == -signal.SIGKILL:
        return ", killed by signal 9 (SIGKILL), perhaps by the kernel for lack of memory"
    if any(
        word in last_line
        for word in ("MemoryError", "bad_alloc", "Cannot allocate memory", "memory allocation of")
    ):
        return ", out of memory"
    if status < 0:
        known = {number.value: f" ({number.name})" for number in signal.Signals}
        return f", killed by signal {-status}{known.get(-status, '')}"
    return ""
