"""Files that are whole or not there, and what killed processes leave of them."""
from __future__ import annotations

import os
import subprocess
import time

import pytest

from ssd import files
from ssd.files import remove_leftovers, replace_file, temporary_path, write_synced


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "best.json"
    for content in (b"first", b"second"):
        replace_file(str(path), content)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["best.json"]

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError):
        replace_file(str(path), b"third")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["best.json"]


def test_a_new_file_never_overwrites(tmp_path):
    write_synced(str(tmp_path / "file"), b"1")
    with pytest.raises(FileExistsError):
        write_synced(str(tmp_path / "file"), b"2")
    assert (tmp_path / "file").read_bytes() == b"1"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as living:
        def leftover(world, pid, start, kind="partial", age=0):
            path = tmp_path / f".step-00000007.{world}-{pid}-{start}.{kind}"
            path.mkdir()
            (path / "parameters.npz").write_bytes(b"half")
            for each in (path / "parameters.npz", path):
                os.utime(each, (time.time() - age,) * 2)
            return path

        here, start, day = files._world(), files._start_time(living.pid), 86400
        assert here != "unknown" and start > 0
        stay = [leftover(here, living.pid, start, age=3 * day), leftover("01234567", 1, 2, age=day // 2),
                leftover("unknown", living.pid, start)]
        go = [leftover(here, living.pid, start + 1),  # its number was given again
              leftover(here, 2 ** 22 + 1, start), leftover(here, 2 ** 22 + 1, start, "removed"),
              leftover("01234567", 3, 4, age=2 * day), leftover("unknown", 5, 6, age=2 * day)]
        mine = temporary_path(str(tmp_path / "best.json"))
        with open(mine, "w"):
            pass
        (tmp_path / "notes.partial").touch()
        remove_leftovers(tmp_path)
        assert all(path.exists() for path in stay) and not any(path.exists() for path in go)
        assert os.path.exists(mine) and (tmp_path / "notes.partial").exists()
        living.kill()
        deadline = time.monotonic() + 60
        while files._start_time(living.pid) is not None:  # until it is a zombie: it is not waited for yet
            assert time.monotonic() < deadline
        remove_leftovers(tmp_path)
        assert not stay[0].exists() and stay[1].exists()
