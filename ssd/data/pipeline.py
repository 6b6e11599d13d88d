"""Loaders: MXNet batches for training and evaluation, made by DALI."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import (
    Callable,
    Deque,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
from nvidia.dali.pipeline import Pipeline

from ssd.config import Config
from ssd.data.cpu_pixels import PixelMaker
from ssd.data.dali_annotations import write_dali_annotations
from ssd.data.dali_errors import explain_dali_error, release_memory
from ssd.data.graphs import (
    cached_samples,
    evaluation_pipeline,
    fed_samples,
    make_pixels,
    operator_seeds,
    training_pipeline,
)
from ssd.data.samples import (
    MATCHES,
    PLAIN_FIELDS,
    WINDOW_FIELDS,
    ImageFeed,
    SampleFeed,
    augmented_fields,
)
from ssd.data.targets import dense_targets
from ssd.datasets.coco import CocoDataset
from ssd.errors import UserError
from ssd.model.matching import Matcher, Matches


class TrainingBatch(NamedTuple):
    """One rank's share of a step. images: MXNet array (batch, channels, height, width) or (batch,
    height, width, channels), normalised; offsets: MXNet (batch, N, 4) float32 in units of the
    variances; classes: MXNet (batch, N) int32, 0 is background; indices: NumPy (batch,) into the
    data set; step: counted from 0 over the whole run; boxes and labels, if asked for: per image
    NumPy (m, 4) ltrb in [0, 1] and (m,) from 1. Offsets and classes are None without default boxes.
    """

    images: object
    offsets: object
    classes: object
    indices: np.ndarray
    step: int
    boxes: Optional[List[np.ndarray]] = None
    labels: Optional[List[np.ndarray]] = None


class _Given(NamedTuple):
    """What is known of a batch without DALI: its images (batch,); matched default boxes if DALI
    does not match; flips and colour changes, (batch,) each, if DALI does not make them."""

    indices: Optional[np.ndarray]
    matches: Sequence[Matches] = ()
    changes: Dict[str, np.ndarray] = {}


class _Loader:
    """What both loaders share: a pipeline, what feeds it, and its errors."""

    _pipeline: Optional[Pipeline] = None
    _feed: Union[SampleFeed, ImageFeed, None] = None
    _batch_setting: str  # the setting of the batch size, for messages

    def __init__(self, config: Config, dataset: CocoDataset, device: str, device_id: int):
        if device == "cpu" and config.data.decode != "cpu":
            raise UserError(
                f"decode: {config.data.decode!r} needs a GPU, and the run is on the CPU"
            )
        self._config, self._dataset, self._device, self._device_id = (
            config,
            dataset,
            device,
            device_id,
        )

    def _run(self):
        assert self._pipeline is not None, "the loader is closed"
        try:
            return self._pipeline.run()
        except UserError:
            self.close()
            raise
        except RuntimeError as error:
            # Its traceback refers to the pipeline and so to the GPU's memory, as this block does.
            failure = error.with_traceback(None)
        self.close()
        raise self._explain(failure, self._in_dali())

    def _explain(self, error: RuntimeError, in_dali: Sequence[int] = ()) -> Exception:
        return explain_dali_error(
            error,
            self._config,
            self._dataset,
            in_dali,
            self._batch_setting,
            self._device,
            self._device_id,
        )

    def _build(self, make: Callable[[], Pipeline]) -> None:
        try:
            self._pipeline = make()
        except RuntimeError as error:  # a cache may already be too large
            raise self._explain(error) from None

    def _in_dali(self) -> np.ndarray:
        """Images of the batches that DALI is processing, as far as known."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops DALI's threads and those that read ahead, and frees their memory; may be called
        again."""
        if self._pipeline is not None:
            self._pipeline = None
            if self._device == "gpu":
                release_memory()
        if self._feed is not None:
            self._feed.close()

    def __del__(self):
        self.close()


class _TrainingBatches(_Loader):
    """The batches of a TrainingLoader: `make()` returns the next one."""

    _batch_setting = "batch_size"
    _pixels: Optional[PixelMaker] = None  # if DALI only decodes

    def __init__(
        self,
        config: Config,
        dataset: CocoDataset,
        matcher: Optional[Matcher],
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        first_step: int = 0,
        device: str = "cpu",
        device_id: int = 0,
        pad_channels: bool = False,
        raw_boxes: bool = False,
    ):
        super().__init__(config, dataset, device, device_id)
        assert 0 <= rank < size and seed >= 0 and first_step >= 0
        if config.data.decode == "cache" and config.data.cache_size == 0:
            raise UserError("cache_size: 0 MiB, but decode is 'cache'")
        if config.data.decode == "cache" and not dataset.images.in_files:
            raise UserError(
                f"decode: 'cache', with which DALI reads image files, and {dataset.image_folder} "
                "holds records; 'gpu' takes both"
            )
        indices = np.asarray(dataset.images_with_boxes)
        if config.training.batch_size > len(indices) // size:
            raise UserError(
                f"batch_size: {config.training.batch_size} images are more than a rank's share of "
                f"{len(indices) // size} ({len(indices)} images with boxes, ranks: {size})"
            )
        self._encoded, self._step = matcher is not None, first_step
        # Of the batches that DALI was given and has not returned
        self._given: Deque[_Given] = deque()
        # The feed's threads match boxes on a CPU; on a GPU, where the result is needed, DALI does
        # if it can.
        in_feed, in_graph = (
            (None, matcher) if matcher and device == "gpu" and matcher.in_graph else (matcher, None)
        )
        self._boxes = in_feed.boxes if in_feed else 0
        self._channels = 4 if pad_channels else 3
        if not make_pixels(device):
            self._pixels = PixelMaker(config)
        if in_feed and config.data.decode == "cache":
            raise UserError(
                "decode: 'cache', with which DALI chooses the images, does not work with "
                f"default_boxes.matching {config.default_boxes.matching}, which must know them "
                "before"
            )
        build = partial(
            training_pipeline,
            config,
            matcher=in_graph,
            device=device,
            device_id=device_id,
            pad_channels=pad_channels,
            raw_boxes=raw_boxes,
        )
        if self.exact:
            # DALI 1.5 may refuse input for a node that nothing uses.
            in_dali = raw_boxes or in_graph is not None
            fields = [name for name in PLAIN_FIELDS if name in ("encoded", "index") or in_dali]
            changes = augmented_fields(config.augmentation)
            fields += [name for name in changes if not self._pixels or name in WINDOW_FIELDS]
            noted = [name for name in changes if name not in fields]
            self._feed = SampleFeed(
                config,
                dataset,
                fields + noted + ([MATCHES] if in_feed else []),
                rank=rank,
                size=size,
                seed=seed,
                first_step=first_step,
                matcher=in_feed,
            )
            source = partial(
                fed_samples, self._noting(self._feed, self._given, fields, noted), fields
            )
            self._build(lambda: build(source))
        else:
            # Shares of one order that is the same on all ranks; DALI's shuffling has separate seeds
            # in each rank.
            order = np.random.default_rng((seed, first_step)).permutation(indices)
            share = order[len(order) * rank // size : len(order) * (rank + 1) // size]
            names = [dataset.file_names[index] for index in share]
            seeds = operator_seeds(seed, rank, first_step, count=7)
            # The reader reads the complete annotation file when it is built, so the file can be
            # removed afterwards.
            with tempfile.TemporaryDirectory(prefix="ssd-dali-") as folder:
                path = os.path.join(folder, "annotations.json")
                write_dali_annotations(dataset, share, path)
                source = partial(cached_samples, config, path, dataset.image_folder, names, seeds)
                self._build(lambda: build(source))

    @property
    def exact(self) -> bool:
        """Whether a loader that starts at a step gives the same batches as one that has reached
        it."""
        # The cache identifies images by the names that DALI's reader gives them, and that reader
        # has its own state.
        return self._config.data.decode != "cache"

    def make(self) -> TrainingBatch:
        """The next batch, as MXNet arrays."""
        from ssd.data.bridge import samples_to_numpy, to_mxnet, to_numpy

        outputs = iter(self._run())
        given = self._given.popleft() if self.exact else _Given(None)
        images = self._network_input(next(outputs), given)
        offsets = classes = None
        if given.matches:
            offsets, classes = dense_targets(given.matches, self._boxes)
            offsets, classes = (array.as_in_context(images.context) for array in (offsets, classes))
        elif self._encoded:
            offsets, classes = [to_mxnet(next(outputs), self._device_id) for _ in range(2)]
        indices = to_numpy(next(outputs)).ravel()
        assert given.indices is None or np.array_equal(indices, given.indices), (
            "DALI returned another batch than it was given"
        )
        batch = TrainingBatch(
            images,
            offsets,
            classes,
            indices,
            self._step,
            *[samples_to_numpy(output) for output in outputs],
        )
        self._step += 1
        return batch

    def _network_input(self, images, given: _Given):
        """DALI's images as the MXNet array that the network takes."""
        from ssd.data.bridge import filled, sample_views, to_mxnet

        if self._pixels is None:
            return to_mxnet(images, self._device_id)
        model, size = self._config.model, tuple(self._config.model.image_size)
        shape = (self._channels, *size) if model.layout == "NCHW" else (*size, self._channels)
        return filled(
            (len(images), *shape),
            model.dtype,
            partial(self._pixels, sample_views(images), given.changes),
        )

    @staticmethod
    def _noting(
        feed: SampleFeed, given: Deque[_Given], fields: Sequence[str], noted: Sequence[str]
    ):
        """The columns of `feed` for DALI, `fields`; keeps `noted` and the matches after them in
        `given`. It has no reference to the loader, which DALI would keep alive."""

        def next_samples() -> list:
            columns = feed()
            rest = columns[len(fields) :]
            given.append(
                _Given(
                    columns[1].ravel(),
                    rest[len(noted)] if len(rest) > len(noted) else (),
                    dict(zip(noted, rest)),
                )
            )
            return columns[: len(fields)]

        return next_samples

    def close(self) -> None:
        """As of any loader."""
        super().close()
        if self._pixels is not None:
            self._pixels.close()

    def _in_dali(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, int), *[given.indices for given in self._given]])


class TrainingLoader:
    """An endless stream of `TrainingBatch`es of one rank, starting at step `first_step`:
    `next(loader)`. Reading starts on construction; after the first batch, a thread makes the next
    one while the last is in use.

    The content of a step depends on config, data set and `seed` alone, not on the first step of the
    loader; and over all ranks together it does not depend on their number, as long as their batches
    add up to the same. See `ssd.data.samples`. With decode "cache" neither holds: `exact`.

    `matcher` matches default boxes to the ground truth; without it nothing is encoded. All ranks
    must be given the same `seed` [0, 2^63) and `first_step`. `device`, "cpu" or "gpu", holds the
    batches. UserError: a batch larger than the rank's share of images, an image that cannot
    be read or decoded.
    """

    _batches: Optional[_TrainingBatches] = None

    def __init__(
        self,
        config: Config,
        dataset: CocoDataset,
        matcher: Optional[Matcher],
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        first_step: int = 0,
        device: str = "cpu",
        device_id: int = 0,
        pad_channels: bool = False,
        raw_boxes: bool = False,
    ):
        self.wait_seconds = 0.0  # time that the caller has waited for batches so far [s]
        self._batches = _TrainingBatches(
            config,
            dataset,
            matcher,
            rank=rank,
            size=size,
            seed=seed,
            first_step=first_step,
            device=device,
            device_id=device_id,
            pad_channels=pad_channels,
            raw_boxes=raw_boxes,
        )
        # It has no reference to this loader.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ssd-batches")
        self._next = None

    @property
    def exact(self) -> bool:
        """Whether a loader that starts at a step gives the same batches as one that has reached
        it."""
        return self._batches.exact

    def __iter__(self) -> TrainingLoader:
        return self

    def __next__(self) -> TrainingBatch:
        start = time.perf_counter()
        try:
            batch = (self._next or self._thread.submit(self._batches.make)).result()
            self._next = self._thread.submit(self._batches.make)
            return batch
        finally:
            self.wait_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Stops all threads, DALI's and those that read ahead, and frees their memory; may be
        called again."""
        if self._batches is not None:
            self._thread.shutdown(wait=True)
            self._batches.close()

    def __del__(self):
        self.close()


class EvaluationLoader(_Loader):
    """Passes over a rank's share of all images, those without boxes too: `for images, indices in
    loader`.

    Rank r of n takes images r, r + n, ...; over all ranks each image comes exactly once per pass.
    `images` is an MXNet array of eval_batch_size images always, so that the network keeps one
    shape; `indices` is NumPy (valid,), into the data set, and belongs to the first rows: rows past
    it are padding. A rank without images yields nothing. UserError: an image that cannot be read or
    decoded.
    """

    _batch_setting = "eval_batch_size"

    def __init__(
        self,
        config: Config,
        dataset: CocoDataset,
        *,
        rank: int = 0,
        size: int = 1,
        device: str = "cpu",
        device_id: int = 0,
        pad_channels: bool = False,
    ):
        super().__init__(config, dataset, device, device_id)
        self._indices = np.arange(rank, dataset.num_images, size)
        self._unread = 0  # batches of a pass that was left early
        if len(self._indices):
            self._feed = ImageFeed(config, dataset, self._indices)
            self._build(
                partial(
                    evaluation_pipeline,
                    config,
                    self._feed,
                    device=device,
                    device_id=device_id,
                    pad_channels=pad_channels,
                )
            )

    def _in_dali(self) -> np.ndarray:
        batch_size = self._config.evaluation.eval_batch_size
        ahead = np.arange((self._config.data.prefetch + 1) * batch_size)
        return self._indices.take((len(self) - self._unread) * batch_size + ahead, mode="wrap")

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-len(self._indices) // self._config.evaluation.eval_batch_size)

    def __iter__(self) -> Iterator[Tuple[object, np.ndarray]]:
        from ssd.data.bridge import to_mxnet, to_numpy

        while self._unread:
            self._run()
            self._unread -= 1
        self._unread, batch_size = len(self), self._config.evaluation.eval_batch_size
        for start in range(0, len(self._indices), batch_size):
            images, index = self._run()
            self._unread -= 1
            valid = min(batch_size, len(self._indices) - start)
            indices = to_numpy(index).ravel()[:valid].astype(np.int64)
            assert np.array_equal(indices, self._indices[start : start + valid]), (
                "DALI returned another batch than it was given"
            )
            yield to_mxnet(images, self._device_id), indices
