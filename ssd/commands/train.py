"""`python -m ssd train`: one training run, from making its folder to the exit status."""

from __future__ import annotations

import os
import sys
import traceback

from ssd import ends
from ssd.commandline import add_settings, read_settings
from ssd.config import Config
from ssd.errors import UserError, UserErrorEverywhere
from ssd.files import UNWRITABLE, cannot_write
from ssd.runtime import start
from ssd.training.interval import SaveInterval
from ssd.training.outcome import Ended
from ssd.training.signals import StopSignals
from ssd.training.tensorboard import check_installed

HELP = "train a detector until its target mAP, with an MLPerf log"
USAGE = "%(prog)s --data-dir DIR [--recipe NAME|FILE] [flags]"


def add_arguments(parser) -> None:
    add_settings(
        parser,
        (
            "run",
            "recovery",
            "data",
            "training",
            "evaluation",
            "augmentation",
            "model",
            "default_boxes",
            "loss",
            "detection",
        ),
    )


def run(args) -> int:
    """Train with the settings of the command line; returns the exit status, see `train`."""
    from ssd.training.ranks import rank_from_environment

    return train(
        read_settings(args, report=(lambda line: None) if rank_from_environment() else None)
    )


def train(config: Config) -> int:
    """Run a training; returns the exit status: 0 for a completed run, whether or not it reached the
    target; else see ssd.training.outcome."""
    from ssd.training import setup
    from ssd.training.progress_display import choose_terminal
    from ssd.training.ranks import rank_from_environment

    SaveInterval(config.recovery.save_interval)  # refuses an invalid one
    setup.check_files(config)
    if config.run.tensorboard:
        check_installed()
    first = rank_from_environment() == 0
    terminal = (
        choose_terminal(config.run.progress, os.environ, sys.stdout, sys.stderr) if first else None
    )
    folder = setup.open_folder(config) if first else None
    status = _train(config, folder, first, terminal)
    if first and status == 0 and config.run.report:
        write_final_report(folder.path)
    return status


def _train(config: Config, folder, first: bool, terminal) -> int:
    from ssd.mlperf import MLPerfLog, division_of
    from ssd.rules import RULES
    from ssd.training.progress_display import Display

    with Display(terminal) as display, StopSignals() as signals, MLPerfLog(
        folder.file("mlperf.log") if first else None, enabled=first, rules=RULES[config.run.rules]
    ) as log:
        run = config.run
        resumed = first and folder.checkpoint is not None
        division, why = division_of(config, resumed)
        if first and why:
            print(why, flush=True)
        log.submission(run.submission_org, run.submission_platform, division, run.submission_status)
        log.init_start()
        if resumed:
            log.resumed(folder.checkpoint.step, folder.checkpoint.path)
        return _run(config, folder, first, signals, log, display)


def _run(config: Config, folder, first: bool, signals: StopSignals, log, display) -> int:
    start()
    from ssd.training.ranks import Ranks, rank_from_environment
    from ssd.training.train import Training
    from ssd.watchdog.watchdog import Watchdog

    timeout = config.recovery.rank_timeout
    ranks = Ranks(stall_seconds=20 * timeout, waiting_steps=config.training.batch_norm_ranks > 1)
    training = None

    def last_acts(cause: str) -> None:
        log.abort()
        if training is not None:
            display.close()
            training.close_scorer()
            if first and training.started is None:
                folder.discard()

    watch = Watchdog(
        ranks.rank,
        ranks.size,
        lambda content: ranks.bytes_from_first(content, "watchdog"),
        timeout,
        on_stop=last_acts,
        name=f"{ends.program()} train",
    )
    training = Training(config, ranks, log, folder, signals, watch, display)
    status = 0
    try:
        if ranks.is_first != first:
            raise UserError(
                f"the launcher reports rank {rank_from_environment()}, Horovod rank {ranks.rank} "
                f"of {ranks.size}: Horovod was built without MPI, or another launcher's variables "
                "are set"
            )
        training.run()
    except Ended as end:
        if ranks.is_first:
            print(f"{ends.program()} train: stopped: {end}", file=sys.stderr, flush=True)
        if first and training.started is None:
            folder.discard()  # so that the same command can start again, also with --resume auto
        status, signals.all_ranks_exit = end.status, True
    except BaseException as error:
        error = _plain(error, folder)
        if first and training.started is None and isinstance(error, UserError):
            folder.discard()
        if ranks.size > 1 and not isinstance(error, UserErrorEverywhere):
            _end_all(watch, error)
        if not ranks.is_first and isinstance(error, UserErrorEverywhere):
            status = 2  # rank 0 prints the error
        else:
            ranks.close()
            watch.close()
            raise error
    ranks.close()
    watch.close()
    return status


def write_final_report(run_folder: str) -> None:
    """Write curves.png and report.html of a run that has ended; an error is only a warning and does
    not fail the run."""

    def curves():
        from ssd.report.curves import draw_curves

        return draw_curves(run_folder, os.path.join(run_folder, "curves.png"))

    def report():
        from ssd.report.run_report import report_run

        return report_run(run_folder, lambda line: print(line, flush=True))

    ends.exit_in_imports(False)  # the run's status is final
    for name, work in (("curves.png", curves), ("report.html", report)):
        try:
            work()
        except KeyboardInterrupt:  # Matplotlib may be imported only partly
            names = "curves.png and report.html" if work is curves else name
            print(
                f"warning: left out of {run_folder}, interrupted: {names}",
                file=sys.stderr,
                flush=True,
            )
            return
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            print(
                f"warning: {name} of {run_folder} could not be made: {text}",
                file=sys.stderr,
                flush=True,
            )


def _plain(error: BaseException, folder) -> BaseException:
    """A full or unwritable disk as a UserError that names the run's folder; other errors
    unchanged."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE and folder:
        what = f"run folder {folder.path}: {error.filename or 'a file'}"
        return cannot_write(what, folder.file("recipe.yaml"), error)
    return error


def _end_all(watch, error: BaseException) -> None:
    """End all ranks because this one cannot continue: report its failure, unless another rank
    failed first and will be reported."""
    if _is_collective_failure(error):
        watch.await_failure_report()
    if isinstance(error, UserError):
        watch.failed(str(error))
    elif isinstance(error, SystemExit):
        watch.failed(f"it left early, by sys.exit({error.code!r})")
    else:
        traceback.print_exc()
        watch.failed(f"{type(error).__name__}: {error}")


def _is_collective_failure(error: BaseException) -> bool:
    """Whether Horovod raised the error because another rank failed."""
    texts = ("horovod", "shut down", "connection", "gloo", "mpi", "nccl")
    return type(error).__name__ in ("MXNetError", "HorovodInternalError") and any(
        text in str(error).lower() for text in texts
    )
