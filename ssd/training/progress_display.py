"""The live display of a training on a terminal, and whether there is one to show it on."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import threading
import time
from typing import Mapping

from ssd.errors import UserError
from ssd.training.progress_rows import clock, course_of, phase_in_words, progress_rows
from ssd.training.ranks import RANK_VARIABLES
from ssd.training.state import RunState

INTERVAL = 1.0  # seconds between two pictures
HIDDEN_SECONDS = 0.3  # for how long the display makes room for a pipe's reader on the same terminal
LOCK_PATIENCE = 0.3  # seconds; less than the watchdog leaves for the end of a process


def choose_terminal(mode: str, environ: Mapping[str, str], stdout, stderr):
    """The stream (stdout or stderr) of the terminal that the display goes to, None for plain lines.

    mode: auto, plain or live, which is a UserError without a terminal. auto is cautious: under a
    launcher of several ranks a terminal may be the launcher's own, and what leaves by a pipe may
    come back on the same terminal.
    """
    if mode == "plain":
        return None
    terminal = next(
        (stream for stream in (stdout, stderr) if stream is not None and stream.isatty()), None
    )
    if mode == "live":
        if terminal is None:
            raise UserError(
                "--progress live: neither standard output nor standard error is a terminal"
            )
        if importlib.util.find_spec("rich") is None:
            raise UserError("--progress live: the package rich is not installed (pip install rich)")
        return terminal
    if (
        terminal is None
        or environ.get("TERM", "dumb") in ("dumb", "unknown")
        or any(name in environ for name in RANK_VARIABLES)
        or importlib.util.find_spec("rich") is None
    ):
        return None
    return None if terminal is stderr and is_pipe(stdout) else terminal


def is_pipe(stream) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


class Display:
    """Shows a run on `terminal` (None: nowhere) from `begin` to `close`; a `with` block closes it.

    In a `with` block everything that is printed goes by lines: above the display, if it is on the
    same terminal. A line stays whole, however long it is. Pictures are drawn in a thread, of
    numbers that the training has at hand.
    """

    def __init__(self, terminal=None):
        self._terminal = terminal
        self._live = self._run = self._watch = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._hidden_until = 0.0
        #: whether the display stands where progress lines would
        self.shows_steps = terminal is not None and terminal is sys.stdout

    def __enter__(self) -> Display:
        self._streams = sys.stdout, sys.stderr
        if self._terminal is not None:
            sys.stdout, sys.stderr = (
                LineStream(stream, self._writer(stream)) if self._concerns(stream) else stream
                for stream in self._streams
            )
        return self

    def __exit__(self, *_) -> None:
        self.close()
        for stream, lines in zip(self._streams, (sys.stdout, sys.stderr)):
            if lines is not stream:
                lines.end()
        sys.stdout, sys.stderr = self._streams

    def begin(self, run: RunState, watch) -> None:
        """The clock has started. watch: the Watchdog, whose phase is shown."""
        if self._terminal is None or self._closed.is_set():
            return
        from rich.console import Console
        from rich.live import Live

        self._run, self._watch = run, watch
        console = Console(file=self._terminal, force_terminal=True, highlight=False)
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._lock:
            self._live.start(refresh=True)
            console.show_cursor(True)  # a process that is killed can give it back no more
        threading.Thread(target=self._draw, name="progress display", daemon=True).start()

    def close(self) -> None:
        """Takes the display away. May be called twice, and by any thread."""
        self._closed.set()
        # Whoever holds the lock for long sits in a terminal that takes nothing: it would not take
        # this either.
        if self._lock.acquire(timeout=LOCK_PATIENCE):
            try:
                live, self._live = self._live, None
                if live is not None:
                    live.stop()
            finally:
                self._lock.release()

    def _draw(self) -> None:
        while not self._closed.wait(INTERVAL):
            with self._lock:
                if self._live is not None:
                    try:
                        self._live.refresh()
                    except OSError:  # the terminal has gone; who prints will notice
                        return

    def _picture(self):
        from rich.text import Text

        if time.monotonic() < self._hidden_until or self._closed.is_set():
            return Text("")
        try:
            return picture(self._run, self._watch.phase, time.time())
        except Exception as error:  # a run does not end for its display
            return Text(f"progress display: {type(error).__name__}: {error}")

    def _concerns(self, stream) -> bool:
        return stream.isatty() or is_pipe(stream)

    def _writer(self, stream):
        def write(text: str) -> None:
            with self._lock:
                if self._live is None:
                    stream.write(text)
                    stream.flush()
                elif stream.isatty():
                    self._live.console.out(text[:-1], highlight=False)
                else:  # perhaps `| tee`, which writes to the same terminal a moment later
                    self._hidden_until = time.monotonic() + HIDDEN_SECONDS
                    self._live.refresh()
                    stream.write(text)
                    stream.flush()

        return write


class LineStream:
    """A text stream that hands on whole lines, each thread's own, to `write_lines`; else the stream
    that it stands for."""

    def __init__(self, stream, write_lines):
        self._stream, self._write_lines = stream, write_lines
        self._rests = {}  # by thread: the beginning of a line
        self._ended = False

    def write(self, text: str) -> int:
        if self._ended:
            return self._stream.write(text)
        thread = threading.get_ident()
        whole, newline, rest = (self._rests.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._rests[thread] = rest
        if newline:
            self._write_lines(whole + newline)
        return len(text)

    def end(self) -> None:
        """Nothing is held back any more."""
        self._ended = True
        for rest in self._rests.values():
            self._stream.write(rest)
        self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


def picture(run: RunState, phase: str, now: float):
    """The display of a run as something that rich draws. phase: the watchdog's; now: seconds since
    the epoch."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    config, step, course = run.config, run.progress.steps, course_of(run)
    epoch = max(1, -(-step // course.steps_per_epoch))
    done = step - (epoch - 1) * course.steps_per_epoch
    head = Text.assemble(
        (config.recipe, "bold"),
        "   ",
        (f"epoch {epoch} of {course.epochs}", "bold cyan"),
        "   ",
        phase_in_words(phase),
        "   ",
        clock(now - run.started),
    )
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(
        f"step {done}/{course.steps_per_epoch}",
        ProgressBar(total=course.steps_per_epoch, completed=done),
        f"{100 * done // course.steps_per_epoch} %",
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True, style="dim")
    rows.add_column()
    for name, text in progress_rows(run):
        rows.add_row(name, text)
    return Group(Rule(style="dim"), head, bar, rows)
