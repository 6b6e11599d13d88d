"""Every item once; exceptions and what wakes threads that wait."""

from __future__ import annotations

import threading

import pytest

from ssd.datasets.in_threads import in_threads


def test_every_item_once():
    done, made, counts = [], [], []

    def make():
        made.append(1)
        return done.append

    in_threads(make, 1000, 7, counts.append)
    assert sorted(done) == list(range(1000)) and len(made) == 7 and counts[-1] == 1000
    in_threads(make, 0, 7, counts.append)
    assert counts[-1] == 0 and len(done) == 1000
    in_threads(make, 2)
    assert len(done) == 1002


def test_an_exception_ends_all_and_wakes_those_that_wait():
    """One thread fails while the others wait for what comes only once they are asked to stop, and
    asked again: the first time they may not have begun to wait."""
    calls, gate = [], threading.Event()

    def work(index):
        if index == 2:
            raise KeyError(index)
        gate.wait(60)

    def on_stop():
        calls.append(1)
        if len(calls) == 3:
            gate.set()

    with pytest.raises(KeyError):
        in_threads(lambda: work, 100, 3, None, on_stop)
    assert len(calls) >= 3


def test_a_thread_that_cannot_start():
    def make():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        in_threads(make, 5, 2)
