"""The live display of a training run, and the choice of the terminal for it."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import threading
import time
from typing import Mapping

from ssd.errors import UserError
from ssd.training.progress_rows import evaluation_plan, format_clock, phase_name, progress_rows
from ssd.training.ranks import RANK_VARIABLES
from ssd.training.state import RunState

INTERVAL = 1.0  # seconds between two updates
HIDDEN_SECONDS = 0.3  # time without a display, for a pipe's reader that prints to the same terminal
LOCK_PATIENCE = 0.3  # seconds; less than the watchdog leaves a process for its end


def choose_terminal(mode: str, environ: Mapping[str, str], stdout, stderr):
    """The stream (stdout or stderr) of the terminal for the display, None for plain lines.

    mode: auto, plain or live; live is a UserError without a terminal. auto is cautious: under a
    launcher the terminal may be the launcher's own, and a pipe's reader may print to the same
    terminal.
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

    In a `with` block everything is printed line by line: above the display, if that is on the same
    terminal. Even long lines are not broken up. A thread draws the display, from numbers that the
    training has already computed.
    """

    def __init__(self, terminal=None):
        self._terminal = terminal
        self._live = self._run = self._watch = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._hidden_until = 0.0
        #: whether the display replaces the progress lines
        self.shows_steps = terminal is not None and terminal is sys.stdout

    def __enter__(self) -> Display:
        self._streams = sys.stdout, sys.stderr
        if self._terminal is not None:
            sys.stdout, sys.stderr = (
                LineStream(stream, self._writer(stream)) if self._may_interfere(stream) else stream
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
        """Starts the display, with the timed part. watch: the Watchdog, whose phase is shown."""
        if self._terminal is None or self._closed.is_set():
            return
        from rich.console import Console
        from rich.live import Live

        self._run, self._watch = run, watch
        console = Console(file=self._terminal, force_terminal=True, highlight=False)
        self._live = Live(
            console=console,
            get_renderable=self._renderable,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._lock:
            self._live.start(refresh=True)
            console.show_cursor(True)  # a killed process could not restore it
        threading.Thread(target=self._draw, name="progress display", daemon=True).start()

    def close(self) -> None:
        """Removes the display. May be called twice, and by any thread."""
        self._closed.set()
        # A thread that holds the lock for long is blocked by a terminal that accepts no output, not
        # even the removal.
        if self._lock.acquire(timeout=LOCK_PATIENCE):
            try:
                live, self._live = self._live, None
                if live is not None:
                    live.stop()
            finally:
                self._lock.release()

    def refresh(self) -> None:
        """Draws the display now. OSError if the terminal is gone."""
        with self._lock:
            if self._live is not None:
                self._live.refresh()

    def _draw(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                self.refresh()
            except OSError:  # the terminal is gone; the next print will fail too
                return

    def _renderable(self):
        from rich.text import Text

        if time.monotonic() < self._hidden_until or self._closed.is_set():
            return Text("")
        try:
            return render(self._run, self._watch.phase, time.time())
        except Exception as error:  # the display must not end the run
            return Text(f"progress display: {type(error).__name__}: {error}")

    def _may_interfere(self, stream) -> bool:
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
    """A text stream that passes complete lines, collected for each thread, to `write_lines`. In
    everything else it behaves like `stream`."""

    def __init__(self, stream, write_lines):
        self._stream, self._write_lines = stream, write_lines
        self._rests = {}  # by thread: the start of an incomplete line
        self._ended = False

    def write(self, text: str) -> int:
        if self._ended:
            return self._stream.write(text)
        thread = threading.get_ident()
        lines, newline, rest = (self._rests.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._rests[thread] = rest
        if newline:
            self._write_lines(lines + newline)
        return len(text)

    def end(self) -> None:
        """Writes incomplete lines, and from then on passes everything to the stream."""
        self._ended = True
        for rest in self._rests.values():
            self._stream.write(rest)
        self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


def render(run: RunState, phase: str, now: float):
    """The display of a run as a renderable of rich. phase: the watchdog's; now: seconds since the
    epoch."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    config, step, plan = run.config, run.progress.steps, evaluation_plan(run)
    epoch = max(1, -(-step // plan.steps_per_epoch))
    done = step - (epoch - 1) * plan.steps_per_epoch
    head = Text.assemble(
        (config.recipe, "bold"),
        "   ",
        (f"epoch {epoch} of {plan.epochs}", "bold cyan"),
        "   ",
        phase_name(phase),
        "   ",
        format_clock(now - run.started),
    )
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(
        f"step {done}/{plan.steps_per_epoch}",
        ProgressBar(total=plan.steps_per_epoch, completed=done),
        f"{100 * done // plan.steps_per_epoch} %",
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True, style="dim")
    rows.add_column()
    for name, text in progress_rows(run):
        rows.add_row(name, text)
    return Group(Rule(style="dim"), head, bar, rows)
