"""Reading files from web servers: connections that are kept, proxies, repetition with pauses,
checks of what came."""

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
    """The server does not have the file: 403 (what a store says that lists nothing), 404, 410."""


class Failed(Exception):
    """The file could not be had, and trying again may help."""


class RangeRefused(Failed):
    """The server has no byte from there on."""


class Busy(Failed):
    """The server asks for patience. pause: how long, in seconds, 0 if it does not say."""

    def __init__(self, words: str, retry_after: str):
        super().__init__(words)
        self.pause = (
            min(float(retry_after), _LONGEST_PAUSE)
            if re.fullmatch(r"\d{1,9}", retry_after)
            else 0.0
        )


class Stopped(Exception):
    """The work is to end."""


class Reply(NamedTuple):
    """status: 200 or 206; headers in lower case; body: read(n) gives bytes."""

    status: int
    headers: Dict[str, str]
    body: http.client.HTTPResponse


def checked_url(url: str, flag: str) -> str:
    """An address without a slash at its end; UserError for none."""
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
    raise UserError(f"{flag} {url}: no http:// or https:// address")


class Client:
    """Connections of one thread, one for each server, used again as long as they hold."""

    def __init__(self):
        self._connections: Dict[tuple, http.client.HTTPConnection] = {}

    def close(self) -> None:
        for key in list(self._connections):
            self._drop(key)

    def interrupt(self) -> None:
        """From another thread: what waits for bytes ends with an error."""
        for connection in list(self._connections.values()):
            sock = connection.sock
            if sock is not None:
                try:
                    socket.socket.shutdown(
                        sock, socket.SHUT_RDWR
                    )  # SSLSocket's own would take its state away
                except OSError:
                    pass

    def get(self, url: str, first_byte: int = 0) -> Reply:
        """Asks for a file from a byte on. Missing, Failed; the reply must be read whole, or the
        client closed."""
        for _ in range(6):
            parts = urllib.parse.urlsplit(url)
            key = parts.scheme, parts.netloc
            kept = key in self._connections
            try:
                response = self._ask(key, parts, first_byte)
            except (OSError, http.client.HTTPException) as error:
                self._drop(key)
                if kept and isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    continue  # a server may close a connection that nobody uses: a new one, at once
                raise Failed(reason(error)) from None
            headers = {name.lower(): value for name, value in response.getheaders()}
            hashes = response.headers.get_all("x-goog-hash")  # one a line, or all in one
            if hashes:
                headers["x-goog-hash"] = ",".join(hashes)
            if response.status in (200, 206):
                return Reply(response.status, headers, response)
            self._drop(key)
            words = f"{response.status} {response.reason}"
            if response.status in _REDIRECTS and "location" in headers:
                url = urllib.parse.urljoin(url, headers["location"])
                if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                    raise Failed(f"{words} to {url}")
                continue
            if response.status == 416:
                raise RangeRefused(words)
            if response.status in (403, 404, 410):
                raise Missing(words)
            raise (
                Busy(words, headers.get("retry-after", ""))
                if response.status in _AGAIN
                else Failed(words)
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
    """A connection, through the proxy that the environment names (https_proxy, no_proxy and so
    on)."""
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
    """An error of the network in one line."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection broke after {len(error.partial)} bytes"
    if isinstance(error, socket.timeout):
        return f"no answer for {TIMEOUT} seconds"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason}"
    words = getattr(error, "strerror", None) or str(error)
    return " ".join(words.split()) or type(error).__name__


def published_md5(headers: Dict[str, str]) -> Optional[bytes]:
    """The MD5 that Google's store says of a file, or Amazon's (its ETag, if it was not put there in
    parts); else None."""
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


def whole_body(reply: Reply) -> bytes:
    """What a reply holds; Failed where it is not as long as it was said to be, or has another
    sum."""
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
    """action(), once more after each Failed, `retries` times, with pauses that double from
    `backoff` seconds.

    The last Failed is raised; Stopped where `stop` is set meanwhile.
    """
    for attempt in range(retries + 1):
        try:
            return action()
        except Failed as error:
            if stop.is_set():
                raise Stopped from None
            if attempt == retries:
                raise
            # Of different length for each thread, so that they do not come back all at once.
            pause = min(backoff * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1)
            if stop.wait(max(pause, getattr(error, "pause", 0.0))):
                raise Stopped from None
