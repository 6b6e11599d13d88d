"""Checkpoints of a run: written while training continues, and read back before an older one is
deleted.

A store's folder holds folders like step-00000123/ (ssd.checkpoints.files describes their content)
and best.json. A checkpoint is written under a temporary name and then renamed, so a kill or a power
cut leaves either a complete checkpoint or none. Nothing here knows about MXNet, ranks or networks:
NumPy arrays and JSON go in and come out.
"""

from __future__ import annotations

import errno
import json
import math
import operator
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Optional, Tuple

from ssd.checkpoints.files import (
    FOLDER_NAME,
    MANIFEST,
    Arrays,
    Checkpoint,
    check_arrays,
    load_checkpoint,
    write_files,
)
from ssd.errors import UserError
from ssd.files import remove_leftovers, replace_file, sync_folder, temporary_path

FOLDER = "checkpoints"  # of a run's store, in the run's folder


class _Saved(NamedTuple):
    step: int
    copy: int  # 1, or 2, 3, ... for a step that was saved again
    path: str


class CheckpointStore:
    """Saves checkpoints in a thread of its own, and keeps the last `keep` of them and the best.

    For one thread of one process. A checkpoint of a later step than the one just saved was left by
    a run that has since resumed from an earlier step; it is deleted first.
    """

    def __init__(self, folder, keep: int = 2, report=print):
        """Creates `folder` if necessary, and deletes what killed processes left there. `report`
        takes lines of text.

        Raises UserError if the folder cannot be created or written to.
        """
        assert keep >= 1, keep
        self.folder, self.keep, self.report = os.path.abspath(folder), keep, report
        self.held = set()  # steps whose checkpoints are kept as long as they are in this set
        try:
            if not os.path.isdir(self.folder):
                os.makedirs(self.folder)
                sync_folder(os.path.dirname(self.folder))
            remove_leftovers(self.folder)
        except OSError as error:
            raise UserError(f"checkpoint folder {self.folder}: {error.strerror}") from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"checkpoint folder {self.folder} cannot be written to")
        self._best_file = os.path.join(self.folder, "best.json")
        self._best = self._read_best()
        # The interpreter waits for this thread when it exits.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending = None

    def save(self, step: int, arrays: Arrays, state: dict, wait: bool = False) -> None:
        """Hands a checkpoint to the writer thread. Waits for the previous one, and with `wait` for
        this one too.

        `arrays`: by group (the file's name) and name, of bool, int8 to int64 or float16 to float64.
        They are written later, so the caller must not change them. `state`: anything JSON can hold;
        it is converted at once. If the previous checkpoint failed, raises that error, once, and
        does not save this one.
        """
        step = operator.index(step)
        assert step >= 0, step
        check_arrays(arrays)
        text = json.dumps(state, indent=2)
        self.wait()
        self._pending = self._writer.submit(self._write, step, arrays, text)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disc and has been read back.

        Raises UserError, once, if it could not be written (disc full, no permission) or read back.
        The older checkpoints are then unchanged, and no partial one is left.
        """
        if self._pending is not None:
            try:
                self._pending.result()
            finally:
                if self._pending.done():  # if not, the wait was interrupted
                    self._pending = None

    def close(self) -> None:
        """Waits, then stops the writer thread; raises as `wait` does. May be called twice."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def mark_best(self, step: int, score: float, details: Optional[Dict[str, int]] = None) -> None:
        """Makes the checkpoint of `step` the best one, which is kept until another is the best.
        Waits, and raises, as `wait` does. details: further entries of best.json.

        If there is no checkpoint of `step`, reports that and changes nothing.
        """
        assert math.isfinite(score), score
        self.wait()
        if not self.has(step):
            self.report(
                f"checkpoint of step {step}, with the best score, {score:g}, is not in "
                f"{self.folder}"
            )
            return
        try:
            replace_file(
                self._best_file,
                json.dumps({"step": step, "score": float(score), **(details or {})}).encode(),
            )
        except OSError as error:
            raise self._failure("best.json", 4096, error) from None
        self._best = (step, float(score))

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of `step`, intact or not."""
        return step in [saved.step for saved in _saved(self.folder)]

    def best(self) -> Optional[Tuple[int, float]]:
        """(step, score) as last marked, by an earlier process too; None if none was marked."""
        return self._best

    def newest(self) -> Optional[Checkpoint]:
        """The intact checkpoint of the latest step. Reports damaged ones by name and reason, and
        skips them."""
        return _newest(self.folder, self.report)

    def _write(self, step: int, arrays: Arrays, state: str) -> None:
        name = f"step-{step:08d}"
        partial = temporary_path(os.path.join(self.folder, name))
        try:
            try:
                write_files(partial, step, arrays, state)
                # A step saved again gets another name until the first one is deleted: no rename
                # replaces a folder that is not empty, and at no moment may both be missing.
                path, copy = os.path.join(self.folder, name), 1
                while os.path.lexists(path):
                    copy += 1
                    path = os.path.join(self.folder, f"{name}-{copy}")
                os.rename(partial, path)
                sync_folder(self.folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            needed = len(state) + sum(
                array.nbytes for group in arrays.values() for array in group.values()
            )
            raise self._failure(name, needed, error) from None
        try:
            load_checkpoint(path)
        except UserError as error:
            self._remove(path)
            raise UserError(f"{error}, immediately after it was written") from None
        self._remove_others(step, path)

    def _remove_others(self, step: int, path: str) -> None:
        """Once the checkpoint at `path` has been read back, removes all others but the keep - 1
        before it, the best, and those that are held."""
        others = [saved for saved in _saved(self.folder) if saved.path != path]
        kept = [saved.path for saved in others if saved.step < step][::-1][: self.keep - 1]
        best_step = self._best and self._best[0]
        for saved in others:
            if saved.path not in kept and (
                saved.step not in (best_step, *self.held) or saved.step == step
            ):
                self._remove(saved.path)
        plain = os.path.join(self.folder, f"step-{step:08d}")
        if not os.path.lexists(plain):
            try:
                os.rename(path, plain)
                sync_folder(self.folder)
            except OSError:
                pass  # the other name is just as valid

    def _remove(self, path: str) -> None:
        """Renames the folder first, so that a partly removed one does not count as a checkpoint.
        Only reports a folder that cannot be removed."""
        removed = temporary_path(path, "removed")
        try:
            os.rename(path, removed)
            sync_folder(self.folder)
            shutil.rmtree(removed)
        except OSError as error:
            self.report(f"checkpoint {path} cannot be removed: {error.strerror}")

    def _failure(self, name: str, needed: int, error: OSError) -> UserError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            status = os.statvfs(self.folder)
            return UserError(
                f"checkpoint folder {self.folder} is full: {name} needs {needed} bytes, "
                f"{status.f_bavail * status.f_frsize} are free ({error.strerror})"
            )
        return UserError(
            f"checkpoint folder {self.folder}: {name} cannot be written: {error.strerror}"
        )

    def _read_best(self) -> Optional[Tuple[int, float]]:
        try:
            with open(self._best_file, encoding="utf-8") as file:
                best = json.load(file)
            step, score = best["step"], best["score"]
            if type(step) is not int or type(score) is not float or not math.isfinite(score):
                raise ValueError(f"no step and score: {step!r:.40}, {score!r:.40}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.report(
                f"{self._best_file}: unreadable, so no checkpoint is known to be the best: {error}"
            )
            return None
        if step not in [saved.step for saved in _saved(self.folder)]:
            self.report(f"{self._best_file}: the best checkpoint, of step {step}, is missing")
            return None
        return step, score


def find_checkpoint(path, report=print) -> Checkpoint:
    """The checkpoint in the folder `path`, or the newest intact one if `path` is the folder of a
    run or a store. Writes nothing.

    Reports damaged ones by name and reason. Raises UserError if there is none, or none is intact.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise UserError(f"checkpoint {path}: no such folder")
    if FOLDER_NAME.fullmatch(os.path.basename(os.path.abspath(path))) or os.path.lexists(
        os.path.join(path, MANIFEST)
    ):
        return load_checkpoint(path)
    folders = [folder for folder in (path, os.path.join(path, FOLDER)) if _saved(folder)]
    if not folders:
        raise UserError(
            f"checkpoint {path}: neither a checkpoint nor the folder of a run that saved one"
        )
    for folder in folders:
        found = _newest(folder, report)
        if found is not None:
            return found
    raise UserError(f"checkpoint {path}: none of its checkpoints is intact")


def _newest(folder: str, report) -> Optional[Checkpoint]:
    for saved in reversed(_saved(folder)):
        try:
            return load_checkpoint(saved.path)
        except UserError as error:
            report(f"{error}; skipped")
    return None


def _saved(folder: str) -> List[_Saved]:
    """The folders that are named like checkpoints, in the order of their steps. UserError if
    `folder` cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"checkpoint folder {folder} cannot be read: {error.strerror}") from None
    matches = [match for match in map(FOLDER_NAME.fullmatch, names) if match]
    return sorted(
        _Saved(int(match[1]), int(match[2] or 1), os.path.join(folder, match[0]))
        for match in matches
    )
