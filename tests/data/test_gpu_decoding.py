"""What is different where a GPU decodes, as far as it can be seen without one: what DALI is asked for, what is refused
before, what becomes of DALI's errors. docs/dali.md has what was measured on a GPU."""
import types

import pytest
from nvidia.dali import backend

from ssd.data import graphs
from tests.data.test_pipeline import settings


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
