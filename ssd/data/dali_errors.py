"""DALI's errors explained: an image file, or the GPU's memory."""

from __future__ import annotations

import contextlib
import os
import re
from typing import List, Optional, Sequence

import numpy as np
from nvidia.dali import backend

from ssd.config import Config
from ssd.data.graphs import decoding_pipeline
from ssd.data.samples import read_image_file
from ssd.datasets.coco import CocoDataset
from ssd.errors import UserError

# "Can't allocate 209715200000 bytes on device 0.", "CUDA allocation failed", nvJPEG's "...
# allocator functions ..."
_NO_MEMORY = re.compile(r"alloc|out of memory", re.IGNORECASE)


def message_of(error: Exception) -> str:
    """DALI's message after its traceback of the graph."""
    return str(error).split("encountered:")[-1].strip()


def reason_in(line: str) -> str:
    # DALI writes "...: REASON. File: NAME" or "File mapping failed: FOLDER/NAME".
    return line.split("File: ")[0].strip()


def explain_dali_error(
    error: RuntimeError,
    config: Config,
    dataset: CocoDataset,
    in_dali: Sequence[int],
    batch_setting: str,
    device: str,
    device_id: int,
) -> Exception:
    """DALI's error as a UserError of one line, if it is about an image file or the GPU's memory;
    else DALI's error.

    in_dali: positions of the images that DALI was processing, as far as known. batch_setting: the
    name of the setting that gives the batch size.
    """
    message = message_of(error)
    named = [name for name in dataset.file_names if name in message]
    if named:
        name = max(named, key=len)  # 11.jpg holds 1.jpg
        return _cannot_be_decoded(
            dataset, name, next(line for line in message.splitlines() if name in line)
        )
    # DALI 2.4 names no file, and no version names one that it did not read itself: all candidates
    # are tried.
    found = first_undecodable(config, dataset, in_dali, device, device_id)
    if found is None and device == "gpu" and _NO_MEMORY.search(str(error)):
        return _no_memory(config, batch_setting, device_id)
    return error if found is None else found


def _no_memory(config: Config, batch_setting: str, device_id: int) -> UserError:
    data = config.data
    if data.decode == "cache":
        return UserError(
            f"cache_size: {data.cache_size} MiB, with everything else, do not fit into the memory "
            f"of GPU {device_id}"
        )
    batch = getattr(
        config.training if batch_setting == "batch_size" else config.evaluation, batch_setting
    )
    return UserError(
        f"{batch_setting}: images for batches of {batch} do not fit into the memory of GPU "
        f"{device_id}, with prefetch {data.prefetch} and everything else"
    )


def first_undecodable(
    config: Config, dataset: CocoDataset, indices: Sequence[int], device: str, device_id: int
) -> Optional[UserError]:
    """A UserError naming the first of the images that DALI cannot decode; None if there is none, or
    the pipeline to try them cannot be built."""
    if not len(indices):
        return None
    current: List[np.ndarray] = []
    try:  # One for all: building it takes half a second on a GPU, decoding an image a millisecond.
        pipeline = decoding_pipeline(config, lambda: [current[0]], device, device_id)
    except RuntimeError:
        return None
    for index in dict.fromkeys(int(index) for index in indices):
        current[:] = [read_image_file(dataset, index)]
        try:
            pipeline.run()
        except RuntimeError as error:
            line = (message_of(error) or type(error).__name__).splitlines()[0]
            return _cannot_be_decoded(dataset, dataset.file_names[index], line)
    return None


def _cannot_be_decoded(dataset: CocoDataset, name: str, line: str) -> UserError:
    return UserError(
        f"image {os.path.join(dataset.image_folder, name)} cannot be decoded: {reason_in(line)}"
    )


def release_memory() -> None:
    """Returns unused GPU memory of DALI's pools to the GPU, if this version of DALI can (1.53
    can)."""
    release = getattr(backend, "ReleaseUnusedMemory", None)
    if release is not None:
        with contextlib.suppress(RuntimeError):  # after an error of the GPU it cannot be used
            release()
