"""Network input from decoded windows on a CPU: resize, colour, flip and normalise in NumPy and
OpenCV.

The same arithmetic as DALI's operators in ssd.data.graphs, which a GPU uses, except for the
rounding between them. On a CPU DALI's operators took two thirds of the pipeline's time
(docs/performance-log.md).

Resizing is linear along each axis, so it is a product with a banded matrix; blocks of that matrix
are multiplied by BLAS. Hue, saturation, contrast and brightness together multiply a pixel by a 3 x
3 matrix and add a constant. Both orders of the two give the same pixels, so colours change where it
costs least.
"""

from __future__ import annotations

import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.config import Config

# Rows or columns of the result per product. Fewer need more calls, more multiply by more zeros; and
# OpenBLAS would distribute products of more than 262,144 multiplications to threads of its own.
ROWS, COLUMNS = 12, 16
# Numbers of an image per call: they should stay in a core's cache; but each call releases Python's
# lock and waits for it again, so calls should not be small either.
NUMBERS = 200_000
CACHED_SIZES = 512  # axes; at 300 pixels 35 kB each
# As DALI's fn.hsv
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


class Bands(NamedTuple):
    """A resized axis in B bands of `length` pixels, the last one padded. sources: (B, k) pixels of
    the original axis that a band depends on; weights: (B, length, k) float32."""

    sources: np.ndarray
    weights: np.ndarray


def axis_weights(size: int, wanted: int, antialias: bool) -> Tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` pixels of a resized axis: its first source pixel in an axis of `size`
    pixels (wanted,), and the weights of that and the following ones, (wanted, k) float64, each
    row's sum 1.

    Pillow's bilinear filter: a triangle. With `antialias` it is as wide as a pixel of the result,
    if that is more than a source pixel; without, it covers two neighbours, as in torchvision and
    DALI.
    """
    scale = size / wanted
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(wanted) + 0.5) * scale
    starts = np.maximum((centres - width + 0.5).astype(int), 0)
    ends = np.minimum((centres + width + 0.5).astype(int), size)
    sources = starts[:, None] + np.arange((ends - starts).max())
    weights = np.maximum(1 - np.abs(sources - centres[:, None] + 0.5) / width, 0) * (
        sources < ends[:, None]
    )
    return starts, weights / weights.sum(1, keepdims=True)


@functools.lru_cache(CACHED_SIZES)
def axis_bands(size: int, wanted: int, antialias: bool, length: int) -> Bands:
    """The matrix of `axis_weights`, in bands of `length` pixels of the result."""
    starts, weights = axis_weights(size, wanted, antialias)
    firsts = starts[::length]
    columns = (starts - firsts.repeat(length)[:wanted])[:, None] + np.arange(weights.shape[1])
    dense = np.zeros((len(firsts) * length, columns.max() + 1), np.float32)
    dense[np.arange(wanted)[:, None], columns] = weights
    sources = np.minimum(
        firsts[:, None] + np.arange(dense.shape[1]), size - 1
    )  # past the end weights are 0
    return Bands(sources, dense.reshape(len(firsts), length, -1))


@functools.lru_cache(CACHED_SIZES)
def column_blocks(size: int, wanted: int, antialias: bool) -> List[Tuple[slice, slice, np.ndarray]]:
    """The same in blocks of COLUMNS: the columns of the result, their source columns, and the
    weights (source, result) in the layout that OpenBLAS takes without transposing."""
    blocks = []
    for number, (sources, weights) in enumerate(zip(*axis_bands(size, wanted, antialias, COLUMNS))):
        first, start = number * COLUMNS, int(sources[0])
        stop = min(start + len(sources), size)
        weights = weights[: wanted - first, : stop - start].T.copy()
        blocks.append((slice(first, first + weights.shape[1]), slice(start, stop), weights))
    return blocks


def colour_matrix(hue: float, saturation: float) -> np.ndarray:
    """(3, 3) matrix that turns the hue [degrees] and multiplies the saturation of an RGB pixel, in
    YIQ."""
    along = saturation * np.exp(1j * np.radians(hue))
    return (
        FROM_YIQ @ [[1, 0, 0], [0, along.real, along.imag], [0, -along.imag, along.real]] @ TO_YIQ
    )


class PixelMaker:
    """Makes batches of network input from decoded images, in `data_threads` threads."""

    def __init__(self, config: Config):
        self._config, self._size = config, config.model.image_size
        self._mean = 255 * np.float64(config.data.pixel_mean)
        self._std = 255 * np.float64(config.data.pixel_std)
        self._scratch = threading.local()
        self._count = config.data.data_threads
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="ssd-pixels")

    def __call__(
        self, images: Sequence[np.ndarray], changes: Dict[str, np.ndarray], batch: np.ndarray
    ) -> None:
        """Fills `batch` (n, channels, height, width) or (n, height, width, channels) in the
        network's layout and type from n `images` (height, width, 3) uint8 RGB of any sizes.

        `changes`, as of ssd.data.samples.AUGMENTED_FIELDS, (n,) each: flip; hue, saturation,
        contrast and brightness, or none of these four. A missing change has no effect.
        """

        def part(number: int) -> None:
            for index in range(number, len(images), self._count):
                self._fill(
                    images[index],
                    {name: values[index] for name, values in changes.items()},
                    batch[index],
                )

        list(self._threads.map(part, range(self._count)))

    def _fill(self, image: np.ndarray, changes: Dict[str, float], result: np.ndarray) -> None:
        height, width = self._size.height, self._size.width
        plain = (
            self._config.model.layout == "NCHW"
            and result.dtype == np.float32
            and result.shape[0] == 3
        )
        planes = result if plain else self._buffer("planes", 3, height, width)
        colour = "hue" in changes
        matrix = colour_matrix(changes["hue"], changes["saturation"]) if colour else None
        self._resize(image, matrix, bool(changes.get("flip")), planes)
        gain, constant = 1.0, 0.0
        if colour:
            # Contrast spreads around the mean over all channels.
            gain = changes["brightness"] * changes["contrast"]
            constant = changes["brightness"] * (1 - changes["contrast"]) * float(planes.mean())
        self._normalise(planes, gain, constant, clamp=colour)
        if not plain:
            first = self._config.model.layout == "NCHW"
            result[...] = 0  # a fourth channel
            (result if first else result.transpose(2, 0, 1))[:3] = planes

    def _resize(self, image: np.ndarray, matrix, flip: bool, planes: np.ndarray) -> None:
        """`image` (height, width, 3) uint8, its colours multiplied by `matrix`, into `planes` (3,
        ...), float32."""
        import cv2

        antialias, width = self._config.data.antialias, image.shape[1]
        height = planes.shape[1]
        sources, weights = axis_bands(image.shape[0], height, antialias, ROWS)
        image, (bands, reach) = image.reshape(-1, 3 * width), sources.shape
        low = self._buffer("low", bands * ROWS, 3 * width)
        # A row is treated as three parts of `width` numbers, whatever their colours, for smaller
        # products, see ROWS.
        parts = low.reshape(bands, ROWS, 3, width).transpose(0, 2, 1, 3)
        group = max(1, NUMBERS // (reach * 3 * width))
        for some in [slice(first, first + group) for first in range(0, bands, group)]:
            rows = self._buffer("rows", *sources[some].shape, 3, width)
            rows.reshape(-1, reach, 3 * width)[...] = image[sources[some]]
            np.matmul(weights[some, None], rows.transpose(0, 2, 1, 3), out=parts[some])
        low = low[:height].reshape(height, width, 3)
        if matrix is not None:
            low = cv2.transform(
                low, matrix.astype(np.float32), dst=self._buffer("turned", *low.shape)
            )
        split = self._buffer("split", 3, height, width)
        cv2.split(low, list(split))
        for columns, source, weights in column_blocks(width, planes.shape[2], antialias):
            if flip:
                last = planes.shape[2] - columns.start
                columns, weights = slice(last - weights.shape[1], last), weights[:, ::-1].copy()
            np.matmul(split[:, :, source], weights, out=planes[:, :, columns])

    def _normalise(self, planes: np.ndarray, gain: float, constant: float, clamp: bool) -> None:
        """In place: `planes` times `gain` plus `constant`, clamped to [0, 255] if `clamp`, then
        normalised by mean and deviation."""
        import cv2

        for plane, mean, std in zip(planes, self._mean, self._std):
            np.multiply(plane, np.float32(gain / std), out=plane)
            np.add(plane, np.float32((constant - mean) / std), out=plane)
            if clamp:  # NumPy's take three times as long
                cv2.max(plane, -mean / std, dst=plane)
                cv2.min(plane, (255 - mean) / std, dst=plane)

    def _buffer(self, name: str, *shape: int) -> np.ndarray:
        """An uninitialised array that this thread reuses: the system would have to clear new memory
        each time."""
        count, buffers = math.prod(shape), self._scratch.__dict__
        if name not in buffers or buffers[name].size < count:
            buffers[name] = np.empty(count, np.float32)
        return buffers[name][:count].reshape(shape)

    def close(self) -> None:
        """Ends the threads; may be called again."""
        self._threads.shutdown(wait=True)
