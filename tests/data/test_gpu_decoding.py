"""What is different where a GPU decodes, as far as it can be seen without one: what DALI is asked
for, what is refused before, what becomes of DALI's errors. docs/dali.md has what was measured on a
GPU."""

import types
import weakref

import numpy as np
import pytest
from nvidia.dali import backend

from ssd.data import dali_errors, graphs, samples
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.samples import ImageFeed, SampleFeed
from ssd.errors import UserError
from tests.data.small_sets import MATCHER, grey_dataset, jpeg, make_dataset, settings

# DALI 1.53 on an H100, with too large a cache, and with 50 MiB of free memory.
NO_MEMORY = (
    "Critical error when building pipeline:\nError in MIXED operator "
    "`nvidia.dali.fn.decoders.image`,\n"
    "which was used in the pipeline definition with the following traceback:\n\n  File "
    '"graphs.py"\n\n'
    "encountered:\n\n%s\nCurrent pipeline object is no longer valid."
)
ALLOCATIONS = [
    "Can't allocate 209715200000 bytes on device 0.",
    "CUDA allocation failed",
    "nvJPEG error (5): The user-provided allocator functions, for either memory allocation or for "
    "releasing the memory, returned a non-zero code.",
]


# ---- what the decoder is asked for


@pytest.fixture()
def asked(monkeypatch):
    """The arguments of the decoders of each call of decode_images."""
    calls = []

    def decoder(encoded, *window, **arguments):
        calls.append(arguments)
        return types.SimpleNamespace(gpu=lambda: None)

    fake = types.SimpleNamespace(
        decoders=types.SimpleNamespace(image=decoder, image_slice=decoder),
        slice=lambda images, *window: images,
    )
    monkeypatch.setattr(graphs, "fn", fake)
    return calls


@pytest.mark.parametrize("decode", ["gpu", "cache"])
@pytest.mark.parametrize("window", [None, ("anchor", "shape")])
def test_pixels_on_a_gpu_do_not_depend_on_the_rest_of_the_batch(asked, decode, window):
    """All that the JPEG engine takes goes there, not a share of the batch; chroma is smoothed as by
    libjpeg."""
    graphs.decode_images("encoded", window, settings(decode=decode), "gpu", cache=decode == "cache")
    [arguments] = asked
    assert arguments["device"] == "mixed"
    assert arguments["hw_decoder_load"] == 1.0 and arguments["jpeg_fancy_upsampling"] is True


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_cpu_is_not_asked_for_it(asked, device):
    graphs.decode_images("encoded", None, settings(decode="cpu"), device)
    [arguments] = asked
    assert arguments["device"] == "cpu" and not {"hw_decoder_load", "jpeg_fancy_upsampling"} & set(
        arguments
    )


def test_the_installed_dali_knows_these_arguments():
    assert {"hw_decoder_load", "jpeg_fancy_upsampling"} <= set(graphs._known_arguments("mixed"))


def test_a_dali_without_them_is_not_asked(asked, monkeypatch):
    schema = types.SimpleNamespace(GetArgumentNames=lambda: ["output_type", "cache_size"])
    monkeypatch.setattr(backend, "GetSchema", lambda name: schema)
    graphs.decode_images("encoded", None, settings(decode="gpu"), "gpu")
    assert set(asked[0]) == {"device", "output_type"}


# ---- truncated JPEGs, which a GPU does not report


@pytest.mark.parametrize("decode, names_it", [("gpu", True), ("cpu", False)])
def test_a_truncated_jpeg_is_found_before_a_gpu_sees_it(tmp_path, decode, names_it):
    good = jpeg(tmp_path / "sample.jpg")
    images = [good, good + b"more, after its end", good[: -len(good) // 3]]
    dataset = make_dataset(tmp_path, images, [[(2, 2, 20, 20, 1)]] * 3, "jpg")
    config = settings(batch_size=3, eval_batch_size=3, decode=decode)
    for feed in SampleFeed(config, dataset, ("encoded",)), ImageFeed(config, dataset, np.arange(3)):
        if names_it:
            with pytest.raises(UserError, match=r"image2\.jpg cannot be decoded: .*truncated"):
                feed()
        else:
            encoded = feed()[0]  # DALI reports it itself
            assert sorted(map(len, encoded)) == sorted(map(len, images))
        feed.close()


# ---- threads


@pytest.mark.parametrize("data_threads, expected", [(1, 1), (3, 3), (4, 4), (16, 4)])
def test_threads_of_python_are_few(tmp_path, data_threads, expected):
    feed = SampleFeed(
        settings(batch_size=12, prefetch=2, data_threads=data_threads),
        grey_dataset(tmp_path, 12),
        ("index",),
    )
    assert feed._threads._max_workers == expected
    assert [len(batch) for batch in feed._batches] == [
        expected
    ] * 2  # each makes its share of a batch
    feed.close()
    assert samples.MOST_THREADS == 4


# ---- DALI's errors


@pytest.fixture()
def pipelines(monkeypatch):
    """How many pipelines were built to find a bad image."""
    built = []

    def counting(*arguments):
        built.append(arguments)
        return graphs.decoding_pipeline(*arguments)

    monkeypatch.setattr(dali_errors, "decoding_pipeline", counting)
    return built


def test_a_bad_image_is_found_with_one_pipeline(tmp_path, pipelines):
    """On a GPU each takes half a second."""
    good = jpeg(tmp_path / "sample.jpg")
    dataset = make_dataset(tmp_path, [good] * 11 + [b"no image"], [[(2, 2, 20, 20, 1)]] * 12, "jpg")
    loader = TrainingLoader(settings(batch_size=12), dataset, MATCHER)
    with pytest.raises(UserError, match=r"image11\.jpg cannot be decoded"):
        next(loader)
    assert len(pipelines) == 1
    found = dali_errors.first_undecodable(settings(), dataset, np.array([3, 3, 1, 11, 2]), "cpu", 0)
    assert "image11.jpg" in str(found)
    assert dali_errors.first_undecodable(settings(), dataset, np.arange(11), "cpu", 0) is None


def explained(error, dataset, device, setting="batch_size", **values):
    return dali_errors.explain_dali_error(
        error, settings(**values), dataset, (), setting, device, 0
    )


@pytest.mark.parametrize("words", ALLOCATIONS)
def test_too_little_gpu_memory_is_one_line(tmp_path, words):
    dataset, error = grey_dataset(tmp_path, 4), RuntimeError(NO_MEMORY % words)
    for values, setting, line in (
        (dict(decode="cache", cache_size=200000), "batch_size", "cache_size: 200000 MiB"),
        (dict(decode="gpu", batch_size=7), "batch_size", "batch_size: images for batches of 7"),
        (
            dict(decode="cpu", eval_batch_size=9),
            "eval_batch_size",
            "eval_batch_size: images for batches of 9",
        ),
    ):
        found = explained(error, dataset, "gpu", setting, **values)
        assert (
            isinstance(found, UserError)
            and str(found).startswith(line)
            and "memory of GPU 0" in str(found)
        )
        assert "\n" not in str(found)
    assert explained(error, dataset, "cpu") is error  # of main memory: not this
    other = RuntimeError(NO_MEMORY % "CUDA error: an illegal memory access was encountered")
    assert explained(other, dataset, "gpu") is other


def test_a_cache_too_large_is_refused_when_the_loader_is_built(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(NO_MEMORY % ALLOCATIONS[0])

    monkeypatch.setattr("ssd.data.pipeline.training_pipeline", fail)
    monkeypatch.setattr("ssd.data.pipeline.evaluation_pipeline", fail)
    dataset, config = grey_dataset(tmp_path, 4), settings(decode="cache", cache_size=300)
    with pytest.raises(UserError, match="cache_size: 300 MiB"):
        TrainingLoader(config, dataset, None, device="gpu")
    with pytest.raises(UserError, match="cache_size: 300 MiB"):
        EvaluationLoader(config, dataset, device="gpu")


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("kind", [TrainingLoader, EvaluationLoader])
def test_unused_memory_is_released(tmp_path, monkeypatch, kind, bad):
    """After close, and before a bad image is searched, DALI's pipeline is gone and its pools are
    emptied."""
    built, released = [], []
    monkeypatch.setattr(graphs, "make_pixels", lambda device: True)
    for name in ("training_pipeline", "evaluation_pipeline"):

        def build(*positional, make=getattr(graphs, name), **named):
            pipeline = make(*positional, **{**named, "device": "cpu"})
            built.append(weakref.ref(pipeline))
            return pipeline

        monkeypatch.setattr(f"ssd.data.pipeline.{name}", build)
    monkeypatch.setattr(
        dali_errors,
        "decoding_pipeline",
        lambda config, feed, device, device_id: graphs.decoding_pipeline(
            config, feed, "cpu", device_id
        ),
    )
    monkeypatch.setattr(
        "ssd.data.pipeline.release_memory", lambda: released.append(built[0]() is None)
    )
    good = jpeg(tmp_path / "sample.jpg")
    dataset = make_dataset(
        tmp_path, [good] * 3 + [b"no image" if bad else good], [[(2, 2, 20, 20, 1)]] * 4, "jpg"
    )
    loader = kind(
        settings(), dataset, device="gpu", **(dict(matcher=None) if kind is TrainingLoader else {})
    )
    if bad:
        with pytest.raises(UserError, match="image3.jpg"):
            next(iter(loader))
    else:
        next(iter(loader))
        assert not released
        loader.close()
    assert released == [True]
    loader.close()
    assert released == [True]
