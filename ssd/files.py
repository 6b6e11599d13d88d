"""Files that survive a killed process and a failing machine: whole or not there.

What is being made or taken away has a temporary name beside its place, `.NAME.WORLD-PID-START.partial` or
`.removed`. `remove_leftovers` deletes those whose process is gone:

- WORLD stands for this boot of this machine and this PID namespace (containers number their processes anew). In the
  same WORLD a process is gone when no process has its PID, or one with another start time (the PID was given again),
  or a zombie.
- Of another machine, container or boot (or where there is no /proc) nothing can be known: there, what nobody has
  written to for a day is taken as left over. A live process that was only slow would then fail with a "no such file";
  nothing half made can come out of it, since the rename fails too.
"""
from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}|unknown)-(\d+)-(\d+)\.(?:partial|removed)", re.DOTALL)
_DAY = 24 * 3600.0  # seconds


def temporary_path(path: str, kind: str = "partial") -> str:
    """A name beside `path` for what this process makes ("partial") or takes away ("removed"); the same every time."""
    assert kind in ("partial", "removed")
    folder, name = os.path.split(path)
    pid = os.getpid()
    return os.path.join(folder, f".{name}.{_world()}-{pid}-{_start_time(pid) or 0}.{kind}")


def write_synced(path: str, content) -> None:
    """Writes a new file of these bytes and waits until they are on the disc; FileExistsError if there is one.

    Its pages are dropped from the memory, so that reading it back asks the disc.
    """
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: str) -> None:
    """Waits until the folder's entries are on the disc, where its file system can do that for folders."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def replace_file(path: str, content: bytes) -> None:
    """Writes a file in one step: at every moment there is the old one or the new one, on the disc too."""
    partial = temporary_path(path)
    try:
        write_synced(partial, content)
        os.replace(partial, path)
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
    sync_folder(os.path.dirname(path) or ".")


def remove_leftovers(folder: str) -> None:
    """Deletes the temporary files and folders in `folder` whose process is gone, by the rule above."""
    for entry in sorted(os.listdir(folder)):
        match = _TEMPORARY.fullmatch(entry)
        path = os.path.join(folder, entry)
        if match and _is_gone(path, match[1], int(match[2]), int(match[3])):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                try:
                    os.unlink(path)
                except OSError:
                    pass  # a leftover does no harm


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
    """Clock ticks between the machine's boot and the process's start; None for no process or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the command's name may hold anything, blanks too
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
