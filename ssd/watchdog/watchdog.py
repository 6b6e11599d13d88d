"""Ends all ranks of a run when one fails, and reports which one, why, and where it was: a side
channel beside Horovod.

Horovod waits forever for a rank that hangs, and when a rank dies the others' errors bury the cause.
Here every rank has a thread that exchanges heartbeats with rank 0 over TCP. Rank 0 decides; the
ranks' threads then end their processes, since their main threads may sit in a collective that never
returns, and exactly one prints the reason.

    how a rank fails                                 noticed after
    an exception (`failed`), sys.exit                at once
    killed, crashed, os._exit                        at once: its connection closes
    stopped (SIGSTOP), frozen, its node lost         `timeout`
    its main thread hangs, the others wait for it    `stall`

At most END_SECONDS seconds and two heartbeats later every process is gone. Only SIGKILL ends a
stopped process. Any rank on its machine sends it; if there is none, the launcher has to end it
(horovodrun, mpirun and srun --kill-on-bad-exit do, once another rank is gone).

The launcher sends SIGTERM to the others as soon as one rank is gone. The training must survive it
until the watchdog has printed its report (a Python handler is enough).
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from typing import Callable, Dict, Optional

from ssd.watchdog.end import STATUS_RANK_FAILED, end_process
from ssd.watchdog.messages import (
    PATIENCE,
    Member,
    Process,
    accept,
    connect,
    kill,
    listen,
    this_process,
    wait_for,
)

_REPORT_WAIT = 6.0  # seconds for which an error is held back for the failure report
_LONGEST_ERROR = 1000  # characters of an error in the failure report


class Watchdog:
    """Created by all ranks together. Call `note` throughout the run, and `failed` or `close` at the
    end. Does nothing if size is 1.

    exchange: a collective, bytes -> bytes, that gives all ranks rank 0's bytes. timeout: seconds
    without a heartbeat after which a rank counts as stopped; longer than anything that holds
    Python's lock. stall: seconds (default 10 * timeout) without a note after which a rank counts as
    hanging when the others wait for it, so `note` more often than that. on_stop(cause): called in a
    thread of its own on every rank that is about to be ended; it has END_SECONDS seconds and should
    take a tenth. connect_limit: seconds in which the ranks have to find each other. name: the start
    of the failure report.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        exchange: Callable[[bytes], bytes],
        timeout: float,
        on_stop: Optional[Callable[[str], None]] = None,
        stall: Optional[float] = None,
        connect_limit: float = 5.0,
        name: str = "python -m ssd train",
    ):
        assert 0 <= rank < size and 0 < timeout <= (stall or timeout)
        self.rank, self.size, self.name = rank, size, name
        self._timeout, self.stall, self._on_stop = timeout, stall or 10 * timeout, on_stop
        self._interval = min(1.0, timeout / 10)
        self._note = ("start", 0, False)
        self._notes = 0
        self._error = None  # by which the main thread ends ("": it leaves early), else None
        self._collective_failed = False  # on some rank
        self._closing, self._closed = False, threading.Event()
        self._members: Dict[int, Member] = {}
        self._backup_reporter = -1  # the rank that prints if rank 0 is gone
        if size > 1:
            self._connect_ranks(exchange, connect_limit)
        if self._members:
            self._selector = selectors.DefaultSelector()
            self._waker, wakeup = socket.socketpair()
            wakeup.setblocking(False)
            self._selector.register(wakeup, selectors.EVENT_READ)
            atexit.register(self._at_exit)
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    # ---- called by the main thread

    def note(self, phase: str, step: int, waiting: bool = False) -> None:
        """Notes that the main thread begins `phase` of `step`. waiting: it is about to wait for the
        other ranks."""
        self._note = (phase, step, waiting)
        self._notes += 1

    @property
    def phase(self) -> str:
        """The phase noted last."""
        return self._note[0]

    def failed(self, error_text: str) -> None:
        """This rank fails with an error (whose traceback has been printed): ends all ranks, this
        process included.

        Call it before anything that makes the other ranks' collectives fail. Returns, after some
        seconds, only if the watchdog cannot end the process.
        """
        self._fail(" ".join(error_text.split())[:_LONGEST_ERROR] or "an error")

    def await_failure_report(self) -> None:
        """A collective failed here, most likely because another rank ended: waits for the report
        that names that rank and ends this process.

        A rank that is silent already now gets less than `timeout`: Gloo gives up on a stopped one
        after 30 s. Returns after some seconds if no other rank turns out to be at fault; the error
        is then this rank's own.
        """
        if self._watched():
            self._collective_failed = True
            self._wake()
            self._closed.wait(_REPORT_WAIT)

    def close(self) -> None:
        """Says goodbye, and waits until all ranks have. A rank that ends without it has failed."""
        if self._watched():
            self._note = ("closing", self._note[1], True)
            self._closing = True
            self._wake()
            self._closed.wait()
            atexit.unregister(self._at_exit)

    def _watched(self) -> bool:
        return bool(self._members) and not self._closed.is_set()

    def _fail(self, error: str) -> None:
        if self._watched() and self._error is None:
            self._error = error
            self._wake()
            self._closed.wait(_REPORT_WAIT)

    def _at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # set where the interpreter ends with a traceback
        if error is not None:
            self.failed(f"{type(error).__name__}: {error}")
        else:
            self._fail("")

    def _wake(self) -> None:
        self._waker.send(b".")

    # ---- connecting

    def _connect_ranks(self, exchange, limit: float) -> None:
        me = this_process()
        if self.rank == 0:
            listener, offer = listen(me)
            with listener:
                exchange(offer)
                joined = accept(listener, json.loads(offer), list(range(1, self.size)), limit + 1)
            self._members = {
                rank: Member(process, channel)
                for rank, (channel, process) in sorted(joined.items())
            }
            elsewhere = [
                rank for rank, member in self._members.items() if member.process.host != me.host
            ]
            # Preferably on another node than rank 0's, which may be lost.
            self._backup_reporter = min(elsewhere or self._members, default=-1)
            for member in self._members.values():
                member.channel.send(dict(backup_reporter=self._backup_reporter))
        else:
            offer = json.loads(exchange(b""))
            channel, problem = connect(offer, self.rank, me, limit)
            begin = wait_for(channel, "backup_reporter", PATIENCE) if channel else None
            if begin is None:
                first = Process(*offer["process"])
                sys.stderr.write(
                    f"warning: rank {self.rank} is not watched: no connection to rank 0 (host "
                    f"{first.host}, port {offer['port']}): {problem or 'it does not answer'}; if "
                    "this rank fails, only Horovod's own timeouts end the others\n"
                )
                sys.stderr.flush()
                return
            self._backup_reporter = begin["backup_reporter"]
            self._members = {0: Member(Process(*offer["process"]), channel)}
        if self._members:
            self._members[self.rank] = Member(me)

    # ---- the watchdog's thread

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException:  # a bug of ours: end this process, and the others notice
            traceback.print_exc()
            os._exit(STATUS_RANK_FAILED)

    def _peers(self) -> Dict[int, Member]:
        return {
            rank: member for rank, member in self._members.items() if member.channel is not None
        }

    def _watch(self) -> None:
        me, peers = self._members[self.rank], self._peers()
        for rank, member in peers.items():
            self._selector.register(member.channel, selectors.EVENT_READ, rank)
            self._receive(rank)
        last = next_beat = time.monotonic()
        sent_error = sent_collective_failed = said_goodbye = False
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._interval):
                if key.data is None:
                    key.fileobj.recv(4096)
                else:
                    self._receive(key.data)
            now = time.monotonic()
            if now - last > 3 * self._interval:
                # This process was stopped itself: its clock proves nothing about the others.
                lost = now - last - self._interval
                for member in self._members.values():
                    member.last_message = min(now, member.last_message + lost)
                    member.last_progress = min(now, member.last_progress + lost)
            last = now
            me.update([*self._note, self._notes])
            me.last_message = now
            if now >= next_beat:
                next_beat = now + self._interval
                for member in peers.values():
                    member.channel.send(dict(beat=[me.phase, me.step, me.waiting, me.notes]))
            if self._error is not None and self.rank == 0:
                self._declare_failed(self.rank, self._failure(self._error, me))
            elif self._error is not None and not sent_error:
                sent_error = True
                peers[0].channel.send(
                    dict(error=self._error, beat=[me.phase, me.step, me.waiting, me.notes])
                )
            if self._collective_failed and not sent_collective_failed and self.rank > 0:
                sent_collective_failed = True
                peers[0].channel.send(dict(collective_failed=True))
            if self._closing and not said_goodbye:
                said_goodbye = me.goodbye = True
                if self.rank > 0:
                    peers[0].channel.send(dict(goodbye=True))
            self._check_members(now)

    def _receive(self, rank: int) -> None:
        member = self._members[rank]
        for message in member.channel.receive():
            member.last_message = time.monotonic()
            if "beat" in message:
                member.update(message["beat"])
            if "error" in message:
                self._declare_failed(rank, self._failure(message["error"], member))
            if "collective_failed" in message:
                self._collective_failed = True
            if "goodbye" in message:
                member.goodbye = True
            if "done" in message:
                self._finish()
                return
            if "stop" in message:
                self._end(
                    message["stop"],
                    Process(*message["kill"]) if message["kill"] else None,
                    prints=False,
                )
        if not member.channel.open:
            self._declare_failed(
                rank, f"is gone (killed, crashed, or left early): {self._last_seen(member)}"
            )

    @staticmethod
    def _failure(error: str, member: Member) -> str:
        return (
            f"failed at {member.position()}: {error}"
            if error
            else f"left early, at {member.position()}"
        )

    def _last_seen(self, member: Member) -> str:
        # Its last heartbeat may be some steps old. This rank is within one step of it.
        return f"last seen at {member.position()}, rank {self.rank} is at step {self._note[1]}"

    def _check_members(self, now: float) -> None:
        patience = (
            min(self._timeout, _REPORT_WAIT / 2) if self._collective_failed else self._timeout
        )
        for rank, member in self._peers().items():
            silent = now - member.last_message
            if silent > patience:
                self._declare_failed(
                    rank,
                    f"does not answer for {silent:.1f} s (stopped, frozen, or its node is lost): "
                    f"{self._last_seen(member)}",
                    member.process,
                )
        if self.rank > 0:
            return
        if any(now - member.last_message > 3 * self._interval for member in self._peers().values()):
            return  # only `timeout` decides about a silent rank
        if all(member.goodbye for member in self._members.values()):
            for member in self._peers().values():
                member.channel.send(dict(done=True))
            self._finish()
            return
        busy = {
            rank: member
            for rank, member in self._members.items()
            if not (member.waiting or member.goodbye)
        }
        suspects = busy or {
            rank: member for rank, member in self._members.items() if not member.goodbye
        }
        if all(now - member.last_progress > self.stall for member in suspects.values()):
            rank = min(suspects, key=lambda rank: suspects[rank].last_progress)
            what = "hangs" if busy else "waits in a collective that does not end"
            others = f" (so do {len(suspects) - 1} others)" if len(suspects) > 1 else ""
            self._declare_failed(
                rank,
                f"{what}{others}: no progress for {self.stall:g} s at {suspects[rank].position()}",
            )

    def _finish(self) -> None:
        self._closed.set()
        for member in self._peers().values():
            member.channel.close()

    # ---- ending the run

    def _declare_failed(self, rank: int, what: str, to_kill: Optional[Process] = None) -> None:
        """Ends the run because of a rank: any, if called on rank 0; else rank 0. to_kill: a process
        to be killed."""
        process = self._members[rank].process
        cause = f"rank {rank} of {self.size} (host {process.host}, process {process.pid}) {what}"
        if self.rank == 0:
            for member in self._peers().values():
                member.channel.send(dict(stop=cause, kill=to_kill))
        elif to_kill is not None:
            # Rank 0 is silent: let all ranks see that before they see it killed.
            time.sleep(2 * self._interval)
        self._end(cause, to_kill, prints=self.rank in (0, self._backup_reporter))

    def _end(self, cause: str, to_kill: Optional[Process], prints: bool) -> None:
        if to_kill is not None:
            kill(to_kill)
        end_process(
            cause,
            self._on_stop,
            f"{self.name}: stopped: {cause}" if prints else None,
            [member.channel for member in self._peers().values()],
        )
