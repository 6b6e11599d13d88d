"""Files that are complete or not there, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time

import pytest

from ssd import files
from ssd.errors import UserError
from ssd.files import (
    cannot_write,
    put_in_place,
    remove_leftovers,
    replace_file,
    replacing,
    temporary_path,
    write_errors,
    write_synced,
)


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, old, failure):
    path = tmp_path / "found.npz"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(failure):
        with replacing(path) as partial, open(partial, "wb") as file:
            assert os.path.dirname(partial) == str(tmp_path) and os.listdir(tmp_path)
            file.write(b"half")
            raise failure
    assert [name.read_bytes() for name in tmp_path.iterdir()] == ([] if old is None else [old])


def test_nothing_written_is_a_failure(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileNotFoundError) as caught:
        with replacing(tmp_path / "file"):
            pass
    assert caught.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_in_the_current_folder_and_with_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["plain", "two\nlines", "x" * 255, "\u00e4" * 127]
    for name in names:
        for content in (b"first", b"second"):
            replace_file(name, content)
        temporary = temporary_path(name)
        assert files.TEMPORARY.fullmatch(temporary) and len(os.fsencode(temporary)) <= 255
        with open(name, "rb") as file:
            assert file.read() == b"second"
    assert sorted(os.listdir()) == sorted(names)


@pytest.mark.parametrize("synced", [True, False])
def test_the_order_of_syncs_and_renames(tmp_path, monkeypatch, synced):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (
            events.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))),
            fsync(handle),
        ),
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    path = str(tmp_path / "file")
    replace_file(path, b"1", synced)
    assert events == (
        [os.path.basename(temporary_path(path)), "rename", tmp_path.name] if synced else ["rename"]
    )


def test_a_folder_replaces_an_empty_one(tmp_path):
    partial, path = str(tmp_path / "partial"), str(tmp_path / "folder")
    os.makedirs(os.path.join(partial, "inner"))
    (tmp_path / "partial" / "inner" / "file").write_bytes(b"1")
    os.mkdir(path)
    put_in_place(partial, path)
    assert (tmp_path / "folder" / "inner" / "file").read_bytes() == b"1" and os.listdir(
        tmp_path
    ) == ["folder"]
    os.mkdir(partial)
    with pytest.raises(OSError):
        put_in_place(partial, path)
    assert os.listdir(path) == ["inner"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disc(tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(b"old")
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError) as caught, write_errors(f"--output {path}", path):
        with replacing(path) as partial, open(partial, "wb"), open(
            "/dev/full", "wb", buffering=0
        ) as full:
            full.write(b"more")
    message = str(caught.value)
    assert message.startswith(f"--output {path}: cannot be written: No space left on device (")
    assert abs(int(message.split("(")[1].split()[0]) - free) < 2**30
    assert message.endswith(" bytes are free)")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_why_a_file_cannot_be_written(tmp_path):
    path = tmp_path / "none" / "file"
    with pytest.raises(
        UserError, match=f"^the table {path}: cannot be written: No such file or directory$"
    ):
        with write_errors(f"the table {path}", path):
            replace_file(path, b"1")
    for number in (errno.EACCES, errno.EROFS):
        error = cannot_write("file", tmp_path / "file", OSError(number, os.strerror(number)))
        assert str(error) == f"file: cannot be written: {os.strerror(number)}"
    message = str(
        cannot_write("file", tmp_path / "file", RuntimeError("Traceback:\n  the last line\n"))
    )
    assert message.startswith("file: cannot be written: the last line (") and "\n" not in message
    assert (
        str(cannot_write("file", path, RuntimeError())) == "file: cannot be written: RuntimeError"
    )
    with pytest.raises(UserError), write_errors("file", path, ArithmeticError):
        1 / 0
    with pytest.raises(ZeroDivisionError), write_errors("file", path):
        1 / 0


def test_an_error_names_the_file_to_be_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OSError) as caught:  # from os.replace, which names both paths
        replace_file(tmp_path / "folder", b"1")
    assert caught.value.filename == str(tmp_path / "folder") and ".partial" not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:  # another file's error keeps its name
        with replacing(tmp_path / "file"):
            open(tmp_path / "source")
    assert caught.value.filename == str(tmp_path / "source")
    with pytest.raises(OSError, match="^a library's message$"):
        with replacing(tmp_path / "file"):
            raise OSError("a library's message")


def test_a_killed_writers_leftover_is_removed(tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(b"old")
    code = (
        "import os, sys\nfrom ssd.files import replacing\n"
        "with replacing(sys.argv[1]) as partial, open(partial, 'wb', buffering=0) as file:\n"
        "    file.write(b'half')\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=os.path.dirname(os.path.dirname(__file__))
    )
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [
        path.name
    ] and path.read_bytes() == b"old"


def test_a_new_file_never_overwrites(tmp_path):
    write_synced(str(tmp_path / "file"), b"1")
    with pytest.raises(FileExistsError):
        write_synced(str(tmp_path / "file"), b"2")
    assert (tmp_path / "file").read_bytes() == b"1"


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as living:

        def leftover(system, pid, start, kind="partial", age=0):
            path = tmp_path / f".step-00000007.{system}-{pid}-{start}.{kind}"
            path.mkdir()
            (path / "parameters.npz").write_bytes(b"half")
            for each in (path / "parameters.npz", path):
                os.utime(each, (time.time() - age,) * 2)
            return path

        here, start, day = files.system_id(), files.start_time(living.pid), 86400
        assert here != "unknown" and start > 0
        kept = [
            leftover(here, living.pid, start, age=3 * day),
            leftover("01234567", 1, 2, age=day // 2),
            leftover("unknown", living.pid, start),
        ]
        removed = [
            leftover(here, living.pid, start + 1),  # its PID was reused
            leftover(here, 2**22 + 1, start),
            leftover(here, 2**22 + 1, start, "removed"),
            leftover("01234567", 3, 4, age=2 * day),
            leftover("unknown", 5, 6, age=2 * day),
        ]
        mine = temporary_path(str(tmp_path / "best.json"))
        with open(mine, "w"):
            pass
        (tmp_path / "notes.partial").touch()
        remove_leftovers(tmp_path)
        assert all(path.exists() for path in kept) and not any(path.exists() for path in removed)
        assert os.path.exists(mine) and (tmp_path / "notes.partial").exists()
        living.kill()
        deadline = time.monotonic() + 60
        while files.start_time(living.pid) is not None:  # until it is a zombie, not reaped yet
            assert time.monotonic() < deadline
        remove_leftovers(tmp_path)
        assert not kept[0].exists() and kept[1].exists()
