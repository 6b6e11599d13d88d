"""Drop the file cache before a run, as the MLPerf rules want."""

from __future__ import annotations

import os
import stat

_DROP_CACHES = "/proc/sys/vm/drop_caches"  # Linux, Documentation/admin-guide/sysctl/vm.rst


def drop_caches(folders) -> str | None:
    """Drop the system's file cache if the system lets us, else the pages of the files below
    `folders`.

    folders: paths of folders (or files); links are followed, what cannot be read is passed over.

    Returns what was dropped, in words for MLPerfLog.cache_clear, or None if nothing was. Never
    raises for what the system refuses. Pages that a process has mapped, and files that live in
    memory (tmpfs), stay.
    """
    if hasattr(os, "sync"):
        os.sync()  # dirty pages cannot be dropped
    try:
        with open(_DROP_CACHES, "w") as file:
            file.write("3\n")
        return "system: page cache, dentries and inodes"
    except OSError:  # not root, not Linux, or a container's read-only /proc/sys
        pass
    if not hasattr(os, "posix_fadvise"):
        return None
    in_memory = _memory_devices()
    files = size = 0
    for path, status in _regular_files(folders):
        if status.st_dev in in_memory or status.st_size == 0:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            files, size = files + 1, size + status.st_size
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return (
        "data set: pages of %d files, %d bytes, by posix_fadvise" % (files, size) if files else None
    )


def _regular_files(folders):
    """(path, os.stat) of every regular file at or below `folders`: links followed, each inode
    once."""
    seen, waiting = set(), [str(folder) for folder in folders]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if stat.S_ISDIR(status.st_mode):
                waiting.extend(os.path.join(path, name) for name in os.listdir(path))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, status


def _memory_devices():
    """st_dev of the file systems whose files are nowhere but in memory."""
    try:
        # "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": proc_pid_mountinfo(5)
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return set()
    return {
        os.makedev(*map(int, mount[2].split(":")))
        for mount in mounts
        if mount[mount.index("-") + 1] in ("tmpfs", "ramfs")
    }
