"""Files of Open Images, from the web or a folder, each stored completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import threading
from typing import Optional

from ssd.datasets import web
from ssd.datasets.image_checks import inspect_image
from ssd.errors import UserError
from ssd.files import cannot_write, discard, temporary_path

CSV_URL = "https://storage.googleapis.com/openimages"
IMAGE_URL = "https://open-images-dataset.s3.amazonaws.com"
BOXES = {
    "train": "v6/oidv6-train-annotations-bbox.csv",
    "validation": "v5/validation-annotations-bbox.csv",
}
CLASSES = "v5/class-descriptions-boxable.csv"
_PIECE = 1 << 20  # bytes


class WebStore:
    """Open Images' own servers, or a mirror with the same paths: v6/..., v5/..., train/ID.jpg,
    validation/ID.jpg."""

    def __init__(self, csv_url: str, image_url: str, retries: int, backoff: float, report):
        self._csv_url, self._image_url, self._retries, self._backoff = (
            csv_url,
            image_url,
            retries,
            backoff,
        )
        self._report, self.stopped, self._clients = report, threading.Event(), []

    def stop(self) -> None:
        """Ends the transfers in progress, from another thread."""
        self.stopped.set()
        for client in self._clients:
            client.interrupt()

    def _client(self) -> web.Client:
        self._clients.append(web.Client())
        return self._clients[-1]

    def fetch_csv(self, name: str, target: str) -> None:
        """Downloads a CSV file, continuing from the TARGET.part of an earlier attempt.
        UserError."""
        url, client = f"{self._csv_url}/{name}", self._client()
        part = target + ".part"
        try:
            web.repeated(
                lambda: self._fetch_part(client, url, part),
                self._retries,
                self._backoff,
                self.stopped,
            )
        except (web.Missing, web.Failed) as error:
            raise UserError(f"{url}: {error}") from None
        except web.DownloadStopped:
            raise KeyboardInterrupt from None
        finally:
            client.close()
        os.replace(part, target)

    def _fetch_part(self, client, url: str, part: str) -> None:
        have = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            reply = client.get(url, have)
        except web.RangeRefused:  # TARGET.part is complete or too long; without a sum, unknown
            discard(part)
            raise
        if reply.status == 200:
            have = 0  # the server sends the file from its start
        length = reply.headers.get("content-length", "")
        size = have + int(length) if length.isdigit() else None
        free = shutil.disk_usage(os.path.dirname(part)).free
        if size is not None and size - have > free:
            client.close()
            raise UserError(
                f"{part}: too little space: {size - have} bytes are missing, {free} are free"
            )
        self._report(f"{url}: {'' if size is None else f'{size / 1e6:.1f} MB, '}from byte {have}")
        try:
            with open(part, "ab" if have else "wb") as file:
                while True:
                    piece = reply.body.read(_PIECE)
                    if not piece:
                        break
                    file.write(piece)
        except http.client.HTTPException as error:
            client.close()
            raise web.Failed(web.reason(error)) from None
        except OSError as error:
            client.close()
            if error.filename is not None or (
                not isinstance(error, ConnectionError) and error.errno in _DISC
            ):
                raise cannot_write(part, part, error) from None
            raise web.Failed(web.reason(error)) from None
        found = os.path.getsize(part)
        if size is not None and found < size:  # the connection broke: keep what has arrived
            client.close()
            raise web.Failed(f"the connection broke after {found} of {size} bytes")
        wanted = web.published_md5(reply.headers)
        if (wanted is not None and _md5(part) != wanted) or (size is not None and found > size):
            discard(part)  # start over
            raise web.Failed("its MD5 is not the server's")

    def image_fetcher(self, split: str, folder: str):
        """A function for one thread: downloads ID.jpg of a split to `folder`. Missing, Failed,
        DownloadStopped."""
        client = self._client()

        def fetch(name: str) -> int:
            url, target = f"{self._image_url}/{split}/{name}", os.path.join(folder, name)

            def once():
                try:
                    content = web.checked_body(client.get(url))
                except web.Failed:
                    client.close()
                    raise
                with _renamed_when_complete(target) as partial, open(partial, "wb") as file:
                    file.write(content)
                    file.flush()
                    if not is_intact_image(partial):
                        raise web.Failed(f"{len(content)} bytes that are no intact image")
                return len(content)

            return web.repeated(once, self._retries, self._backoff, self.stopped)

        return fetch


class FolderStore:
    """A folder with the files of the servers: each under its path on the server or under its name;
    images at SPLIT/ID.jpg or SPLIT/data/ID.jpg. They are hard-linked if possible, else copied."""

    def __init__(self, folder: str):
        if not os.path.isdir(folder):
            raise UserError(f"--from-folder {folder}: no such folder")
        self._folder, self.stopped = folder, threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def fetch_csv(self, name: str, target: str) -> None:
        source = self._find(name, os.path.basename(name))
        if source is None:
            raise UserError(f"--from-folder {self._folder}: has no {name}")
        try:
            self._put(source, target)
        except OSError as error:
            raise cannot_write(target, target, error) from None

    def image_fetcher(self, split: str, folder: str):
        def fetch(name: str) -> int:
            source = self._find(f"{split}/{name}", f"{split}/data/{name}")
            if source is None:
                raise web.Missing("no such file")
            if not is_intact_image(source):
                raise web.Failed("not an intact image")
            self._put(source, os.path.join(folder, name))
            return os.path.getsize(source)

        return fetch

    def _find(self, *names: str) -> Optional[str]:
        paths = [os.path.join(self._folder, name) for name in names]
        return next((path for path in paths if os.path.isfile(path)), None)

    def _put(self, source: str, target: str) -> None:
        with _renamed_when_complete(target) as partial:
            try:
                os.link(os.path.realpath(source), partial)
            except OSError:
                shutil.copyfile(source, partial)


@contextlib.contextmanager
def _renamed_when_complete(target: str):
    """The temporary path of a file that is renamed to `target` at the end, and removed after an
    exception.

    It is not synced to the disc, as there are a million of them; after a power cut is_intact_image
    finds the damaged ones.
    """
    partial = temporary_path(target)
    discard(partial)
    try:
        yield partial
        os.replace(partial, target)
    finally:
        discard(partial)


# errno of a disc, not of a network: no space, over quota, read-only, input/output error, file too
# large.
_DISC = (28, 122, 30, 5, 27)


def _md5(path: str) -> bytes:
    digest = hashlib.md5()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(_PIECE), b""):
            digest.update(piece)
    return digest.digest()


def is_intact_image(path: str) -> bool:
    """Whether a file exists and is a complete image. It takes a few microseconds for a JPEG that
    ends with its end marker; other JPEGs, as some cameras append data, and other formats are
    decoded."""
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\xff\xd8" and file.seek(0, os.SEEK_END) > 4:
                file.seek(-2, os.SEEK_END)
                if file.read() == b"\xff\xd9":
                    return True
    except OSError:
        return False
    return inspect_image(path, "decode").problem is None
