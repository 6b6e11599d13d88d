"""Work on numbered items in plain threads that an interrupt ends."""

from __future__ import annotations

import os
import queue
import threading
import time


def in_threads(make_work, count: int, threads: int = 0, progress=None, on_stop=None) -> None:
    """Calls work(index) once for each index of range(count).

    make_work: called once in each thread; its result is that thread's `work`. threads: 0 means
    one per usable core. progress: called with the number of items done, a few times a second, and
    once at the end. on_stop: called while the threads are to end early, to wake those that wait.
    The first exception of a thread ends all threads and is raised; an interrupt ends them too, each
    after its current item.
    """
    indices, wake, stopped = iter(range(count)), queue.SimpleQueue(), False
    done, ended = [0] * (threads or len(os.sched_getaffinity(0))), []

    def run(thread):
        error = None
        try:
            work = make_work()
            for index in indices:  # next() of a range's iterator is atomic
                if stopped:
                    break
                work(index)
                done[thread] += 1
        except BaseException as caught:
            error = caught
        ended.append(error)
        wake.put(None)

    # Plain threads, lists and a queue written in C: an interrupt inside concurrent.futures can
    # leave one of its locks taken, and the next to acquire it waits forever (an interrupted check
    # hung once).
    started = 0
    try:
        for thread in range(min(len(done), count)):
            threading.Thread(target=run, args=(thread,), daemon=True).start()
            started += 1
        while len(ended) < started and not any(ended):
            try:
                wake.get(timeout=0.2)
            except queue.Empty:
                pass
            if progress is not None:
                progress(sum(done))
    finally:
        stopped = True
        while len(ended) < started:
            if on_stop is not None:  # repeatedly: a thread may have been just about to wait
                on_stop()
            time.sleep(0.01)
    for error in filter(None, ended):
        raise error
    if progress is not None:  # threads may have ended before the first report
        progress(sum(done))
