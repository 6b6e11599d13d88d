"""Files that survive killed processes and power cuts: complete, or not there at all.

`replacing` and `replace_file` replace a file; `write_errors` turns failures into a UserError.

A file or folder that is being written or removed has a temporary name in the same folder,
`.NAME.SYSTEM-PID-START.partial` or `.removed`. `remove_leftovers` deletes those whose process is
gone:

- SYSTEM identifies this boot of this machine and this PID namespace (containers number their
  processes themselves). In the same SYSTEM a process is gone if its PID belongs to no process, to
  one with another start time (the PID was reused), or to a zombie.
- Nothing is known about processes of another machine, container or boot (or without /proc). Their
  files count as leftovers if nobody has written to them for a day. A live process that was just
  slow then fails with "no such file"; it cannot leave a partial file, since its rename fails too.
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

TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}|unknown)-(\d+)-(\d+)\.(?:partial|removed)", re.DOTALL)
_DAY = 24 * 3600.0  # seconds
# Longer names [bytes] are hashed: file systems allow 255, and the temporary name is longer.
_LONGEST = 180

# Errors of a disc, not of the program: full, over quota, read-only, not permitted.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

# Descriptors of the folders that this process has claimed, by device and inode.
_claimed: Dict[Tuple[int, int], int] = {}


def new_folder(path: str) -> str:
    """Creates a folder of this name, or NAME-2, NAME-3, ... if it exists (another program may have
    started in the same second); returns its path. OSError if it cannot be created."""
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
    """Creates a folder if necessary, and claims it for the life of this process; False if another
    process on this machine has claimed it. OSError if it cannot be created.

    An advisory lock on the folder itself, which disappears however the process ends. On file
    systems without such locks every claim succeeds.
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
    _claimed[status.st_dev, status.st_ino] = handle  # closing it would release the lock
    return True


def temporary_path(path: str, kind: str = "partial") -> str:
    """A name in the folder of `path` for what this process writes ("partial") or removes
    ("removed"); the same every time."""
    assert kind in ("partial", "removed")
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    pid = os.getpid()
    return os.path.join(folder, f".{name}.{system_id()}-{pid}-{start_time(pid) or 0}.{kind}")


def write_synced(path: str, content) -> None:
    """Writes a new file and waits until it is on disc; FileExistsError if the file exists.

    Its pages are dropped from memory, so that reading it back reads the disc.
    """
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: str) -> None:
    """Waits until the folder's entries are on disc, if its file system can do that for folders."""
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
    """Replaces the file at `path` by the one that the block writes to the path that this yields.

        with replacing(path) as partial, open(partial, "wb") as file:
            file.write(content)

    At every moment, even after a power cut, `path` is the old file or the complete new one. An
    exception keeps the old file and removes the temporary one. synced: False for many files that
    are easy to make again: does not wait for the disc.

    The temporary path ends in `.partial`: give libraries that go by the extension the format or an
    open file. Raises OSError; its `filename` is `path` if it would be empty or the temporary file.
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
    """Replaces the content of the file at `path`; see `replacing`."""
    with replacing(path, synced) as partial, open(partial, "xb") as file:
        file.write(content)


def put_in_place(partial: str, path: str, synced: bool = True) -> None:
    """Renames a complete new file to `path`; or a folder, if at `path` there is nothing or an empty
    folder.

    synced: waits until everything is on disc, first the content, then the name. OSError if it
    fails.
    """
    if synced:
        _sync(partial)
    os.replace(partial, path)
    if synced:
        sync_folder(os.path.dirname(path) or ".")


def discard(partial: str) -> None:
    """Removes a temporary file or folder, if it is there and can be removed."""
    if os.path.isdir(partial) and not os.path.islink(partial):
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _sync(path: str) -> None:
    """Waits until a file, or a folder and everything in it, is on disc."""
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
    """Turns an OSError, or an error of one of `kinds`, into the UserError of `cannot_write`."""
    try:
        yield
    except (OSError, *kinds) as error:
        raise cannot_write(what, path, error) from None


def cannot_write(what: str, path: str, error: Exception) -> UserError:
    """The UserError for a file that cannot be written: `WHAT: cannot be written: REASON (N bytes
    are free)`.

    what: names the file, and its flag if it has one. path: of the file, whose disc's free bytes are
    reported if the disc is full or a library's `error` gives no errno. Raises a BrokenPipeError
    again: that comes from standard output while the file was being written.
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
# The files in a finished output folder: of predict, of show-data.
_DONE = (("detections.json", "images.json"), ("training-images.png", "matched-default-boxes.png"))


@contextlib.contextmanager
def marked_output(folder: str) -> Iterator[None]:
    """Marks a folder, during the block, as one into which images are being drawn. If the process is
    killed, the mark stays."""
    mark = os.path.join(folder, _MARK)
    with open(mark, "w", encoding="utf-8") as file:
        file.write("Drawn by python -m ssd: skipped when a folder above is searched for images.\n")
    yield
    os.unlink(mark)


def is_output(folder: str) -> bool:
    """Whether a folder holds images that predict or show-data has drawn, finished or not."""
    return os.path.lexists(os.path.join(folder, _MARK)) or any(
        all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in _DONE
    )


def remove_leftovers(folder: str) -> None:
    """Deletes the temporary files and folders in `folder` whose process is gone; see above for the
    rule."""
    for entry in sorted(os.listdir(folder)):
        match = TEMPORARY.fullmatch(entry)
        path = os.path.join(folder, entry)
        if match and _is_gone(path, match[1], int(match[2]), int(match[3])):
            discard(path)


def _is_gone(path: str, system: str, pid: int, start: int) -> bool:
    if system != system_id() or system == "unknown":
        return time.time() - _last_change(path) > _DAY
    now = start_time(pid)
    if now is not None:
        return now != start
    try:
        os.kill(pid, 0)  # only a check: /proc may hide other users' processes
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return os.path.isdir(f"/proc/{pid}")  # exists but has no start time: a zombie


def _last_change(path: str) -> float:
    """Latest modification (seconds since 1970) of a file, or of a folder and its entries."""
    try:
        inside = [os.path.join(path, name) for name in os.listdir(path)]
    except OSError:
        inside = []
    times = []
    for each in [path] + inside:
        try:
            times.append(os.lstat(each).st_mtime)
        except OSError:
            times.append(time.time())  # it is being changed right now
    return max(times)


def system_id() -> str:
    """8 hexadecimal digits for this boot of this machine and this PID namespace, or "unknown"."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read()
        return hashlib.sha256(boot + os.readlink("/proc/self/ns/pid").encode()).hexdigest()[:8]
    except OSError:
        return "unknown"


def start_time(pid: int):
    """Clock ticks between the machine's boot and the process's start; None for no process or a
    zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, in brackets, may hold anything, even blanks.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
