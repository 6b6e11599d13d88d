"""Drop the file cache before a run, as the MLPerf rules want."""

from __future__ import annotations

import os
import stat
from typing import Optional

DROP_CACHES = "/proc/sys/vm/drop_caches"  # Linux, Documentation/admin-guide/sysctl/vm.rst


def drop_caches(folders) -> Optional[str]:
    """Drop the system's file cache if we may, else the pages of the files below `folders`.

    folders: paths of folders (or files). Links are followed, unreadable files are skipped.

    Returns what was dropped, as text for MLPerfLog.cache_clear, or None if nothing was. Does not
    raise if the system refuses. Pages that a process has mapped, and files in memory (tmpfs), stay.
    """
    if hasattr(os, "sync"):
        os.sync()  # dirty pages cannot be dropped
    try:
        with open(DROP_CACHES, "w") as file:
            file.write("3\n")
        return "system: page cache, dentries and inodes"
    except OSError:  # not root, not Linux, or a container's read-only /proc/sys
        pass
    if not hasattr(os, "posix_fadvise"):
        return None
    in_memory = memory_devices()
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
    return f"data set: pages of {files} files, {size} bytes, by posix_fadvise" if files else None


def _regular_files(folders):
    """(path, os.stat) of every regular file at or below `folders`, each inode once. Follows
    links."""
    seen, queue = set(), [str(folder) for folder in folders]
    while queue:
        path = queue.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if stat.S_ISDIR(status.st_mode):
                queue.extend(os.path.join(path, name) for name in os.listdir(path))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, status


def memory_devices():
    """st_dev of the file systems that keep their files only in memory."""
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
