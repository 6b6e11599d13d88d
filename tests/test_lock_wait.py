"""What counts as waiting for Python's lock: being blocked while another thread holds it, and
neither work nor waiting for a core."""

import ctypes
import sys
import threading
import time

import pytest

from ssd.lock_wait import LockWait


@pytest.fixture
def patient_threads():
    """Threads that ask for Python's lock once and then sleep until they get it. By default they
    wake up every 5 ms, and on a busy machine each time wait for a core, which does not count."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


def test_waiting_while_another_thread_holds_the_lock(patient_threads):
    usleep, wait = ctypes.PyDLL(None).usleep, LockWait()  # PyDLL: sleeps without releasing the lock
    thread = threading.Thread(target=usleep, args=(500000,))
    with wait:
        thread.start()
        while thread.is_alive():  # this thread works until the other gets the lock, and after it
            time.sleep(0)  # offers the lock to the other thread
    assert 0.4 < wait.seconds < 10
    wait.close()


def test_work_is_not_waiting():
    wait = LockWait()
    with wait:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
    assert 0 <= wait.seconds < 0.1
    wait.close()
    wait.close()


def test_only_the_time_in_blocks_adds_up():
    wait = LockWait()
    for _ in range(3):
        with wait:
            time.sleep(0.02)
        time.sleep(0.1)
    assert 0.06 <= wait.seconds < 0.3


def test_a_system_without_schedstat(monkeypatch):
    import os

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "open", refuse)
    wait = LockWait()
    with wait:
        time.sleep(0.05)
    assert wait.seconds >= 0.049
    wait.close()
