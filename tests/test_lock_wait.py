"""What counts as waiting for Python's lock: sleeping while another thread holds it, and neither
work nor a full core."""

import ctypes
import threading
import time

from ssd.lock_wait import LockWait


def test_waiting_while_another_thread_holds_the_lock():
    usleep, wait = ctypes.PyDLL(None).usleep, LockWait()  # sleeps with the lock in hand
    thread = threading.Thread(target=usleep, args=(500000,))
    with wait:
        thread.start()  # waits until the thread has begun: from then on it has the lock
    thread.join()
    # Of half a second. Python looks for the lock every 5 ms, and where all cores are busy the wait
    # for one, each time, is not counted.
    assert 0.1 < wait.seconds < 10
    wait.close()


def test_work_is_no_waiting():
    wait = LockWait()
    with wait:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
    assert 0 <= wait.seconds < 0.1
    wait.close()
    wait.close()


def test_blocks_add_up_and_what_lies_between_does_not_count():
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
