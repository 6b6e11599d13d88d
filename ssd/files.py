"""Files that survive a killed process and a failing machine: whole or not there.

`replacing` and `replace_file` put a new file in the place of an old one; `write_errors` words what
prevents it.

What is being made or taken away has a temporary name beside its place,
`.NAME.WORLD-PID-START.partial` or `.removed`. `remove_leftovers` deletes those whose process is
gone:

- WORLD stands for this boot of this machine and this PID namespace (containers number their
  processes anew). In the same WORLD a process is gone when no process has its PID, or one with
  another start time (the PID was given again), or a zombie.
- Of another machine, container or boot (or where there is no /proc) nothing can be known: there,
  what nobody has written to for a day is taken as left over. A live process that was only slow
  would then fail with a "no such file"; nothing half made can come out of it, since the rename
  fails too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from typing import Dict, Iterator, Tuple, Type

from ssd.errors import UserError

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}|unknown)-(\d+)-(\d+)\.(?:partial|removed)", re.DOTALL)
_DAY = 24 * 3600.0  # seconds
_LONGEST = (
    180  # bytes of a name that are kept: file systems allow 255, and the temporary name is longer
)

# Why a disc takes no file although the program is right: full, over quota, read-only, not
# permitted.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


_claimed: Dict[
    Tuple[int, int], int
] = {}  # folders of this process, by device and inode: their descriptors


def new_folder(path: str) -> str:
    """Makes a folder of this name, or where there is one already of another program that has begun
    in the same second, of NAME-2, NAME-3, ...; returns its path. OSError if it cannot be made."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    name, number = path, 1
    while True:
        try:
            os.mkdir(name)
            return name
        except FileExistsError:
            number += 1
            name = f"{path}-{number}"


def claim_folder(path: str) -> bool:
    """Makes a folder if need be, and takes it for as long as this process lives; False where
    another process of this machine has taken it. OSError if it cannot be made.

    An advisory lock on the folder itself: nothing is left of it, however a process ends. File
    systems without such locks are taken at their word.
    """
    os.makedirs(path, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    status = os.fstat(handle)
    if (status.st_dev, status.st_ino) in _claimed:
        os.close(handle)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        os.close(handle)
        return True
    _claimed[status.st_dev, status.st_ino] = handle  # the lock goes with it
    return True


def temporary_path(path: str, kind: str = "partial") -> str:
    """A name beside `path` for what this process makes ("partial") or takes away ("removed"); the
    same every time."""
    assert kind in ("partial", "removed")
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    pid = os.getpid()
    return os.path.join(folder, f".{name}.{_world()}-{pid}-{_start_time(pid) or 0}.{kind}")


def write_synced(path: str, content) -> None:
    """Writes a new file of these bytes and waits until they are on the disc; FileExistsError if
    there is one.

    Its pages are dropped from the memory, so that reading it back asks the disc.
    """
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: str) -> None:
    """Waits until the folder's entries are on the disc, where its file system can do that for
    folders."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str, synced: bool = True) -> Iterator[str]:
    """Replaces the file at `path` by what is written, inside, to the path that this yields.

        with replacing(path) as partial, open(partial, "wb") as file:
            file.write(content)

    At every moment there is the old file or the whole new one, after a power cut too. An exception
    leaves the old file and no temporary one. synced: False for what is easily made again, and many:
    it is not waited for the disc.

    The temporary path ends in `.partial`: give libraries that go by the extension the format, or an
    open file. Raises OSError, whose `filename` is `path` where it would name nothing or the
    temporary file.
    """
    path = os.fspath(path)
    partial = temporary_path(path)
    try:
        yield partial
        put_in_place(partial, path, synced)
    except OSError as error:
        if error.errno is not None and error.filename in (None, partial):
            error.filename, error.filename2 = path, None
        raise
    finally:
        discard(partial)


def replace_file(path: str, content: bytes, synced: bool = True) -> None:
    """Replaces the file at `path` by one of these bytes; see `replacing`."""
    with replacing(path, synced) as partial, open(partial, "xb") as file:
        file.write(content)


def put_in_place(partial: str, path: str, synced: bool = True) -> None:
    """Renames a whole new file to `path`, or a folder, where at `path` there is nothing or an empty
    folder.

    synced: waits until all of it is on the disc, first the content, then the name. OSError if it
    cannot be done.
    """
    if synced:
        _sync(partial)
    os.replace(partial, path)
    if synced:
        sync_folder(os.path.dirname(path) or ".")


def discard(partial: str) -> None:
    """Removes a temporary file or folder; nothing if it is gone, or cannot be removed."""
    if os.path.isdir(partial) and not os.path.islink(partial):
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _sync(path: str) -> None:
    """Waits until a file, or a folder and all that it holds, is on the disc."""
    if os.path.isdir(path):
        for name in os.listdir(path):
            _sync(os.path.join(path, name))
        sync_folder(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def write_errors(what: str, path: str, *kinds: Type[Exception]) -> Iterator[None]:
    """An OSError inside, or an error of one of `kinds`, becomes the UserError of `cannot_write`."""
    try:
        yield
    except (OSError, *kinds) as error:
        raise cannot_write(what, path, error) from None


def cannot_write(what: str, path: str, error: Exception) -> UserError:
    """The line for a file that cannot be written: `WHAT: cannot be written: REASON (N bytes are
    free)`.

    what: names the file, and the flag if it has one. path: of the file, for the free bytes of its
    disc. They are said where the disc is full and where `error`, of a library, does not tell.
    Raises a BrokenPipeError: that is of standard output, while the file was being written.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = getattr(error, "strerror", None) or (lines[-1] if lines else type(error).__name__)
    free = ""
    if getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = (
                f" ({shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free} bytes are "
                "free)"
            )
    return UserError(f"{what}: cannot be written: {reason}{free}")


_MARK = ".ssd-output"
# What is in a folder of drawn pictures once it is done: of predict, of show-data.
_DONE = (("detections.json", "images.json"), ("training-images.png", "matched-default-boxes.png"))


@contextlib.contextmanager
def marked_output(folder: str) -> Iterator[None]:
    """Marks a folder, inside, as one in which pictures are being drawn; the mark stays where the
    process is killed."""
    mark = os.path.join(folder, _MARK)
    with open(mark, "w", encoding="utf-8") as file:
        file.write(
            "Drawn by python -m ssd: passed by where pictures are looked for in a folder above.\n"
        )
    yield
    os.unlink(mark)


def is_output(folder: str) -> bool:
    """Whether a folder holds pictures that predict or show-data has drawn, to the end or not."""
    return os.path.lexists(os.path.join(folder, _MARK)) or any(
        all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in _DONE
    )


def remove_leftovers(folder: str) -> None:
    """Deletes the temporary files and folders in `folder` whose process is gone, by the rule
    above."""
    for entry in sorted(os.listdir(folder)):
        match = _TEMPORARY.fullmatch(entry)
        path = os.path.join(folder, entry)
        if match and _is_gone(path, match[1], int(match[2]), int(match[3])):
            discard(path)


def _is_gone(path: str, world: str, pid: int, start: int) -> bool:
    if world != _world() or world == "unknown":
        return time.time() - _last_change(path) > _DAY
    now = _start_time(pid)
    if now is not None:
        return now != start
    try:
        os.kill(pid, 0)  # asks alone. /proc may hide other people's processes
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return os.path.isdir(f"/proc/{pid}")  # there but without a start time: a zombie


def _last_change(path: str) -> float:
    """Latest modification (seconds since 1970) of a file or folder and of what the folder holds."""
    try:
        inside = [os.path.join(path, name) for name in os.listdir(path)]
    except OSError:
        inside = []
    times = []
    for each in [path] + inside:
        try:
            times.append(os.lstat(each).st_mtime)
        except OSError:
            times.append(time.time())  # changing under our eyes
    return max(times)


def _world() -> str:
    """8 hexadecimal digits for this boot of this machine and this PID namespace, or "unknown"."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read()
        return hashlib.sha256(boot + os.readlink("/proc/self/ns/pid").encode()).hexdigest()[:8]
    except OSError:
        return "unknown"


def _start_time(pid: int):
    """Clock ticks between the machine's boot and the process's start; None for no process or a
    zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = (
                file.read().rpartition(b")")[2].split()
            )  # the command's name may hold anything, blanks too
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
