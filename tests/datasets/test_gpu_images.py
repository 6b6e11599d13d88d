"""Image files that a GPU's decoder gets wrong without a word: found by the checks, wherever a GPU is to decode."""
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from ssd.config import load_recipe
from ssd.datasets.jpegs import has_no_end, truncation
from ssd.datasets.locate import load_dataset
from ssd.errors import UserError
from ssd.evaluation.saved_network import load_images
from tests.datasets.jpeg_files import jpeg_of

def photo():
    ramp = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    return Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], axis=2).astype(np.uint8))


def jpeg2000(mode):
    buffer = io.BytesIO()
    (Image.fromarray(np.full((30, 40), 4321, np.uint16)) if mode == "I;16" else photo().convert(mode)).save(
        buffer, "JPEG2000")
    return buffer.getvalue()


def test_truncated_jpegs_are_those_without_an_end():
    whole = jpeg_of(photo())
    for content in (whole, whole + b"more", jpeg2000("RGB"), b"", b"x"):
        assert not truncation(np.frombuffer(content, np.uint8))
    assert not has_no_end(whole) and has_no_end(whole + b"more")
    for cut in (1, 2, 40, len(whole) // 2):
        assert has_no_end(whole[:-cut])
        assert "truncated" in truncation(np.frombuffer(whole[:-cut], np.uint8)).lower()


@pytest.fixture()
def make(tmp_path):
    """Writes a data set of a good image and the one given; returns its folder."""
    def write(content, name):
        for split in ("train", "val"):
            images = [dict(id=key, file_name=file, width=40, height=30) for key, file in ((1, "1.jpg"), (2, name))]
            boxes = [dict(id=key, image_id=key, category_id=7, bbox=[1, 2, 10, 20], area=200, iscrowd=0)
                     for key in (1, 2)]
            os.makedirs(str(tmp_path / split), exist_ok=True)
            for file, data in (("1.jpg", jpeg_of(photo())), (name, content)):
                (tmp_path / split / file).write_bytes(data)
            (tmp_path / f"{split}.json").write_text(json.dumps(dict(
                images=images, annotations=boxes, categories=[dict(id=7, name="cat")])))
        return tmp_path
    return write


def settings(folder, **values):
    own = dict(train_annotations="train.json", val_annotations="val.json", train_images="train", val_images="val",
               num_classes=0, cache_size=10)
    return load_recipe("ssd-resnet34-own").with_values(
        data_dir=str(folder), cache_dir=str(folder / "cache"), **{**own, **values})


@pytest.mark.parametrize("decode", ["cpu", "gpu", "cache"])
def test_a_truncated_jpeg_is_found_from_the_header_on(make, capsys, decode):
    folder = make(jpeg_of(photo())[:-300], "2.jpg")
    for level in ("header", "decode"):
        with pytest.raises(UserError, match=r"cut short.*'2\.jpg'"):
            load_dataset(settings(folder, check_images=level, decode=decode), "train")
        assert "--check-images" not in capsys.readouterr().err
    config = settings(folder, check_images="exists", decode=decode)
    for load in (lambda: load_dataset(config, "train"),
                 lambda: load_images(config, str(folder / "val.json"), str(folder / "val"))[0]):
        assert load().num_images == 2
        warned = [line for line in capsys.readouterr().err.splitlines() if "--check-images exists" in line]
        assert len(warned) == (decode != "cpu") and all(f"--decode {decode}" in line for line in warned)
