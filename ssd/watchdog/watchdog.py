"""Ends all ranks of a run when one fails, and says which one, of what, and where: a side channel
beside Horovod.

Horovod waits for ever for a rank that hangs, and when a rank dies the others' errors bury the
cause. Here every rank has a thread that exchanges beats with rank 0 over TCP. Rank 0 decides; the
ranks' threads then end their processes, since their main threads may sit in a collective that never
returns, and exactly one prints why.

    how a rank fails                                 noticed after
    an exception (`failed`), sys.exit                at once
    killed, crashed, os._exit                        at once: its connection closes
    stopped (SIGSTOP), frozen, its node lost         `timeout`
    its main thread hangs, the others wait for it    `stall`

Not more than LAST_WORDS seconds and two beats later every process is gone. A stopped process ends
by SIGKILL alone: it comes from any rank on its machine; where it has none, the launcher has to end
it (horovodrun, mpirun and srun --kill-on-bad-exit do, once another rank is gone).

The launcher sends SIGTERM to the others as soon as one rank is gone: the training must not die of
it before the watchdog has spoken (a Python handler is enough).
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

_WAIT_FOR_VERDICT = 6.0  # seconds that an error is held back for a verdict
_LONGEST_ERROR = 1000  # characters of an error in the verdict


class Watchdog:
    """Made by all ranks together; `note` all the time, `failed` or `close` at the end. Nothing at
    all if size is 1.

    exchange: a collective, bytes -> bytes, that gives all ranks what rank 0 put in. timeout:
    seconds without a beat after which a rank counts as stopped; longer than anything that holds
    Python's lock. stall: seconds (default 10 * timeout) without a note after which a rank that the
    others wait for counts as hanging, so a rank has to `note` more often than that. on_stop(cause):
    called in a thread of its own on every rank that is about to be ended; it has LAST_WORDS
    seconds, better a tenth. connect_limit: seconds in which the ranks have to find each other.
    name: what the verdict begins with.
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
        self._timeout, self._stall, self._on_stop = timeout, stall or 10 * timeout, on_stop
        self._interval = min(1.0, timeout / 10)
        self._note = ("start", 0, False)
        self._notes = 0
        self._report = None  # the main thread's last message: what its watchdog is to tell
        self._echo = False  # a collective has failed on some rank
        self._closing, self._closed = False, threading.Event()
        self._members: Dict[int, Member] = {}
        self._heir = -1  # who prints if rank 0 is gone
        if size > 1:
            self._meet(exchange, connect_limit)
        if self._members:
            self._selector = selectors.DefaultSelector()
            self._waker, wakened = socket.socketpair()
            wakened.setblocking(False)
            self._selector.register(wakened, selectors.EVENT_READ)
            atexit.register(self._leaving)
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    # ---- the main thread's side

    def note(self, phase: str, step: int, waiting: bool = False) -> None:
        """The main thread begins `phase` of `step`; waiting: it is about to wait for the other
        ranks."""
        self._note = (phase, step, waiting)
        self._notes += 1

    @property
    def phase(self) -> str:
        """What was noted last."""
        return self._note[0]

    def failed(self, error_text: str) -> None:
        """This rank goes down with an error (its traceback is printed): all ranks are told, and
        this process ends.

        To be called before anything that makes the other ranks' collectives fail. Returns, after
        some seconds, only if the watchdog cannot end the process.
        """
        self._tell(" ".join(error_text.split())[:_LONGEST_ERROR] or "an error")

    def verdict_expected(self, error: BaseException) -> None:
        """A collective failed here with `error`, most likely the echo of another rank's end, which
        is to be named.

        A rank that is silent already is now given less than `timeout`: Gloo gives a stopped one up
        after 30 s. Returns after some seconds if no rank turns out to be at fault; `error` is then
        this rank's own.
        """
        if self._watched():
            self._echo = True
            self._wake()
            self._closed.wait(_WAIT_FOR_VERDICT)

    def close(self) -> None:
        """The farewell: waits until all ranks have said it. A rank that leaves without it has
        failed."""
        if self._watched():
            self._note = ("the end", self._note[1], True)
            self._closing = True
            self._wake()
            self._closed.wait()
            atexit.unregister(self._leaving)

    def _watched(self) -> bool:
        return bool(self._members) and not self._closed.is_set()

    def _tell(self, report: str) -> None:
        if self._watched() and self._report is None:
            self._report = report
            self._wake()
            self._closed.wait(_WAIT_FOR_VERDICT)

    def _leaving(self) -> None:
        error = getattr(sys, "last_value", None)  # set where the interpreter ends with a traceback
        if error is not None:
            self.failed(f"{type(error).__name__}: {error}")
        else:
            self._tell("")

    def _wake(self) -> None:
        self._waker.send(b".")

    # ---- the beginning

    def _meet(self, exchange, limit: float) -> None:
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
            # best on another node than rank 0's, which may be lost
            self._heir = min(elsewhere or self._members, default=-1)
            for member in self._members.values():
                member.channel.send(dict(begin=self._heir))
        else:
            offer = json.loads(exchange(b""))
            channel, problem = connect(offer, self.rank, me, limit)
            begin = wait_for(channel, "begin", PATIENCE) if channel else None
            if begin is None:
                first = Process(*offer["process"])
                sys.stderr.write(
                    f"warning: rank {self.rank} is not watched: no connection to rank 0 (host "
                    f"{first.host}, port {offer['port']}): {problem or 'it does not answer'}; if "
                    "this rank fails, only Horovod's own time-outs end the others\n"
                )
                sys.stderr.flush()
                return
            self._heir = begin["begin"]
            self._members = {0: Member(Process(*offer["process"]), channel)}
        if self._members:
            self._members[self.rank] = Member(me)

    # ---- the watchdog's thread

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException:  # our defect: ends this process, the others see it go
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
        reported = echoed = said_farewell = False
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._interval):
                if key.data is None:
                    key.fileobj.recv(4096)
                else:
                    self._receive(key.data)
            now = time.monotonic()
            if (
                now - last > 3 * self._interval
            ):  # this process was stopped itself: its clock proves nothing on others
                lost = now - last - self._interval
                for member in self._members.values():
                    member.heard, member.moved = (
                        min(now, member.heard + lost),
                        min(now, member.moved + lost),
                    )
            last = now
            me.update([*self._note, self._notes])
            me.heard = now
            if now >= next_beat:
                next_beat = now + self._interval
                for member in peers.values():
                    member.channel.send(dict(beat=[me.phase, me.step, me.waiting, me.notes]))
            if self._report is not None and self.rank == 0:
                self._decide(self.rank, self._failure(self._report, me))
            elif self._report is not None and not reported:
                reported = True
                peers[0].channel.send(
                    dict(report=self._report, beat=[me.phase, me.step, me.waiting, me.notes])
                )
            if self._echo and not echoed and self.rank > 0:
                echoed = True
                peers[0].channel.send(dict(echo=True))
            if self._closing and not said_farewell:
                said_farewell = me.farewell = True
                if self.rank > 0:
                    peers[0].channel.send(dict(farewell=True))
            self._judge(now)

    def _receive(self, rank: int) -> None:
        member = self._members[rank]
        for message in member.channel.receive():
            member.heard = time.monotonic()
            if "beat" in message:
                member.update(message["beat"])
            if "report" in message:
                self._decide(rank, self._failure(message["report"], member))
            if "echo" in message:
                self._echo = True
            if "farewell" in message:
                member.farewell = True
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
            self._decide(
                rank, f"is gone (killed, crashed, or left early): {self._last_seen(member)}"
            )

    @staticmethod
    def _failure(report: str, member: Member) -> str:
        return (
            f"failed at {member.place()}: {report}"
            if report
            else f"left early, at {member.place()}"
        )

    def _last_seen(self, member: Member) -> str:
        # its last beat may be some steps old; this rank is in step with it, give or take one
        return f"last seen at {member.place()}, rank {self.rank} is at step {self._note[1]}"

    def _judge(self, now: float) -> None:
        patience = min(self._timeout, _WAIT_FOR_VERDICT / 2) if self._echo else self._timeout
        for rank, member in self._peers().items():
            silent = now - member.heard
            if silent > patience:
                self._decide(
                    rank,
                    f"does not answer for {silent:.1f} s (stopped, frozen, or its node is lost): "
                    f"{self._last_seen(member)}",
                    member.process,
                )
        if self.rank > 0:
            return
        if any(now - member.heard > 3 * self._interval for member in self._peers().values()):
            return  # a silent rank is judged by `timeout` alone
        if all(member.farewell for member in self._members.values()):
            for member in self._peers().values():
                member.channel.send(dict(done=True))
            self._finish()
            return
        busy = {
            rank: member
            for rank, member in self._members.items()
            if not (member.waiting or member.farewell)
        }
        asked = busy or {
            rank: member for rank, member in self._members.items() if not member.farewell
        }
        if all(now - member.moved > self._stall for member in asked.values()):
            rank = min(asked, key=lambda rank: asked[rank].moved)
            what = "hangs" if busy else "waits in a collective that does not end"
            others = f" (so do {len(asked) - 1} others)" if len(asked) > 1 else ""
            self._decide(
                rank, f"{what}{others}: no progress for {self._stall:g} s at {asked[rank].place()}"
            )

    def _finish(self) -> None:
        self._closed.set()
        for member in self._peers().values():
            member.channel.close()

    # ---- the end

    def _decide(self, rank: int, what: str, doomed: Optional[Process] = None) -> None:
        """Rank 0 on any rank, the others on rank 0: the verdict. doomed: a process that has to be
        killed."""
        process = self._members[rank].process
        cause = f"rank {rank} of {self.size} (host {process.host}, process {process.pid}) {what}"
        if self.rank == 0:
            for member in self._peers().values():
                member.channel.send(dict(stop=cause, kill=doomed))
        elif doomed is not None:
            time.sleep(
                2 * self._interval
            )  # rank 0 is silent: let all see that, before they see it killed
        self._end(cause, doomed, prints=self.rank in (0, self._heir))

    def _end(self, cause: str, doomed: Optional[Process], prints: bool) -> None:
        if doomed is not None:
            kill(doomed)
        end_process(
            cause,
            self._on_stop,
            f"{self.name}: stopped: {cause}" if prints else None,
            [member.channel for member in self._peers().values()],
        )
