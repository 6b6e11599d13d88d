"""The DALI graphs and loaders against Pillow, the reference's numbers, images whose colours mark
boxes."""

import json
import os
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ssd.config import load_recipe
from ssd.data.bridge import to_numpy
from ssd.data.dali_annotations import write_dali_annotations
from ssd.data.graphs import encode_boxes, training_pipeline
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.samples import epoch_order, steps_per_epoch
from ssd.data.show import denormalise
from ssd.datasets.coco import load_coco
from ssd.errors import UserError
from ssd.model.matching import Matcher
from tests.reference import vectors

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REFERENCE = os.environ.get("SSD_REFERENCE_VECTORS") or os.path.join(
    REPOSITORY, "tests", "reference", "ssd_reference_seed0.npz"
)
RECIPE = load_recipe("ssd-resnet34-coco")
# Four default boxes, the quarters of the image.
MATCHER = Matcher(
    np.float32([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]),
    RECIPE.default_boxes,
    [(4, 1)],
)


def reference_matcher(default_boxes_ltrb):
    """The matcher of SSD-ResNet34's 8,732 default boxes."""
    sides, shapes = (38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4)
    return Matcher(
        default_boxes_ltrb,
        RECIPE.default_boxes,
        [(side * side, n) for side, n in zip(sides, shapes)],
    )


def settings(**values):
    return RECIPE.with_values(**{**dict(batch_size=4, eval_batch_size=4, image_size=32), **values})


def make_dataset(folder, images, boxes, extension="png"):
    """A data set of Pillow images or byte strings; boxes: per image (left, top, right, bottom,
    class 1..3)."""
    records, annotations = [], []
    for index, (image, image_boxes) in enumerate(zip(images, boxes)):
        name = f"image{index}.{extension}"
        path = os.path.join(folder, name)
        size = (40, 30)
        if isinstance(image, bytes):
            with open(path, "wb") as file:
                file.write(image)
        else:
            image.save(path)
            size = image.size
        records.append(dict(id=1000 + index, file_name=name, width=size[0], height=size[1]))
        annotations += [
            dict(
                id=len(annotations) + number,
                image_id=1000 + index,
                category_id=10 * kind,
                area=1,
                iscrowd=0,
                bbox=[left, top, right - left, bottom - top],
            )
            for number, (left, top, right, bottom, kind) in enumerate(image_boxes)
        ]
    path = os.path.join(folder, "annotations.json")
    with open(path, "w") as file:
        json.dump(
            dict(
                images=records,
                annotations=annotations,
                categories=[dict(id=10 * kind, name=f"thing{kind}") for kind in (1, 2, 3)],
            ),
            file,
        )
    return load_coco(
        path, str(folder), check_images="exists", require_boxes=False, report=lambda line: None
    )


def grey_dataset(folder, count, without_box=()):
    """Images of one grey level each, 10 times their index."""
    images = [Image.new("RGB", (40, 30), (10 * index,) * 3) for index in range(count)]
    boxes = [[] if index in without_box else [(4, 3, 20, 24, 1)] for index in range(count)]
    return make_dataset(folder, images, boxes)


# ---- encoding


def test_encoding_is_the_references():
    arrays = np.load(REFERENCE, allow_pickle=False)
    samples = vectors.ground_truth(int(arrays["seed"]))
    pipeline = Pipeline(batch_size=len(samples), num_threads=2, device_id=None)
    with pipeline:
        boxes = fn.external_source(source=lambda: [boxes for boxes, _ in samples])
        labels = fn.external_source(
            source=lambda: [classes.astype(np.int32) for _, classes in samples]
        )
        pipeline.set_outputs(
            *encode_boxes(boxes, labels, reference_matcher(arrays["default_boxes_ltrb"]), 300)
        )
    pipeline.build()
    offsets, classes = [to_numpy(output) for output in pipeline.run()]
    assert offsets.dtype == np.float32 and classes.dtype == np.int32
    assert offsets.shape == (len(samples), len(arrays["default_boxes_ltrb"]), 4)
    sample, index = np.nonzero(classes)
    np.testing.assert_array_equal(
        np.bincount(sample, minlength=len(samples)), arrays["match_pos_count"]
    )
    np.testing.assert_array_equal(index, arrays["match_pos_index"])
    np.testing.assert_array_equal(classes[sample, index], arrays["match_pos_label"])
    np.testing.assert_allclose(
        offsets[sample, index], arrays["match_pos_offsets"], rtol=0, atol=1e-4
    )
    assert not offsets[classes == 0].any()


def test_equal_overlaps_are_settled_as_in_the_reference():
    anchors = np.float32(
        [
            [0, 0, 0.5, 0.5],
            [0.5, 0, 1, 0.5],
            [0, 0.5, 0.5, 1],
            [0.5, 0.5, 1, 1],
            [0.02, 0, 0.5, 0.5],
        ]
    )
    cases = [
        # Inside all of it: the first of the four equal default boxes.
        ([[0, 0, 1, 1]], [7], [7, 0, 0, 0, 0]),
        # Two identical boxes claim box 0, which goes to the later one; box 4 takes the first.
        ([[0, 0, 0.5, 0.5]] * 2, [7, 8], [8, 0, 0, 0, 7]),
        ([[0.5, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]], [5, 8, 7], [7, 5, 0, 0, 8]),
    ]
    pipeline = Pipeline(batch_size=len(cases), num_threads=1, device_id=None)
    with pipeline:
        boxes = fn.external_source(source=lambda: [np.float32(boxes) for boxes, _, _ in cases])
        labels = fn.external_source(source=lambda: [np.int32(labels) for _, labels, _ in cases])
        pipeline.set_outputs(
            encode_boxes(boxes, labels, Matcher(anchors, RECIPE.default_boxes, [(5, 1)]), 300)[1]
        )
    pipeline.build()
    assert to_numpy(pipeline.run()[0]).tolist() == [classes for _, _, classes in cases]


# ---- training


def test_boxes_follow_the_pixels(tmp_path):
    random = np.random.RandomState(0)
    images, boxes = [], []
    for _ in range(16):
        # A red thing (class 1) on the left half, a green one (class 2) on the right, on blue.
        # Large, so that the rounding of a crop to whole pixels is less than a pixel of the result.
        pixels = np.full((750, 1000, 3), (40, 40, 200), np.uint8)
        found = []
        for kind in (1, 2):
            width, height = random.randint(120, 420), random.randint(120, 600)
            left, top = (
                random.randint(0, 500 - width) + 500 * (kind - 1),
                random.randint(0, 750 - height),
            )
            pixels[top : top + height, left : left + width] = (
                (200, 40, 40) if kind == 1 else (40, 200, 40)
            )
            found.append((left, top, left + width, top + height, kind))
        images.append(Image.fromarray(pixels))
        boxes.append(found)
    dataset = make_dataset(tmp_path, images, boxes, "bmp")
    config = settings(batch_size=16, image_size=300)
    loader, seen, moved, errors = (
        TrainingLoader(config, dataset, None, seed=3, raw_boxes=True),
        0,
        0,
        [],
    )
    for _ in range(16):
        batch = next(loader)
        for image, index, found, labels in zip(
            denormalise(batch.images.asnumpy(), config), batch.indices, batch.boxes, batch.labels
        ):
            assert found.dtype == np.float32 and found.shape == (len(labels), 4) and len(labels)
            for box, label in zip(found, labels):
                rows, columns = np.nonzero(image.argmax(2) == label - 1)
                extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                errors.append(np.abs(extent - 300 * box).max())
                seen += 1
                moved += (
                    np.abs(box * (1000, 750, 1000, 750) - boxes[index][label - 1][:4]).max() > 5
                )
    assert seen > 300 and moved > 0.7 * seen
    assert max(errors) < 1.6


def simulated_crops(box, count, seed):
    """Boxes left by the random crop that the reference's SSDCropping describes; `box` where it
    keeps all."""
    random, result = np.random.RandomState(seed), []
    while len(result) < count:
        choice = random.choice(["keep", 0, 0.1, 0.3, 0.5, 0.7, 0.9])
        if choice == "keep":
            result.append(box)
            continue
        width, height = random.uniform(0.3, 1, 2)
        if not 0.5 <= width / height <= 2:
            continue
        left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
        crop = np.array([left, top, left + width, top + height])
        clipped = np.concatenate([np.maximum(box[:2], crop[:2]), np.minimum(box[2:], crop[2:])])
        overlap = np.prod(np.maximum(clipped[2:] - clipped[:2], 0))
        iou = overlap / (np.prod(box[2:] - box[:2]) + width * height - overlap)
        centre = (box[:2] + box[2:]) / 2
        if iou > float(choice) and (centre > crop[:2]).all() and (centre < crop[2:]).all():
            result.append((clipped - np.tile(crop[:2], 2)) / np.tile([width, height], 2))
    return np.array(result)


def test_crops_and_flips_are_drawn_as_in_the_reference(tmp_path):
    box = np.array([0.1, 0.3, 0.6, 0.8])
    dataset = make_dataset(tmp_path, [Image.new("RGB", (40, 40))] * 8, [[(4, 12, 24, 32, 1)]] * 8)
    boxes = {}
    for probability in (0, 0.5, 1):
        config = settings(batch_size=8, flip_probability=probability)
        loader = TrainingLoader(config, dataset, None, raw_boxes=True)
        boxes[probability] = np.concatenate(
            [np.concatenate(next(loader).boxes) for _ in range(250 if probability == 0.5 else 30)]
        )
    flipped = np.array([1 - box[2], box[1], 1 - box[0], box[3]])
    whole = {p: np.abs(found - box).max(1) < 1e-5 for p, found in boxes.items()}
    mirrored = {p: np.abs(found - flipped).max(1) < 1e-5 for p, found in boxes.items()}
    assert whole[0].any() and not mirrored[0].any() and mirrored[1].any() and not whole[1].any()
    kept = whole[0.5] | mirrored[0.5]
    assert abs(mirrored[0.5].sum() / kept.sum() - 0.5) < 4 * np.sqrt(0.25 / kept.sum())
    expected = simulated_crops(box, len(kept), 0)
    share = (expected == box).all(1).mean()
    assert share > 1 / 7 and abs(kept.mean() - share) < 4 * np.sqrt(
        2 * share * (1 - share) / len(kept)
    )
    # The sizes of the boxes left by the crop, which no flip changes: two-sample Kolmogorov-Smirnov
    # statistic.
    for side in (0, 1):
        ours, theirs = [
            np.sort(found[:, 2 + side] - found[:, side]) for found in (boxes[0.5], expected)
        ]
        grid = np.concatenate([ours, theirs]) + 1e-5
        distance = np.abs(np.searchsorted(ours, grid) - np.searchsorted(theirs, grid)).max() / len(
            ours
        )
        assert distance < 1.63 * np.sqrt(2 / len(ours))


def jittered(folder, image, **only):
    """200 results of the recipe's colour changes, all but `only` switched off, on images that
    nothing else changes."""
    folder.mkdir()
    dataset = make_dataset(folder, [Image.fromarray(image)] * 20, [[(4, 4, 20, 20, 1)]] * 20)
    off = dict(brightness=0, contrast=0, saturation=0, hue=0, crop_min_iou=(), flip_probability=0)
    config = settings(batch_size=20, **{**off, **only})
    loader = TrainingLoader(config, dataset, None)
    images = np.concatenate([next(loader).images.asnumpy() for _ in range(10)]).astype(np.float64)
    return 255 * (images.transpose(0, 2, 3, 1) * config.data.pixel_std + config.data.pixel_mean)


def covers(values, low, high):
    """Whether `values` lie in [low, high] (but for rounding) and come near both ends and the
    middle."""
    slack = (high - low) * 0.03
    return (
        low - slack < values.min() < low + 2 * slack
        and high - 2 * slack < values.max() < high + slack
        and abs(np.mean(values) - (low + high) / 2) < (high - low) * 0.08
    )


def test_colours_change_within_the_recipes_ranges(tmp_path):
    random = np.random.RandomState(0)
    image = random.randint(100, 150, (32, 32, 3)).astype(np.uint8)
    image[:16, :, 0] += 40
    exact = image.astype(np.float64)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]]).T

    assert np.abs(jittered(tmp_path / "none", image) - exact).max() <= 1
    bright = (
        jittered(tmp_path / "brightness", image, brightness=RECIPE.augmentation.brightness) / exact
    )
    assert bright.std((1, 2, 3)).max() < 0.02 and covers(
        bright.mean((1, 2, 3)), 1 - 0.125, 1 + 0.125
    )
    contrast = jittered(tmp_path / "contrast", image, contrast=RECIPE.augmentation.contrast)
    assert np.abs(contrast.mean((1, 2, 3)) - exact.mean()).max() < 1
    assert covers(contrast.std((1, 2, 3)) / exact.std(), 1 - 0.5, 1 + 0.5)

    yiq = exact.mean((0, 1)) @ to_yiq
    saturated = jittered(tmp_path / "saturation", image, saturation=RECIPE.augmentation.saturation)
    saturated = saturated.mean((1, 2)) @ to_yiq
    assert np.abs(saturated[:, 0] - yiq[0]).max() < 1
    assert covers(np.hypot(*saturated[:, 1:].T) / np.hypot(*yiq[1:]), 1 - 0.5, 1 + 0.5)
    turned = jittered(tmp_path / "hue", image, hue=RECIPE.augmentation.hue).mean((1, 2)) @ to_yiq
    assert np.abs(turned[:, 0] - yiq[0]).max() < 1
    assert np.abs(np.hypot(*turned[:, 1:].T) - np.hypot(*yiq[1:])).max() < 1
    assert covers(
        np.degrees(np.arctan2(turned[:, 2], turned[:, 1]) - np.arctan2(yiq[2], yiq[1])), -18, 18
    )


def photo(width=400, height=320, seed=0):
    """A smooth colourful picture."""
    small = np.random.RandomState(seed).randint(0, 256, (8, 10, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def test_without_augmentation_images_are_just_resized(tmp_path):
    dataset = make_dataset(
        tmp_path, [photo(), photo(90, 200, 1)], [[(100, 80, 300, 160, 2)], [(9, 20, 90, 180, 3)]]
    )
    config = settings(batch_size=2, image_size=150, augment=False)
    batch = next(TrainingLoader(config, dataset, MATCHER, raw_boxes=True))
    assert sorted(batch.indices) == [0, 1]
    expected = [([0.25, 0.25, 0.75, 0.5], 2), ([0.1, 0.1, 1, 0.9], 3)]
    for image, index, box, label in zip(
        denormalise(batch.images.asnumpy(), config), batch.indices, batch.boxes, batch.labels
    ):
        with Image.open(tmp_path / dataset.file_names[index]) as original:
            resized = np.asarray(original.resize((150, 150), Image.BILINEAR)).astype(int)
        assert np.abs(image - resized).max() <= 2
        np.testing.assert_allclose(box, [expected[index][0]], atol=1e-6)
        assert label.tolist() == [expected[index][1]]
    values = batch.images.asnumpy()[0].astype(np.float64)
    pixels = denormalise(batch.images.asnumpy(), config)[0] / 255
    expected = ((pixels - config.data.pixel_mean) / config.data.pixel_std).transpose(2, 0, 1)
    np.testing.assert_allclose(values, expected, atol=0.5 / 255 / 0.22)
    assert batch.offsets.shape == (2, 4, 4) and batch.offsets.dtype == np.float32
    assert batch.classes.shape == (2, 4) and batch.classes.dtype == np.int32
    assert set(batch.classes.asnumpy()[list(batch.indices).index(0)]) == {0, 2}


@pytest.mark.parametrize("pad_channels", [False, True])
def test_nhwc_and_float16(tmp_path, pad_channels):
    dataset = make_dataset(tmp_path, [photo(60, 50, 0)], [[(10, 10, 30, 30, 1)]])
    half = settings(batch_size=1, eval_batch_size=1, augment=False, layout="NHWC", dtype="float16")
    plain = settings(batch_size=1, eval_batch_size=1, augment=False)
    for kind in ("training", "evaluation"):
        images = []
        for config, pad in ((half, pad_channels), (plain, False)):
            batch = (
                next(TrainingLoader(config, dataset, MATCHER, pad_channels=pad))
                if kind == "training"
                else next(iter(EvaluationLoader(config, dataset, pad_channels=pad)))
            )
            images.append(batch[0].asnumpy())
        assert images[0].dtype == np.float16 and images[0].shape == (1, 32, 32, 3 + pad_channels)
        np.testing.assert_allclose(images[0][..., :3], images[1].transpose(0, 2, 3, 1), atol=3e-3)
        assert not images[0][..., 3:].any()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_each_epoch(tmp_path, size):
    dataset = grey_dataset(tmp_path, 11, without_box=(4,))
    loaders = [
        TrainingLoader(settings(batch_size=1), dataset, None, rank=rank, size=size, seed=5)
        for rank in range(size)
    ]
    epochs = []
    for _ in range(3):
        found = [int(next(loader).indices[0]) for _ in range(10 // size) for loader in loaders]
        assert len(found) == len(set(found)) == 10 // size * size and set(found) < set(
            range(11)
        ) - {4} | {11}
        epochs.append(found)
    assert epochs[0] != sorted(epochs[0]) and epochs[0] != epochs[1] != epochs[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """13 pictures with one to three boxes each: three steps of 4 and one image left over."""
    random, boxes = np.random.RandomState(2), []
    for index in range(13):
        corners = random.randint(0, 40, (1 + index % 3, 2)).tolist()
        boxes.append(
            [
                (left, top, left + 9 + index, top + 20 - index, 1 + index % 3)
                for left, top in corners
            ]
        )
    return make_dataset(
        tmp_path_factory.mktemp("photos"), [photo(60, 60, seed) for seed in range(13)], boxes
    )


def stream(dataset, steps, batch_size=4, device="cpu", values=(), **arguments):
    """Per step: its number and (images, offsets, classes, indices)."""
    config = settings(batch_size=batch_size, **dict(values))
    loader = TrainingLoader(config, dataset, MATCHER, device=device, **arguments)
    result = []
    for batch in (next(loader) for _ in range(steps)):
        result.append(
            (
                batch.step,
                [
                    batch.images.asnumpy(),
                    batch.offsets.asnumpy(),
                    batch.classes.asnumpy(),
                    batch.indices,
                ],
            )
        )
    loader.close()
    return result


def assert_same(streams, others):
    assert len(streams) == len(others)
    for (step, ours), (other_step, theirs) in zip(streams, others):
        assert step == other_step
        for one, other in zip(ours, theirs):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_the_seed_decides(photos):
    first, other = stream(photos, 5, seed=7), stream(photos, 5, seed=8)
    assert [step for step, _ in first] == list(range(5))
    for (_, ours), (_, different) in zip(first, other):
        assert not any(np.array_equal(one, another) for one, another in zip(ours, different))


@pytest.mark.parametrize(
    "values", [{}, dict(data_threads=1), dict(data_threads=4), dict(prefetch=1), dict(prefetch=4)]
)
def test_threads_and_prefetch_change_nothing(photos, values):
    assert_same(stream(photos, 5, seed=7, values=values), stream(photos, 5, seed=7))


@pytest.mark.parametrize("augment", [True, False])
def test_any_step_can_be_the_first(photos, augment):
    whole = stream(photos, 8, seed=7, values=dict(augment=augment))
    for first in (1, 2, 3, 5):
        assert_same(
            stream(photos, 8 - first, seed=7, first_step=first, values=dict(augment=augment)),
            whole[first:],
        )
    [(step, late)] = stream(photos, 1, seed=7, first_step=10**9)
    assert step == 10**9 and not np.array_equal(late[0], whole[0][1][0])


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_ranks_changes_nothing(photos, size):
    shares = [
        stream(photos, 5, batch_size=4 // size, rank=rank, size=size, seed=7, first_step=1)
        for rank in range(size)
    ]
    together = [
        (steps[0][0], [np.concatenate(parts) for parts in zip(*[arrays for _, arrays in steps])])
        for steps in zip(*shares)
    ]
    assert_same(together, stream(photos, 5, seed=7, first_step=1))


def test_the_image_cache_has_a_stream_of_its_own(photos, monkeypatch):
    # Its graph, on the CPU: DALI takes the cache's settings there and ignores them.
    monkeypatch.setattr("ssd.data.graphs.make_pixels", lambda device: True)
    monkeypatch.setattr(
        "ssd.data.pipeline.training_pipeline",
        lambda *positional, **named: training_pipeline(*positional, **{**named, "device": "cpu"}),
    )
    written = []
    monkeypatch.setattr(
        "ssd.data.pipeline.write_dali_annotations",
        lambda dataset, indices, path: (
            written.append(indices),
            write_dali_annotations(dataset, indices, path),
        ),
    )
    cache = dict(device="gpu", values=dict(decode="cache", cache_size=100))
    streams = [
        stream(photos, 6, batch_size=2, rank=rank, size=2, seed=7, **cache) for rank in (0, 1)
    ]
    assert_same(stream(photos, 6, batch_size=2, rank=0, size=2, seed=7, **cache), streams[0])
    held = [set(np.concatenate([arrays[3] for _, arrays in steps])) for steps in streams]
    assert (
        held[0] | held[1] == set(range(13)) and not held[0] & held[1]
    )  # each rank keeps its share
    assert [len(images) for images in written] == [6, 7, 6] and set(written[0]) == held[
        0
    ]  # and writes that alone
    resumed = stream(photos, 3, batch_size=2, size=2, seed=7, first_step=3, **cache)
    assert [step for step, _ in resumed] == [3, 4, 5]
    assert not np.array_equal(resumed[0][1][0], streams[0][0][1][0])
    assert not np.array_equal(resumed[0][1][0], streams[0][3][1][0])
    for decode, exact in (("cache", False), ("gpu", True)):
        config = settings(decode=decode, cache_size=100)
        assert TrainingLoader(config, photos, None, device="gpu").exact is exact


def test_targets_belong_to_the_boxes(photos):
    """On a CPU, offsets and classes do not go through DALI: they must be those of the batch's own
    boxes."""
    loader = TrainingLoader(settings(), photos, MATCHER, seed=3, raw_boxes=True)
    for batch in (next(loader) for _ in range(6)):
        for boxes, labels, offsets, classes in zip(
            batch.boxes, batch.labels, batch.offsets.asnumpy(), batch.classes.asnumpy()
        ):
            found = MATCHER(boxes, labels.ravel())
            assert np.flatnonzero(classes).tolist() == found.positions.tolist() and len(
                found.positions
            )
            np.testing.assert_array_equal(classes[found.positions], found.classes)
            np.testing.assert_array_equal(offsets[found.positions], found.offsets)
            assert not np.delete(offsets, found.positions, 0).any()


def test_a_batch_larger_than_the_share_is_refused(tmp_path):
    dataset = grey_dataset(tmp_path, 9, without_box=(0,))
    TrainingLoader(settings(batch_size=4), dataset, None, rank=1, size=2)
    with pytest.raises(UserError, match=r"batch_size: 5 .* 4 \(8 images with boxes, ranks: 2\)"):
        TrainingLoader(settings(batch_size=5), dataset, None, rank=1, size=2)


@pytest.mark.parametrize("decode", ["gpu", "cache"])
def test_gpu_decoding_on_the_cpu_is_refused(tmp_path, decode):
    dataset = grey_dataset(tmp_path, 4)
    for make in (
        lambda config: TrainingLoader(config, dataset, None),
        lambda config: EvaluationLoader(config, dataset),
    ):
        with pytest.raises(UserError, match=f"decode: '{decode}' needs a GPU"):
            make(settings(decode=decode, cache_size=100))


def test_steps_per_epoch():
    assert [steps_per_epoch(images, 5) for images in (3, 5, 9, 10)] == [1, 1, 1, 2]
    assert steps_per_epoch(117266, 456) == 257


# ---- evaluation


@pytest.mark.parametrize("images", [1, 5, 17])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_image_is_evaluated_exactly_once(tmp_path, size, batch, images):
    dataset = grey_dataset(tmp_path, images, without_box=(0, 2))
    config = settings(eval_batch_size=batch)
    found = []
    for rank in range(size):
        loader = EvaluationLoader(config, dataset, rank=rank, size=size)
        passes = []
        for number in range(3):
            if number == 2 and len(loader) > 1:
                next(iter(loader))  # a pass left early changes nothing
            passes.append([])
            for pixels, indices in loader:
                assert pixels.shape == (batch, 3, 32, 32) and 1 <= len(indices) <= batch
                levels = denormalise(pixels.asnumpy(), config)[: len(indices), 16, 16, 0]
                np.testing.assert_array_equal(levels, 10 * indices)
                passes[-1] += indices.tolist()
        assert passes[0] == passes[1] == passes[2] == list(range(rank, images, size))
        found += passes[0]
        loader.close()
    assert sorted(found) == list(range(images))


# ---- files


@pytest.mark.parametrize(
    "mode, extension",
    [
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("RGB", "jpg"),
        ("L", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("1", "png"),
        ("RGB", "png"),
    ],
)
def test_kinds_of_images(tmp_path, mode, extension):
    image = photo(90, 60).convert(mode)
    dataset = make_dataset(tmp_path, [image], [[(10, 10, 50, 50, 1)]], extension)
    config = settings(batch_size=1, eval_batch_size=1, image_size=48)
    assert next(TrainingLoader(config, dataset, MATCHER)).images.shape == (1, 3, 48, 48)
    [(images, _)] = EvaluationLoader(config, dataset)
    with Image.open(tmp_path / dataset.file_names[0]) as stored:
        expected = np.asarray(stored.convert("RGB").resize((48, 48), Image.BILINEAR)).astype(int)
    # Pillow and DALI turn CMYK into RGB with different formulas.
    assert np.abs(denormalise(images.asnumpy(), config)[0] - expected).mean() < (
        40 if mode == "CMYK" else 2
    )


def test_images_of_a_few_pixels(tmp_path):
    """A window of less than a pixel is taken for the pixel that it touches."""
    sizes = [(1, 1), (2, 1), (1, 3), (3, 3)]
    boxes = [
        [(width * 0.8, height * 0.8, width, height, 1), (0, 0, width * 0.2, height * 0.2, 1)]
        for width, height in sizes
    ]
    dataset = make_dataset(
        tmp_path, [Image.new("RGB", size, (200, 100, 50)) for size in sizes], boxes
    )
    loader = TrainingLoader(
        settings(brightness=0, contrast=0, saturation=0, hue=0), dataset, MATCHER
    )
    for _ in range(60):
        batch = next(loader)
        assert (
            np.abs(denormalise(batch.images.asnumpy(), settings()) - np.array([200, 100, 50])).max()
            <= 1
        )
        assert np.isfinite(batch.offsets.asnumpy()).all()


def jpeg(path):
    photo(40, 30).save(path)
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("damage", ["text", "half", "empty", "gone"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, damage):
    good = jpeg(tmp_path / "sample.jpg")
    bad = dict(text=b"not an image", half=good[: len(good) // 2], empty=b"", gone=b"")[damage]
    images = [bad if index == 11 else good for index in range(12)]
    dataset = make_dataset(tmp_path, images, [[(2, 2, 20, 20, 1)]] * 12, "jpg")
    if damage == "gone":
        os.remove(tmp_path / "image11.jpg")
    for make in (
        lambda: TrainingLoader(settings(), dataset, MATCHER),
        lambda: EvaluationLoader(settings(), dataset),
    ):
        loader = make()
        with pytest.raises(UserError, match=r"image11\.jpg cannot be (decoded|read): .+") as caught:
            for _ in range(4):
                [_ for _, batch in zip(range(3), loader)]
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_process_ends_cleanly_after_a_bad_image(tmp_path):
    good = jpeg(tmp_path / "sample.jpg")
    make_dataset(tmp_path, [good, good, good[:200]], [[(2, 2, 20, 20, 1)]] * 3, "jpg")
    code = f"""
import sys
from ssd.config import load_recipe
from ssd.data.pipeline import TrainingLoader
from ssd.datasets.coco import load_coco
from ssd.errors import UserError
path = {str(tmp_path / "annotations.json")!r}
dataset = load_coco(path, {str(tmp_path)!r}, check_images="exists")
loader = TrainingLoader(load_recipe("ssd-resnet34-coco").with_values(batch_size=2), dataset, None)
try:
    while True:
        next(loader)
except UserError as error:
    print(error)
    sys.exit(3)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 3, result.stderr
    assert "image2.jpg cannot be decoded" in result.stdout


@pytest.mark.parametrize("end", ["close", "forget"])
def test_no_thread_outlives_its_loader(photos, end):
    before = set(threading.enumerate())
    loader = TrainingLoader(settings(data_threads=3), photos, MATCHER)
    next(loader)
    started = set(threading.enumerate()) - before
    assert started
    if end == "close":
        loader.close()
    del loader  # no cycle keeps it alive, or this would be the garbage collector's
    assert not any(thread.is_alive() for thread in started)


def test_the_next_batch_is_ready_before_it_is_asked_for(photos):
    loader = TrainingLoader(settings(), photos, MATCHER)
    next(loader)
    ahead = loader._next.result(60)
    assert ahead.step == 1
    assert next(loader) is ahead
    loader.close()


def test_a_bad_image_is_told_in_its_turn(tmp_path):
    good = jpeg(tmp_path / "sample.jpg")
    dataset = make_dataset(tmp_path, [good, good, good[:200]], [[(2, 2, 20, 20, 1)]] * 3, "jpg")
    seed = next(seed for seed in range(99) if epoch_order(np.arange(3), seed, 1)[2] == 2)
    loader = TrainingLoader(settings(batch_size=1, prefetch=1), dataset, MATCHER, seed=seed)
    assert [next(loader).step for _ in range(2)] == [0, 1]
    for _ in range(2):
        with pytest.raises(UserError, match="image2.jpg cannot be decoded"):
            next(loader)


def test_a_process_ends_with_a_loader_at_work():
    code = f"""
import sys
sys.path.insert(0, {REPOSITORY!r})
from tests.data.test_pipeline import MATCHER, grey_dataset, settings, TrainingLoader
import tempfile
with tempfile.TemporaryDirectory() as folder:
    loader = TrainingLoader(settings(), grey_dataset(folder, 8), MATCHER)
    next(loader)
print("end")
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (0, "end\n") and "Error" not in result.stderr, (
        result.stderr
    )


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    dataset = grey_dataset(tmp_path / "data", 8)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    loader = TrainingLoader(settings(), dataset, MATCHER)
    next(loader)
    assert loader.wait_seconds > 0
    loader.close()
    loader.close()
    EvaluationLoader(settings(), dataset).close()
    assert not os.listdir(folder)
    monkeypatch.setattr("ssd.data.pipeline.evaluation_pipeline", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        EvaluationLoader(settings(), dataset)
    assert not os.listdir(folder)
