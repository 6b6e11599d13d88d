"""Checkpoints on disc: every bit is read back, all damage is refused by name, and nothing in them
is executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssd.checkpoints import files as checkpoint_files
from ssd.checkpoints.files import (
    check_arrays,
    load_checkpoint,
    pack_arrays,
    unpack_arrays,
    write_files,
)
from ssd.checkpoints.store import CheckpointStore, find_checkpoint
from ssd.errors import UserError
from tests.faults.save_forever import content, is_entirely

FILES = ["manifest.json", "momenta.npz", "parameters.npz", "ranks.npz", "state.json"]
NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
ARRAYS = hnp.arrays(
    st.sampled_from(
        [
            np.dtype(name)
            for name in (
                "float16",
                "float32",
                "float64",
                "int8",
                "int32",
                "int64",
                "uint8",
                "uint64",
                "bool",
                ">f4",
            )
        ]
    ),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(
        NAMES | st.sampled_from(["file", "a.npy", "a/b.c", "", "../x", "/etc/x", "arr_0"]),
        ARRAYS,
        max_size=4,
    ),
    st.booleans(),
)
def test_arrays_are_read_back_bit_by_bit(arrays, transposed):
    if transposed:
        arrays = {name: array.T for name, array in arrays.items()}
    check_arrays({"group": arrays})
    packed = pack_arrays(arrays)
    read = unpack_arrays(packed, "here")
    assert list(read) == list(arrays) and bytes(pack_arrays(arrays)) == bytes(packed)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes() and read[name].flags.writeable


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": {"x": np.array([{}], object)}},
        {"a": {"x": [1.0]}},
        {"a": {"x": np.array(["text"])}},
        {"../a": {}},
        {"a": {"x": np.zeros(2, "f4,f4")}},
        {"a": {"x\0y": np.zeros(2)}},
        {"a": {1: np.zeros(2)}},
        {"a": {"x": np.zeros(2, np.longdouble)}},
    ],
)
def test_arrays_that_cannot_be_written_are_refused_at_once(tmp_path, arrays):
    store = CheckpointStore(tmp_path)
    with pytest.raises(AssertionError):
        store.save(1, arrays, {})
    store.close()
    assert os.listdir(tmp_path) == []


class Two:
    """A store in `folder` with checkpoints 1 and 2, the `newest`; `lines` collects its reports."""

    def __init__(self, folder):
        self.folder, self.newest, self.lines = folder, os.path.join(folder, "step-00000002"), []
        self.store = CheckpointStore(folder, report=self.lines.append)
        for step in (1, 2):
            self.store.save(step, *content(step))
        self.store.close()

    def is_refused(self, name, pattern):
        """The newest is refused for this file and reason, and step 1 is taken."""
        del self.lines[:]
        assert is_entirely(self.store.newest(), 1)
        assert len(self.lines) == 1 and os.path.join(self.newest, name) in self.lines[0], self.lines
        assert re.search(pattern, self.lines[0]) and "\n" not in self.lines[0], self.lines
        with pytest.raises(UserError, match=pattern):
            find_checkpoint(self.newest)


@pytest.fixture
def two(tmp_path):
    two = Two(str(tmp_path / "my store"))
    assert is_entirely(two.store.newest(), 2) and sorted(os.listdir(two.newest)) == FILES
    return two


def write(two, name, data):
    with open(os.path.join(two.newest, name), "wb") as file:
        file.write(data)


def read(two, name):
    with open(os.path.join(two.newest, name), "rb") as file:
        return file.read()


@pytest.mark.parametrize("name", FILES)
def test_truncation_and_flipped_bits_are_refused_by_name(two, name):
    good, rng = read(two, name), np.random.default_rng(0)
    is_manifest = name == "manifest.json"
    for length in (0, 1, len(good) // 2, len(good) - (3 if is_manifest else 1)):
        write(two, name, good[:length])
        two.is_refused(
            name, "no JSON" if is_manifest else f"is cut short: {length} of {len(good)} bytes"
        )
    for position in rng.integers(len(good), size=25):
        flipped = bytearray(good)
        flipped[position] ^= 1 << rng.integers(8)
        write(two, name, flipped)
        two.is_refused(name, "manifest.json: " if is_manifest else "was changed: its SHA-256")
    write(two, name, good + b"x")
    two.is_refused(
        name, "no JSON" if is_manifest else f"has {len(good) + 1} bytes, more than {len(good)}"
    )
    write(two, name, good)
    assert is_entirely(two.store.newest(), 2)


def test_every_byte_of_the_manifest_counts(two):
    good = read(two, "manifest.json")
    for bit in range(0, 8 * len(good), 7):  # every byte, and every bit of some byte
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        write(two, "manifest.json", flipped)
        with pytest.raises(UserError, match="manifest.json"):
            checkpoint_files.read_manifest(two.newest)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_links_and_pipes_are_refused(two, tmp_path, name):
    path = os.path.join(two.newest, name)
    os.rename(path, tmp_path / "elsewhere")
    two.is_refused(name, "is missing")
    os.symlink(tmp_path / "elsewhere", path)
    two.is_refused(name, "is a symbolic link")
    os.unlink(path)
    os.mkfifo(path)  # opening it would block forever
    two.is_refused(name, "is no regular file")


def test_unexpected_files_and_wrong_steps_are_refused(two):
    extra = os.path.join(two.newest, "extra.npz")
    open(extra, "w").close()
    two.is_refused("extra.npz", "is not in the manifest")
    os.unlink(extra)
    os.rename(two.newest, os.path.join(two.folder, "step-00000003"))
    two.newest = os.path.join(two.folder, "step-00000003")
    two.is_refused("manifest.json", "is of step 2")
    os.rename(two.newest, os.path.join(two.folder, "my favourite"))
    assert is_entirely(find_checkpoint(os.path.join(two.folder, "my favourite")), 2)


def forge(two, name, content, named=None, **changes):
    """Replaces a file by `content`, with a manifest that matches it."""
    manifest = json.loads(read(two, "manifest.json"))
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"].update(named or {})
    manifest.update(changes)
    manifest["sha256"] = checkpoint_files.manifest_hash(manifest)
    write(two, name, content)
    write(two, "manifest.json", json.dumps(manifest).encode())


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def archive(*members, compression=zipfile.ZIP_STORED, times=1):
    """An archive's bytes; its index lists the same data this many times."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names
        for name, data in members:
            file.writestr(name, data)
        file.filelist *= times
    return memory.getvalue()


def header(text):
    """The bytes of an .npy with this header and no data."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npy(array):
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=True)
    return memory.getvalue()


def test_a_pickle_with_a_correct_manifest_is_not_executed(two, tmp_path):
    executed = str(tmp_path / "executed")
    evil = Malicious(executed)
    np.load(io.BytesIO(npy(np.array([evil], object))), allow_pickle=True)
    os.rmdir(executed)  # the bait works
    forge(two, "momenta.npz", pickle.dumps(evil))
    two.is_refused("momenta.npz", "no archive of arrays")
    forge(two, "momenta.npz", npy(np.array([evil], object)))
    two.is_refused("momenta.npz", "no archive of arrays")
    forge(two, "momenta.npz", archive(("a.npy", npy(np.array([evil], object)))))
    two.is_refused("momenta.npz", "'a.*holds Python objects")
    forge(
        two,
        "momenta.npz",
        archive(("a.npy", npy(np.array([(evil, 1)], [("o", object), ("i", int)])))),
    )
    two.is_refused("momenta.npz", "'a.*holds Python objects")
    forge(two, "momenta.npz", archive(("a.npy", pickle.dumps(evil)), ("b.npy", npy(np.zeros(3)))))
    two.is_refused("momenta.npz", "'a.*no NumPy array")
    assert not os.path.exists(executed)


def float64_header(shape):
    """The bytes of an .npy of float64 with this text as its shape, without data."""
    return header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n")


@pytest.mark.parametrize(
    "content, pattern",
    [
        (archive(("a.npy", float64_header("(1 << 40,)"))), "no archive of arrays"),
        (
            archive(("a.npy", float64_header("(1099511627776,)"))),
            "claims the shape .*8796093022208 bytes, and has 0",
        ),
        (
            archive(("a.npy", float64_header("(9999999999999999999, )" * 30))),
            "claims the shape|no archive",
        ),
        (archive(("a.npy", float64_header("(-1, -4)") + bytes(32))), "claims the shape"),
        (archive(("a.npy", float64_header("(0, 1" + "0" * 30 + ")"))), "no archive of arrays"),
        (archive(("a.npy", header("-" * 2000 + "1"))), "no NumPy array"),
        (archive(("a.npy", header("-" * 1000 + "1"))), "no archive of arrays"),
        (archive(("a.npy", npy(np.zeros(9))), ("a.npy", npy(np.zeros(9)))), "a duplicate"),
        (archive(("a.txt", b"text")), "'a.txt' is no array"),
        (archive(("a.npy", npy(np.array(["text"])))), "holds <U4 and not numbers"),
        (
            archive(("a.npy", npy(np.zeros(10**6))), compression=zipfile.ZIP_DEFLATED),
            "claims more data than it has",
        ),
        (archive(("a.npy", npy(np.zeros(10**4))), times=9), "claims more data than it has"),
        (archive(("a.npy", npy(np.zeros(9))))[:-30], "no archive of arrays"),
        (b"", "no archive of arrays"),
    ],
)
def test_forged_archives_are_refused(two, content, pattern):
    forge(two, "ranks.npz", content)
    two.is_refused("ranks.npz", pattern)


@pytest.mark.parametrize(
    "name", ["../step-00000001/ranks.npz", "/etc/passwd", "a/b.npz", "x.params", "..", ".npz"]
)
def test_a_manifest_cannot_lead_out_of_its_folder(two, name):
    forge(two, "state.json", read(two, "state.json"), {name: {"bytes": 1, "sha256": 64 * "0"}})
    two.is_refused("manifest.json", f"lists '{name}', which is no file of a checkpoint")


@pytest.mark.parametrize(
    "content, changes, message",
    [
        (b"[]", {}, "state.json: is no JSON object"),
        (b"[" * 100000, {}, "state.json: is no JSON"),
        (b"\xff", {}, "state.json: is no JSON"),
        (b"{}", {"format": 2}, "format 2; this program reads 1"),
        (b"{}", {"step": True}, "invalid step: True"),
        (b"{}", {"files": {}}, "does not list state.json"),
        (
            b"{}",
            {"files": {"state.json": {"bytes": -1, "sha256": "0" * 64}}},
            "no valid entry for state.json",
        ),
        (
            b"{}",
            {"files": {"state.json": {"bytes": 2, "sha256": "A" * 64}}},
            "no valid entry for state.json",
        ),
    ],
)
def test_forged_json_is_refused(two, content, changes, message):
    forge(two, "state.json", content, **changes)
    two.is_refused(message.split(":")[0] if "state.json: " in message else "manifest.json", message)


def test_a_read_only_copy_can_be_read(two, tmp_path):
    copy = tmp_path / "run" / "checkpoints"
    shutil.copytree(two.folder, copy)
    for folder, _, files in os.walk(copy):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o400)
        os.chmod(folder, 0o500)
    for path in (copy / "step-00000002", copy, tmp_path / "run"):
        assert is_entirely(find_checkpoint(path), 2)
    assert is_entirely(load_checkpoint(str(copy / "step-00000001") + "/"), 1)


def test_a_folder_without_checkpoints_is_named(tmp_path):
    (tmp_path / "file").touch()
    for name, reason in (
        (".", "neither a checkpoint nor"),
        ("absent", "no such folder"),
        ("file", "no such folder"),
    ):
        with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}.*: {reason}"):
            find_checkpoint(os.path.join(tmp_path, name))
    os.mkdir(tmp_path / "step-00000001")
    lines = []
    with pytest.raises(UserError, match="none of its checkpoints is intact"):
        find_checkpoint(tmp_path, report=lines.append)
    assert len(lines) == 1 and "manifest.json: is missing" in lines[0]


def test_the_manifest_is_written_last(tmp_path):
    """The files that write_files has written before it fails are refused."""
    with pytest.raises(UnicodeEncodeError):
        write_files(str(tmp_path / "x"), 1, content(1)[0], "\ud800")
    assert os.listdir(tmp_path / "x") and not (tmp_path / "x" / "manifest.json").exists()
    with pytest.raises(UserError, match="manifest.json: is missing"):
        load_checkpoint(tmp_path / "x")
