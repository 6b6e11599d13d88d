"""pack-data and the folders of records that it writes: what they hold, what is refused, what an
interrupt leaves."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading

import mxnet as mx
import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from ssd.datasets import packing, record_folder
from ssd.datasets.image_folder import ImageFiles, open_images, record_at
from ssd.errors import UserError
from tests.datasets.packed import (
    MAGIC_NUMBER,
    PATHS,
    SHARD_SIZE,
    load,
    odd_set,
    pack,
    record_offset,
)
from tests.training.tiny import ROOT

FOLDER = PATHS["train"][1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return odd_set(tmp_path_factory.mktemp("odd") / "set")


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    """The folder of both splits, in several files of records each."""
    output = tmp_path_factory.mktemp("packed") / "records"
    assert pack(data, output, "--shard-size", SHARD_SIZE) == 0
    return str(output)


@pytest.fixture
def own(packed, tmp_path):
    return shutil.copytree(packed, str(tmp_path / "own"))


def contents(folder):
    """{relative path: bytes} of all files below a folder."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                found[os.path.relpath(os.path.join(root, name), folder)] = file.read()
    return found


def refused(folder):
    """The one line with which a folder of records is refused."""
    with pytest.raises(UserError) as caught:
        open_images(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path, offset, content):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


# ---- what they hold


@pytest.mark.parametrize("split", ["train", "val"])
def test_everything_is_kept(data, packed, split):
    files, kept = load(data, split), load(packed, split)
    assert isinstance(files.images, ImageFiles) and isinstance(kept.images, record_folder.Records)
    for name in ("image_ids", "sizes", "boxes_ltrb", "box_classes", "box_crowd", "box_image"):
        one, other = getattr(files, name), getattr(kept, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert (files.file_names, files.category_ids, files.category_names) == (
        kept.file_names,
        kept.category_ids,
        kept.category_names,
    )
    assert files.box_crowd.any() and not np.array_equal(
        files.boxes_ltrb.astype(np.float32), files.boxes_ltrb
    )
    for name in files.file_names:
        assert bytes(kept.images.read(name)) == files.images.read(name)
    assert (
        sorted(kept.images.names()) == sorted(files.file_names)
        and len(kept.images) == files.num_images
    )
    with open(files.path, "rb") as one, open(kept.path, "rb") as other:
        assert one.read() == other.read()


def test_the_manifest_describes_what_was_packed(data, packed):
    found = json.loads(contents(packed)[os.path.join(FOLDER, "records.json")])
    files = load(data)
    with open(files.path, "rb") as file:
        source = hashlib.sha256(file.read()).hexdigest()
    [split] = found["splits"]
    assert split == dict(
        split="train",
        annotations=PATHS["train"][0],
        annotations_sha256=source,
        images=13,
        records=13,
        boxes=len(files.box_image),
        crowds=int(files.box_crowd.sum()),
        categories=[dict(id=5, name="thing"), dict(id=90, name="ü")],
    )
    assert found["images"] == 13 and len(found["shards"]) > 2 and found["whole"] is True
    for shard in found["shards"]:
        assert os.path.getsize(os.path.join(packed, FOLDER, shard["file"])) == shard["bytes"]
    endings = {os.path.splitext(name)[1] for name in os.listdir(os.path.join(packed, FOLDER))}
    assert endings == {".json", ".npz", ".rec", ".idx"}
    assert sorted(os.listdir(packed)) == sorted({"annotations", FOLDER, PATHS["val"][1]})


def check_label(label, data, index):
    rows = np.flatnonzero(data.box_image == index)
    size = data.sizes[index]
    assert label[:4].tolist() == [4, 6, *size]
    objects = label[4:].reshape(-1, 6)
    np.testing.assert_array_equal(objects[:, 0], data.box_classes[rows] - 1)
    np.testing.assert_allclose(objects[:, 1:5], data.boxes_ltrb[rows] / np.tile(size, 2), rtol=1e-7)
    np.testing.assert_array_equal(objects[:, 5], data.box_crowd[rows])


def test_mxnet_reads_them(data, packed):
    files, records, number = load(data), os.path.join(packed, FOLDER), 0
    for shard in record_folder.read_record_manifest(records)["shards"]:
        base = os.path.join(records, shard["file"][:-4])
        reader = mx.recordio.MXIndexedRecordIO(base + ".idx", base + ".rec", "r")
        assert len(reader.keys) == shard["images"]
        for key in reader.keys:
            header, image = mx.recordio.unpack(reader.read_idx(key))
            assert key == number and header.id == files.image_ids[number]
            assert image == files.images.read(files.file_names[number])
            check_label(header.label, files, number)
            number += 1
    assert number == files.num_images and MAGIC_NUMBER in files.image_ids


def test_dali_reads_them(tmp_path):
    """A file at a time. Its reader needs the header of an image in one part, so no id that is the
    magic number."""
    data = odd_set(tmp_path / "set", magic_id=False)
    assert pack(data, tmp_path / "records", "--shard-size", SHARD_SIZE) == 0
    files, records = load(data), str(tmp_path / "records" / FOLDER)
    number = 0
    for shard in record_folder.read_record_manifest(records)["shards"]:
        path = os.path.join(records, shard["file"])
        pipeline = Pipeline(batch_size=shard["images"], num_threads=1, device_id=None)
        with pipeline:
            pipeline.set_outputs(*fn.readers.mxnet(path=[path], index_path=[path[:-4] + ".idx"]))
        pipeline.build()
        images, labels = pipeline.run()
        for row in range(shard["images"]):
            assert bytes(np.array(images[row])) == files.images.read(files.file_names[number])
            check_label(np.array(labels[row]), files, number)
            number += 1
    assert number == files.num_images


def test_splits_that_share_a_folder_share_the_records(data, tmp_path):
    """Both files over the same images: each image is packed once."""
    flags = ["--val-annotations", PATHS["train"][0], "--val-images", f"./{FOLDER}/"]
    assert pack(data, tmp_path / "out", *flags) == 0
    records = tmp_path / "out" / FOLDER
    found = record_folder.read_record_manifest(str(records))
    assert [split["records"] for split in found["splits"]] == [13, 0] and found["images"] == 13
    assert sorted(os.listdir(records)) == [
        "records.json",
        "records.npz",
        "train-00000.idx",
        "train-00000.rec",
    ]


def test_images_in_the_data_folder_itself(data, tmp_path):
    flat = shutil.copytree(os.path.join(data, FOLDER), str(tmp_path / "flat"))
    shutil.copy(os.path.join(data, PATHS["train"][0]), os.path.join(flat, "all.json"))
    flags = ["--split", "train", "--train-images", ".", "--train-annotations", "all.json"]
    assert pack(flat, tmp_path / "out", *flags) == 0
    images = open_images(str(tmp_path / "out"))
    assert bytes(images.read("1.png")) == (tmp_path / "flat" / "1.png").read_bytes()


def test_an_image_is_found_by_its_path(data, packed):
    name = load(data).file_names[0]
    path = os.path.join(packed, FOLDER, name)
    assert bytes(record_at(path)) == load(data).images.read(name)
    assert (
        record_at(os.path.join(data, FOLDER, name)) is None and record_at("nowhere/x.jpg") is None
    )
    with pytest.raises(UserError, match="no record of it in"):
        record_at(os.path.join(packed, FOLDER, "deep", "no.jpg"))


def test_threads_read_at_once(data, packed):
    files, images = load(data), record_folder.Records(os.path.join(packed, FOLDER))
    wrong = []

    def work():
        for name in files.file_names * 20:
            if bytes(images.read(name)) != files.images.read(name):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


# ---- what is refused


@pytest.mark.parametrize(
    "name, harm, words",
    [
        ("train-00000.rec", lambda path: os.truncate(path, 100), "truncated: 100 bytes"),
        ("train-00000.rec", os.remove, "No such file"),
        (
            "train-00000.rec",
            lambda path: open(path, "ab").write(b"more"),
            "not the file that was packed",
        ),
        ("train-00000.rec", lambda path: change(path, 0, b"PK"), "magic number"),
        (
            "train-00000.idx",
            lambda path: shutil.copy(path.replace("-00000", "-00001"), path),
            "SHA-256 differs",
        ),
        ("train-00000.idx", lambda path: os.truncate(path, 10), "SHA-256 differs"),
        ("train-00000.idx", os.remove, "No such file"),
        ("records.npz", lambda path: change(path, 200, b"\0\1\2\3"), "SHA-256 differs"),
        ("records.npz", os.remove, "No such file"),
        ("records.json", lambda path: os.truncate(path, 30), "not a manifest"),
        ("records.json", lambda path: open(path, "w").write("[]"), "not a manifest"),
        (
            "records.json",
            lambda path: open(path, "w").write(
                json.dumps(dict(kind=record_folder.KIND, format=1, whole=True))
            ),
            "an entry is missing",
        ),
        (
            "records.json",
            lambda path: open(path, "w").write(json.dumps(dict(kind=record_folder.KIND, format=2))),
            "records of format 2, this version reads format 1",
        ),
        (
            "records.json",
            lambda path: open(path, "w").write(
                json.dumps(dict(kind=record_folder.KIND, format=1, whole=False))
            ),
            "interrupted",
        ),
    ],
)
def test_a_damaged_folder_is_refused_when_it_is_opened(own, name, harm, words):
    path = os.path.join(own, FOLDER, name)
    harm(path)
    line = refused(os.path.join(own, FOLDER))
    assert path in line and words in line
    with pytest.raises(UserError, match=words):
        load(own)


def test_a_file_of_other_records_is_refused(own):
    """Of the same length and with the right beginning, which no check at the start can detect."""
    records = os.path.join(own, FOLDER)
    path, name = os.path.join(records, "train-00000.rec"), load(own).file_names[1]
    images = open_images(records)
    offset = record_offset(records, 1)
    for where, content, words in [
        (offset + 200, b"?!?!", "CRC-32 differs"),
        (offset, b"XXXX", "magic number"),
        (offset + 4, struct.pack("<I", 50), "shorter"),
        (offset + 4, struct.pack("<I", 2 << 29 | 50), "a part of kind 2"),
        (offset + 8, b"\xff\xff", "label is longer"),
    ]:
        kept = open(path, "rb").read()
        change(path, where, content)
        with pytest.raises(UserError, match=words) as caught:
            open_images(records).read(name)
        line = str(caught.value)
        assert path in line and os.path.join(records, name) in line and "\n" not in line
        with open(path, "wb") as file:
            file.write(kept)
    assert len(open_images(records).read(name))
    os.truncate(path, offset + 20)  # while it is open
    with pytest.raises(UserError, match="truncated"):
        images.read(name)


def test_records_without_a_manifest_are_refused(own):
    os.remove(os.path.join(own, FOLDER, "records.json"))
    assert "a RecordIO file without records.json" in refused(os.path.join(own, FOLDER))


def test_images_that_were_not_packed_are_missing(own):
    path = os.path.join(own, PATHS["train"][0])
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    content["images"][0]["file_name"] = "another.jpg"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    with pytest.raises(
        UserError, match=r"image file missing: image \d+ \('another.jpg'\): no record of it in "
    ):
        load(own)


def run(capsys, *arguments):
    """(exit status, last line of standard error) of pack-data."""
    status = pack(*arguments)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return status, err.strip().splitlines()[-1]


def test_nothing_is_overwritten(data, packed, tmp_path, capsys):
    before = contents(packed)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    for output, words in (
        (packed, "holds files already"),
        (tmp_path / "full", "holds files already"),
        (tmp_path / "file", "is not a folder"),
    ):
        status, line = run(capsys, data, output)
        assert status == 2 and f"--output {output}: {words}" in line
    assert contents(packed) == before and os.listdir(tmp_path / "full") == ["mine.txt"]


def test_what_cannot_be_packed_is_named(data, packed, tmp_path, capsys, monkeypatch):
    for flags, words in (
        (["--train-images", os.path.join(data, FOLDER)], "not in --data-dir"),
        (["--train-annotations", f"../set/{PATHS['train'][0]}"], "not in --data-dir"),
        (["--shard-size", "0"], "--shard-size 0: must be above 0"),
        (["--shard-size", "nan"], "--shard-size nan: must be above 0"),
        (["--data-dir", packed], "holds records already"),
        (["--data-dir", tmp_path / "none"], "no such folder"),
    ):
        status, line = run(capsys, data, tmp_path / "out", *flags)
        assert status == 2 and words in line, line
    monkeypatch.setattr("ssd.datasets.packing_plan.MOST_SHARDS", 3)
    status, line = run(capsys, data, tmp_path / "out", "--shard-size", "1e-9")
    assert status == 2 and "--shard-size 1e-09: would make 21 files of records, more than 3" in line
    monkeypatch.setattr(
        "ssd.datasets.packing.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 4000)
    )
    status, line = run(capsys, data, tmp_path / "out")
    assert status == 2 and "MB are needed, 0.0 MB are free" in line
    monkeypatch.setattr("ssd.datasets.recordio.LONGEST", 2000)
    status, line = run(capsys, data, tmp_path / "out")
    assert status == 2 and "a RecordIO record holds 2000 at most" in line
    assert not os.path.exists(tmp_path / "out")


def test_the_space_needed_is_reported_before_anything_is_written(
    data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        packing, "_begin", lambda *_: (_ for _ in ()).throw(UserError("here it would begin"))
    )
    assert run(capsys, data, tmp_path / "out") == (
        2,
        "python -m ssd pack-data: error: here it would begin",
    )
    pack(data, tmp_path / "out")
    assert "21 images into 2 files of records: 0.1 MB are needed, " in capsys.readouterr().err


# ---- interrupted


class Enough(Exception):
    pass


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_packing_interrupted_anywhere_continues(data, packed, tmp_path, monkeypatch, jobs):
    """Interrupted after each file operation, then finished: the same bytes each time."""
    wanted, output, left = contents(packed), str(tmp_path / "out"), [0]
    originals = {
        name: getattr(packing, name)
        for name in ("put_in_place", "replace_file", "discard", "replacing")
    }

    def counted(name):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] < 0 and name != "discard":
                raise Enough
            return originals[name](*arguments, **named)

        return call

    for name in originals:
        monkeypatch.setattr(packing, name, counted(name))
    operations = 0
    while True:
        left[0] = operations
        try:
            assert pack(data, output, "--shard-size", SHARD_SIZE, "--jobs", jobs) == 0
            break
        except Enough:
            names = {name for _, _, names in os.walk(output) for name in names}
            assert (packing.PLAN in names or not names) and not any(
                name.endswith(".partial") for name in names
            )
            if operations % 5 == 4:  # else from what there is, as far as it goes now
                shutil.rmtree(output)
        operations += 1
    assert operations > 10 and contents(output) == wanted


def test_complete_files_are_not_packed_again(data, packed, tmp_path, monkeypatch):
    output, packed_now = str(tmp_path / "out"), []
    original = packing._pack_shard

    def stop_at_third(part, shard, base, advance):
        if len(packed_now) == 2:
            raise Enough
        packed_now.append(shard.name)
        original(part, shard, base, advance)

    monkeypatch.setattr(packing, "_pack_shard", stop_at_third)
    with pytest.raises(Enough):
        pack(data, output, "--shard-size", SHARD_SIZE, "--jobs", 1)
    assert "interrupted" in refused(os.path.join(output, FOLDER))
    monkeypatch.setattr(
        packing,
        "_pack_shard",
        lambda *arguments: (packed_now.append(arguments[1].name), original(*arguments)),
    )
    assert pack(data, output, "--shard-size", SHARD_SIZE, "--jobs", 1) == 0
    assert len(packed_now) == len(set(packed_now)) and contents(output) == contents(packed)


def test_only_the_same_packing_continues(data, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_pack_shard", lambda *_: (_ for _ in ()).throw(Enough))
        with pytest.raises(Enough):
            pack(data, output)
    status, line = run(capsys, data, output, "--shard-size", SHARD_SIZE)
    assert status == 2 and "started with another --shard-size" in line
    status, line = run(capsys, data, output, "--split", "train")
    assert status == 2 and "started with another data set or other settings" in line
    other = shutil.copytree(data, str(tmp_path / "other"))
    with open(os.path.join(other, FOLDER, "1.png"), "ab") as file:
        file.write(b"more")
    status, line = run(capsys, other, output)
    assert status == 2 and "started with another data set" in line
    with packing._locked(str(output)):
        status, line = run(capsys, data, output)
        assert status == 2 and "another process is packing into it" in line
    (output / packing.PLAN).write_text("{")
    status, line = run(capsys, data, output)
    assert status == 2 and "not the plan of a packing" in line


@pytest.mark.parametrize("end, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_process_that_is_ended_continues(data, packed, tmp_path, end, status):
    code = f"""
import os, sys
from ssd.datasets import packing
original, begun = packing._pack_shard, []

def ended_in_the_third(part, shard, base, advance):
    begun.append(shard)
    def end():
        os.kill(os.getpid(), {int(end)})
        while True:    # until the main thread is interrupted
            advance()
    original(part, shard, base, end if len(begun) == 3 else advance)

packing._pack_shard = ended_in_the_third
sys.path.insert(0, {ROOT!r})
from tests.datasets.packed import pack
sys.exit(pack({data!r}, {str(tmp_path / "out")!r}, "--shard-size", {SHARD_SIZE}, "--jobs", 1))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
    left = [name for _, _, names in os.walk(tmp_path / "out") for name in names]
    assert any(name.endswith(".partial") for name in left) == (end == signal.SIGKILL)
    assert pack(data, tmp_path / "out", "--shard-size", SHARD_SIZE) == 0
    assert contents(tmp_path / "out") == contents(packed)
