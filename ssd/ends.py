"""How a command ends: Ctrl-C at any moment; an output that is full, closed or cannot encode a text.

Imported before anything else, so it imports almost nothing.
"""

from __future__ import annotations

import _signal  # importing `signal` takes milliseconds, in which a Ctrl-C gives a traceback
import atexit
import errno
import io
import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as in shells
BROKEN_PIPE = 141  # 128 + SIGPIPE
# Disc full, over quota, file too large; terminal gone.
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def program() -> str:
    """How the user has called us: `ssd`, the installed command, or `python -m ssd`."""
    return "ssd" if os.path.basename(sys.argv[0]) == "ssd" else "python -m ssd"


class _State:
    interrupted = False
    exit_in_imports = True
    streams = ()
    unread = None


def begin(name: str) -> None:
    """Call it first: from then on a Ctrl-C ends the process at once, with one line and status 130.
    At the very end, while Python tears down its modules, it is ignored. name: of the command, for
    that line. A SIGINT that is ignored already, as under nohup, stays ignored."""

    def leave(*_):
        os.write(2, f"{name}: interrupted\n".encode(errors="backslashreplace"))
        os._exit(INTERRUPTED)

    _State.leave = leave
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, leave)
        # Registered first, so called last. Python's teardown would let SIGINT kill the process
        # silently.
        atexit.register(_signal.signal, _signal.SIGINT, _signal.SIG_IGN)


def is_interrupted() -> bool:
    """Whether `run`'s handler has seen a Ctrl-C. An import that it interrupts may fail with any
    error."""
    return _State.interrupted


def when_unread(call) -> None:
    """Calls `call()` instead of raising BrokenPipeError when a pipe has lost its reader; what is
    printed into it from then on is lost. None: raises again, for pipes that still have a reader."""
    _State.unread = call


def exit_in_imports(at_once: bool) -> None:
    """Sets whether a Ctrl-C during an import ends the process, or raises KeyboardInterrupt as
    everywhere else."""
    _State.exit_in_imports = at_once


def run(main) -> None:
    """Runs `main()` and ends the process with the status that it returns or exits with.

    Meanwhile a Ctrl-C raises KeyboardInterrupt, which main reports. During an import, where C
    libraries would print it or turn it into an ImportError, it ends the process as before.

    Standard output and error accept any text: characters missing from their encoding are written
    as escapes. If they are closed or full, the text is lost and the work continues; if standard
    output lost text, a line reports it and status 0 becomes 1. A pipe that nobody reads ends the
    process with status 141, as it does C programs.
    """
    _protect_streams()
    _switch(_State.leave, _raise)
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except BrokenPipeError:  # of standard error
        status = BROKEN_PIPE
    except KeyboardInterrupt:  # outside the part where main handles it
        _flushed(0)
        _State.leave()
    _switch(_raise, _State.leave)
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    status = _flushed(int(status or 0))
    if status == INTERRUPTED:
        # Partly imported modules may crash when the interpreter tears them down.
        atexit._run_exitfuncs()
        os._exit(status)
    sys.exit(status)


def _raise(_, frame):
    _State.interrupted = True
    while _State.exit_in_imports and frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            try:
                sys.stdout.flush()
            finally:
                _State.leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _switch(before, after) -> None:
    if _signal.getsignal(_signal.SIGINT) is before:
        _signal.signal(_signal.SIGINT, after)


class _Output(io.RawIOBase):
    """A file descriptor whose errors, such as a full disc, do not stop the program. lost: the error
    that lost some text, or None."""

    def __init__(self, number: int, name: str):
        self._number, self.name, self.lost = number, name, None

    def write(self, content) -> int:
        content = rest = memoryview(content).cast("B")
        while len(rest):  # all: without a buffer (python -u) nobody checks how much was written
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:  # some program has set the terminal to non-blocking
                import select

                select.select([], [self._number], [])
            except OSError as error:
                if error.errno == errno.EPIPE and _State.unread is not None:
                    _State.unread()
                elif error.errno not in _LOST and not (
                    error.errno == errno.EPIPE and self.lost is not None
                ):
                    raise
                self.lost = error
                break
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)


def _protect_streams() -> None:
    # A closed descriptor would go to the next file that is opened, and C libraries would write into
    # that file.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Inheritable, or it is closed again in child processes.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    outputs = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
            continue
        output = _Output(number, f"<{name}>")
        buffer = output if stream.write_through else io.BufferedWriter(output)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                buffer,
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or number == 2,
                write_through=stream.write_through,
            ),
        )
        outputs.append(output)
    _State.streams = tuple(outputs)


def _flushed(status: int) -> int:
    """Writes everything that can be written; returns the status to exit with."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = BROKEN_PIPE
            # The rest of the text is lost silently.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    for output in _State.streams:
        if output.lost is not None and output.fileno() == 1:
            status = status or 1
            try:
                print(
                    f"standard output is incomplete: {output.lost.strerror}",
                    file=sys.stderr,
                    flush=True,
                )
            except OSError:
                pass
    return status
