"""RecordIO as this project writes and reads it, against mx.recordio, byte by byte."""

import os
import tempfile

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.datasets.recordio import (
    MAGIC,
    Damaged,
    decode,
    encode,
    image_content,
    image_of,
    image_record_size,
)

# Bytes in which the magic number is common, at any offset.
CONTENTS = st.lists(
    st.sampled_from([MAGIC, MAGIC[:2], b"x", b"four", b"\0"]) | st.binary(max_size=9)
).map(b"".join)


def record(content):
    return b"".join(encode(content))


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=1, max_size=4))
def test_the_bytes_are_mxnets(contents):
    with tempfile.TemporaryDirectory() as folder:
        path, index = os.path.join(folder, "a.rec"), os.path.join(folder, "a.idx")
        writer = mx.recordio.MXIndexedRecordIO(index, path, "w")
        for number, content in enumerate(contents):
            writer.write_idx(number, content)
        writer.close()
        with open(path, "rb") as file:
            written = file.read()
        assert written == b"".join(map(record, contents))
        with open(index) as file:
            offsets = [int(line.split("\t")[1]) for line in file]
        for content, start, end in zip(contents, offsets, [*offsets[1:], len(written)]):
            assert bytes(decode(written[start:end])) == content


@settings(max_examples=100, deadline=None)
@given(content=CONTENTS, data=st.data())
def test_no_other_bytes_are_taken_for_a_record(content, data):
    intact = record(content)
    assert bytes(decode(intact)) == content
    cut = data.draw(st.integers(0, len(intact) - 1))
    for wrong in (intact[:cut], intact + b"\0\0\0\0", intact + intact, b"\0" + intact[1:]):
        with pytest.raises(Damaged):
            decode(wrong)


def test_images_are_mxnets():
    label = np.float32([4, 6, 640, 480, 2, 0.1, 0.2, 0.3, 0.4, 0])
    for number in (7, 1 << 40, -3):
        content = image_content(number, label, b"a file")
        assert content == mx.recordio.pack(
            mx.recordio.IRHeader(0, label, number % (1 << 64), 0), b"a file"
        )
        assert bytes(image_of(memoryview(content))) == b"a file"
    assert len(record(content)) == image_record_size(len(label), 6)
    np.testing.assert_array_equal(
        image_record_size(np.array([10, 4]), np.array([6, 0])), [len(record(content)), 48]
    )
    assert bytes(image_of(memoryview(image_content(1, label[:4], b"")))) == b""
    for wrong in (content[:20], content[:40]):
        with pytest.raises(Damaged):
            image_of(memoryview(wrong))


def test_only_the_magic_number_at_a_multiple_of_four_cuts():
    assert len(encode(b"x" + MAGIC + b"yyy")) == len(encode(b"")) == 3
    assert len(record(b"four" + MAGIC)) == len(record(b"four") + record(b"")) == 20
