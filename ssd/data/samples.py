"""The images of a training step and their random changes, as functions of the seed and the step
alone; and the images of evaluation. Threads read both ahead of DALI, from image files or records.

Every sample has its own random stream: NumPy's Philox keyed by the seed and the epoch, with the
purpose and the position in the epoch in the counter. So any step can be made without those before
it, and an image's changes do not depend on the number of ranks, threads or resumptions.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssd.config import AugmentationConfig, Config
from ssd.data.crops import RandomCrop
from ssd.datasets.coco import CocoDataset
from ssd.datasets.jpegs import truncation
from ssd.errors import UserError

_ORDER, _SAMPLE = 0, 1  # purposes of a stream
# One thread at a time holds Python's lock: on 16 cores 4 threads made 2,159 images/s, 8 made 1,902,
# 16 made 1,735.
MOST_THREADS = 4

# Fields of a sample: the image file's bytes (k,); its index in the data set (1,); boxes (m, 4) ltrb
# in [0, 1], cropped and flipped, and their labels (m,) from 1; ...
PLAIN_FIELDS = dict(encoded=np.uint8, index=np.int32, boxes=np.float32, labels=np.int32)
# ... the window, left and top (2,), width and height (2,), in shares of the image; whether to flip
# it, 0 or 1; the turn of the hue [degrees] and the factors of the other colour changes.
AUGMENTED_FIELDS = dict(
    anchor=np.float32,
    shape=np.float32,
    flip=np.int32,
    hue=np.float32,
    saturation=np.float32,
    contrast=np.float32,
    brightness=np.float32,
)
FIELDS = dict(PLAIN_FIELDS, **AUGMENTED_FIELDS)
WINDOW_FIELDS = ("anchor", "shape")
COLOUR_FIELDS = ("hue", "saturation", "contrast", "brightness")
MATCHES = "matches"  # one more field if the feed has a matcher: ssd.model.matching.Matches
_RAGGED = ("encoded", "boxes", "labels", MATCHES)  # whose shapes differ between samples


def augmented_fields(augmentation: AugmentationConfig) -> List[str]:
    """Those of AUGMENTED_FIELDS that the settings use."""
    if not augmentation.augment:
        return []
    return [
        *(WINDOW_FIELDS if augmentation.crop_min_iou else ()),
        "flip",
        *(COLOUR_FIELDS if augmentation.changes_colour else ()),
    ]


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Steps of `global_batch` images (all ranks) in an epoch of `images`: full batches only, at
    least 1."""
    return max(1, images // global_batch)


def keyed_random(seed: int, epoch: int, purpose: int, position: int = 0) -> np.random.Generator:
    """The random stream of one purpose at one position of an epoch: 2^128 blocks of numbers that no
    other stream shares."""
    counter = np.array([0, 0, purpose, position], np.uint64)  # the low words count blocks drawn
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
    )


def epoch_order(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """`indices` (n,) in the order of an epoch, counted from 1; the same on every rank."""
    # By raw words, as NumPy's permutation may change between versions.
    raw = keyed_random(seed, epoch, _ORDER).bit_generator.random_raw(len(indices))
    return indices[np.argsort(raw, kind="stable")]


def read_image_file(dataset: CocoDataset, index: int) -> np.ndarray:
    """The bytes of an image file, (k,) uint8, k > 0. UserError if it cannot be read."""
    content = dataset.images.read(dataset.file_names[index])
    if not len(content):
        path = os.path.join(dataset.image_folder, dataset.file_names[index])
        raise UserError(f"image {path} cannot be decoded: the file is empty")
    return np.frombuffer(content, np.uint8)


def read_intact_image_file(dataset: CocoDataset, index: int) -> np.ndarray:
    """As `read_image_file`, but also UserError for a truncated JPEG, which a GPU decodes without a
    message."""
    content = read_image_file(dataset, index)
    reason = truncation(content)
    if reason:
        path = os.path.join(dataset.image_folder, dataset.file_names[index])
        raise UserError(f"image {path} cannot be decoded: {reason}")
    return content


def image_reader(config: Config) -> Callable[[CocoDataset, int], np.ndarray]:
    """The function that reads the files for DALI to decode."""
    return read_image_file if config.data.decode == "cpu" else read_intact_image_file


class SampleMaker:
    """Makes the sample at any position of any epoch: reads its file, draws its changes, changes its
    boxes."""

    # This runs in Python beside the training loop, so it does only what cannot be done once for the
    # data set or the batch.

    def __init__(
        self, config: Config, dataset: CocoDataset, seed: int, matcher: Optional[Callable] = None
    ):
        self._dataset, self._seed, self._settings, self._matcher = (
            dataset,
            seed,
            config.augmentation,
            matcher,
        )
        self._read = image_reader(config)
        self._crop = RandomCrop(config.augmentation)
        self._labels = dataset.box_classes.astype(np.int32)
        self._ends = np.cumsum(np.bincount(dataset.box_image, minlength=dataset.num_images))
        # Images of a few pixels, where a window may be less than one.
        self._tiny = (dataset.sizes * config.augmentation.crop_scale[0] < 1.01).any(1)

    def __call__(self, epoch: int, position: int, index: int) -> dict:
        """The sample of image `index` at `position` of the epoch's order: FIELDS, whose scalars do
        not have their type yet, and with a matcher MATCHES.

        UserError if the file cannot be read, or is a truncated JPEG that a GPU is to decode.
        """
        rows = slice(self._ends[index - 1] if index else 0, self._ends[index])
        sample = dict(encoded=self._read(self._dataset, index), index=(index,))
        # Not for all boxes at once: for ten million, that would take a third of a gigabyte per
        # rank.
        boxes = self._dataset.boxes_ltrb[rows] / np.tile(self._dataset.sizes[index], 2)
        sample["labels"] = self._labels[rows]
        if self._settings.augment:
            boxes = self._augment(
                sample, index, boxes, keyed_random(self._seed, epoch, _SAMPLE, position)
            )
        sample["boxes"] = _with_sides(boxes.astype(np.float32))
        if self._matcher is not None:
            sample[MATCHES] = self._matcher(
                boxes if self._matcher.box_type is np.float64 else sample["boxes"], sample["labels"]
            )
        return sample

    def _augment(
        self, sample: dict, index: int, boxes: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        settings = self._settings
        flip, hue, saturation, contrast, brightness = random.random(5).tolist()
        anchor, shape, kept, boxes = self._crop(boxes, random)
        flip = flip < settings.flip_probability
        if flip:
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        if self._tiny[index]:
            # DALI rounds both ends to whole pixels and fails on an empty window: use all pixels
            # that the window touches.
            size = self._dataset.sizes[index]
            first, last = np.floor(anchor * size), np.ceil((anchor + shape) * size)
            anchor, shape = first / size, (last - first) / size
        sample.update(
            labels=sample["labels"][kept],
            anchor=anchor,
            shape=shape,
            flip=flip,
            hue=settings.hue * (2 * hue - 1),
            saturation=1 + settings.saturation * (2 * saturation - 1),
            contrast=1 + settings.contrast * (2 * contrast - 1),
            brightness=1 + settings.brightness * (2 * brightness - 1),
        )
        return boxes


def _with_sides(boxes: np.ndarray) -> np.ndarray:
    """(m, 4) float32 ltrb, changed in place: a box smaller than float32's spacing would have a side
    of 0, and the logarithm of its size would not be finite."""
    boxes[:, :2] = np.minimum(boxes[:, :2], np.nextafter(boxes[:, 2:], np.float32(-1)))
    return boxes


def _make_samples(make: SampleMaker, epoch: int, items: Sequence[Tuple[int, int]]) -> List[dict]:
    return [make(epoch, position, image) for position, image in items]


class _ReadAhead:
    """Batches of samples, made by `data_threads` threads, at most MOST_THREADS, up to `prefetch`
    batches ahead."""

    def __init__(self, config: Config, batch_size: int):
        self._ahead = config.data.prefetch
        threads = min(config.data.data_threads, MOST_THREADS)
        self._part = -(-batch_size // threads)  # samples of a batch that one thread makes
        self._batches: Deque[List[Future]] = deque()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ssd-samples")

    def _next_batch(self) -> Tuple[Callable[[Sequence], List], List]:
        """A function for the threads and the batch's items; it makes the samples of some of
        them."""
        raise NotImplementedError

    def _schedule(self) -> None:
        while len(self._batches) < self._ahead:
            make, items = self._next_batch()
            self._batches.append(
                [
                    self._threads.submit(make, items[start : start + self._part])
                    for start in range(0, len(items), self._part)
                ]
            )

    def _take(self) -> List:
        """The samples of the next batch. UserError if a file cannot be read."""
        batch = self._batches.popleft()
        self._schedule()
        return [sample for future in batch for sample in future.result()]

    def close(self) -> None:
        """Drops what is scheduled and waits for the files being read; may be called again."""
        for batch in self._batches:
            for future in batch:
                future.cancel()
        self._batches.clear()
        self._threads.shutdown(wait=True)


class SampleFeed(_ReadAhead):
    """One rank's batches, step by step from `first_step`: `feed()`.

    Steps count from 0 over the whole run, epochs from 1. Step s of an epoch takes positions s G to
    s G + G - 1 of the epoch's order, G = batch_size * size; the rank's share is the rank-th block
    of batch_size. The rest of an epoch's order after its last full step is not used.
    """

    def __init__(
        self,
        config: Config,
        dataset: CocoDataset,
        fields: Sequence[str],
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        first_step: int = 0,
        matcher: Optional[Callable] = None,
    ):
        self._fields, self._rank, self._batch_size = tuple(fields), rank, config.training.batch_size
        self._global_batch = self._batch_size * size
        indices = np.asarray(dataset.images_with_boxes)
        assert self._global_batch <= len(indices), "an epoch holds at least one step"
        self._steps_per_epoch = steps_per_epoch(len(indices), self._global_batch)
        self._order = functools.lru_cache(maxsize=1)(functools.partial(epoch_order, indices, seed))
        self._make = SampleMaker(config, dataset, seed, matcher)
        self._step = first_step  # the next step to be scheduled
        super().__init__(config, self._batch_size)
        self._schedule()

    def assignment(self, step: int) -> Tuple[int, np.ndarray, np.ndarray]:
        """Epoch, positions (batch_size,) in its order and images (batch_size,) of the rank's share
        of a step."""
        epoch, step = 1 + step // self._steps_per_epoch, step % self._steps_per_epoch
        positions = (
            np.arange(self._batch_size) + step * self._global_batch + self._rank * self._batch_size
        )
        return epoch, positions, self._order(epoch)[positions]

    def _next_batch(self) -> Tuple[Callable[[Sequence], List], List]:
        epoch, positions, images = self.assignment(self._step)
        self._step += 1
        return functools.partial(_make_samples, self._make, epoch), list(
            zip(positions.tolist(), images.tolist())
        )

    def __call__(self) -> list:
        """The next batch: per field one array (batch_size, ...), or a list of arrays if their
        shapes differ (of Matches for MATCHES).

        UserError if a file cannot be read.
        """
        samples = self._take()
        columns = {field: [sample[field] for sample in samples] for field in self._fields}
        return [
            column if field in _RAGGED else np.array(column, FIELDS[field])
            for field, column in columns.items()
        ]


class ImageFeed(_ReadAhead):
    """The images `indices` (n,), n > 0, of a data set in this order, in endless passes,
    eval_batch_size of them at a time: `feed()`. The last batch of a pass is padded with its last
    image. Reading starts with the first call."""

    def __init__(self, config: Config, dataset: CocoDataset, indices: np.ndarray):
        super().__init__(config, config.evaluation.eval_batch_size)
        self._make = functools.partial(_read_images, image_reader(config), dataset)
        self._passes = _passes(indices.tolist(), config.evaluation.eval_batch_size)

    def _next_batch(self) -> Tuple[Callable[[Sequence], List], List]:
        return self._make, next(self._passes)

    def __call__(self) -> list:
        """The next batch: the image files' bytes, (k,) uint8 each, and their indices in the data
        set, (batch, 1) int32.

        UserError if a file cannot be read, or is a truncated JPEG that a GPU is to decode.
        """
        self._schedule()
        samples = self._take()
        return [
            [encoded for encoded, _ in samples],
            np.array([[index] for _, index in samples], np.int32),
        ]


def _read_images(
    read: Callable, dataset: CocoDataset, indices: Sequence[int]
) -> List[Tuple[np.ndarray, int]]:
    return [(read(dataset, index), index) for index in indices]


def _passes(indices: List[int], batch_size: int) -> Iterator[List[int]]:
    while True:
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            yield batch + batch[-1:] * (batch_size - len(batch))
