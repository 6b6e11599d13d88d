"""Image files that a GPU decodes wrong without a message: found by the checks, wherever a GPU
is to decode."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.datasets.image_checks import GREY_JPEG2000, RGB_JPEG, bit, inspect_image
from ssd.datasets.jpegs import has_no_end, truncation
from ssd.datasets.locate import load_dataset
from ssd.errors import UserError
from ssd.evaluation.saved_network import load_images
from ssd.tools.image_input import load_image
from tests.datasets.jpeg_files import jpeg_of, rgb_jpeg, with_markers

RGB_IDS = tuple(b"RGB")


def photo():
    ramp = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    return Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], axis=2).astype(np.uint8))


def jpeg2000(mode):
    buffer = io.BytesIO()
    (
        Image.fromarray(np.full((30, 40), 4321, np.uint16))
        if mode == "I;16"
        else photo().convert(mode)
    ).save(buffer, "JPEG2000")
    return buffer.getvalue()


def notes_of(tmp_path, content):
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(content)
    look = inspect_image(path, "header")
    assert look.problem is None and look == inspect_image(path, "decode")
    return look.notes


# Whether libjpeg takes the three components for R, G and B; on an H100, DALI 1.53 gets the colours
# of just these wrong.
@pytest.mark.parametrize(
    "jfif, transform, ids, is_rgb",
    [
        (True, None, (1, 2, 3), False),
        (False, None, (1, 2, 3), False),
        (False, 1, (1, 2, 3), False),
        (False, 0, (1, 2, 3), True),
        (False, None, RGB_IDS, True),
        (False, 0, RGB_IDS, True),
        (True, 0, (1, 2, 3), False),
    ],
)
def test_rgb_jpegs_are_those_that_libjpeg_does_not_convert(tmp_path, jfif, transform, ids, is_rgb):
    plain = jpeg_of(photo())
    content = with_markers(plain, jfif, transform, ids)
    assert bool(notes_of(tmp_path, content) & bit(RGB_JPEG)) is is_rgb
    # Against libjpeg itself: without conversion, other colours come of the same bytes.
    same = np.array_equal(
        *[np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in (plain, content)]
    )
    assert same is not is_rgb


@pytest.mark.parametrize(
    "mode, noted", [("L", True), ("LA", True), ("I;16", True), ("RGB", False), ("RGBA", False)]
)
def test_grey_jpeg_2000_is_noted(tmp_path, mode, noted):
    assert bool(notes_of(tmp_path, jpeg2000(mode)) & bit(GREY_JPEG2000)) is noted


def test_truncated_jpegs_are_those_without_an_end():
    intact = jpeg_of(photo())
    for content in (intact, intact + b"more", jpeg2000("RGB"), b"", b"x"):
        assert not truncation(np.frombuffer(content, np.uint8))
    assert not has_no_end(intact) and has_no_end(intact + b"more")
    for cut in (1, 2, 40, len(intact) // 2):
        assert has_no_end(intact[:-cut])
        assert "truncated" in truncation(np.frombuffer(intact[:-cut], np.uint8)).lower()


@pytest.fixture()
def make(tmp_path):
    """Writes a data set of a good image and the one given; returns its folder."""

    def write(content, name):
        for split in ("train", "val"):
            images = [
                dict(id=key, file_name=file, width=40, height=30)
                for key, file in ((1, "1.jpg"), (2, name))
            ]
            boxes = [
                dict(id=key, image_id=key, category_id=7, bbox=[1, 2, 10, 20], area=200, iscrowd=0)
                for key in (1, 2)
            ]
            os.makedirs(str(tmp_path / split), exist_ok=True)
            for file, data in (("1.jpg", jpeg_of(photo())), (name, content)):
                (tmp_path / split / file).write_bytes(data)
            (tmp_path / f"{split}.json").write_text(
                json.dumps(
                    dict(images=images, annotations=boxes, categories=[dict(id=7, name="cat")])
                )
            )
        return tmp_path

    return write


def settings(folder, **values):
    own = dict(
        train_annotations="train.json",
        val_annotations="val.json",
        train_images="train",
        val_images="val",
        num_classes=0,
        cache_size=10,
    )
    return load_recipe("ssd-resnet34-own").with_values(
        data_dir=str(folder), cache_dir=str(folder / "cache"), **{**own, **values}
    )


WRONG_ON_GPU = {
    "rgb.jpg": rgb_jpeg(photo()),
    "ids.jpg": with_markers(jpeg_of(photo()), False, None, RGB_IDS),
    "grey.jp2": jpeg2000("L"),
    "clear.jp2": jpeg2000("LA"),
    "deep.jp2": jpeg2000("I;16"),
}


@pytest.mark.parametrize("name", sorted(WRONG_ON_GPU))
@pytest.mark.parametrize("level", ["header", "decode"])
def test_what_a_gpu_decodes_wrong_is_refused_only_for_a_gpu(make, capsys, name, level):
    folder = make(WRONG_ON_GPU[name], name)
    paths = str(folder / "val.json"), str(folder / "val")
    for _ in range(2):  # also where an earlier check kept its result
        assert load_dataset(settings(folder, check_images=level), "train").num_images == 2
        for decode in ("gpu", "cache"):
            config = settings(folder, check_images=level, decode=decode)
            with pytest.raises(UserError, match=rf"image 2 \('{name}'\).*a GPU.*decode cpu"):
                load_dataset(config, "train")
            assert load_images(config, *paths).file_names == ("1.jpg",)  # evaluation
    assert load_images(settings(folder, check_images=level), *paths).num_images == 2
    assert "--check-images" not in capsys.readouterr().err
    assert load_image(str(folder / "val" / name)).shape == (
        30,
        40,
        3,
    )  # predict: on the CPU, by Pillow


def test_check_data_reports_what_a_gpu_decodes_wrong(make, capsys):
    folder = make(WRONG_ON_GPU["rgb.jpg"], "rgb.jpg")
    flags = [
        "check-data",
        "--data-dir",
        str(folder),
        "--cache-dir",
        str(folder / "cache"),
        "--split",
        "train",
        "--train-annotations",
        "train.json",
        "--train-images",
        "train",
        "--json",
    ]
    for decode, status in (("cpu", 0), ("gpu", 1), ("cache", 1), ("cpu", 0)):
        assert main([*flags, "--decode", decode]) == status
        report = json.loads(capsys.readouterr().out)["splits"]["train"]
        kinds = {entry["kind"]: entry["examples"] for entry in report["errors"]}
        if status:
            assert list(kinds) == ["image that DALI does not decode correctly"]
            assert "rgb.jpg" in str(kinds) and "use --decode cpu" in str(kinds)
        else:
            assert not kinds and [entry["kind"] for entry in report["handled"]] == [RGB_JPEG]


@pytest.mark.parametrize("decode", ["cpu", "gpu", "cache"])
def test_a_truncated_jpeg_is_found_at_level_header(make, capsys, decode):
    folder = make(jpeg_of(photo())[:-300], "2.jpg")
    for level in ("header", "decode"):
        with pytest.raises(UserError, match=r"cut short.*'2\.jpg'"):
            load_dataset(settings(folder, check_images=level, decode=decode), "train")
        assert "--check-images" not in capsys.readouterr().err
    config = settings(folder, check_images="exists", decode=decode)
    for load in (
        lambda: load_dataset(config, "train"),
        lambda: load_images(config, str(folder / "val.json"), str(folder / "val")),
    ):
        assert load().num_images == 2
        warned = [
            line for line in capsys.readouterr().err.splitlines() if "--check-images exists" in line
        ]
        assert len(warned) == (decode != "cpu") and all(
            f"--decode {decode}" in line for line in warned
        )
