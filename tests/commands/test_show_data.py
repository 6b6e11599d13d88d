"""`show-data`: drawn training samples."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from ssd.__main__ import main
from ssd.config import load_recipe
from tests.training.tiny import tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


def show(data, folder, *flags):
    return main(
        [
            "show-data",
            "--recipe",
            "ssd-resnet34-shapes",
            "--data-dir",
            data,
            "--cache-dir",
            os.path.join(data, "..", "cache"),
            "--output",
            str(folder),
            *flags,
        ]
    )


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_both_images_are_reproducible(data, tmp_path, capsys):
    assert show(data, tmp_path / "a", "--count", "5", "--columns", "3") == 0
    out = capsys.readouterr().out
    assert (
        "5 images of epoch 1, seed 0, augmented" in out and "positive default boxes of 8732" in out
    )
    assert show(data, tmp_path / "b", "--count", "5", "--columns", "3") == 0
    assert show(data, tmp_path / "c", "--count", "5", "--columns", "3", "--epoch", "2") == 0
    for name in ("training-images.png", "matched-default-boxes.png"):
        one, same, other = (pixels(tmp_path / folder / name) for folder in "abc")
        assert one.shape[1] * 2 == one.shape[0] * 3
        assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert not np.array_equal(
        pixels(tmp_path / "a" / "training-images.png"),
        pixels(tmp_path / "a" / "matched-default-boxes.png"),
    )


def test_samples_equal_the_training_loader(data):
    from ssd.data.pipeline import TrainingLoader
    from ssd.data.samples import steps_per_epoch
    from ssd.data.show import denormalise, draw_samples, take_samples
    from ssd.datasets.coco import load_coco
    from ssd.datasets.locate import dataset_paths
    from ssd.model.detector import build_detector

    config = load_recipe("ssd-resnet34-shapes").with_values(
        data_dir=data, batch_size=3, augment=False
    )
    dataset = load_coco(*dataset_paths(config, "train"), report=lambda line: None)
    samples = take_samples(config, dataset, count=4, epoch=2, seed=6)
    steps = steps_per_epoch(len(dataset.images_with_boxes), 3)
    loader = TrainingLoader(
        config, dataset, build_detector(config).matcher, seed=6, first_step=steps
    )
    batch = next(loader)
    loader.close()
    assert [sample.index for sample in samples[:3]] == batch.indices.tolist()
    for sample, image, classes in zip(
        samples, denormalise(batch.images.asnumpy(), config), batch.classes.asnumpy()
    ):
        assert np.array_equal(sample.image, image) and np.array_equal(sample.classes, classes)
        assert (sample.classes > 0).sum() >= len(sample.boxes)
    objects, matched = draw_samples(config, dataset, samples)[0]
    side = objects.shape[0]
    assert objects.shape == matched.shape == (side, side, 3)
    # Every object's frame is drawn where its box is: its left edge has the class's colour.
    margin = (side - 2 * 300) // 2
    left, top, right, bottom = samples[0].boxes[-1] * 600
    edge = objects[3 + int((top + bottom) / 2), margin + int(np.rint(left))].astype(int)
    plain = (
        samples[0]
        .image.repeat(2, 0)
        .repeat(2, 1)[int((top + bottom) / 2), int(np.rint(left))]
        .astype(int)
    )
    assert np.abs(edge - plain).max() > 20 and (edge == 255).any()
    # behind a long file name the caption still has the rest
    long = dataclasses.replace(dataset, file_names=["n" * 200 + ".jpg"] * dataset.num_images)
    other = dataclasses.replace(long, sizes=dataset.sizes + 1)
    one, two = (draw_samples(config, names, samples[:1])[0][0] for names in (long, other))
    assert (one[-22:] != two[-22:]).any() and (one[:-22] == two[:-22]).all()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--count", "0"], "--count 0"),
        (["--count", "1000"], "--count 1000"),
        (["--epoch", "0"], "--epoch 0"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--num-classes", "9"], "num_classes"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, flags, words):
    assert show(data, tmp_path / "new", *flags) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and words in errors[0] and os.listdir(str(tmp_path)) == []


def test_nothing_is_overwritten(data, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert show(data, tmp_path) == 2
    assert (
        "holds files already" in capsys.readouterr().err
        and (tmp_path / "mine").read_text() == "mine"
    )
