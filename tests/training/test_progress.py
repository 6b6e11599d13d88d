"""The progress display: its numbers, its lines, and a training run on a real terminal (tmux)."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import types

import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.training.estimates import (
    EvaluationPlan,
    MeanSeconds,
    rounded_duration,
    seconds_until,
    target_epoch,
)
from ssd.training.metrics import Metrics
from ssd.training.progress_display import Display, LineStream, choose_terminal, render
from tests.training.tiny import FLAGS, ROOT, tiny_data
from tests.waiting import wait_until

# Evaluates after epochs 5, 10 and 12.
PLAN = EvaluationPlan(steps_per_epoch=100, epochs=12, eval_every=5)


# ---- estimates


def test_when_a_run_evaluates_and_ends():
    assert PLAN.last_step == 1200
    assert [PLAN.next_evaluation(step) for step in (0, 499, 500, 999, 1000, 1199)] == [
        5,
        5,
        10,
        10,
        12,
        12,
    ]
    assert (
        PLAN.evaluations(0, 1200) == 3
        and PLAN.evaluations(500, 1200) == 2
        and PLAN.evaluations(0, 500) == 1
    )
    assert PLAN.evaluations(1200, 1200) == 0
    short = PLAN._replace(max_steps=230)
    assert (
        short.last_step,
        short.next_evaluation(0),
        short.step_of(3),
        short.evaluations(0, 230),
    ) == (230, 3, 230, 1)
    assert EvaluationPlan(10, 20, 5).evaluations(0, 200) == 4, (
        "the last epoch is a fifth one too, and must not count twice"
    )


def test_seconds_until():
    assert seconds_until(PLAN, MeanSeconds(2.0, 30.0), 100, 1000) == 900 * 2 + 2 * 30
    assert seconds_until(PLAN, MeanSeconds(2.0, None), 100, 1000) is None, (
        "there was no evaluation yet"
    )
    assert seconds_until(PLAN, MeanSeconds(), 0, 1000) is None


@pytest.mark.parametrize(
    "scores, epoch, text",
    [
        ([], None, "unknown before the second evaluation"),
        ([(5, 0.1)], None, "unknown before the second evaluation"),
        # Stopped and resumed in epoch 3.
        ([(3, 0.1), (3, 0.2)], None, "unknown before the second evaluation"),
        ([(1, 0.05), (2, 0.10)], 5, "if mAP rises"),  # at epoch 4.6, seen at the next evaluation
        ([(4, 0.22), (5, 0.225)], 10, "if mAP rises"),  # at epoch 6
        ([(5, 0.10), (10, 0.10)], None, "no gain"),
        ([(5, 0.10), (10, 0.11)], None, "not in this run"),
    ],
)
def test_target_from_the_last_two_scores(scores, epoch, text):
    found, basis = target_epoch(PLAN, scores, 0.23, as_published=False)
    assert found == epoch and text in basis


def test_target_as_in_the_published_run():
    plan = EvaluationPlan(257, 65, 5)
    assert target_epoch(plan, [], 0.23, as_published=True) == (50, "as in the published run")
    assert target_epoch(plan, [(45, 0.2), (50, 0.22)], 0.23, as_published=True)[0] == 55, (
        "later than in the published run: from the line"
    )


def test_durations_are_rounded():
    assert [rounded_duration(seconds) for seconds in (3.2, 33, 94, 170, 4000, 200000)] == [
        "3 s",
        "35 s",
        "95 s",
        "3 min",
        "1 h 5 min",
        "2.3 days",
    ]


# ---- lines and terminals


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as stream:
        yield stream


def test_where_the_display_goes(pipe, tmp_path, monkeypatch):
    terminal, other = Terminal(), Terminal()
    env = {"TERM": "xterm"}
    with open(tmp_path / "file", "w") as file:
        assert choose_terminal("auto", env, terminal, other) is terminal
        assert choose_terminal("auto", env, file, other) is other, "standard output goes to a file"
        assert choose_terminal("auto", env, pipe, other) is None, (
            "the pipe's reader may print to this terminal"
        )
        assert choose_terminal("live", env, pipe, other) is other
        assert choose_terminal("auto", env, file, file) is None
        assert choose_terminal("plain", env, terminal, other) is None
        assert choose_terminal("auto", {"TERM": "dumb"}, terminal, other) is None
        assert (
            choose_terminal("auto", dict(env, OMPI_COMM_WORLD_RANK="0"), terminal, other) is None
        ), "a launcher"
        with pytest.raises(UserError, match="--progress live"):
            choose_terminal("live", env, file, pipe)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_terminal("auto", env, terminal, other) is None
    with pytest.raises(UserError, match="--progress live: the package rich"):
        choose_terminal("live", env, terminal, other)


def test_lines_of_several_threads_are_not_mixed():
    lines = []
    stream = LineStream(io.StringIO(), lines.append)
    barrier = threading.Barrier(4)

    def print_lines(name):
        barrier.wait()
        for number in range(200):
            print(f"{name}", number, file=stream)  # print writes a line in several parts

    threads = [threading.Thread(target=print_lines, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("".join(lines).splitlines()) == sorted(
        f"{name} {number}" for name in "abcd" for number in range(200)
    )


def fake_training(**changes):
    config = load_recipe("ssd-resnet34-coco").with_values(epochs=12, eval_every=5, **changes)
    training = types.SimpleNamespace(
        config=config,
        steps_per_epoch=100,
        progress=types.SimpleNamespace(steps=0, best_score=0.0, best_epoch=0),
        metrics=Metrics(None),
        pending=None,
        started=time.time(),
        train_set=types.SimpleNamespace(images_with_boxes=range(400)),
    )
    return training


def drawn(training, width):
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system=None,
        legacy_windows=False,
    )
    console.print(render(training, "epoch 1, training", training.started + 3725))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [120, 60])
def test_the_text_of_the_display(width, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal is always 80 wide
    training = fake_training()
    at_start = " ".join(drawn(training, width).split())
    assert "epoch 1 of 12" in at_start and "step 0/100" in at_start and "1:02:05" in at_start
    assert (
        "unknown before the second evaluation" in at_start
        and "in 500 steps, after epoch 5" in at_start
    )
    metrics, now = training.metrics, [0.0]
    clock = types.SimpleNamespace(time=lambda: now[0])
    monkeypatch.setattr("ssd.training.metrics.time", clock)
    for _ in range(400):
        metrics.step([types.SimpleNamespace(mean=lambda loss=loss: loss) for loss in (3.0, 1.5)])
    now[0] = 1000.0
    metrics.report(
        4, 400, 100, metrics.mean_losses(), 0.0025, 32, wait_seconds=100.0, lock_seconds=50.0
    )
    metrics.evaluated(250)
    for epoch, score in ((1, 0.05), (2, 0.10)):
        metrics.evaluation(epoch, 100 * epoch, {"AP": score})
    training.progress.steps, training.progress.best_score, training.progress.best_epoch = (
        427,
        0.1,
        2,
    )
    training.pending = types.SimpleNamespace(epoch=4)
    lines = drawn(training, width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in (
        "epoch 5 of 12",
        "step 27/100",
        "4.500 = classes 3.000 + offsets 1.500",
        "learning rate 0.0025",
        "12.8 images/s",
        "training 60 % waiting for data 10 % Python's lock 5 % evaluation 25 %",
        "0.1000 (epoch 2), the best so far",
        "epoch 4 is being scored",
        "in 3 min, after epoch 5",
        "(epoch 5), if mAP rises",
        "at the latest in",
    ):
        assert part in text, (part, text)


def test_the_display_is_removed_at_its_end(monkeypatch):
    """Lines of any length are printed above it; at its end the display and the replaced streams are
    gone."""
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")  # rich draws nothing on a dumb terminal
    monkeypatch.setattr(sys, "stdout", terminal)
    long_line = ":::MLLOG " + json.dumps({"key": "x" * 200})
    with Display(terminal) as display:
        display.begin(fake_training(), types.SimpleNamespace(phase="epoch 1, training"))
        print(long_line)
        display.refresh()
        print("half", end="")
        shown = terminal.getvalue()
    assert sys.stdout is terminal
    assert long_line + "\n" in shown, "not wrapped"
    assert "epoch 1 of 12" in shown and "half" not in shown
    end = terminal.getvalue()
    assert end.endswith("half") and end.rindex("\x1b[?25h") > end.rindex("epoch 1 of 12")
    assert end.rindex("\x1b[2K") > end.rindex("epoch 1 of 12"), "the last display is erased"


def test_the_display_makes_room_for_the_reader_of_a_pipe(pipe, monkeypatch):
    """`| tee` with --progress live: the display is erased before a line is written to the pipe."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(terminal) as display:
        assert not display.shows_steps, "progress lines still go to the pipe"
        display.begin(fake_training(), types.SimpleNamespace(phase="epoch 1, training"))
        display.refresh()
        assert "epoch 1 of 12" in terminal.getvalue()
        before = len(terminal.getvalue())
        print("a line")
        display.refresh()
        assert (
            "\x1b[2K" in terminal.getvalue()[before:]
            and "epoch" not in terminal.getvalue()[before:]
        )


# ---- a run on a terminal


def tmux(*arguments):
    return subprocess.run(
        ["tmux", "-L", f"ssd-test-{os.getpid()}", *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ, TMUX=""),
    )


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_on_a_terminal(tmp_path):
    """A run on a terminal of 100 columns: the display is shown, the log's lines are complete,
    Ctrl-C ends it cleanly."""
    data, run, status = tiny_data(tmp_path / "set"), tmp_path / "run", tmp_path / "status"
    command = [
        sys.executable,
        "-m",
        "ssd",
        "train",
        *FLAGS,
        "--data-dir",
        data,
        "--cache-dir",
        tmp_path / "cache",
        "--output",
        run,
        "--epochs",
        "10000",
        "--eval-every",
        "2",
        "--target",
        "1",
        "--save-interval",
        "never",
    ]
    script = tmp_path / "script.sh"
    script.write_text(
        "stty -g > before; "
        + " ".join(shlex.quote(str(part)) for part in command)
        + f"; echo $? > {status}.partial; stty -g > after; mv {status}.partial {status};"
        + " exec sleep 300\n"
    )
    variables = [
        f"-e{name}={value}" for name, value in (("PYTHONPATH", ROOT), ("PYTHONWARNINGS", "ignore"))
    ]
    settings = tmp_path / "tmux.conf"
    settings.write_text("set-option -g history-limit 50000\n")  # only for new windows
    started = tmux(
        "-f",
        str(settings),
        "new-session",
        "-d",
        "-x",
        "100",
        "-y",
        "40",
        "-c",
        str(tmp_path),
        *variables,
        "bash",
        str(script),
    )
    assert started.returncode == 0, started.stderr
    try:

        def screen(*more):
            return tmux("capture-pane", "-p", *more).stdout

        def shown():
            text = screen()
            wanted = (
                "epoch ",
                "step ",
                "images/s",
                "loss",
                "classes",
                "best",
                "at the latest in",
                "target 1",
            )
            return text if all(part in text for part in wanted) else None

        wait_until(shown, "the display", seconds=120, pause=0.2)
        tmux("send-keys", "C-c")
        wait_until(status.exists, "the exit status", seconds=60, pause=0.2)
        everything = screen("-J", "-S", "-")
        assert status.read_text().strip() == "75", everything[-2000:]
        assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
        assert tmux("display-message", "-p", "#{cursor_flag}").stdout.strip() == "1"
        assert "next evaluation" not in everything and "stopped: SIGINT" in everything
        assert not re.search(r"^epoch \d+ step ", everything, re.M), (
            "no progress lines beside the display"
        )
        with open(run / "mlperf.log") as file:
            logged = file.read().splitlines()
        on_screen = [line for line in everything.splitlines() if ":::MLLOG" in line]
        for line in logged + on_screen:
            json.loads(line.split(":::MLLOG ", 1)[1])
        assert [line.rstrip() for line in on_screen] == [line.rstrip() for line in logged]
        assert logged[-1].count('"run_stop"') == 1
    finally:
        tmux("kill-server")
