"""The DALI graphs for training and evaluation.

They use only operators and arguments that DALI 1.5, 1.53 and 2.x all have; docs/dali.md lists them.
The order and the distributions of the augmentation are those of the MLPerf reference
(single_stage_detector/ssd, utils.py: SSDTransformer).
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
from nvidia.dali import backend, fn, math, types
from nvidia.dali.pipeline import DataNode, Pipeline

from ssd.config import AugmentationConfig, Config
from ssd.data.samples import COLOUR_FIELDS
from ssd.model.matching import Matcher, shapes_first

# Images in the reader's shuffle buffer if images are cached.
CACHE_SHUFFLE_BUFFER = 4096

Nodes = Dict[str, DataNode]


# ---- sources of training samples: nodes by the names of ssd.data.samples' fields


def fed_samples(feed: Callable[[], list], fields: Sequence[str]) -> Nodes:
    """Nodes of what `feed()` returns for each batch: an array or a list of arrays per field."""
    return dict(zip(fields, fn.external_source(source=feed, num_outputs=len(fields))))


def cached_samples(
    config: Config,
    annotations: str,
    image_folder: str,
    file_names: Sequence[str],
    seeds: Sequence[int],
) -> Nodes:
    """Samples that DALI itself reads, shuffles and augments, as its cache of decoded images
    requires.

    `annotations`: a COCO file of the rank's share of the images, whose ids are indices into the
    data set; `file_names`: their names, in the order of the first pass before they are shuffled in
    a buffer. Seven `seeds`.
    """
    encoded, boxes, labels, index = fn.readers.coco(
        file_root=image_folder,
        annotations_file=annotations,
        images=list(file_names),
        ltrb=True,
        ratio=True,
        skip_empty=True,
        size_threshold=0.0,
        image_ids=True,
        random_shuffle=True,
        initial_fill=min(CACHE_SHUFFLE_BUFFER, len(file_names)),
        seed=seeds[0],
        name="reader",
    )
    nodes = dict(encoded=encoded, boxes=boxes, labels=labels, index=index)
    return (
        drawn_by_dali(nodes, config.augmentation, seeds[1:])
        if config.augmentation.augment
        else nodes
    )


def drawn_by_dali(nodes: Nodes, augmentation: AugmentationConfig, seeds: Sequence[int]) -> Nodes:
    """`nodes` with the augmented fields, drawn by DALI's random operators from six `seeds`."""
    # (left + width) / image width may exceed 1 by rounding, which random_bbox_crop aborts on.
    boxes, labels = math.clamp(nodes["boxes"], 0.0, 1.0), nodes["labels"]
    anchor = shape = None
    if augmentation.crop_min_iou:
        anchor, shape, boxes, labels = fn.random_bbox_crop(
            boxes,
            labels,
            bbox_layout="xyXY",
            allow_no_crop=True,
            thresholds=list(augmentation.crop_min_iou),
            scaling=list(augmentation.crop_scale),
            aspect_ratio=list(augmentation.crop_aspect),
            num_attempts=augmentation.crop_attempts,
            seed=seeds[0],
        )
    flip = fn.random.coin_flip(probability=augmentation.flip_probability, seed=seeds[1])
    return dict(
        nodes,
        anchor=anchor,
        shape=shape,
        flip=flip,
        boxes=fn.bb_flip(boxes, ltrb=True, horizontal=flip),
        labels=labels,
        hue=_around(0, augmentation.hue, seeds[2]),
        saturation=_around(1, augmentation.saturation, seeds[3]),
        contrast=_around(1, augmentation.contrast, seeds[4]),
        brightness=_around(1, augmentation.brightness, seeds[5]),
    )


def operator_seeds(*key: int, count: int) -> List[int]:
    """`count` seeds in [0, 2^31), one per random operator, independent of each other and between
    keys."""
    return [int(value) for value in np.random.SeedSequence(key).generate_state(count) >> 1]


def _around(centre: float, spread: float, seed: int):
    """Uniform over centre +- spread; a plain number if spread is 0."""
    return (
        fn.random.uniform(range=[centre - spread, centre + spread], seed=seed) if spread else centre
    )


# ---- parts


def make_pixels(device: str) -> bool:
    """Whether the training graph turns decoded images into the network's input; otherwise
    ssd.data.cpu_pixels does."""
    return device == "gpu"


def _reversed(node, *row: int):
    """The rows of a node of shape (n, *row), `row` empty or one number, in reverse."""
    rows = fn.reshape(node, shape=[-1, 1, *(row or (1,))], layout="HWC")
    return fn.reshape(fn.flip(rows, horizontal=0, vertical=1), shape=[-1, *row])


def _cells_first(node, maps, *row: int):
    """The rows of a node of shape (N, *row), listed map, shape, cell, in the order map, cell,
    shape."""
    parts, start = [], 0
    for cells, shapes in maps:
        size = [cells * shapes, *row]
        part = fn.slice(
            node, start=[start] + [0] * len(row), shape=size, axes=list(range(len(size)))
        )
        part = fn.transpose(fn.reshape(part, shape=[shapes, cells, *(row or (1,))]), perm=[1, 0, 2])
        parts.append(fn.reshape(part, shape=size))
        start += cells * shapes
    return fn.cat(*parts, axis=0)


def encode_boxes(boxes, labels, matcher: Matcher, scale: float):
    """Graph nodes (offsets, classes) of ground truth matched to default boxes as by `matcher`.

    `boxes` (m, 4) float32 ltrb in [0, 1] and `labels` (m,) int32 from 1, m > 0, are nodes on either
    device. Per sample, offsets are (N, 4) float32: centre x and y, width and height, in units of
    the variances, 0 where unmatched; classes are (N,) int32, 0 where unmatched. scale: cancels out
    except for rounding; the image's side [pixels] follows the reference.
    """
    # Among equal IoUs box_encoder takes the last, of default boxes and of ground truth, where the
    # reference takes the first (of default boxes in its own order: map, shape, cell); but if two
    # boxes of the ground truth claim one default box, the reference takes the last. Equal IoUs are
    # common: all default boxes inside a large object, or around a small one. So everything is
    # passed in reverse and in the reference's order, except for the claims, the only pairs to which
    # box_encoder gives an IoU above 1. (With one plain box_encoder, 65 default boxes of the
    # reference's 24 samples have another class than in the reference; this way, none. On a GPU,
    # which rounds the IoU differently, another of several equally good ones may win: .2 to .6 % of
    # the matched.)
    settings = matcher.settings
    anchors = matcher.default_boxes_ltrb[shapes_first(matcher.maps)][::-1]
    arguments = dict(
        anchors=anchors.ravel().tolist(),
        offset=True,
        stds=[settings.center_variance] * 2 + [settings.size_variance] * 2,
        scale=float(scale),
    )
    claimed_offsets, claimed = fn.box_encoder(boxes, labels, criteria=1.0, **arguments)
    offsets, classes = fn.box_encoder(
        _reversed(boxes, 4), _reversed(labels), criteria=settings.matching_iou, **arguments
    )
    free = fn.cast(claimed == 0, dtype=types.DALIDataType.INT32)
    free_rows = fn.cast(fn.stack(free, free, free, free, axis=1), dtype=types.DALIDataType.FLOAT)
    return (
        _cells_first(_reversed(claimed_offsets + offsets * free_rows, 4), matcher.maps, 4),
        _cells_first(_reversed(claimed + classes * free), matcher.maps),
    )


def jitter_colour(images, hue, saturation, contrast, brightness):
    """torchvision's ColorJitter on images (height, width, 3) uint8 RGB, with the given factors
    (nodes in main memory, a scalar per sample, or plain numbers; the turn of the hue in degrees).

    The result is float32, [0, 255], not rounded. Hue and saturation are changed in YIQ, in
    torchvision in HSV.
    """
    # Contrast spreads values around the image's mean, as in torchvision. color_twist, and
    # brightness_contrast in the submissions, spread them around mid-grey. On 160 COCO images with
    # random factors, the mean distance to torchvision's result (Pillow backend, random order;
    # levels of 255) was 15.3 for the unchanged image, 7.3 for color_twist, 7.3 for hsv +
    # brightness_contrast, 3.0 for this. The whole pipeline took 2.9 ms of CPU an image without
    # colour, 5.1 with color_twist, 7.2 with this; brightness_contrast with brightness_shift
    # computed from the mean took 5.9, but needs the mean in main memory, which that of an image on
    # a GPU is not. Float, since DALI's CPU kernel takes three times as long to round and
    # clamp to uint8; math.min and math.max, since math.clamp takes twice as long as both.
    images = fn.hsv(images, hue=hue, saturation=saturation, dtype=types.DALIDataType.FLOAT)
    gain, constant = [
        factor.gpu() if isinstance(factor, DataNode) and images.device == "gpu" else factor
        for factor in (brightness * contrast, brightness * (1 - contrast))
    ]
    return math.max(math.min(images * gain + fn.reductions.mean(images) * constant, 255.0), 0.0)


def resize(images, config: Config):
    """Images of any sizes, channels last, to image_size [pixels], bilinear, without keeping the
    aspect ratio; uint8, or without data.antialias float32, [0, 255], not rounded."""
    size, linear = config.model.image_size, types.DALIInterpType.INTERP_LINEAR
    arguments = dict(resize_x=size.width, resize_y=size.height, mag_filter=linear)
    if config.data.antialias:
        # Pillow's filter, which SSD's reference uses, widens with the reduction; in DALI that is
        # the triangular one.
        return fn.resize(images, min_filter=types.DALIInterpType.INTERP_TRIANGULAR, **arguments)
    # RetinaNet's reference normalises, then resizes: both are linear, so the order does not matter
    # as long as nothing is rounded to 8 bits in between. DALI 1.5 has no antialiasing.
    if "antialias" in backend.GetSchema("Resize").GetArgumentNames():
        arguments["antialias"] = False
    return fn.resize(images, min_filter=linear, dtype=types.DALIDataType.FLOAT, **arguments)


def normalise(images, config: Config, pad_channels: bool, mirror=0):
    """uint8 or float images, [0, 255], normalised, in the network's layout and type; flipped where
    `mirror` is 1. `pad_channels`: a fourth channel of zeros."""
    model, data = config.model, config.data
    return fn.crop_mirror_normalize(
        images,
        crop=tuple(model.image_size),
        output_layout="CHW" if model.layout == "NCHW" else "HWC",
        dtype=types.DALIDataType.FLOAT16 if model.dtype == "float16" else types.DALIDataType.FLOAT,
        mean=[255 * value for value in data.pixel_mean],
        std=[255 * value for value in data.pixel_std],
        pad_output=pad_channels,
        mirror=mirror,
    )


def decode_images(encoded, window, config: Config, device: str, cache: bool = False):
    """Images (height, width, 3) uint8 RGB on `device`, cropped to `window` (anchor, shape) or
    complete."""
    decoder = "mixed" if device == "gpu" and config.data.decode != "cpu" else "cpu"
    arguments = dict(device=decoder, output_type=types.DALIImageType.RGB)
    arguments.update(_known_arguments(decoder))
    if cache:
        # Complete images are cached until the memory is used up; the crop differs from epoch to
        # epoch.
        images = fn.decoders.image(
            encoded,
            cache_size=config.data.cache_size,
            cache_type="threshold",
            cache_threshold=0,
            **arguments,
        )
        images = fn.slice(images, *window) if window else images
    elif window:
        images = fn.decoders.image_slice(encoded, *window, **arguments)
    else:
        images = fn.decoders.image(encoded, **arguments)
    return images.gpu() if device == "gpu" and decoder == "cpu" else images


def _known_arguments(decoder: str) -> Dict[str, object]:
    """Arguments of the decoders on "cpu" or "mixed", those that this version of DALI has."""
    # Boxes refer to the pixels as stored; by default 2.x rotates images by their EXIF data, which
    # the CPU decoders up to 1.53 cannot.
    wanted: Dict[str, object] = dict(adjust_orientation=False)
    if decoder == "mixed":
        # By default 65 % of a batch go to the GPU's JPEG engine and the rest to CUDA code, which
        # rounds differently: an image's pixels would depend on the rest of the batch, and so on the
        # number of ranks. So the engine decodes all that it can; it equals libjpeg for images with
        # full chroma (4:4:4), which CUDA code does not. Chroma is smoothed as by libjpeg.
        wanted.update(hw_decoder_load=1.0, jpeg_fancy_upsampling=True)
    known = backend.GetSchema("decoders__Image").GetArgumentNames()
    return {name: value for name, value in wanted.items() if name in known}


def decoding_pipeline(
    config: Config, feed: Callable[[], list], device: str, device_id: int
) -> Pipeline:
    """A built pipeline of batches of one image, decoded as in training; `feed()` returns [its bytes
    (k,) uint8]."""
    pipeline = Pipeline(
        batch_size=1,
        num_threads=1,
        seed=0,
        device_id=device_id if device == "gpu" else None,
        prefetch_queue_depth=1,
    )
    with pipeline:
        pipeline.set_outputs(decode_images(fn.external_source(source=feed), None, config, device))
    pipeline.build()
    return pipeline


# ---- pipelines


def _new_pipeline(config: Config, batch_size: int, device: str, device_id: int) -> Pipeline:
    return Pipeline(
        batch_size=batch_size,
        num_threads=config.data.data_threads,
        seed=0,  # random operators have their own
        device_id=device_id if device == "gpu" else None,
        prefetch_queue_depth=config.data.prefetch,
    )


def training_pipeline(
    config: Config,
    samples: Callable[[], Nodes],
    *,
    matcher: Optional[Matcher] = None,
    device: str = "cpu",
    device_id: int = 0,
    pad_channels: bool = False,
    raw_boxes: bool = False,
) -> Pipeline:
    """A built pipeline that decodes, augments and encodes `samples()` endlessly.

    Outputs: images (3, height, width) or (height, width, 3), normalised, or, if `make_pixels` is
    False, decoded windows (height, width, 3) uint8 RGB, of their own sizes; with a `matcher` also
    offsets and classes as of `encode_boxes`; image index (1,) int32; with `raw_boxes` also the
    boxes (m, 4) float32 ltrb in [0, 1] and labels (m,) int32 that belong to the augmented image.
    Boxes, labels and index are in main memory but for offsets and classes, which are on the device
    as the images are. `pad_channels`: a fourth channel of zeros.
    """
    augment = config.augmentation.augment
    crop = augment and config.augmentation.crop_min_iou
    pipeline = _new_pipeline(config, config.training.batch_size, device, device_id)
    with pipeline:
        nodes = samples()
        window = (nodes["anchor"], nodes["shape"]) if crop else None
        images = decode_images(
            nodes["encoded"], window, config, device, cache=config.data.decode == "cache"
        )
        if make_pixels(device):
            images = resize(images, config)
            if config.augmentation.changes_colour:
                images = jitter_colour(images, *[nodes[name] for name in COLOUR_FIELDS])
            images = normalise(images, config, pad_channels, mirror=nodes["flip"] if augment else 0)
        outputs = [images]
        if matcher is not None:
            on_device = [
                nodes[name].gpu() if device == "gpu" else nodes[name]
                for name in ("boxes", "labels")
            ]
            outputs += encode_boxes(*on_device, matcher, max(config.model.image_size))
        pipeline.set_outputs(
            *outputs, nodes["index"], *([nodes["boxes"], nodes["labels"]] if raw_boxes else [])
        )
    pipeline.build()
    return pipeline


def evaluation_pipeline(
    config: Config,
    feed: Callable[[], list],
    *,
    device: str = "cpu",
    device_id: int = 0,
    pad_channels: bool = False,
) -> Pipeline:
    """A built pipeline of the batches of `feed()`, an ssd.data.samples.ImageFeed.

    Outputs: images as of `training_pipeline`, resized without keeping their aspect ratio, and image
    index (1,) int32 in main memory.
    """
    pipeline = _new_pipeline(config, config.evaluation.eval_batch_size, device, device_id)
    with pipeline:
        encoded, index = fn.external_source(source=feed, num_outputs=2)
        images = resize(decode_images(encoded, None, config, device), config)
        pipeline.set_outputs(normalise(images, config, pad_channels), index)
    pipeline.build()
    return pipeline
