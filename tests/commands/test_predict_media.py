"""predict on films that say more of themselves than their frames, and class names of any script."""
from fractions import Fraction

import av
import pytest

from tests.commands.test_predict import look_at, predict, read, weights  # noqa: F401
from tests.tools.test_film import film, sound_with_cover, with_cover


def test_a_film_with_its_cover_before_it(predict, tmp_path):  # noqa: F811
    status, out, err, folder = predict(with_cover(film(tmp_path / "film.mp4", frames=10)))
    assert (status, err) == (0, "") and out.startswith("1 video of 10 frames: ")
    images = read(folder)[1]["images"]
    assert [(image["width"], image["height"]) for image in images] == [(64, 48)] * 10
    assert len(look_at(folder / "film.mp4")[2]) == 10


@pytest.mark.parametrize("name", ["song.m4a", "song.mp4"])
def test_a_song_with_a_cover(predict, tmp_path, name):  # noqa: F811
    status, _, err, _ = predict(sound_with_cover(tmp_path / name))
    assert status == 1 and err.endswith(f"not done: {tmp_path / name}: holds no moving pictures, only a cover\n")


def test_a_film_of_wide_pixels_is_drawn_as_one(predict, tmp_path):  # noqa: F811
    status, _, err, folder = predict(film(tmp_path / "film.mp4", shape=Fraction(4, 3)))
    with av.open(str(folder / "film.mp4")) as container:
        assert (status, err, container.streams.video[0].sample_aspect_ratio) == (0, "", Fraction(4, 3))
    assert {(image["width"], image["height"]) for image in read(folder)[1]["images"]} == {(64, 48)}
