"""The data pipeline: DALI graphs for training and evaluation, and loaders that make MXNet batches of them.

Only operators and arguments that DALI 1.5, 1.53 and 2.x all have are used. The order and the distributions of
the augmentation are those of the MLPerf reference (single_stage_detector/ssd, utils.py: SSDTransformer).
"""
from __future__ import annotations

import os
import tempfile
import time
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import DataNode, Pipeline

from ssd.config import AugmentationConfig, Config, DefaultBoxConfig
from ssd.data.coco import CocoDataset, write_dali_annotations
from ssd.errors import UserError

# Images that the reader's shuffle buffer holds where images are cached (elsewhere the whole set is shuffled).
CACHE_SHUFFLE_BUFFER = 4096


# ---- graphs

def operator_seeds(seed: int, rank: int, count: int) -> List[int]:
    """`count` seeds in [0, 2^31), one per random operator, independent of each other and between ranks."""
    return [int(word) for word in np.random.SeedSequence((seed, rank)).generate_state(count) >> 1]


def _reversed(node, *row: int):
    """The rows of a node of shape (n, *row), `row` empty or one number, in reverse."""
    rows = fn.reshape(node, shape=[-1, 1, *(row or (1,))], layout="HWC")
    return fn.reshape(fn.flip(rows, horizontal=0, vertical=1), shape=[-1, *row])


def encode_boxes(boxes, labels, default_boxes_ltrb: np.ndarray, settings: DefaultBoxConfig, image_size: int):
    """Graph nodes (offsets, classes) of ground truth matched to default boxes, with the reference's matching.

    `boxes` (m, 4) float32 ltrb in [0, 1] and `labels` (m,) int32 from 1, m > 0, are nodes on either device;
    `default_boxes_ltrb` is (N, 4) in units of the image, not clipped. Per sample, offsets are (N, 4) float32:
    centre x and y, width and height, in units of the variances, 0 where unmatched; classes are (N,) int32, 0
    where unmatched.
    """
    # Among equal IoUs box_encoder takes the last, of default boxes and of ground truth, where the reference
    # takes the first; only where two boxes of the ground truth claim one default box, the reference takes the
    # last. Equal IoUs are common: all default boxes inside a large object, or around a small one. So
    # everything is handed over in reverse, but for the claims, which alone exceed an IoU of 1 in
    # box_encoder's books. (With one plain box_encoder, 65 default boxes of the reference's 24 samples have
    # another class than in the reference; like this, none.)
    arguments = dict(anchors=np.asarray(default_boxes_ltrb, np.float32)[::-1].ravel().tolist(), offset=True,
                     stds=[settings.center_variance] * 2 + [settings.size_variance] * 2,
                     scale=float(image_size))  # cancels out but for rounding, where it follows the reference
    claimed_offsets, claimed = fn.box_encoder(boxes, labels, criteria=1.0, **arguments)
    offsets, classes = fn.box_encoder(_reversed(boxes, 4), _reversed(labels), criteria=settings.matching_iou,
                                      **arguments)
    free = fn.cast(claimed == 0, dtype=types.DALIDataType.INT32)
    free_rows = fn.cast(fn.stack(free, free, free, free, axis=1), dtype=types.DALIDataType.FLOAT)
    return _reversed(claimed_offsets + offsets * free_rows, 4), _reversed(claimed + classes * free)


def _around(centre: float, spread: float, seed: int):
    """Uniform over centre +- spread; a plain number where there is nothing to draw."""
    return fn.random.uniform(range=[centre - spread, centre + spread], seed=seed) if spread else centre


def jitter_colour(images, settings: AugmentationConfig, seeds: Sequence[int]):
    """torchvision's ColorJitter on images (height, width, 3) uint8 RGB, each factor drawn from one of four
    `seeds`.

    The result is float32, [0, 255], not rounded. Hue and saturation change in YIQ, where torchvision takes
    HSV.
    """
    # Contrast spreads values around the image's mean, as in torchvision. color_twist, and brightness_contrast
    # in the submissions, spread them around mid-grey. On 160 COCO images with random factors, the mean
    # distance to torchvision's result (Pillow backend, random order; levels of 255) was 15.3 for the
    # unchanged image, 7.3 for color_twist, 7.3 for hsv + brightness_contrast, 3.0 for this. The whole
    # pipeline took 2.9 ms of CPU an image without colour, 5.1 with color_twist, 7.2 with this;
    # brightness_contrast with brightness_shift computed from the mean took 5.9, but takes that from main
    # memory only, where the mean of an image on a GPU is not.
    images = fn.hsv(images, hue=_around(0, settings.hue, seeds[0]),
                    saturation=_around(1, settings.saturation, seeds[1]))
    contrast, brightness = _around(1, settings.contrast, seeds[2]), _around(1, settings.brightness, seeds[3])
    gain, constant = [factor.gpu() if isinstance(factor, DataNode) and images.device == "gpu" else factor
                      for factor in (brightness * contrast, brightness * (1 - contrast))]
    return math.clamp(images * gain + fn.reductions.mean(images) * constant, 0.0, 255.0)


def _resize(images, size: int):
    # Pillow's bilinear filter, the reference's, widens with the reduction; in DALI that is the triangular
    # one.
    return fn.resize(images, resize_x=size, resize_y=size, min_filter=types.DALIInterpType.INTERP_TRIANGULAR,
                     mag_filter=types.DALIInterpType.INTERP_LINEAR)


def _normalise(images, config: Config, pad_channels: bool, **arguments):
    model, data = config.model, config.data
    return fn.crop_mirror_normalize(
        images, crop=(model.image_size, model.image_size),
        output_layout="CHW" if model.layout == "NCHW" else "HWC",
        dtype=types.DALIDataType.FLOAT16 if model.dtype == "float16" else types.DALIDataType.FLOAT,
        mean=[255 * value for value in data.pixel_mean], std=[255 * value for value in data.pixel_std],
        pad_output=pad_channels, **arguments)


def _decode(encoded, window, config: Config, device: str, cache: bool):
    """Images (height, width, 3) uint8 RGB on `device`, cut to `window` (anchor, shape) or whole."""
    backend = "cpu" if config.data.decode == "cpu" else "mixed"
    arguments = dict(device=backend, output_type=types.DALIImageType.RGB)
    if cache:
        # Everything is cached, whole, until the memory is used up; the crop differs from epoch to epoch.
        images = fn.decoders.image(encoded, cache_size=config.data.cache_size, cache_type="threshold",
                                   cache_threshold=0, **arguments)
        images = fn.slice(images, *window) if window else images
    elif window:
        images = fn.decoders.image_slice(encoded, *window, **arguments)
    else:
        images = fn.decoders.image(encoded, **arguments)
    return images.gpu() if device == "gpu" and backend == "cpu" else images


def _new_pipeline(config: Config, batch_size: int, device: str, device_id: int, seed: int) -> Pipeline:
    return Pipeline(batch_size=batch_size, num_threads=config.data.data_threads, seed=seed,
                    device_id=device_id if device == "gpu" else None,
                    prefetch_queue_depth=config.data.prefetch)


def training_pipeline(config: Config, annotations: str, image_folder: str, file_names: Sequence[str], *,
                      default_boxes_ltrb: Optional[np.ndarray] = None, rank: int = 0, size: int = 1,
                      seed: int = 0, device: str = "cpu", device_id: int = 0, pad_channels: bool = False,
                      raw_boxes: bool = False) -> Pipeline:
    """A built pipeline that reads, augments and encodes the images of `file_names` for ever.

    `annotations` is a COCO file whose image ids are indices into the data set; `file_names` are its images,
    in the order of the first pass before shuffling, the same on every rank. Of each pass, a rank reads its
    share.

    Outputs: images (3, side, side) or (side, side, 3), normalised; with `default_boxes_ltrb` (N, 4) also
    offsets and classes as of `encode_boxes`; image index (1,) int32; with `raw_boxes` also the boxes (m, 4)
    float32 ltrb in [0, 1] and labels (m,) int32 that belong to the augmented image. Boxes, labels and index
    are in main memory but for offsets and classes, which are on the device as the images are. `pad_channels`:
    a fourth channel of zeros.
    """
    augmentation, cache = config.augmentation, config.data.decode == "cache"
    seeds = operator_seeds(seed, rank, 8)
    # DALI's shuffle after each epoch has a seed of its own; the order of `file_names` brings ours in. All
    # ranks shuffle alike and take disjoint shares. A cache wants a rank to keep its share: there a buffer
    # shuffles.
    shuffle = (dict(random_shuffle=True, stick_to_shard=True, seed=seeds[0],
                    initial_fill=max(1, min(CACHE_SHUFFLE_BUFFER, len(file_names) // size)))
               if cache else dict(shuffle_after_epoch=True))
    pipeline = _new_pipeline(config, config.training.batch_size, device, device_id, seeds[1])
    with pipeline:
        encoded, boxes, labels, index = fn.readers.coco(
            file_root=image_folder, annotations_file=annotations, images=list(file_names), ltrb=True,
            ratio=True, skip_empty=True, size_threshold=0.0, image_ids=True, shard_id=rank, num_shards=size,
            name="reader", **shuffle)
        # (left + width) / image width may exceed 1 by rounding, which random_bbox_crop aborts on.
        boxes = math.clamp(boxes, 0.0, 1.0)
        window, mirror = None, {}
        if augmentation.augment:
            *window, boxes, labels = fn.random_bbox_crop(
                boxes, labels, bbox_layout="xyXY", allow_no_crop=True,
                thresholds=list(augmentation.crop_min_iou), scaling=list(augmentation.crop_scale),
                aspect_ratio=list(augmentation.crop_aspect), num_attempts=augmentation.crop_attempts, seed=seeds[2])
            flip = fn.random.coin_flip(probability=augmentation.flip_probability, seed=seeds[3])
            boxes, mirror = fn.bb_flip(boxes, ltrb=True, horizontal=flip), dict(mirror=flip)
        images = _resize(_decode(encoded, window, config, device, cache), config.model.image_size)
        if augmentation.augment:
            images = jitter_colour(images, augmentation, seeds[4:8])
        outputs = [_normalise(images, config, pad_channels, **mirror)]
        if default_boxes_ltrb is not None:
            on_device = [node.gpu() if device == "gpu" else node for node in (boxes, labels)]
            outputs += encode_boxes(*on_device, default_boxes_ltrb, config.default_boxes,
                                    config.model.image_size)
        pipeline.set_outputs(*outputs, index, *([boxes, labels] if raw_boxes else []))
    pipeline.build()
    return pipeline


def evaluation_pipeline(config: Config, annotations: str, image_folder: str, *, device: str = "cpu",
                        device_id: int = 0, pad_channels: bool = False) -> Pipeline:
    """A built pipeline over all images of the COCO file `annotations`, in the order of their ids, again and
    again.

    The last batch of each pass is filled up with its last image. Outputs: images as of `training_pipeline`,
    resized without keeping their aspect ratio, and image id (1,) int32 in main memory.
    """
    pipeline = _new_pipeline(config, config.evaluation.eval_batch_size, device, device_id, 0)
    with pipeline:
        encoded, _, _, index = fn.readers.coco(file_root=image_folder, annotations_file=annotations,
                                               image_ids=True, pad_last_batch=True, name="reader")
        images = _resize(_decode(encoded, None, config, device, cache=False), config.model.image_size)
        pipeline.set_outputs(_normalise(images, config, pad_channels), index)
    pipeline.build()
    return pipeline


# ---- loaders

class TrainingBatch(NamedTuple):
    """One rank's share of a step. images: MXNet array (batch, channels, side, side) or (batch, side, side,
    channels), normalised; offsets: MXNet (batch, N, 4) float32 in units of the variances; classes: MXNet
    (batch, N) int32, 0 is background; indices: NumPy (batch,) into the data set; boxes and labels, if asked
    for: per image NumPy (m, 4) ltrb in [0, 1] and (m,) from 1. Offsets and classes are None without default
    boxes."""
    images: object
    offsets: object
    classes: object
    indices: np.ndarray
    boxes: Optional[List[np.ndarray]] = None
    labels: Optional[List[np.ndarray]] = None


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Steps of `global_batch` images (all ranks) that make an epoch of `images`: whole batches, at least 1."""
    return max(1, images // global_batch)


def _bad_image(error: RuntimeError, dataset: CocoDataset) -> Exception:
    """DALI's error as a UserError that names the image file, if it is about one; else DALI's error itself."""
    # DALI writes "...: REASON. File: NAME" or "File mapping failed: FOLDER/NAME", after a traceback of the
    # graph.
    text = str(error).split("encountered:")[-1]
    named = [name for name in dataset.file_names if name in text]
    if named:
        name = max(named, key=len)  # 11.jpg holds 1.jpg
        reason = [line for line in text.splitlines() if name in line][0].split("File: ")[0].strip()
        return UserError(f"image {os.path.join(dataset.image_folder, name)} cannot be decoded: {reason}")
    return error


class _Loader:
    """What both loaders share: a pipeline, its errors, the time that it makes its caller wait."""

    def __init__(self, config: Config, dataset: CocoDataset, device: str, device_id: int):
        if device == "cpu" and config.data.decode != "cpu":
            raise UserError(f"decode: {config.data.decode!r} needs a GPU, and the run is on the CPU")
        self.wait_seconds = 0.0  #: time spent in waiting for DALI so far [s]
        self._config, self._dataset, self._device, self._device_id = config, dataset, device, device_id
        self._pipeline: Optional[Pipeline] = None

    def _build(self, make, indices: np.ndarray, **arguments) -> None:
        # The reader takes the whole annotation file in when it is built, so the file need not outlive this.
        with tempfile.TemporaryDirectory(prefix="ssd-dali-") as folder:
            path = os.path.join(folder, "annotations.json")
            write_dali_annotations(self._dataset, indices, path)
            self._pipeline = make(self._config, path, self._dataset.image_folder, device=self._device,
                                  device_id=self._device_id, **arguments)

    def _run(self):
        assert self._pipeline is not None, "the loader is closed"
        start = time.perf_counter()
        try:
            return self._pipeline.run()
        except RuntimeError as error:
            self.close()
            raise _bad_image(error, self._dataset) from None
        finally:
            self.wait_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Stops DALI's threads and frees its memory; may be called again."""
        self._pipeline = None


class TrainingLoader(_Loader):
    """An endless stream of `TrainingBatch`es of one rank: `next(loader)`. The data set is read from on
    construction.

    `default_boxes_ltrb` is (N, 4) in units of the image; without it nothing is encoded. All ranks must be
    given the same `seed`. `device` is "cpu" or "gpu", the place of the batches. Two loaders of the same
    arguments yield the same batches. UserError: a batch larger than the rank's share of images, an image that
    cannot be decoded.
    """

    def __init__(self, config: Config, dataset: CocoDataset, default_boxes_ltrb: Optional[np.ndarray], *,
                 rank: int = 0, size: int = 1, seed: int = 0, device: str = "cpu", device_id: int = 0,
                 pad_channels: bool = False, raw_boxes: bool = False):
        super().__init__(config, dataset, device, device_id)
        if config.data.decode == "cache" and config.data.cache_size == 0:
            raise UserError("cache_size: 0 MiB, but decode is 'cache'")
        indices = np.asarray(dataset.images_with_boxes)
        if config.training.batch_size > len(indices) // size:
            raise UserError(f"batch_size: {config.training.batch_size} images are more than a rank's share "
                            f"of {len(indices) // size} ({len(indices)} images with boxes, ranks: {size})")
        order = np.random.default_rng(seed).permutation(indices)
        self._encoded, self._raw = default_boxes_ltrb is not None, raw_boxes
        self._build(training_pipeline, indices, file_names=[dataset.file_names[index] for index in order],
                    default_boxes_ltrb=default_boxes_ltrb, rank=rank, size=size, seed=seed,
                    pad_channels=pad_channels, raw_boxes=raw_boxes)

    def __iter__(self) -> "TrainingLoader":
        return self

    def __next__(self) -> TrainingBatch:
        from ssd.data.bridge import samples_to_numpy, to_mxnet, to_numpy
        outputs = iter(self._run())
        images = to_mxnet(next(outputs), self._device_id)
        offsets, classes = [to_mxnet(next(outputs), self._device_id) if self._encoded else None
                            for _ in range(2)]
        indices = to_numpy(next(outputs)).ravel()
        return TrainingBatch(images, offsets, classes, indices,
                             *[samples_to_numpy(output) for output in outputs])


class EvaluationLoader(_Loader):
    """Passes over a rank's share of all images, those without boxes too: `for images, indices in loader`.

    Rank r of n takes images r, r + n, ...; over all ranks each image comes exactly once per pass. `images` is
    an MXNet array of eval_batch_size images always, so that the network keeps one shape; `indices` is NumPy
    (valid,), into the data set, and belongs to the first rows: rows past it are padding. A rank without
    images yields nothing.
    """

    def __init__(self, config: Config, dataset: CocoDataset, *, rank: int = 0, size: int = 1,
                 device: str = "cpu", device_id: int = 0, pad_channels: bool = False):
        super().__init__(config, dataset, device, device_id)
        self._indices = np.arange(rank, dataset.num_images, size)
        self._unread = 0  # batches of a pass that was left early
        if len(self._indices):
            self._build(evaluation_pipeline, self._indices, pad_channels=pad_channels)

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
            assert np.array_equal(indices, self._indices[start:start + valid]), "DALI's order is not by id"
            yield to_mxnet(images, self._device_id), indices
