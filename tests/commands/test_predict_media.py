"""predict on videos with covers and wide pixels, and class names of any script."""

import json
import os
from fractions import Fraction

import av
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from ssd import fonts
from ssd.__main__ import main
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import save_weights
from ssd.model.weights_info import WeightsInfo
from tests.commands.predict_files import look_at, read
from tests.tools.saved import CONFIG
from tests.tools.video_files import audio_with_cover, block_video, with_cover
from tests.training.tiny import ssd, tiny_data


def test_a_video_after_its_cover_image(predict, tmp_path):
    status, out, err, folder = predict(with_cover(block_video(tmp_path / "film.mp4", frames=10)))
    assert (status, err) == (0, "") and out.startswith("1 video of 10 frames: ")
    images = read(folder)[1]["images"]
    assert [(image["width"], image["height"]) for image in images] == [(64, 48)] * 10
    assert len(look_at(folder / "film.mp4")[2]) == 10


@pytest.mark.parametrize("name", ["song.m4a", "song.mp4"])
def test_a_song_with_a_cover_image(predict, tmp_path, name):
    status, _, err, _ = predict(audio_with_cover(tmp_path / name))
    assert status == 1 and err.endswith(
        f"failed: {tmp_path / name}: has no video stream, only a cover image\n"
    )


def test_wide_pixels_are_kept(predict, tmp_path):
    status, _, err, folder = predict(block_video(tmp_path / "film.mp4", shape=Fraction(4, 3)))
    with av.open(str(folder / "film.mp4")) as container:
        assert (status, err, container.streams.video[0].sample_aspect_ratio) == (
            0,
            "",
            Fraction(4, 3),
        )
    assert {(image["width"], image["height"]) for image in read(folder)[1]["images"]} == {(64, 48)}


# ---- class names beyond ASCII

NAMES = ("\u65b9\u5f62", "M\u00fcll", "\u4e09\u89d2")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """(weights of three classes, the annotation file that has them, its images)."""
    folder = tmp_path_factory.mktemp("foreign")
    data = tiny_data(folder / "set", train_images=1, val_images=3)
    content = json.loads(
        open(os.path.join(data, "annotations", "bbox_only_instances_val2017.json")).read()
    )
    for category, name in zip(content["categories"], NAMES):
        category["name"] = name
    (folder / "val.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    network = build_detector(CONFIG).network
    initialize(network, 1, mx.cpu())
    path = str(folder / "weights.params")
    save_weights(
        network,
        path,
        WeightsInfo(CONFIG, [category["id"] for category in content["categories"]], NAMES),
    )
    return path, str(folder / "val.json"), os.path.join(data, "val2017")


def drawn(foreign, folder, capsys):
    """(drawn images, standard output)."""
    assert (
        main(
            [
                "predict",
                foreign[2],
                "--weights",
                foreign[0],
                "--device",
                "cpu",
                "--output",
                str(folder),
                "--score-threshold",
                "0.3",
            ]
        )
        == 0
    )
    images = json.loads((folder / "images.json").read_text())
    assert [row["name"] for row in images["categories"]] == list(NAMES)
    return [
        np.asarray(Image.open(folder / image["drawn"])) for image in images["images"]
    ], capsys.readouterr().out


def test_class_names_are_drawn_or_numbered(foreign, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_candidates", lambda letters: [])
    fonts._chosen.cache_clear()
    numbered, out = drawn(foreign, tmp_path / "numbered", capsys)
    assert (
        f"in the drawn images #1 is {NAMES[0]}, #3 is {NAMES[2]}: no installed font has these "
        "letters" in out
    )
    monkeypatch.undo()
    monkeypatch.setattr(fonts, "labels_of", lambda names: (dict.fromkeys(names, "?"), ""))
    monkeypatch.setattr("ssd.tools.prediction.labels_of", fonts.labels_of)
    lost, out = drawn(foreign, tmp_path / "lost", capsys)
    assert "in the drawn images" not in out
    assert any((one != other).any() for one, other in zip(numbered, lost)), (
        "more than question marks"
    )
    fonts._chosen.cache_clear()


def test_an_ascii_terminal_gets_all_numbers(foreign, tmp_path):
    weights, annotations, images = foreign
    environment = dict(PYTHONIOENCODING="ascii")
    done = ssd(
        "evaluate",
        "--weights",
        weights,
        "--annotations",
        annotations,
        "--images",
        images,
        "--device",
        "cpu",
        "--report",
        tmp_path / "report",
        env=environment,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert NAMES[0].encode("ascii", "backslashreplace").decode() in done.stdout
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in NAMES)
    done = ssd(
        "predict",
        images,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--output",
        tmp_path / "out",
        "--score-threshold",
        "0.3",
        env=environment,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
