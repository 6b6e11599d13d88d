"""The DALI graphs against Pillow, the reference's numbers, and images whose colours mark boxes."""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ssd.data.bridge import to_numpy
from ssd.data.graphs import encode_boxes
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.show import denormalise
from ssd.model.matching import Matcher
from tests.data.small_sets import (
    MATCHER,
    RECIPE,
    REFERENCE,
    make_dataset,
    photo,
    reference_matcher,
    settings,
)
from tests.reference import vectors


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


def test_equal_overlaps_are_resolved_as_in_the_reference():
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
    uncropped = {p: np.abs(found - box).max(1) < 1e-5 for p, found in boxes.items()}
    mirrored = {p: np.abs(found - flipped).max(1) < 1e-5 for p, found in boxes.items()}
    assert (
        uncropped[0].any()
        and not mirrored[0].any()
        and mirrored[1].any()
        and not uncropped[1].any()
    )
    kept = uncropped[0.5] | mirrored[0.5]
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
    """Whether `values` lie in [low, high] (except for rounding) and come near both ends and the
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
    """A window of less than a pixel becomes the pixel that it touches."""
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
