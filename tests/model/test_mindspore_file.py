"""MindSpore's checkpoints, written by MindSpore 2.10 (with and without its checksum), and damaged
ones."""

import os

import numpy as np
import pytest

from ssd.errors import UserError
from ssd.model.mindspore_file import read_checkpoint
from tests.reference.write_mindspore import write_mindspore

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "reference")
SAVED = {
    "features.0.weight": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2) / 4,
    "features.1.gamma": np.array([1.5, -2], np.float32),
    "half": np.array([[0.5, 65504]], np.float16),
    "global_step": np.array([7], np.int32),
    "learning_rate": np.float32(0.05),
    "wide": np.array([1e300]),
}


@pytest.mark.parametrize(
    "name, more", [("mindspore.ckpt", {"epoch_num": np.int64(3)}), ("mindspore_crc.ckpt", {})]
)
def test_what_mindspore_saved(name, more):
    found, wanted = read_checkpoint(os.path.join(FOLDER, name)), {**SAVED, **more}
    assert set(found) == set(wanted)
    for key, value in found.items():
        assert value.dtype == wanted[key].dtype and value.shape == wanted[key].shape
        np.testing.assert_array_equal(value, wanted[key])


def test_the_tests_own_writer_writes_the_same(tmp_path):
    tensors = {
        name: value
        for name, value in SAVED.items()
        if name not in ("half", "wide", "learning_rate")
    }
    write_mindspore(tmp_path / "a.ckpt", tensors)
    found = read_checkpoint(str(tmp_path / "a.ckpt"))
    assert list(found) == list(tensors) and all(
        (found[name] == tensors[name]).all() for name in tensors
    )


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    with open(os.path.join(FOLDER, "mindspore.ckpt"), "rb") as file:
        stored = file.read()
    for content, words in (
        (b"", "no parameter"),
        (b"PK\x03\x04text", "field 10|wire type"),
        (stored[:-1], "cut off"),
        (stored[:40], "cut off"),
        (stored.replace(b"Float32", b"Complex"), "of type 'Complex'"),
        (b"\xff" * 20, "does not end|cut off|wire type|field"),
    ):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=rf"x\.ckpt: not an intact MindSpore checkpoint: .*({words})"
        ):
            read_checkpoint(str(path))
    with pytest.raises(UserError, match="none.ckpt: cannot be read: No such file"):
        read_checkpoint(str(tmp_path / "none.ckpt"))
