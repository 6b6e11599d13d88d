"""scripts/download_openimages.py against a server of its own: broken connections, wrong sums, what
is missing."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from ssd.datasets import openimages_download, openimages_fetch, web
from tests.datasets.openimages_files import CLASSES, HEADER, row, save_jpeg

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "download_openimages.py"
BOXES = openimages_download.BOXES
IMAGES = {"train": range(1, 9), "validation": range(21, 24)}


def name_of(image):
    return f"{image:016x}.jpg"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder. cut: bytes of a path after which its connection breaks, once; status:
    numbers that a path is answered with first, in order; wrong_md5: paths of which another sum is
    said, once; wrong_bytes: content that a path is answered with, once; ranges: whether it goes on
    from a byte; hold: an event that images wait for; requests: (path, first byte)."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests, self.connections = folder, [], 0
        self.cut, self.status, self.wrong_md5, self.wrong_bytes = {}, {}, set(), {}
        self.ranges, self.hold, self.reached = True, None, threading.Event()
        self.url = "http://127.0.0.1:%d" % self.server_address[1]

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        if self.hold is not None:
            self.hold.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def asked(self):
        return Counter(path for path, _ in self.requests)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        asked = self.headers.get("Range")
        first = int(asked[len("bytes=") :].rstrip("-")) if asked and server.ranges else 0
        server.requests.append((path, first))
        if server.hold is not None and path.endswith(".jpg"):
            server.reached.set()
            server.hold.wait(60)
        statuses = server.status.get(path)
        if statuses:
            status = statuses.pop(0)
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", "/moved/" + path)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = path[len("moved/") :] if path.startswith("moved/") else path
        file = server.folder / path
        if not file.is_file():
            self.send_error(404)
            return
        content = server.wrong_bytes.pop(path, file.read_bytes())
        if first and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        digest = hashlib.md5(b"other" if path in server.wrong_md5 else content).digest()
        server.wrong_md5.discard(path)
        self.send_header("x-goog-hash", "crc32c=AAAAAA==")
        self.send_header("x-goog-hash", "md5=" + base64.b64encode(digest).decode())
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut = server.cut.pop(path, None)
        try:
            self.wfile.write(content[first:] if cut is None else content[first : first + cut])
            self.wfile.flush()
        except OSError:
            pass
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """The folder of a mirror: eight training images, three of validation, two boxes each."""
    folder = tmp_path_factory.mktemp("mirror")
    for split, path in BOXES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / split).mkdir()
        rows = []
        for image in IMAGES[split]:
            save_jpeg(folder / split / name_of(image), 40 + image, 30, seed=image)
            rows += [
                row(image, "apple" if image % 2 else "banana", "0.1,0.5,0,1"),
                row(image, "person", "0,1,0,1"),
            ]
        (folder / path).write_text("\n".join([HEADER, *rows, ""]))
    (folder / openimages_download.CLASSES).write_text(CLASSES)
    return folder


@pytest.fixture
def server(mirror):
    with Server(mirror) as server:
        yield server


def command(output, *arguments):
    return [
        sys.executable,
        str(SCRIPT),
        str(output),
        "--classes",
        "Apple",
        "Banana",
        "--backoff",
        "0.01",
        "--jobs",
        "3",
        *map(str, arguments),
    ]


def environment():
    values = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return dict(values, no_proxy="*", PYTHONUNBUFFERED="1")


def download(output, *arguments):
    return subprocess.run(
        command(output, *arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_whole(output, mirror, images=None):
    for split in images or IMAGES:
        expected = sorted((images or IMAGES)[split])
        data = output / split / "data"
        assert sorted(os.listdir(str(data))) == [name_of(image) for image in expected], (
            "and nothing half made"
        )
        for image in expected:
            assert (data / name_of(image)).read_bytes() == (
                mirror / split / name_of(image)
            ).read_bytes()
        content = json.loads((output / split / "labels" / "openimages-mlperf.json").read_text())
        assert [(entry["file_name"], entry["width"]) for entry in content["images"]] == [
            (name_of(image), 40 + image) for image in expected
        ]
        assert [entry["category_id"] for entry in content["annotations"]] == [
            1 - image % 2 for image in expected
        ]
        assert not list((output / split).rglob("*.part*"))


def one_line(done, status):
    assert done.returncode == status and done.stderr.count("\n") == 1, (
        done.returncode,
        done.stdout,
        done.stderr,
    )
    return done.stderr


def test_everything_then_nothing_more(server, mirror, tmp_path):
    output = tmp_path / "data with blanks" / "openimages"
    done = download(output, "--mirror", server.url)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert_whole(output, mirror)
    plan = [line for line in done.stdout.splitlines() if "are missing: about" in line]
    assert (
        len(plan) == 1
        and "8 images of train, 3 images of validation; 0 files are present, 11 are missing"
        in plan[0]
    )
    assert "at 100 MB/s" in plan[0] and done.stdout.index("are missing: about") < done.stdout.index(
        "images fetched"
    )
    assert (
        max(server.asked().values()) == 2 and len(server.requests) == 4 + 11
    )  # the classes, once for each split
    assert server.connections <= 4 + 3 + 3, "connections are kept"
    assert not list(output.rglob("missing_images.txt"))

    assert "exists already; --overwrite replaces it" in one_line(
        download(output, "--mirror", server.url), 2
    )
    server.requests.clear()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.jpg")}
    done = download(output, "--mirror", server.url, "--overwrite")
    assert done.returncode == 0 and not server.requests
    assert (
        "11 files are present, 0 are missing" in done.stdout
        and "0 images fetched (0 kB), 8 were present" in done.stdout
    )
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.jpg")} == before
    assert_whole(output, mirror)


def test_broken_connections_and_busy_servers(server, mirror, tmp_path):
    for image in IMAGES["train"]:
        path = "train/" + name_of(image)
        if image % 2:
            server.cut[path] = 100
        else:
            server.status[path] = [503, 429, 302]
    server.cut[BOXES["train"]] = 200
    done = download(tmp_path, "--mirror", server.url)
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path, mirror)
    assert (BOXES["train"], 200) in server.requests, "the box file goes on at the byte"
    assert server.asked()["train/" + name_of(1)] == 2 and server.asked()["train/" + name_of(2)] == 3
    assert server.asked()["moved/train/" + name_of(2)] == 1


def test_an_interrupted_csv_goes_on_in_the_next_run(server, mirror, tmp_path):
    server.cut[BOXES["train"]] = 200
    done = download(tmp_path, "--mirror", server.url, "--retries", "0")
    assert "the connection broke after 200 of " in one_line(done, 2)
    assert (tmp_path / "train" / "labels" / "detections.csv.part").stat().st_size == 200
    assert not (tmp_path / "train" / "labels" / "detections.csv").exists()
    server.requests.clear()
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert (BOXES["train"], 200) in server.requests and (
        openimages_download.CLASSES,
        0,
    ) in server.requests
    assert_whole(tmp_path, mirror)


def test_a_server_that_begins_at_the_start(server, mirror, tmp_path):
    server.ranges, server.cut[BOXES["train"]] = False, 200
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)


def test_a_part_that_is_longer_than_the_file(server, mirror, tmp_path):
    part = tmp_path / "train" / "labels" / "detections.csv.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10**5))
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)
    part.write_bytes(
        bytes(300)
    )  # another file's beginning: the sum shows it, and it is fetched from the start
    (part.parent / "detections.csv").unlink()
    assert download(tmp_path, "--mirror", server.url, "--overwrite").returncode == 0
    assert_whole(tmp_path, mirror)


def test_wrong_sums(server, mirror, tmp_path):
    server.wrong_md5 |= {BOXES["train"], "train/" + name_of(3)}
    assert download(tmp_path, "--mirror", server.url).returncode == 0, "the second time it is right"
    assert_whole(tmp_path, mirror)
    assert server.asked()["train/" + name_of(3)] == 2
    server.wrong_md5.add(BOXES["train"])
    done = download(tmp_path / "other", "--mirror", server.url, "--retries", "0")
    assert "its MD5 is not the server's" in one_line(done, 2)
    assert not list((tmp_path / "other").rglob("detections.csv*")), "a wrong file is not kept"


def test_a_body_that_is_no_whole_image(server, mirror, tmp_path):
    whole = (mirror / "train" / name_of(1)).read_bytes()
    server.wrong_bytes.update(
        {
            "train/" + name_of(1): whole[:-9],
            "train/" + name_of(2): b"<html>busy</html>",
            "train/" + name_of(3): b"",
        }
    )
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)
    server.wrong_bytes["train/" + name_of(1)] = whole[:-9]
    done = download(tmp_path / "other", "--mirror", server.url, "--retries", "0")
    assert (
        done.returncode == 1 and "1 images could not be had, the first " + name_of(1) in done.stdout
    )
    assert "bytes that are no intact image" in done.stdout
    assert not list((tmp_path / "other").rglob("openimages-mlperf.json")), "no conversion of a part"
    server.requests.clear()
    assert download(tmp_path / "other", "--mirror", server.url).returncode == 0
    assert [path for path, _ in server.requests] == ["train/" + name_of(1)], "that one alone"
    assert_whole(tmp_path / "other", mirror)


def test_images_that_are_there_but_not_whole(server, mirror, tmp_path):
    data = tmp_path / "train" / "data"
    data.mkdir(parents=True)
    whole = (mirror / "train" / name_of(1)).read_bytes()
    (data / name_of(1)).write_bytes(whole[: len(whole) // 2])
    (data / name_of(2)).write_bytes(b"")
    (data / name_of(4)).write_bytes((mirror / "train" / name_of(4)).read_bytes())
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)
    assert (
        "train/" + name_of(4) not in server.asked() and server.asked()["train/" + name_of(1)] == 1
    )


def test_missing_images(server, mirror, tmp_path):
    server.status.update({"train/" + name_of(3): [404], "train/" + name_of(6): [403]})
    done = download(tmp_path, "--mirror", server.url)
    assert done.returncode == 0 and not done.stderr
    images = dict(IMAGES, train=[image for image in IMAGES["train"] if image not in (3, 6)])
    assert_whole(tmp_path, mirror, images)
    assert (tmp_path / "train" / "missing_images.txt").read_text().splitlines() == [
        f"{name_of(3)} 404 Not Found",
        f"{name_of(6)} 403 Forbidden",
    ]
    assert (
        "2 are not on the server" in done.stdout
        and "left out: 2 x image without a file" in done.stdout
    )
    done = download(tmp_path, "--mirror", server.url, "--overwrite")
    assert done.returncode == 0 and not (tmp_path / "train" / "missing_images.txt").exists(), (
        "now they are"
    )
    assert_whole(tmp_path, mirror)


def test_too_many_missing_images(server, mirror, tmp_path):
    for image in IMAGES["train"]:
        server.status["train/" + name_of(image)] = [404]
    line = one_line(download(tmp_path, "--mirror", server.url, "--max-missing", "2"), 2)
    assert (
        "3 images are not on the server, the last " in line
        and "404 Not Found; --max-missing is 2" in line
    )
    assert len((tmp_path / "train" / "missing_images.txt").read_text().splitlines()) >= 3


def test_a_server_that_is_away(server, mirror, tmp_path, monkeypatch):
    with Server(mirror) as other:
        url = other.url
    line = one_line(download(tmp_path, "--mirror", url, "--retries", "1"), 2)
    assert (
        line.startswith(f"download_openimages: {url}/{openimages_download.CLASSES}: ")
        and "refused" in line
    )
    for path in [openimages_download.CLASSES, *BOXES.values()]:
        server.status[path] = [500]
    for image in IMAGES["train"]:
        server.status["train/" + name_of(image)] = [500] * 9
    line = one_line(download(tmp_path, "--mirror", server.url, "--jobs", "1", "--retries", "1"), 2)
    assert (
        "3 images in a row could not be downloaded" in line and "500 Internal Server Error" in line
    )


def test_interrupt_and_resume(server, mirror, tmp_path):
    """Ctrl-C while connections wait: it ends soon, nothing half made is left, and what is there
    stays."""
    server.hold = threading.Event()
    (tmp_path / "train" / "data").mkdir(parents=True)
    (tmp_path / "train" / "data" / name_of(5)).write_bytes(
        (mirror / "train" / name_of(5)).read_bytes()
    )
    process = subprocess.Popen(
        command(tmp_path, "--mirror", server.url),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert server.reached.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "download_openimages: stopped; run the same command again to resume\n"
    assert os.listdir(str(tmp_path / "train" / "data")) == [name_of(5)]
    server.hold.set()
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)


def test_a_killed_download_leaves_nothing_that_counts(server, mirror, tmp_path):
    server.hold = threading.Event()
    process = subprocess.Popen(
        command(tmp_path, "--mirror", server.url),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert server.reached.wait(60)
    second = one_line(download(tmp_path, "--mirror", server.url), 2)
    assert "another download into this folder is running" in second
    process.kill()
    process.wait()
    partial = tmp_path / "train" / "data" / f".{name_of(1)}.unknown-1-1.partial"
    partial.write_bytes(b"left by a machine that is gone")
    os.utime(str(partial), (1, 1))
    server.hold.set()
    assert download(tmp_path, "--mirror", server.url).returncode == 0
    assert_whole(tmp_path, mirror)


def test_small_subsets(server, mirror, tmp_path):
    done = download(
        tmp_path / "a", "--mirror", server.url, "--max-samples", "2", "--splits", "train"
    )
    assert done.returncode == 0 and not (tmp_path / "a" / "validation").exists()
    assert_whole(tmp_path / "a", mirror, {"train": [1, 2]})
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            str(tmp_path / "b"),
            "--mirror",
            server.url,
            "--splits",
            "validation",
            "--classes",
            "Banana",
        ],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(str(tmp_path / "b" / "validation" / "data")) == [name_of(22)]
    assert (
        download(
            tmp_path / "a",
            "--mirror",
            server.url,
            "--max-samples",
            "5",
            "--splits",
            "train",
            "--overwrite",
        ).returncode
        == 0
    )
    assert_whole(tmp_path / "a", mirror, {"train": range(1, 6)})
    assert "class Aple: no label" in one_line(
        subprocess.run(
            [
                sys.executable,
                str(SCRIPT),
                str(tmp_path / "c"),
                "--classes",
                "Aple",
                "--mirror",
                server.url,
            ],
            env=environment(),
            capture_output=True,
            text=True,
        ),
        2,
    )


def test_from_a_folder(mirror, tmp_path):
    assert download(tmp_path / "a", "--from-folder", mirror).returncode == 0
    assert_whole(tmp_path / "a", mirror)
    copy = tmp_path / "flat"
    for split in IMAGES:
        (copy / split).mkdir(parents=True)
        (copy / split / "data").symlink_to(mirror / split)
        (copy / os.path.basename(BOXES[split])).write_bytes((mirror / BOXES[split]).read_bytes())
    done = download(tmp_path / "b", "--from-folder", copy)
    assert "has no v5/class-descriptions-boxable.csv" in one_line(done, 2)
    (copy / "class-descriptions-boxable.csv").write_text(CLASSES)
    assert download(tmp_path / "b", "--from-folder", copy).returncode == 0
    assert_whole(tmp_path / "b", mirror)
    assert "no such folder" in one_line(
        download(tmp_path / "c", "--from-folder", tmp_path / "none"), 2
    )


def test_the_disc_is_too_small(mirror, tmp_path, monkeypatch, capsys):
    script = load_script()
    monkeypatch.setattr(
        openimages_fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})
    )
    arguments = [str(tmp_path), "--from-folder", str(mirror)]
    assert script.main(arguments) == 2
    output = capsys.readouterr()
    assert (
        "at most 1170301 images of train, 24781 images of validation" in output.out
        and "358.5 GB" in output.out
    )
    assert (
        "too little space: about 358.5 GB are needed, 1.0 GB are free (--ignore-space" in output.err
    )
    assert not (tmp_path / "train").exists(), "before anything is fetched"
    assert script.main([*arguments, "--classes", "Apple", "Banana"]) == 0, "eleven images fit"
    monkeypatch.setattr(
        openimages_fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**4})
    )
    arguments[0] = str(tmp_path / "other")
    assert script.main([*arguments, "--classes", "Apple"]) == 2
    assert "too little space: about 1.8 MB" in capsys.readouterr().err
    assert script.main([*arguments, "--classes", "Apple", "--ignore-space"]) == 0


def load_script():
    import importlib.util

    spec = importlib.util.spec_from_file_location("download_openimages", str(SCRIPT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--mirror", "ftp://a"], "--mirror ftp://a: not an http"),
        (["--mirror", "x"], "not an http"),
        (["--mirror", "http://a:b"], "not an http"),
        (["--jobs", "0"], "not a whole number from 1"),
        (["--max-samples", "-1"], "not a whole number"),
        (["--backoff", "nan"], "no number of seconds"),
        (["--splits", "test"], "invalid choice"),
        (["--class", "Apple"], "unrecognized arguments"),
        (["--mirror", "http://a", "--from-folder", "b"], "not allowed with"),
    ],
)
def test_flags_that_are_refused(tmp_path, arguments, words):
    done = download(tmp_path / "data", *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "train").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be created or written" in one_line(download(tmp_path / "file" / "x"), 2)


def test_published_md5():
    digest = hashlib.md5(b"x").digest()
    google = {"x-goog-hash": "crc32c=AA==,md5=" + base64.b64encode(digest).decode()}
    amazon = {"etag": f'"{digest.hex()}"', "x-amz-request-id": "1"}
    assert web.published_md5(google) == web.published_md5(amazon) == digest
    for headers in (
        {},
        {"etag": amazon["etag"]},
        dict(amazon, etag='"abc-3"'),
        {"x-goog-hash": "md5=?"},
        dict(amazon, **{"x-amz-server-side-encryption-aws-kms-key-id": "k"}),
    ):
        assert web.published_md5(headers) is None


def test_through_a_proxy(server, mirror, tmp_path):
    """The environment's proxy is asked for whole addresses."""
    values = environment()
    values.pop("no_proxy")
    done = subprocess.run(
        command(
            tmp_path,
            "--mirror",
            "http://example.invalid",
            "--splits",
            "validation",
            "--retries",
            "0",
        ),
        env=dict(values, http_proxy=server.url),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "404 Not Found" in one_line(done, 2)
    assert server.requests[0][0] == "http://example.invalid/" + openimages_download.CLASSES


def test_whole_images(tmp_path):
    from PIL import Image

    path = tmp_path / "a.jpg"
    save_jpeg(path, 60, 50)
    whole = path.read_bytes()
    assert openimages_download.is_intact_image(str(path))
    path.write_bytes(whole + bytes(3000))
    assert openimages_download.is_intact_image(str(path)), "what a camera appended"
    for cut in (0, 1, 4, 300, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:cut])
        assert not openimages_download.is_intact_image(str(path)), cut
    Image.new("RGB", (4, 4)).save(str(path), "PNG")
    assert openimages_download.is_intact_image(str(path))
    assert not openimages_download.is_intact_image(str(tmp_path / "none.jpg"))
