"""TensorBoard events of a run, written with the optional package tensorboardX."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Dict

from ssd.errors import UserError

FOLDER = "tensorboard"  # in the run's folder
FLUSH_SECONDS = 10


def check_installed() -> None:
    """UserError where tensorboardX is not installed; it is not imported here."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard: the package tensorboardX is not installed (pip install tensorboardX)"
        )


class Events:
    """Scalars over steps: the numbers of a progress line, and COCO's twelve numbers."""

    def __init__(self, run_folder: str, first_step: int):
        """`first_step`: hides the events of this and later steps that an earlier part of the run
        has left."""
        folder = os.path.join(run_folder, FOLDER)
        again = os.path.isdir(folder)
        # Files are named by the second of their start: the suffix separates the parts of a run.
        self._writer = _writer_class()(
            folder,
            purge_step=first_step if again else None,
            flush_secs=FLUSH_SECONDS,
            filename_suffix=f".from-step-{first_step}",
        )

    def trained(self, step: int, values: Dict[str, float]) -> None:
        """`values`: by the columns of train.csv."""
        classes, offsets = values["class_loss"], values["offset_loss"]
        for tag, value in (
            ("loss/total", classes + offsets),
            ("loss/classes", classes),
            ("loss/offsets", offsets),
            ("training/learning_rate", values["learning_rate"]),
            ("training/images_per_second", values["images_per_second"]),
            ("training/data_wait_share", values["data_wait_share"]),
            ("training/lock_wait_share", values["lock_wait_share"]),
        ):
            self._writer.add_scalar(tag, float(value), step)

    def evaluated(self, step: int, stats: Dict[str, float]) -> None:
        """`stats`: COCO's twelve numbers for the weights after `step`, and the number of images and
        objects. Undefined numbers (-1) are left out."""
        for name, value in stats.items():
            if value >= 0:
                self._writer.add_scalar(f"evaluation/{name}", float(value), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _writer_class():
    # tensorboardX imports PyTorch if it is installed, which takes 2 s and crashes beside Horovod.
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter
