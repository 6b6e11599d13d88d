"""How watchdogs communicate: JSON lines over TCP, who may join, and what is known about a rank."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

_LONGEST_LINE = 8192  # bytes of one message; the most an unverified connection can make us keep
# Bytes kept for a peer that does not read. Beyond that, messages are dropped: it is stopped anyway.
_LONGEST_QUEUE = 65536
_MOST_UNVERIFIED = 256  # connections that have not shown the token yet
_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
PATIENCE = 30.0  # seconds for an answer over an open connection: the other end may be busy


class Process(NamedTuple):
    """One process of the run. The fields together are unique, even after its PID is reused."""

    host: str  # for people
    machine: str  # boot and process namespace, in which `pid` is valid
    network: str  # boot and network namespace, in which loopback addresses reach it
    pid: int
    start: str  # when it started [clock ticks since the boot]


def this_process() -> Process:
    # An unknown boot is equal to no other.
    boot = _read("/proc/sys/kernel/random/boot_id").strip() or secrets.token_hex(8)
    return Process(
        socket.gethostname(),
        boot + _link("pid"),
        boot + _link("net"),
        os.getpid(),
        _start_time(os.getpid()),
    )


def kill(process: Process) -> bool:
    """Sends SIGKILL to `process` if it is on this machine and still the same process. Nothing else
    ends a stopped one. Returns whether it was sent."""
    here = this_process()
    if (
        process.machine != here.machine
        or process.pid == here.pid
        or _start_time(process.pid) != process.start
        or not process.start
    ):
        return False
    try:
        os.kill(process.pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def _start_time(pid: int) -> str:
    # Field 22 of proc(5). The name in field 2 may hold blanks and brackets.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _link(namespace: str) -> str:
    try:
        return " " + os.readlink(f"/proc/self/ns/{namespace}")
    except OSError:
        return ""


class Channel:
    """Messages (dicts) over a connected socket; neither end ever blocks."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._received = self._queue = b""
        self.unread: List[dict] = []  # received, and put back by `wait_for`
        self.open = True

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict) -> None:
        """Sends what the connection takes now, the rest with the next message. `receive` notices a
        broken connection."""
        if len(self._queue) < _LONGEST_QUEUE:
            self._queue += json.dumps(message).encode() + b"\n"
        try:
            self._queue = self._queue[self.connection.send(self._queue) :]
        except BlockingIOError:
            pass
        except OSError:
            self._queue = b""

    def receive(self) -> List[dict]:
        """The messages that have arrived. Sets `open` to False when the other end is gone or sends
        something invalid."""
        messages, self.unread = self.unread, []
        try:
            arrived = self.connection.recv(65536)
        except BlockingIOError:
            return messages
        except OSError:
            arrived = b""
        if not arrived:
            self.open = False
            return messages
        *lines, self._received = (self._received + arrived).split(b"\n")
        try:
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError
                messages.append(message)
        except (ValueError, RecursionError):
            self.open = False
        if len(self._received) > _LONGEST_LINE:
            self.open = False
        return messages

    def close(self) -> None:
        self.open = False
        self.connection.close()


class Member:
    """What is known about a rank, including this one."""

    def __init__(self, process: Process, channel: Optional[Channel] = None):
        self.process, self.channel = process, channel
        self.last_message = self.last_progress = time.monotonic()  # progress: a new note
        self.phase, self.step, self.waiting, self.notes = "start", 0, False, 0
        self.goodbye = False

    def position(self) -> str:
        return f"step {self.step} ({self.phase})"

    def update(self, beat: list) -> None:
        phase, step, waiting, notes = beat
        if notes != self.notes:
            self.last_progress = time.monotonic()
        self.phase, self.step, self.waiting, self.notes = phase, step, waiting, notes


def listen(process: Process) -> Tuple[socket.socket, bytes]:
    """A listening socket, and the offer that lets the other ranks find it: addresses, port and
    secrets."""
    # IPv4, as in Horovod's own exchange.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("", 0))
    listener.listen(1024)
    listener.setblocking(False)
    return listener, json.dumps(
        dict(
            addresses=addresses(),
            port=listener.getsockname()[1],
            process=list(process),
            token=secrets.token_hex(16),
            answer=secrets.token_hex(16),
        )
    ).encode()


def addresses() -> List[str]:
    """This host's IPv4 addresses without loopback; those that its name resolves to come first."""
    found = []
    try:
        found += [
            entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        ]
    except OSError:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
            except OSError:
                pass  # an interface without an IPv4 address
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")]


def accept(
    listener: socket.socket, offer: dict, ranks: List[int], limit: float
) -> Dict[int, Tuple[Channel, Process]]:
    """On rank 0: waits up to `limit` s for `ranks` to connect, and drops connections that do not
    show the token. Closes the listener."""
    joined: Dict[int, Tuple[Channel, Process]] = {}
    unverified: List[Channel] = []
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector, listener:
        selector.register(listener, selectors.EVENT_READ)
        while len(joined) < len(ranks) and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                if key.fileobj is listener:
                    try:
                        unverified.append(Channel(listener.accept()[0]))
                    except OSError:
                        continue  # already closed
                    selector.register(unverified[-1], selectors.EVENT_READ)
                    channel, hello = unverified[0], None
                    if len(unverified) <= _MOST_UNVERIFIED:
                        continue
                else:
                    channel = key.fileobj
                    if channel not in unverified:
                        continue  # just dropped in favour of a newer one
                    messages = channel.receive()
                    if not messages and channel.open:
                        continue
                    hello = _check_hello(messages, offer["token"], set(ranks) - set(joined))
                selector.unregister(channel)
                unverified.remove(channel)
                if hello is None:
                    channel.close()
                else:
                    joined[hello[0]] = channel, hello[1]
                    channel.send(dict(answer=offer["answer"]))
    for channel in unverified:
        channel.close()
    return joined


def _same(given, secret: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(errors="replace"), secret.encode()
    )


def _check_hello(messages: List[dict], token: str, missing) -> Optional[Tuple[int, Process]]:
    """(rank, process) from a well-formed first message with the token, else None."""
    if not messages or not _same(messages[0].get("token"), token):
        return None
    rank, process = messages[0].get("rank"), messages[0].get("process")
    return (
        (rank, Process(*process))
        if rank in missing and len(process) == len(Process._fields)
        else None
    )


def connect(
    offer: dict, rank: int, process: Process, limit: float
) -> Tuple[Optional[Channel], str]:
    """On another rank: a channel to rank 0 through the first address that answers with the secret,
    or None and the reason.

    limit: seconds for connecting to all addresses; an open connection gets PATIENCE on top.
    """
    deadline = time.monotonic() + limit
    first = Process(*offer["process"])
    candidates = ["127.0.0.1"] if first.network == process.network else []
    candidates += offer["addresses"]
    problem = "no address"
    for number, address in enumerate(candidates):
        seconds = max(0.1, (deadline - time.monotonic()) / (len(candidates) - number))
        try:
            channel = Channel(socket.create_connection((address, offer["port"]), timeout=seconds))
        except OSError as error:
            problem = f"{address}: {error.strerror or error}"
            continue
        channel.send(dict(token=offer["token"], rank=rank, process=list(process)))
        answer = wait_for(channel, "answer", PATIENCE)
        if answer and _same(answer["answer"], offer["answer"]):
            return channel, ""
        channel.close()
        problem = f"{address}: another program answers there"
    return None, problem


def wait_for(channel: Channel, kind: str, limit: float) -> Optional[dict]:
    """The next message if it has the key `kind` and arrives within `limit` s, else None."""
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            messages = channel.receive()
            if messages:
                channel.unread = messages[1:]
                return messages[0] if kind in messages[0] else None
            left = deadline - time.monotonic()
            if not channel.open or left <= 0:
                return None
            selector.select(left)
