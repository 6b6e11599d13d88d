"""How a command line of ours ends: Ctrl-C at any moment, an output that is full, closed or of few
letters.

Imported first of all, so it imports next to nothing.
"""

from __future__ import annotations

import _signal  # `signal` itself imports for milliseconds, in which a Ctrl-C gives a traceback
import atexit
import errno
import io
import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE
# Of a disc: full, over quota, too long a file; of a terminal: gone.
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _State:
    interrupted = False
    leaves_imports = True
    streams = ()
    unread = None


def begin(name: str) -> None:
    """To be called first of all: from now on a Ctrl-C ends the process at once, with one line and
    status 130; after all is done, while Python takes its modules down, it is ignored. name: of the
    command in that line. A SIGINT that is ignored, as under nohup, stays so."""

    def leave(*_):
        os.write(2, f"{name}: interrupted\n".encode(errors="backslashreplace"))
        os._exit(INTERRUPTED)

    _State.leave = leave
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, leave)
        # Registered first, so called last. Python's own end would have SIGINT kill the process,
        # without a word.
        atexit.register(_signal.signal, _signal.SIGINT, _signal.SIG_IGN)


def is_interrupted() -> bool:
    """Whether a Ctrl-C was met by `run`'s handler: an import that it cuts off may fail with any
    other error."""
    return _State.interrupted


def when_unread(call) -> None:
    """Has `call()` called where a pipe has no reader any more, in place of a BrokenPipeError; what
    is printed into it from then on is lost. None: that error again, for pipes that still have a
    reader."""
    _State.unread = call


def leave_imports(at_once: bool) -> None:
    """Whether a Ctrl-C in an import ends the process, or raises KeyboardInterrupt as anywhere
    else."""
    _State.leaves_imports = at_once


def run(main) -> None:
    """Runs `main()` and ends the process with the status that it returns or exits with.

    Meanwhile a Ctrl-C raises KeyboardInterrupt, for which main has its line; or in an import, in
    which libraries in C would print it or make it an ImportError, it ends the process as before.
    Standard output and error take any text: what their encoding lacks is written as escapes. Where
    they are closed, or can take no more, the text is lost and the work goes on; where standard
    output lost some, a line says so and status 0 becomes 1. A pipe that nobody reads ends the
    process with status 141, as for programs in C.
    """
    _protect_streams()
    _switch(_State.leave, _raise)
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except BrokenPipeError:  # of standard error
        status = BROKEN_PIPE
    except KeyboardInterrupt:  # outside of what main looks after
        _flushed(0)
        _State.leave()
    _switch(_raise, _State.leave)
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    status = _flushed(int(status or 0))
    if status == INTERRUPTED:
        # Modules that were half imported may crash where the interpreter takes them down.
        atexit._run_exitfuncs()
        os._exit(status)
    sys.exit(status)


def _raise(_, frame):
    _State.interrupted = True
    while _State.leaves_imports and frame is not None:
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
    """A file descriptor that a full disc does not stop. lost: the error by which some text was
    lost, or None."""

    def __init__(self, number: int, name: str):
        self._number, self.name, self.lost = number, name, None

    def write(self, content) -> int:
        content = rest = memoryview(content).cast("B")
        while len(rest):  # all of it: without a buffer (python -u) nobody asks how much was written
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:  # somebody has set the terminal so
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
    for number in range(
        3
    ):  # or the next file that is opened takes the place, and C libraries write into it
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # or a child has it closed again
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
    """The status once all is written that can be."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = BROKEN_PIPE
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), stream.fileno()
            )  # what is left of it is lost without a word
    for output in _State.streams:
        if output.lost is not None and output.fileno() == 1:
            status = status or 1
            try:
                print(
                    f"standard output is not whole: {output.lost.strerror}",
                    file=sys.stderr,
                    flush=True,
                )
            except OSError:
                pass
    return status
