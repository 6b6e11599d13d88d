"""Dropping the file cache: it does what it reports. The machine's own cache is never dropped
here."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from ssd import page_cache
from ssd.page_cache import drop_caches

SIZE = 64 * mmap.PAGESIZE


@pytest.fixture(autouse=True)
def not_root(monkeypatch, tmp_path):
    """As if the system refused: /proc/sys read-only, or no root."""
    monkeypatch.setattr(page_cache, "DROP_CACHES", str(tmp_path / "absent" / "drop_caches"))


def resident_pages(path):
    """How many pages of the file are in memory, by mincore(2); None if that is not available."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
        )
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    except (OSError, AttributeError):
        return None
    with open(path, "rb") as file:
        address = libc.mmap(None, SIZE, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    pages = ctypes.create_string_buffer(SIZE // mmap.PAGESIZE)
    failed = libc.mincore(address, SIZE, pages)
    libc.munmap(address, SIZE)
    return None if failed else sum(page & 1 for page in pages.raw)


def advice_drops_pages(path):
    """Whether the platform itself, without our code, drops a file's pages on request, and reports
    that."""
    with open(path, "wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        seen = resident_pages(path)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return bool(seen) and resident_pages(path) == 0


def test_pages_are_dropped(tmp_path):
    path = tmp_path / "images" / "1.jpg"
    path.parent.mkdir()
    path.write_bytes(os.urandom(SIZE))  # dirty: not on the disk yet
    before = resident_pages(path)
    if before is None:
        pytest.skip("no mincore on this platform")
    if not advice_drops_pages(tmp_path / "control"):
        pytest.skip("the temporary folder's file system keeps its pages, or does not show them")
    content = path.read_bytes()
    assert resident_pages(path) == SIZE // mmap.PAGESIZE
    dropped = drop_caches([tmp_path / "images"])
    assert dropped == f"data set: pages of 1 files, {SIZE} bytes, by posix_fadvise"
    assert resident_pages(path) == 0
    assert path.read_bytes() == content


def test_every_file_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(page_cache, "memory_devices", set)
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (data / "deep" / "er").mkdir(parents=True)
    elsewhere.mkdir()
    (data / "a").write_bytes(b"12345")
    (data / "deep" / "er" / "b").write_bytes(b"123")
    (data / "empty").write_bytes(b"")
    (elsewhere / "c").write_bytes(b"1234567")
    os.symlink(elsewhere, data / "linked")  # as data sets often are
    os.symlink(data, data / "deep" / "cycle")
    os.symlink("nowhere", data / "broken")
    os.link(data / "a", data / "again")
    os.mkfifo(data / "pipe")  # opening it would block forever
    dropped = drop_caches([data, data / "deep", str(elsewhere), data / "a", tmp_path / "absent"])
    assert dropped == "data set: pages of 3 files, 15 bytes, by posix_fadvise"


def test_nothing_dropped_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"1")
    assert drop_caches([]) is None and drop_caches([tmp_path / "absent"]) is None
    with monkeypatch.context() as patch:
        patch.setattr(page_cache, "memory_devices", lambda: {os.stat(tmp_path).st_dev})
        assert drop_caches([tmp_path]) is None
    with monkeypatch.context() as patch:
        patch.delattr(os, "posix_fadvise")
        assert drop_caches([tmp_path]) is None

    def refuses(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuses)
    assert drop_caches([tmp_path]) is None


def test_the_system_cache_is_dropped_if_we_may(tmp_path, monkeypatch):
    control = tmp_path / "drop_caches"
    control.write_text("")
    order = []
    monkeypatch.setattr(page_cache, "DROP_CACHES", str(control))
    monkeypatch.setattr(os, "sync", lambda: order.append(control.read_text()))
    assert drop_caches([tmp_path]) == "system: page cache, dentries and inodes"
    assert order == [""] and control.read_text() == "3\n"  # dirty pages are written first


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_refused_write_falls_back_to_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(page_cache, "DROP_CACHES", "/dev/full")  # opens, then refuses the write
    monkeypatch.setattr(page_cache, "memory_devices", set)
    (tmp_path / "file").write_bytes(b"1")
    assert drop_caches([tmp_path]) == "data set: pages of 1 files, 1 bytes, by posix_fadvise"


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm here")
def test_file_systems_in_memory_are_known():
    with open("/proc/mounts") as file:
        kinds = {line.split()[1]: line.split()[2] for line in file}
    assert (os.stat("/dev/shm").st_dev in page_cache.memory_devices()) is (
        kinds.get("/dev/shm") == "tmpfs"
    )
    assert os.stat("/proc").st_dev not in page_cache.memory_devices()
