"""Reading files from web servers: persistent connections, proxies, retries with pauses, checks of
the content."""

from __future__ import annotations

import base64
import hashlib
import http.client
import random
import re
import socket
import ssl
import threading
import urllib.parse
import urllib.request
from typing import Dict, NamedTuple, Optional

from ssd.errors import UserError

TIMEOUT = 60  # seconds without a byte
_AGENT = "openimages-download/1.0"
_REDIRECTS, _AGAIN = (301, 302, 303, 307, 308), (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE = 60.0  # seconds


class Missing(Exception):
    """The server does not have the file: 403 (from a store that does not allow listing), 404,
    410."""


class Failed(Exception):
    """The file could not be downloaded, and trying again may help."""


class RangeRefused(Failed):
    """The server has no bytes at that offset."""


class Busy(Failed):
    """The server asks to wait. pause: how long, in seconds, 0 if not given."""

    def __init__(self, message: str, retry_after: str):
        super().__init__(message)
        self.pause = (
            min(float(retry_after), _LONGEST_PAUSE)
            if re.fullmatch(r"\d{1,9}", retry_after)
            else 0.0
        )


class DownloadStopped(Exception):
    """The download is to end."""


class Reply(NamedTuple):
    """status: 200 or 206; headers in lower case; body: read(n) gives bytes."""

    status: int
    headers: Dict[str, str]
    body: http.client.HTTPResponse


def checked_url(url: str, flag: str) -> str:
    """An http or https address without a slash at its end; UserError for anything else."""
    try:
        parts = urllib.parse.urlsplit(url)
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port or 1)
            and not parts.query
        ):
            return url.rstrip("/")
    except ValueError:
        pass
    raise UserError(f"{flag} {url}: not an http:// or https:// address")


class Client:
    """Connections of one thread, one per server, reused as long as they are open."""

    def __init__(self):
        self._connections: Dict[tuple, http.client.HTTPConnection] = {}

    def close(self) -> None:
        for key in list(self._connections):
            self._drop(key)

    def interrupt(self) -> None:
        """Called from another thread: reads that wait for bytes end with an error."""
        for connection in list(self._connections.values()):
            sock = connection.sock
            if sock is not None:
                try:
                    # SSLSocket's own shutdown would drop its state.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    pass

    def get(self, url: str, first_byte: int = 0) -> Reply:
        """Requests a file, starting at `first_byte`. Missing, Failed; the reply must be read
        completely, or the client closed."""
        for _ in range(6):
            parts = urllib.parse.urlsplit(url)
            key = parts.scheme, parts.netloc
            kept = key in self._connections
            try:
                response = self._ask(key, parts, first_byte)
            except (OSError, http.client.HTTPException) as error:
                self._drop(key)
                if kept and isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    continue  # a server may close an idle connection: reconnect at once
                raise Failed(reason(error)) from None
            headers = {name.lower(): value for name, value in response.getheaders()}
            hashes = response.headers.get_all("x-goog-hash")  # one per line, or all in one
            if hashes:
                headers["x-goog-hash"] = ",".join(hashes)
            if response.status in (200, 206):
                return Reply(response.status, headers, response)
            self._drop(key)
            message = f"{response.status} {response.reason}"
            if response.status in _REDIRECTS and "location" in headers:
                url = urllib.parse.urljoin(url, headers["location"])
                if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                    raise Failed(f"{message} to {url}")
                continue
            if response.status == 416:
                raise RangeRefused(message)
            if response.status in (403, 404, 410):
                raise Missing(message)
            raise (
                Busy(message, headers.get("retry-after", ""))
                if response.status in _AGAIN
                else Failed(message)
            )
        raise Failed("too many redirections, or connections closed")

    def _ask(self, key, parts, first_byte):
        if key not in self._connections:
            self._connections[key] = _connect(*key, parts.hostname)
        connection = self._connections[key]
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        if getattr(connection, "by_proxy", False):
            target = urllib.parse.urlunsplit((*key, target, "", ""))
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if first_byte:
            headers["Range"] = f"bytes={first_byte}-"
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def _drop(self, key) -> None:
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.close()


def _connect(scheme: str, netloc: str, host: str) -> http.client.HTTPConnection:
    """A connection, through the proxy of the environment (https_proxy, no_proxy and so on)."""
    make = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    proxy = urllib.request.getproxies().get(scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return make(netloc, timeout=TIMEOUT)
    parts = urllib.parse.urlsplit(proxy if "//" in proxy else "//" + proxy)
    connection = make(parts.hostname, parts.port or 8080, timeout=TIMEOUT)
    headers = {}
    if parts.username:
        pair = ":".join(
            urllib.parse.unquote(part or "") for part in (parts.username, parts.password)
        )
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if scheme == "https":
        connection.set_tunnel(host, urllib.parse.urlsplit("//" + netloc).port or 443, headers)
    else:
        connection.by_proxy = True
    return connection


def reason(error: BaseException) -> str:
    """A network error in one line."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection broke after {len(error.partial)} bytes"
    if isinstance(error, socket.timeout):
        return f"no answer for {TIMEOUT} seconds"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason}"
    message = getattr(error, "strerror", None) or str(error)
    return " ".join(message.split()) or type(error).__name__


def published_md5(headers: Dict[str, str]) -> Optional[bytes]:
    """The MD5 that Google's or Amazon's store publishes for a file (Amazon's is the ETag, unless
    the file was uploaded in parts); else None."""
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "md5":
            try:
                return base64.b64decode(value, validate=True)
            except ValueError:
                return None
    etag = headers.get("etag", "").strip('"')
    if (
        "x-amz-request-id" in headers
        and "x-amz-server-side-encryption-aws-kms-key-id" not in headers
        and re.fullmatch("[0-9a-f]{32}", etag)
    ):
        return bytes.fromhex(etag)
    return None


def checked_body(reply: Reply) -> bytes:
    """The content of a reply; Failed if its length or its MD5 are not those of the headers."""
    try:
        content = reply.body.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(reason(error)) from None
    length = reply.headers.get("content-length", "")
    if length.isdigit() and len(content) != int(length):
        raise Failed(f"{len(content)} bytes instead of {length}")
    wanted = published_md5(reply.headers)
    if wanted is not None and hashlib.md5(content).digest() != wanted:
        raise Failed("its MD5 is not the server's")
    return content


def repeated(action, retries: int, backoff: float, stop: threading.Event):
    """action(), repeated after each Failed, up to `retries` times, with pauses that double from
    `backoff` seconds.

    The last Failed is raised; DownloadStopped if `stop` is set meanwhile.
    """
    for attempt in range(retries + 1):
        try:
            return action()
        except Failed as error:
            if stop.is_set():
                raise DownloadStopped from None
            if attempt == retries:
                raise
            # Random, so that the threads do not all retry at once.
            pause = min(backoff * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1)
            if stop.wait(max(pause, getattr(error, "pause", 0.0))):
                raise DownloadStopped from None
