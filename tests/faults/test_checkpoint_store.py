"""A checkpoint store is killed, runs out of disc, is made read-only and is left unfinished: what it
has reported as saved stays readable."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ssd.checkpoints import store as checkpoints
from ssd.checkpoints.store import CheckpointStore, find_checkpoint
from ssd.errors import UserError
from tests.faults.save_forever import content, is_entirely

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = dict(os.environ, PYTHONPATH=ROOT)


def steps(folder):
    """The content of a store's folder, steps as numbers."""
    return sorted(
        (int(name[5:]) if name[5:].isdigit() else name)
        for name in os.listdir(folder)
        if name != "best.json"
    )


class SavingProgram:
    """tests/faults/save_forever.py, and the process that it has forked last."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "tests", "faults", "save_forever.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
        )
        self.done = None  # the last step known to be saved

    def fork(self, folder, kill_at=None):
        self.process.stdin.write(json.dumps([str(folder), kill_at]) + "\n")
        self.process.stdin.flush()
        return self.next("pid")

    def next(self, word):
        """The number in the next line that starts with this word."""
        for line in self.process.stdout:
            event, number = line.split()
            if event == "done":
                self.done = int(number)
            if event == word:
                return int(number)
            if event == "dead":
                break
        raise AssertionError(f"the saving program has ended before it printed {word!r}")


@pytest.fixture
def saver():
    saver = SavingProgram()
    yield saver
    saver.process.kill()
    saver.process.communicate()  # its child notices that its parent is gone, and ends


def test_kill_9_at_50_random_moments(tmp_path, saver):
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng, found_in = random.Random(seed), collections.Counter()
    for _ in range(50):
        pid = saver.fork(tmp_path)
        saver.next("done")
        begin = time.monotonic()
        saver.next("done")
        # A random moment, which is tested here, measured in saves: these take longer under load.
        time.sleep(rng.uniform(0, 1.5) * (time.monotonic() - begin))
        os.kill(pid, signal.SIGKILL)
        assert saver.next("dead") == signal.SIGKILL
        names = sorted(os.listdir(tmp_path))
        partial = [name for name in names if name.endswith(".partial")]
        if partial:
            inside = os.listdir(tmp_path / partial[0])
            found_in[
                "all files written, not renamed"
                if "manifest.json" in inside
                else "files being written"
            ] += 1
        elif any(name.endswith(".removed") for name in names):
            found_in["an old one being deleted"] += 1
        else:
            found_in["a new one being read back" if len(names) > 2 else "between two saves"] += 1
        lines = []
        checkpoint = find_checkpoint(tmp_path, report=lines.append)
        assert is_entirely(checkpoint, checkpoint.step) and checkpoint.step in (
            saver.done,
            saver.done + 1,
        )
        assert lines == []  # none that is partly written or removed was taken for a checkpoint
    print(dict(found_in))
    assert (
        found_in["files being written"] >= 5
        and sum(found_in.values()) - found_in["between two saves"] >= 15
    )
    CheckpointStore(tmp_path).close()
    assert all(type(step) is int for step in steps(tmp_path))  # no temporary file is left


def test_a_kill_before_each_single_operation(tmp_path, saver):
    """In a full store: a new step is saved, then the same step again with other content."""
    full = tmp_path / "full"
    store = CheckpointStore(full)
    for step in (1, 2):
        store.save(step, *content(step))
    store.close()
    states, status, kill_at = [], None, 0
    while status != 0:
        kill_at += 1
        assert kill_at < 500
        shutil.copytree(full, tmp_path / "store")
        saver.fork(tmp_path / "store", kill_at)
        status = saver.next("dead")
        assert status in (0, signal.SIGKILL)
        lines = []
        checkpoint = find_checkpoint(tmp_path / "store", report=lines.append)
        for name in os.listdir(tmp_path / "store"):  # a partly removed one has a hidden name too
            assert name.startswith(".") or find_checkpoint(tmp_path / "store" / name).step in (
                1,
                2,
                3,
            )
        states.append((checkpoint.step, checkpoint.state["again"]))
        assert is_entirely(checkpoint, *states[-1]) and lines == []
        CheckpointStore(tmp_path / "store").close()
        assert not any(name.startswith(".") for name in os.listdir(tmp_path / "store"))
        shutil.rmtree(tmp_path / "store")
    assert states == sorted(states) and set(states) == {(2, 0), (3, 0), (3, 1)}
    assert all(states.count(state) >= 10 for state in set(states)), collections.Counter(states)


@contextlib.contextmanager
def small_disc(path, size):
    """A file system of its own at `path`; skips the test if it cannot be mounted."""
    path.mkdir()
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        if shutil.which("mount")
        else None
    )
    if done is None or done.returncode:
        pytest.skip(f"no file system can be mounted here: {done and done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disc_is_reported_and_costs_no_checkpoint(tmp_path):
    with small_disc(tmp_path / "disc", "1m") as disc:
        store = CheckpointStore(disc / "store", keep=1)
        store.save(1, *content(1), wait=True)
        kinds = collections.Counter()
        # From one that fails while writing its first file to one that fails in its last.
        for size in list(range(900_000, 100_000, -50_000)) + [10]:
            arrays = {
                "a": {"x": np.zeros(size // 2, np.uint8)},
                "b": {"x": np.zeros(size // 2, np.uint8)},
            }
            store.save(2, arrays, {"text": "x" * 30000})
            try:
                store.wait()
                kinds["saved"] += 1
            except UserError as error:
                kinds["full"] += 1
                free = os.statvfs(disc).f_bavail * os.statvfs(disc).f_frsize
                assert str(error).startswith(
                    f"checkpoint folder {disc / 'store'} is full: step-00000002 needs "
                )
                needed = int(str(error).split(" needs ")[1].split()[0])
                assert size + 30000 <= needed <= size + 30200 and f", {free} are free" in str(error)
                assert is_entirely(store.newest(), 1) and steps(disc / "store") == [1]
            if kinds["saved"]:
                break
        assert kinds["full"] >= 3 and kinds["saved"] == 1
        assert steps(disc / "store") == [2] and store.newest().state == {"text": "x" * 30000}
        store.close()


def test_a_failure_is_raised_once_by_the_next_call(tmp_path):
    with small_disc(tmp_path / "disc", "1m") as disc:
        store, large = CheckpointStore(disc), {"a": {"x": np.zeros(2**21, np.uint8)}}
        for call in (
            store.wait,
            lambda: store.save(2, {}, {}),
            lambda: store.mark_best(1, 0.5),
            store.close,
        ):
            store.save(1, large, {})
            with pytest.raises(UserError, match="is full"):
                call()
            store.wait()
            assert os.listdir(disc) == []
        store.close()
        store.close()


def test_an_unwritable_folder_is_reported(tmp_path):
    with small_disc(tmp_path / "disc", "4m") as disc:
        store = CheckpointStore(disc / "store")
        store.save(1, *content(1), wait=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disc)], check=True)
        with pytest.raises(
            UserError, match=f"{disc / 'store'}: step-00000002 cannot be written: Read-only"
        ):
            store.save(2, *content(2), wait=True)
        with pytest.raises(UserError, match="best.json cannot be written: Read-only"):
            store.mark_best(1, 0.5)
        assert is_entirely(store.newest(), 1) and is_entirely(find_checkpoint(disc / "store"), 1)
        store.close()
        for folder in (disc / "store", disc / "new"):
            with pytest.raises(UserError, match=str(folder)):
                CheckpointStore(folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        CheckpointStore(tmp_path / "file" / "store")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        CheckpointStore(tmp_path / "file")


def test_a_checkpoint_that_does_not_read_back_is_removed(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, *content(1), wait=True)
    written = checkpoints.write_files

    def damages(folder, *rest):
        written(folder, *rest)
        with open(os.path.join(folder, "momenta.npz"), "r+b") as file:
            file.write(b"x")

    monkeypatch.setattr(checkpoints, "write_files", damages)
    for step in (1, 2):
        with pytest.raises(UserError, match="momenta.npz: was changed.*immediately after it was"):
            store.save(step, *content(step, again=5), wait=True)
        assert steps(tmp_path) == [1] and is_entirely(store.newest(), 1)
    store.close()


def test_the_last_and_the_best_are_kept(tmp_path):
    lines = []
    store, small = (
        CheckpointStore(tmp_path, keep=2, report=lines.append),
        {"a": {"x": np.arange(3)}},
    )
    assert store.best() is None and store.newest() is None
    held = []
    for step in (1, 2, 3, 10**8, 10**9):
        store.save(step, small, {})
        if step == 2:
            store.mark_best(2, 0.25)
        store.wait()
        held.append(steps(tmp_path))
    assert held == [[1], [1, 2], [2, 3], [2, 3, 10**8], [2, 10**8, 10**9]]
    store.mark_best(3, 0.5)
    assert len(lines) == 1 and "step 3" in lines[0] and store.best() == (2, 0.25)
    store.mark_best(10**8, 0.125)
    store.close()
    store = CheckpointStore(tmp_path, keep=1)
    assert store.best() == (10**8, 0.125) and store.newest().step == 10**9
    store.save(10**9 + 1, small, {}, wait=True)
    assert steps(tmp_path) == [10**8, 10**9 + 1]
    store.close()


def test_a_held_checkpoint_is_kept_until_it_is_released(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.held.add(2)
    for step in (1, 2, 3, 4):
        store.save(step, {}, {}, wait=True)
    assert steps(tmp_path) == [2, 4]
    store.held.discard(2)
    store.save(5, {}, {})
    store.close()
    assert steps(tmp_path) == [5]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "unreadable"),
        ("[]", "unreadable"),
        ('{"step": 1}', "unreadable"),
        ('{"step": 1, "score": NaN}', "unreadable"),
        ('{"step": 7, "score": 0.5}', "of step 7, is missing"),
    ],
)
def test_a_damaged_best_json_is_reported(tmp_path, text, message):
    (tmp_path / "best.json").write_text(text)
    lines = []
    assert CheckpointStore(tmp_path, report=lines.append).best() is None
    assert len(lines) == 1 and message in lines[0] and "best.json" in lines[0]


def test_a_run_that_resumes_from_an_earlier_step(tmp_path):
    """A step saved again replaces its first checkpoint, and checkpoints of later steps are
    removed."""
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        store.save(step, *content(step))
    store.close()
    (tmp_path / "step-00000030" / "ranks.npz").unlink()  # so the run continues from 20
    store = CheckpointStore(tmp_path, keep=2, report=lambda line: None)
    assert store.newest().step == 20
    store.save(20, *content(20, again=1), wait=True)
    assert steps(tmp_path) == [20] and is_entirely(store.newest(), 20, again=1)
    store.mark_best(20, 0.5)
    for again in (2, 3):
        store.save(20, *content(20, again), wait=True)
    store.save(25, *content(25), wait=True)
    store.close()
    assert steps(tmp_path) == [20, 25] and is_entirely(
        find_checkpoint(tmp_path / "step-00000020"), 20, again=3
    )


def test_a_save_waits_for_the_previous_one_and_not_for_itself(tmp_path, monkeypatch):
    events, may_write, written = [], threading.Event(), checkpoints.write_files

    def slow(folder, step, *rest):
        events.append(f"writes {step}")
        assert may_write.wait(60)
        written(folder, step, *rest)
        events.append(f"wrote {step}")

    monkeypatch.setattr(checkpoints, "write_files", slow)
    store, state = CheckpointStore(tmp_path), {"list": [1]}
    store.save(1, {}, state)
    state["list"].append(2)  # too late to be saved
    assert steps(tmp_path) == []
    may_write.set()  # reached only if save has not waited
    store.save(2, {}, state)
    store.close()
    assert events == ["writes 1", "wrote 1", "writes 2", "wrote 2"]
    assert find_checkpoint(tmp_path / "step-00000001").state == {"list": [1]}
    assert store.newest().state == {"list": [1, 2]}


def test_the_interpreter_finishes_the_last_save_before_it_exits(tmp_path):
    program = (
        "import sys; from tests.faults.save_forever import *; store = "
        "CheckpointStore(sys.argv[1])\n"
        "store.save(1, *content(1), wait=True); store.save(2, *content(2))\n"
        "print('mxnet' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        timeout=120,
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert is_entirely(find_checkpoint(tmp_path), 2)
