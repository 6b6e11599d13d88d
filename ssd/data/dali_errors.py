"""Which image file DALI's errors are about."""
from __future__ import annotations

import os
from typing import List, Optional, Sequence

import numpy as np

from ssd.config import Config
from ssd.data.graphs import decoding_pipeline
from ssd.data.samples import read_image
from ssd.datasets.coco import CocoDataset
from ssd.errors import UserError


def own_words(error: Exception) -> str:
    """What DALI says after its traceback of the graph."""
    return str(error).split("encountered:")[-1].strip()


def reason_in(line: str) -> str:
    # DALI writes "...: REASON. File: NAME" or "File mapping failed: FOLDER/NAME".
    return line.split("File: ")[0].strip()


def explain(error: RuntimeError, config: Config, dataset: CocoDataset, in_dali: Sequence[int], device: str,
            device_id: int) -> Exception:
    """DALI's error as a UserError of one line, if it is about an image file; else DALI's error.

    in_dali: positions of the images that DALI was at work on, as far as it is known.
    """
    words = own_words(error)
    named = [name for name in dataset.file_names if name in words]
    if named:
        name = max(named, key=len)  # 11.jpg holds 1.jpg
        return _cannot_be_decoded(dataset, name, [line for line in words.splitlines() if name in line][0])
    # DALI 2.4 names no file, no version one that it did not read itself: all that may be it are tried.
    found = first_undecodable(config, dataset, in_dali, device, device_id)
    return error if found is None else found


def first_undecodable(config: Config, dataset: CocoDataset, indices: Sequence[int], device: str,
                      device_id: int) -> Optional[UserError]:
    """Names the first of the images that DALI cannot decode; None where there is none, or no pipeline to try them."""
    if not len(indices):
        return None
    current: List[np.ndarray] = []
    try:    # One for all: to build it takes half a second on a GPU, to decode an image a millisecond.
        pipeline = decoding_pipeline(config, lambda: [current[0]], device, device_id)
    except RuntimeError:
        return None
    for index in dict.fromkeys(int(index) for index in indices):
        current[:] = [read_image(dataset, index)]
        try:
            pipeline.run()
        except RuntimeError as error:
            line = (own_words(error) or type(error).__name__).splitlines()[0]
            return _cannot_be_decoded(dataset, dataset.file_names[index], line)
    return None


def _cannot_be_decoded(dataset: CocoDataset, name: str, line: str) -> UserError:
    return UserError(f"image {os.path.join(dataset.image_folder, name)} cannot be decoded: {reason_in(line)}")
