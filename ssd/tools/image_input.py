"""Image files and objects as RGB arrays, and arrays as the network's input."""

from __future__ import annotations

import io
import os
import warnings
from typing import List

import numpy as np

from ssd.config import Config
from ssd.datasets.rgb import to_rgb
from ssd.errors import UserError

ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
)


def load_image(path, upright: bool = True) -> np.ndarray:
    """An image file, or a record named by its folder and the image's name, as uint8 (height, width,
    3) RGB; UserError with the reason if it cannot be read.

    Grey, CMYK, palette and 16-bit images become 8-bit RGB; transparency is ignored, as by DALI in
    training. `upright`: rotated by its EXIF data; else as stored, as in training and evaluation.
    """
    from PIL import Image, UnidentifiedImageError

    from ssd.datasets.image_folder import record_at
    from ssd.datasets.image_formats import FORMATS, unknown_format

    path = os.fspath(path)
    record = record_at(path)
    try:
        with warnings.catch_warnings():  # on odd metadata and very large images
            warnings.simplefilter("ignore")
            with Image.open(
                path if record is None else io.BytesIO(record), formats=FORMATS + ("GIF",)
            ) as image:
                return to_rgb(image, upright)
    except FileNotFoundError:
        reason = "no such file"
    except UnidentifiedImageError:
        reason = unknown_format(_start(path, record))
    except UserError as error:
        reason = str(error)
    except Exception as error:  # Pillow's decoders raise nearly anything on bad data
        if isinstance(error, OSError) and error.errno:
            reason = error.strerror
        else:
            reason = "the image does not decode: " + (
                " ".join(str(error).split()) or type(error).__name__
            )
    raise UserError(f"{path}: {reason}")


def is_image(path: str) -> bool:
    """Whether a file, whatever its name, starts like an image."""
    from PIL import Image

    from ssd.datasets.image_formats import FORMATS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS):
                return True
    except Exception:  # Pillow raises nearly anything on bad data
        return False


def _start(path: str, record) -> bytes:
    if record is not None:
        return bytes(record[:300])
    with open(path, "rb") as file:
        return file.read(300)


def as_image(image) -> np.ndarray:
    """A path, PIL image, NumPy array or MXNet array as uint8 (height, width, 3) RGB; UserError for
    anything else.

    A file is rotated upright by its EXIF data; an image in memory is not.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(image)
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return to_rgb(image)
    array = image.asnumpy() if hasattr(image, "asnumpy") else image
    if not isinstance(array, np.ndarray):
        raise UserError(
            f"image: a path, an array or a PIL image is needed, not {type(image).__name__}"
        )
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if (
        array.dtype != np.uint8
        or not array.size
        or not (grey or (array.ndim == 3 and array.shape[2] == 3))
    ):
        raise UserError(
            f"image: uint8 of shape (height, width, 3) RGB or (height, width) grey is needed, not "
            f"{array.dtype} of shape {array.shape}"
        )
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array


class NetworkInput:
    """Arrays to the network's input: resized, normalised and laid out by the DALI operators of
    evaluation.

    Pillow's bilinear filter, the reference's, would do nearly as well: on 48 COCO images its pixels
    differed from DALI's by 0.16 levels of 255 on average (17 at most), and scores by up to 0.03.
    Decoding by Pillow and by DALI gave equal pixels, so with DALI's resizing the detections equal
    those of evaluation to the last digit.
    """

    def __init__(
        self, config: Config, batch_size: int, device: str, device_id: int, pad_channels: bool
    ):
        from nvidia.dali import fn
        from nvidia.dali.pipeline import Pipeline

        from ssd.data import graphs

        self._device_id, self._arrays = device_id, []
        # No prefetching: a run returns the batch that was just fed.
        self._pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=config.data.data_threads,
            seed=0,
            device_id=device_id if device == "gpu" else None,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        with self._pipeline:
            # The source refers to the list only: a bound method would keep this object alive in
            # DALI.
            arrays = self._arrays
            images = fn.external_source(source=lambda: list(arrays), batch=True, layout="HWC")
            images = images.gpu() if device == "gpu" else images
            images = graphs.resize(images, config)
            self._pipeline.set_outputs(graphs.normalise(images, config, pad_channels))
        self._pipeline.build()

    def __call__(self, images: List[np.ndarray]):
        """1 to batch_size images, uint8 (height, width, 3) RGB of any sizes, as one MXNet array on
        the device."""
        from ssd.data.bridge import to_mxnet

        self._arrays[:] = [np.ascontiguousarray(image) for image in images]
        return to_mxnet(self._pipeline.run()[0], self._device_id)
