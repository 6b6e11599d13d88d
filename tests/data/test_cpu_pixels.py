"""ssd.data.cpu_pixels against Pillow, PyTorch, and DALI's operators, which it replaces on a
CPU."""

import itertools

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ssd.data import graphs
from ssd.data.cpu_pixels import PixelMaker, axis_bands, axis_weights, colour_matrix, column_blocks
from ssd.data.pipeline import TrainingLoader
from tests.data.small_sets import MATCHER, make_dataset, photo, settings

RAW = dict(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1 / 255,) * 3)  # network input in levels of 255


def noise(width, height, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def made(config, images, channels=3, **changes):
    size = tuple(config.model.image_size)
    shape = (channels, *size) if config.model.layout == "NCHW" else (*size, channels)
    batch = np.full((len(images), *shape), np.nan, config.model.dtype)
    maker = PixelMaker(config)
    maker(images, {name: np.array([value] * len(images)) for name, value in changes.items()}, batch)
    maker.close()
    return batch


SIZES = [
    (300, 300),
    (640, 480),
    (427, 640),
    (123, 77),
    (301, 299),
    (1, 1),
    (3, 500),
    (2000, 40),
    (90, 1500),
]


def test_resizing_is_pillows():
    images = [noise(*size, seed) for seed, size in enumerate(SIZES)]
    for result, image in zip(made(settings(image_size=300, **RAW), images), images):
        expected = np.asarray(Image.fromarray(image).resize((300, 300), Image.BILINEAR)).transpose(
            2, 0, 1
        )
        assert np.abs(result - expected).max() < 1.01  # it rounds twice
        assert min(image.shape[:2]) < 100 or abs((result - expected).mean()) < 0.03


@pytest.mark.parametrize("size", [(64, 48), (200, 300)])
def test_resizing_without_antialiasing_is_pytorchs(size):
    torch = pytest.importorskip("torch")
    config = settings(image_size=list(size), antialias=False, **RAW)
    images = [noise(*source, seed) for seed, source in enumerate(SIZES)]
    for result, image in zip(made(config, images), images):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)),
            size=tuple(config.model.image_size),
            mode="bilinear",
            align_corners=False,
        )[0].numpy()
        np.testing.assert_allclose(result, expected, atol=4e-2)  # PyTorch has positions in float32


def test_parts_are_the_whole_matrix():
    for size, wanted, antialias in itertools.product((1, 7, 300, 533), (1, 30, 299), (True, False)):
        starts, weights = axis_weights(size, wanted, antialias)
        expected = np.zeros((wanted, size + weights.shape[1]))
        for row, start, values in zip(expected, starts, weights):
            row[start : start + len(values)] = values
        assert not expected[:, size:].any()
        by_bands, by_columns = np.zeros((2, wanted, size))
        bands = axis_bands(size, wanted, antialias, 12)
        rows = bands.weights.reshape(-1, bands.weights.shape[2])
        for row, (sources, values) in enumerate(zip(bands.sources.repeat(12, 0), rows)):
            if row < wanted:
                np.add.at(by_bands[row], sources, values)
            else:
                assert not values.any()
        for columns, source, values in column_blocks(size, wanted, antialias):
            by_columns[columns, source] = values.T
        for found in (by_bands, by_columns):
            np.testing.assert_allclose(found, expected[:, :size], atol=1e-7)


@pytest.mark.parametrize("hue, saturation", [(0, 1), (0, 1.4), (17, 1), (-12, 0.6)])
def test_hue_and_saturation_are_dalis(hue, saturation):
    image = noise(50, 40)
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        source = fn.external_source(source=lambda: [image], layout="HWC")
        pipeline.set_outputs(graphs.jitter_colour(source, hue, saturation, 1.4, 1.1))
    pipeline.build()
    expected = np.array(pipeline.run()[0][0]).transpose(2, 0, 1)
    config = settings(image_size=[40, 50], **RAW)
    found = made(
        config, [image], hue=hue, saturation=saturation, contrast=1.4, brightness=1.1, flip=0
    )[0]
    assert found.min() == 0 and found.max() == 255
    np.testing.assert_allclose(found, expected, atol=2e-3)
    if not hue:
        np.testing.assert_allclose(
            colour_matrix(hue, saturation).sum(1), 1, atol=0.01
        )  # grey stays grey


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    sizes = [(400, 320), (90, 200), (333, 500), (64, 64), (31, 29)]
    return make_dataset(
        tmp_path_factory.mktemp("photos"),
        [photo(*size, seed) for seed, size in enumerate(sizes)],
        [[(width // 4, height // 4, width // 2, height // 2, 1)] for width, height in sizes],
    )


@pytest.mark.parametrize(
    "values, pad",
    [
        ({}, False),
        (dict(layout="NHWC", dtype="float16"), True),
        (dict(dtype="float16"), False),
        (dict(layout="NHWC"), False),
        (dict(brightness=0, contrast=0, saturation=0, hue=0), True),
        (dict(antialias=False), False),
        (dict(crop_min_iou=()), False),
        (dict(augment=False), True),
        (dict(contrast=1, brightness=1), False),
    ],
)
def test_batches_are_those_of_dalis_own_graph(photos, monkeypatch, values, pad):
    config = settings(batch_size=5, image_size=[64, 96], **values)
    batches = []
    for by_dali in (False, True):
        for name in ("ssd.data.graphs", "ssd.data.pipeline"):
            monkeypatch.setattr(f"{name}.make_pixels", lambda device: by_dali)
        loader = TrainingLoader(config, photos, MATCHER, seed=3, pad_channels=pad, raw_boxes=True)
        batches.append([next(loader) for _ in range(4)])
        loader.close()
    std = np.float64(config.data.pixel_std)
    for ours, dalis in zip(*batches):
        np.testing.assert_array_equal(ours.indices, dalis.indices)
        for one, other in zip(ours.boxes, dalis.boxes):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(ours.classes.asnumpy(), dalis.classes.asnumpy())
        one, other = [batch.images.asnumpy() for batch in (ours, dalis)]
        assert one.dtype == other.dtype and one.shape == other.shape
        one, other = [
            images.astype(np.float64)
            if config.model.layout == "NHWC"
            else images.astype(np.float64).transpose(0, 2, 3, 1)
            for images in (one, other)
        ]
        assert not one[..., 3:].any() and one.shape[3] == 3 + pad
        difference = 255 * np.abs(one - other)[..., :3] * std
        assert difference.mean() < 0.4 and np.percentile(difference, 99.9) < 2.5
