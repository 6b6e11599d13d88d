"""What is different where a GPU decodes, as far as it can be seen without one: what DALI is asked for, what is refused
before, what becomes of DALI's errors. docs/dali.md has what was measured on a GPU."""
import types

import numpy as np
import pytest
from nvidia.dali import backend

from ssd.data import dali_errors, graphs
from ssd.data.pipeline import TrainingLoader
from ssd.errors import UserError
from tests.data.test_pipeline import MATCHER, jpeg, make_dataset, settings


# ---- what the decoder is asked for

@pytest.fixture()
def asked(monkeypatch):
    """The arguments of the decoders of each call of decode_images."""
    calls = []

    def decoder(encoded, *window, **arguments):
        calls.append(arguments)
        return types.SimpleNamespace(gpu=lambda: None)
    fake = types.SimpleNamespace(decoders=types.SimpleNamespace(image=decoder, image_slice=decoder),
                                 slice=lambda images, *window: images)
    monkeypatch.setattr(graphs, "fn", fake)
    return calls


@pytest.mark.parametrize("decode", ["gpu", "cache"])
@pytest.mark.parametrize("window", [None, ("anchor", "shape")])
def test_pixels_on_a_gpu_do_not_depend_on_the_rest_of_the_batch(asked, decode, window):
    """All that the JPEG engine takes goes there, not a share of the batch; chroma is smoothed as by libjpeg."""
    graphs.decode_images("encoded", window, settings(decode=decode), "gpu", cache=decode == "cache")
    [arguments] = asked
    assert arguments["device"] == "mixed"
    assert arguments["hw_decoder_load"] == 1.0 and arguments["jpeg_fancy_upsampling"] is True


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_cpu_is_not_asked_for_it(asked, device):
    graphs.decode_images("encoded", None, settings(decode="cpu"), device)
    [arguments] = asked
    assert arguments["device"] == "cpu" and not {"hw_decoder_load", "jpeg_fancy_upsampling"} & set(arguments)


def test_the_installed_dali_knows_these_arguments():
    assert {"hw_decoder_load", "jpeg_fancy_upsampling"} <= set(graphs._where_known("mixed"))


def test_a_dali_without_them_is_not_asked(asked, monkeypatch):
    schema = types.SimpleNamespace(GetArgumentNames=lambda: ["output_type", "cache_size"])
    monkeypatch.setattr(backend, "GetSchema", lambda name: schema)
    graphs.decode_images("encoded", None, settings(decode="gpu"), "gpu")
    assert set(asked[0]) == {"device", "output_type"}


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
