"""scripts/download_coco2017.sh against a server of its own, which can break a transfer off and go
on from a byte."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.launch.mirror import Mirror

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "download_coco2017.sh"
IMAGES = {"train": 5, "val": 3}
pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("unzip")), reason="needs curl and unzip"
)


def annotations(images):
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": n, "file_name": "%012d.jpg" % n, "height": 4, "width": 6, "license": 1}
            for n in range(images)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 1,
                "bbox": [0, 0, 2, 3],
                "area": 5.5,
                "iscrowd": 0,
                "segmentation": [[0, 0, 2, 0, 2, 3]],
            }
            for n in range(images)
        ],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }


def noise(seed):
    return random.Random(seed).getrandbits(160000).to_bytes(20000, "big")


@pytest.fixture
def coco(tmp_path):
    """A mirror's folder with COCO's three archives in small."""
    folder = tmp_path / "mirror"
    (folder / "zips").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, images in IMAGES.items():
        with zipfile.ZipFile(str(folder / "zips" / (split + "2017.zip")), "w") as archive:
            for n in range(images):  # noise, so that a byte that is lost shows
                archive.writestr("%s2017/%012d.jpg" % (split, n), noise(n))
    with zipfile.ZipFile(
        str(folder / "annotations" / "annotations_trainval2017.zip"), "w"
    ) as archive:
        for split, images in IMAGES.items():
            archive.writestr(
                f"annotations/instances_{split}2017.json", json.dumps(annotations(images))
            )
            archive.writestr(f"annotations/captions_{split}2017.json", "{}")
    write_sums(folder)
    return folder


def write_sums(folder, bytes_of_train=None):
    lines = []
    for path, files in (
        ("annotations/annotations_trainval2017.zip", 2),
        ("zips/val2017.zip", IMAGES["val"]),
        ("zips/train2017.zip", IMAGES["train"]),
    ):
        content = (folder / path).read_bytes()
        size = bytes_of_train if bytes_of_train and "train2017" in path else len(content)
        lines.append("%s %s %d %d\n" % (path, hashlib.md5(content).hexdigest(), size, files))
    (folder / "sums").write_text("".join(lines))


def variables(url, sums, path=None):
    environment = dict(
        os.environ, COCO_URL=url, COCO_ARCHIVES=str(sums), PYTHON=sys.executable, no_proxy="*"
    )
    environment.pop("http_proxy", None)
    return environment if path is None else dict(environment, PATH=str(path))


def download(directory, url, sums, *arguments, path=None):
    return subprocess.run(
        [str(SCRIPT), *arguments, str(directory)],
        env=variables(url, sums, path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_whole(directory):
    for split, images in IMAGES.items():
        assert len(list((directory / (split + "2017")).iterdir())) == images
        whole = json.loads(
            (directory / "annotations" / (f"instances_{split}2017.json")).read_text()
        )
        reduced = json.loads(
            (directory / "annotations" / (f"bbox_only_instances_{split}2017.json")).read_text()
        )
        assert len(whole["images"]) == len(reduced["images"]) == images
        assert (
            whole["annotations"][0]["segmentation"]
            and "segmentation" not in reduced["annotations"][0]
        )
    image = directory / "train2017" / "000000000004.jpg"
    assert image.read_bytes() == noise(4)
    assert not list(directory.glob("*.part")) and not list(directory.glob(".unpacking*"))


def one_line(done):
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_fresh_then_nothing_then_without_archives(coco, tmp_path):
    target = tmp_path / "data with blanks" / "coco"
    with Mirror(coco) as mirror:
        done = download(target, mirror.url, coco / "sums")
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert_whole(target)
        assert (target / "train2017.zip").is_file() and len(mirror.requests) == 3
        assert done.stdout.index("needs 0.0 GB") < done.stdout.index("downloading")
        assert not (target / "annotations" / "captions_val2017.json").exists()

        before = {path: path.stat().st_mtime_ns for path in target.rglob("*.j*")}
        mirror.requests.clear()
        done = download(target, mirror.url, coco / "sums", "--delete-archives")
        assert done.returncode == 0 and mirror.requests == [] and "unpacking" not in done.stdout
        assert {path: path.stat().st_mtime_ns for path in target.rglob("*.j*")} == before
        assert not list(target.glob("*.zip"))

        done = download(
            target, mirror.url, coco / "sums"
        )  # nothing is fetched again for want of its archive
        assert done.returncode == 0 and mirror.requests == []
    assert_whole(target)


def test_a_broken_connection_is_taken_up_at_the_byte(coco, tmp_path):
    size = (coco / "zips" / "train2017.zip").stat().st_size
    with Mirror(coco) as mirror:
        mirror.break_after["zips/train2017.zip"] = 30000
        done = download(tmp_path / "coco", mirror.url, coco / "sums")
        assert done.returncode == 0 and "the connection broke" in done.stdout, done.stderr
        assert mirror.requests[2:] == [
            ("zips/train2017.zip", 0, 30000),
            ("zips/train2017.zip", 30000, size - 30000),
        ]
    assert_whole(tmp_path / "coco")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_at_the_byte(coco, tmp_path, sign):
    target, size = tmp_path / "coco", (coco / "zips" / "train2017.zip").stat().st_size
    part = target / "train2017.zip.part"
    with Mirror(coco) as mirror:
        mirror.go_on.clear()
        mirror.break_after["zips/train2017.zip"] = 60000
        running = subprocess.Popen(
            [str(SCRIPT), str(target)],
            env=variables(mirror.url, coco / "sums"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.02)
        os.killpg(running.pid, sign)  # as a terminal does it: curl too
        assert running.wait(60) != 0
        have = part.stat().st_size
        assert 0 < have <= 60000 and (target / "val2017").is_dir()

        mirror.go_on.set()
        mirror.requests.clear()
        done = download(target, mirror.url, coco / "sums")
        assert done.returncode == 0, done.stderr
        assert mirror.requests == [("zips/train2017.zip", have, size - have)]
    assert_whole(target)


def test_a_stopped_run_goes_on(coco, tmp_path):
    target, size = tmp_path / "coco", (coco / "zips" / "train2017.zip").stat().st_size
    target.mkdir()
    (target / "train2017.zip.part").write_bytes(
        (coco / "zips" / "train2017.zip").read_bytes()[:50001]
    )
    (target / "val2017.zip.part").write_bytes(
        (coco / "zips" / "val2017.zip").read_bytes()
    )  # whole, not yet renamed
    (target / ".unpacking-val2017" / "val2017").mkdir(parents=True)
    (target / ".unpacking-val2017" / "val2017" / "000000000000.jpg").write_bytes(b"cut sho")
    with Mirror(coco) as mirror:
        done = download(target, mirror.url, coco / "sums")
        assert done.returncode == 0, done.stderr
        assert mirror.requests[1:] == [("zips/train2017.zip", 50001, size - 50001)]
        assert "from byte 50001" in done.stdout
    assert_whole(target)


def test_a_server_without_ranges_starts_again(coco, tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "train2017.zip.part").write_bytes(
        (coco / "zips" / "train2017.zip").read_bytes()[:50001]
    )
    with Mirror(coco, ranges=False) as mirror:
        done = download(tmp_path / "coco", mirror.url, coco / "sums")
        assert done.returncode == 0 and "cannot resume" in done.stdout, done.stderr
    assert_whole(tmp_path / "coco")


def test_files_of_this_machine(coco, tmp_path):
    done = download(tmp_path / "coco", coco.as_uri(), coco / "sums", "--delete-archives")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "coco")
    assert not list((tmp_path / "coco").glob("*.zip"))


def test_a_corrupt_archive_names_both_sums(coco, tmp_path):
    good = hashlib.md5((coco / "zips" / "val2017.zip").read_bytes()).hexdigest()
    content = bytearray((coco / "zips" / "val2017.zip").read_bytes())
    content[2000] ^= 1
    (coco / "zips" / "val2017.zip").write_bytes(content)
    bad, target = hashlib.md5(content).hexdigest(), tmp_path / "coco"
    with Mirror(coco) as mirror:
        line = one_line(download(target, mirror.url, coco / "sums"))
        assert f"{mirror.url}/zips/val2017.zip has MD5 {bad}, not {good}; removed" in line
    assert not list(target.glob("val2017*"))
    # an archive that somebody put there is checked too, and left as it is
    (target / "val2017.zip").write_bytes(content)
    line = one_line(download(target, coco.as_uri(), coco / "sums"))
    assert f"val2017.zip has MD5 {bad}, not {good}" in line and (target / "val2017.zip").exists()


def test_too_little_space_is_known_before_the_start(coco, tmp_path):
    write_sums(coco, bytes_of_train=10**17)
    with Mirror(coco) as mirror:
        done = download(tmp_path / "coco", mirror.url, coco / "sums")
        assert mirror.requests == []
    assert "too little space in %s: needs 200000000.0 GB, available " % (
        tmp_path / "coco"
    ) in one_line(done)


def test_wrong_numbers_of_images(coco, tmp_path):
    sums = (coco / "sums").read_text().replace(" 3\n", " 4\n")
    (coco / "sums").write_text(sums)
    line = one_line(download(tmp_path / "coco", coco.as_uri(), coco / "sums"))
    assert (
        "val2017.zip holds 3 images, not 4" in line and not (tmp_path / "coco" / "val2017").exists()
    )
    (tmp_path / "coco" / "train2017").mkdir()
    line = one_line(download(tmp_path / "coco", coco.as_uri(), coco / "sums"))
    assert "train2017 holds 0 images, not 5; move it away" in line


def test_no_network(coco, tmp_path):
    with Mirror(coco) as mirror:
        url = mirror.url  # closed again below: nobody listens there
    line = one_line(download(tmp_path / "coco", url, coco / "sums"))
    assert (
        line.startswith(f"download_coco2017: {url}/annotations/")
        and "could not be downloaded: curl: (7)" in line
    )
    shutil.rmtree(str(coco / "zips"))
    with Mirror(coco) as mirror:
        line = one_line(download(tmp_path / "coco", mirror.url, coco / "sums"))
    assert "zips/val2017.zip could not be downloaded: curl: (22)" in line and "404" in line


def test_bad_arguments(coco, tmp_path):
    assert "COCO_URL=ftp://here is no http" in one_line(
        download(tmp_path / "x", "ftp://here", coco / "sums")
    )
    assert "COCO_ARCHIVES=%s cannot be read" % (coco / "no") in one_line(
        download(tmp_path, coco.as_uri(), coco / "no")
    )
    assert "unknown option --no" in one_line(
        download(tmp_path / "x", coco.as_uri(), coco / "sums", "--no")
    )
    assert "two folders: a and " in one_line(
        download(tmp_path / "x", coco.as_uri(), coco / "sums", "a")
    )
    (tmp_path / "file").write_text("")
    assert "file cannot be created or written" in one_line(
        download(tmp_path / "file", coco.as_uri(), coco / "sums")
    )
    assert not (tmp_path / "x").exists()


def test_no_unzip(coco, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "dirname", "env", "curl", "md5sum"):
        (programs / name).symlink_to(shutil.which(name))
    line = one_line(download(tmp_path / "coco", coco.as_uri(), coco / "sums", path=programs))
    assert line.startswith("download_coco2017: missing here: unzip (Debian packages")


def test_two_at_once_are_refused(coco, tmp_path):
    import fcntl

    (tmp_path / "coco").mkdir()
    with open(str(tmp_path / "coco" / ".download.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another download into this folder is running" in one_line(
            download(tmp_path / "coco", coco.as_uri(), coco / "sums")
        )


def test_the_sums_are_the_known_ones():
    text = SCRIPT.read_text()
    for archive in (
        "annotations/annotations_trainval2017.zip f4bbac642086de4f52a3fdda2de5fa2c 252907541 2\n",
        "zips/val2017.zip 442b8da7639aecaf257c1dceb8ba8c80 815585330 5000\n",
        "zips/train2017.zip cced6f7f71b7629ddf16f17bbcfab6b2 19336861798 118287'\n",
    ):
        assert archive in text
