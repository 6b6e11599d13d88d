"""All MLPerf log events. The differences between rule sets are in ssd.rules."""

from __future__ import annotations

import importlib.util
import logging
import math
import operator
import os
import re
import subprocess
import sys
import threading
from typing import List, Tuple

from ssd.config import Config, differences, load_recipe
from ssd.errors import UserError
from ssd.rules import RULES, Rules

DIVISIONS = ("closed", "open")
STATUSES = ("cloud", "onprem", "preview", "research")


class MLPerfLog:
    """The log of one run: to the file `path` and to standard output, one flushed line per event.

    path: the file, created with its folder; None for standard output only. UserError if the file is
        not empty: a log is never overwritten, and two runs are never mixed.
    enabled: True on rank 0 only. Elsewhere nothing is written or opened, but the order of events is
        checked, so that a bug of ours stops every rank and not just one.
    rules: the run's rule set.

    Events that the rules require once can be logged only once: a repetition is an AssertionError,
    and so is an end without its start. Close it when done (a `with` block does). Any thread may
    log. Does not use or change the state that mlperf_logging.mllog shares between its users.
    """

    def __init__(self, path, *, enabled: bool, rules: Rules):
        self.path = None if path is None else os.path.abspath(str(path))
        self.enabled = enabled
        self.rules = rules
        self._seen = set()
        self._lock = threading.RLock()  # held from an event's checks to the end of its line
        self._closed = False
        self._handlers = []
        if not enabled:
            return
        from mlperf_logging.mllog.mllog import MLLogger

        if self.path is not None:
            self._handlers.append(_open_log(self.path))
        self._handlers.append(_LogStream(sys.stdout))
        logger = logging.Logger("ssd.mlperf", logging.INFO)  # not getLogger, which is global
        for handler in self._handlers:
            logger.addHandler(handler)
        package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        # Offset 3: the line that calls our public method. root_dir is used as a regular expression.
        self._mllogger = MLLogger(logger, default_stack_offset=3, root_dir=re.escape(package_root))

    def close(self) -> None:
        """Closes the file. Standard output stays open. May be called twice."""
        for handler in self._handlers:
            handler.close()
        self._handlers = []
        self._closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def submission(self, org: str, platform: str, division: str, status: str) -> None:
        """The submitter and the system; once.

        division: closed or open. status: cloud, onprem, preview or research. UserError for anything
        else.
        """
        for name, value in (("organisation", org), ("platform", platform)):
            if not (isinstance(value, str) and value.strip()):
                raise UserError(f"the MLPerf log needs the submission's {name}, not {value!r}")
        for name, value, known in (("division", division, DIVISIONS), ("status", status, STATUSES)):
            if value not in known:
                raise UserError(
                    f"the submission's {name} must be one of {', '.join(known)}, not {value!r}"
                )
        self._event("submission_benchmark", self.rules.benchmark)
        self._event("submission_org", org)
        self._event("submission_platform", platform)
        self._event("submission_division", division)
        self._event("submission_status", status)

    def cache_clear(self, value) -> None:
        """The file cache was dropped before the run. value: True, or what was dropped (see
        ssd.page_cache)."""
        assert value, "cache_clear is logged only when something was dropped"
        assert "run_start" not in self._seen, "cache_clear after run_start"
        self._event("cache_clear", value, once=False)

    def resumed(self, step: int, checkpoint: str) -> None:
        """This log continues another one after `step` steps, from the checkpoint at `checkpoint`;
        once.

        Our own event: the rules know no runs of several parts, and the compliance checker ignores
        it. The caller logs such a run in the open division.
        """
        self._event("resumed", _integer(step), metadata={"checkpoint": str(checkpoint)})

    def init_start(self) -> None:
        """Start of the program."""
        assert "init_stop" not in self._seen, "init_start after init_stop"
        self._event("init_start", kind="start", once=False)

    def init_stop(self) -> None:
        """End of the initialisation: at most 30 minutes after init_start, just before run_start;
        once."""
        self._event("init_stop", kind="end", after="init_start")

    def run_start(self) -> None:
        """Start of the timed part; the data set was not touched before; once."""
        self._event("run_start", kind="start", after="init_stop")

    def run_stop(self, status: str) -> None:
        """End of the timed part; once. status: "success" (the target is known to be reached) or
        "aborted"."""
        assert status in ("success", "aborted"), status
        self._event("run_stop", kind="end", after="run_start", metadata={"status": status})

    def end(self, status: str) -> None:
        """Logs run_stop, if run_start was logged and run_stop was not. Call it however the run
        ends."""
        with self._lock:
            if "run_start" in self._seen and "run_stop" not in self._seen:
                self.run_stop(status)

    def abort(self, patience: float = 0.5) -> None:
        """Logs end("aborted") as the last line: drops everything that other threads log later.

        patience: seconds to wait for a line that another thread is writing, which may hang (a full
        pipe).
        """
        if not self._lock.acquire(timeout=patience):
            self._lock = threading.RLock()
            self._lock.acquire()
        try:
            self.end("aborted")
            self.enabled = False
        finally:
            self._lock.release()

    def seed(self, n: int) -> None:
        """The run's seed, an integer; once."""
        self._event("seed", _integer(n))

    def hyperparameters(self, **values) -> None:
        """The settings that the rules require (ssd.rules explains the keys), each once.

        AssertionError unless `values` has exactly the keys of the rules. Rules without keys accept
        any.
        """
        kinds = self.rules.hyperparameters
        if kinds is None:
            for key, value in values.items():
                self._event(key, value)
            return
        missing, unknown = (
            sorted(kinds.keys() - values.keys()),
            sorted(values.keys() - kinds.keys()),
        )
        assert not missing and not unknown, f"hyperparameters: missing {missing}, unknown {unknown}"
        for key, kind in kinds.items():
            self._event(key, _integer(values[key]) if kind is int else kind(values[key]))

    def weights_initialization(self, names) -> None:
        """One event per tensor, each name once. ssd-1.1.0 requires the 119 of SSD-ResNet34,
        retinanet-2.0.0 and -2.1.0 the 89 of RetinaNet's convolutions."""
        for name in names:
            self._event("weights_initialization", which=name, metadata={"tensor": str(name)})

    def epoch_start(self, epoch: int) -> None:
        """Epoch `epoch` begins; epochs count from 1, each once."""
        self._event("epoch_start", epoch=epoch, kind="start", after="run_start")

    def epoch_stop(self, epoch: int) -> None:
        """Epoch `epoch` ends."""
        self._event("epoch_stop", epoch=epoch, kind="end", after=("epoch_start", epoch))

    def eval_start(self, epoch: int) -> None:
        """The evaluation after epoch `epoch` begins; once per epoch."""
        self._event("eval_start", epoch=epoch, kind="start", after="run_start")

    def eval_stop(self, epoch: int) -> None:
        """The evaluation after epoch `epoch` ends."""
        self._event("eval_stop", epoch=epoch, kind="end", after=("eval_start", epoch))

    def eval_accuracy(self, epoch: int, value: float, **extent) -> None:
        """The score after epoch `epoch`: COCO's AP as a fraction in [0, 1]; once per epoch. extent:
        the numbers of scored images and objects, for the event's metadata; the rules do not define
        these."""
        assert 0 <= value <= 1, f"eval_accuracy {value!r} is no fraction"
        self._event("eval_accuracy", float(value), epoch=epoch, metadata=extent)

    def eval_result(self, epoch: int, stats) -> None:
        """COCO's twelve numbers after epoch `epoch` (name to fraction, -1 if undefined), and the
        numbers of scored images and objects; once per epoch.

        Informational: the rules do not define this key, and the compliance checker ignores it.
        """
        self._event(
            "eval_result",
            {name: value if type(value) is int else float(value) for name, value in stats.items()},
            epoch=epoch,
        )

    def _event(
        self,
        key,
        value=None,
        *,
        kind="event",
        once=True,
        which=None,
        epoch=None,
        after=None,
        metadata=None,
    ):
        """which: distinguishes events of one key, each of which may be logged once. after: the mark
        of the event that must come first."""
        if epoch is not None:
            which, metadata = epoch, {"epoch_num": _integer(epoch), **_plain(metadata or {})}
        mark = key if which is None else (key, which)
        with self._lock:
            assert not self._closed, f"{key} after close"
            assert after is None or after in self._seen, f"{mark} without {after}"
            assert not once or mark not in self._seen, f"{mark} twice"
            self._seen.add(mark)
            value = _plain(value)
            if self.enabled:
                getattr(self._mllogger, kind)(key, value=value, metadata=metadata)


class _LogStream(logging.StreamHandler):
    def handleError(self, record):
        """Raises where logging would print a traceback and lose the line, e.g. on a full disc or a
        broken pipe."""
        raise  # noqa: PLE0704 (logging calls this within its except)


class _LogFile(_LogStream, logging.FileHandler):
    pass


def _open_log(path):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handler = _LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the MLPerf log: {error.strerror}") from None
    if os.path.getsize(path):
        handler.close()
        raise UserError(f"{path}: this log exists and is not empty; name another or move it away")
    return handler


def _integer(value):
    return operator.index(value)  # accepts NumPy's integers, but no floats


def _plain(value):
    """`value` in Python's own types: mllog writes "Failed to encode" for anything that JSON cannot
    hold."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    assert value is None or isinstance(value, (bool, int, float, str)), (
        f"cannot be logged: {value!r}"
    )
    assert not isinstance(value, float) or math.isfinite(value), f"cannot be logged: {value!r}"
    return value


FIXED = (
    "model",
    "default_boxes",
    "loss",
    "detection",
    "augmentation",
    "data",
    "training",
    "evaluation",
)


def departures(config: Config) -> List[str]:
    """The settings that a run's closed division would require, and the run's values; [] if it has
    them all, or if the rules fix no recipe."""
    rules = RULES[config.run.rules]
    if rules.closed_recipe is None:
        return []
    found = [
        f"{name} {wanted}, not {given}"
        for name, wanted, given in differences(config, load_recipe(rules.closed_recipe), FIXED)
        if name not in rules.free
    ]
    if config.training.warmup_epochs % 1:
        found.append(f"training.warmup_epochs an integer, not {config.training.warmup_epochs}")
    if config.run.weights:
        found.append("run.pretrained_backbone, not run.weights")
    elif not config.run.pretrained_backbone:
        found.append("run.pretrained_backbone, not random weights")
    return found


def division_of(config: Config, resumed: bool) -> Tuple[str, str]:
    """(the division for a run's log, a line for the user if the settings force the open one, else
    ""). Resuming and fine-tuning force it too, and print their own lines."""
    run, reasons = config.run, departures(config)
    if resumed or run.fine_tune or not reasons or run.submission_division == "open":
        return "open" if resumed or run.fine_tune else run.submission_division, ""
    return (
        "open",
        f"MLPerf log: open division, since the closed one of {run.rules} requires "
        f"{'; '.join(reasons)}",
    )


def check_log(path, ruleset: str) -> Tuple[bool, str]:
    """Whether the official compliance checker accepts the log at `path` (usage training,
    Rules.ruleset), and its output.

    It accepts if it ends with status 0 and the line "SUCCESS"; anything else, even a crash, does
    not count. Raises UserError if the file does not exist or the checker is not installed.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such log")
    if importlib.util.find_spec("mlperf_logging") is None:
        raise UserError("the compliance checker is not installed: package mlperf-logging")
    # --log_output: otherwise the checker leaves a file in the current folder.
    checker = subprocess.run(
        [
            sys.executable,
            "-m",
            "mlperf_logging.compliance_checker",
            "--usage",
            "training",
            "--ruleset",
            ruleset,
            "--log_output",
            os.devnull,
            os.path.abspath(str(path)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = [
        line
        for line in checker.stdout.decode(errors="replace").splitlines()
        if not line.startswith("** Logging output also at")
    ]
    success = checker.returncode == 0 and any(line.split()[-1:] == ["SUCCESS"] for line in lines)
    return success, "\n".join(lines)
