"""The loaders' errors, and what is left when they end: threads, processes, files."""

import os
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest

from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.samples import epoch_order
from ssd.errors import UserError
from tests.data.small_sets import (
    MATCHER,
    REPOSITORY,
    grey_dataset,
    jpeg,
    make_dataset,
    settings,
    thirteen_photos,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return thirteen_photos(tmp_path_factory.mktemp("photos"))


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


def test_a_bad_image_is_reported_at_its_step(tmp_path):
    good = jpeg(tmp_path / "sample.jpg")
    dataset = make_dataset(tmp_path, [good, good, good[:200]], [[(2, 2, 20, 20, 1)]] * 3, "jpg")
    seed = next(seed for seed in range(99) if epoch_order(np.arange(3), seed, 1)[2] == 2)
    loader = TrainingLoader(settings(batch_size=1, prefetch=1), dataset, MATCHER, seed=seed)
    assert [next(loader).step for _ in range(2)] == [0, 1]
    for _ in range(2):
        with pytest.raises(UserError, match="image2.jpg cannot be decoded"):
            next(loader)


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


def test_a_process_ends_with_a_loader_at_work():
    code = f"""
import sys
sys.path.insert(0, {REPOSITORY!r})
from tests.data.small_sets import MATCHER, TrainingLoader, grey_dataset, settings
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
