"""Odd images and annotations, generated here: each gives a valid batch or is refused by name.

Tests check-data and the loaders of training and evaluation, which have decoders of their own.
"""

from __future__ import annotations

import io
import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.show import denormalise
from ssd.datasets.coco import load_coco
from ssd.errors import UserError
from ssd.model.matching import Matcher
from tests.datasets.jpeg_files import rgb_jpeg

# Four default boxes, the quarters of the image.
MATCHER = Matcher(
    np.float32([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]),
    load_recipe("ssd-resnet34-coco").default_boxes,
    [(4, 1)],
)
LEFT, RIGHT = (200, 100, 50), (50, 100, 200)


def sample(width=40, height=30):
    """An image whose left half has one colour and whose right half has another."""
    pixels = np.full((height, width, 3), LEFT, np.uint8)
    pixels[:, width // 2 :] = RIGHT
    return Image.fromarray(pixels)


def encoded(image, **options):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, **options)
    return buffer.getvalue()


def deep(mode):
    """An image with 16 bits per channel, whose low bytes are not zero."""
    import cv2

    pixels = np.asarray(sample())[:, :, ::-1].astype(np.uint16) * 256 + 77
    return cv2.imencode(
        ".png", pixels if mode == "RGB" else np.full((30, 40), 100 * 256 + 77, np.uint16)
    )[1].tobytes()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def grey(colour):
    return (round(np.dot(colour, (0.299, 0.587, 0.114))),) * 3


GREYS = (grey(LEFT), grey(RIGHT))
# name: (bytes, what check-data calls it, colours of the left and right half)
HANDLED = {
    "plain.jpg": (encoded(sample(), format="JPEG", quality=95), (), (LEFT, RIGHT)),
    "progressive.jpg": (
        encoded(sample(), format="JPEG", quality=95, progressive=True),
        (),
        (LEFT, RIGHT),
    ),
    "grey.jpg": (
        encoded(sample().convert("L"), format="JPEG", quality=95),
        ("grey image",),
        GREYS,
    ),
    "cmyk.jpg": (
        encoded(sample().convert("CMYK"), format="JPEG", quality=95),
        ("CMYK image",),
        (LEFT, RIGHT),
    ),
    "deep.png": (deep("RGB"), ("16-bit image",), (LEFT, RIGHT)),
    "deep-grey.png": (deep("L"), ("16-bit image", "grey image"), ((100,) * 3,) * 2),
    "palette.png": (
        encoded(sample().convert("P", palette=Image.ADAPTIVE), format="PNG"),
        ("palette image",),
        (LEFT, RIGHT),
    ),
    "bits.png": (
        encoded(
            sample().convert("L").point(lambda v: 255 if v > 110 else 0).convert("1"), format="PNG"
        ),
        ("grey image",),
        ((255,) * 3, (0,) * 3),
    ),
    "clear.png": (
        encoded(
            Image.merge("RGBA", (*sample().split(), Image.new("L", (40, 30), 9))), format="PNG"
        ),
        ("image with transparency",),
        (LEFT, RIGHT),
    ),
    **{
        f"turned{k}.jpg": (
            encoded(sample(), format="JPEG", quality=95, exif=exif(k)),
            ("image with an EXIF orientation",),
            (LEFT, RIGHT),
        )
        for k in (2, 3, 6, 8)
    },
    "turned6.png": (
        encoded(sample(), format="PNG", exif=exif(6)),
        ("image with an EXIF orientation",),
        (LEFT, RIGHT),
    ),
    "one.jpg": (encoded(sample(1, 1), format="JPEG", quality=95), ("tiny image",), (RIGHT, RIGHT)),
    "one.png": (encoded(sample(1, 1), format="PNG"), ("tiny image",), (RIGHT, RIGHT)),
    "wide.jpg": (
        encoded(sample(10000, 10), format="JPEG", quality=95),
        ("huge image",),
        (LEFT, RIGHT),
    ),
    "tall.jpg": (
        encoded(sample(10, 10000), format="JPEG", quality=95, subsampling=0),
        ("huge image",),
        (LEFT, RIGHT),
    ),
    "picture.webp": (encoded(sample(), format="WEBP", lossless=True), (), (LEFT, RIGHT)),
    "picture.bmp": (encoded(sample(), format="BMP"), (), (LEFT, RIGHT)),
    "picture.tif": (encoded(sample(), format="TIFF"), (), (LEFT, RIGHT)),
    "picture.jp2": (encoded(sample(), format="JPEG2000"), (), (LEFT, RIGHT)),
    "grey.jp2": (
        encoded(sample().convert("L"), format="JPEG2000"),
        ("grey JPEG 2000 image", "grey image"),
        GREYS,
    ),
    "rgb.jpg": (rgb_jpeg(sample()), ("JPEG of RGB",), (LEFT, RIGHT)),
    "picture.ppm": (encoded(sample(), format="PPM"), (), (LEFT, RIGHT)),
    "a-png.jpg": (
        encoded(sample(), format="PNG"),
        ("image named as another format",),
        (LEFT, RIGHT),
    ),
    "junk-after.jpg": (
        encoded(sample(), format="JPEG", quality=95) + b"junk" * 99,
        (),
        (LEFT, RIGHT),
    ),
}
JPEG, PNG = encoded(sample(), format="JPEG", quality=95), encoded(sample(), format="PNG")
BROKEN = "does not decode"
DALI = "image that DALI does not decode correctly"
# name: (bytes, kind of error, whether DALI notices too)
REFUSED = {
    "empty.jpg": (b"", "not an image", True),
    "text.jpg": (
        b"Lorem ipsum dolor sit amet, consectetur adipiscing elit.\n",
        "not an image",
        True,
    ),
    "picture.gif": (encoded(sample().convert("P"), format="GIF"), "not an image", True),
    "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image", True),
    "animated.webp": (
        encoded(sample(), format="WEBP", save_all=True, append_images=[sample().rotate(180)]),
        DALI,
        True,
    ),
    "turned6.webp": (encoded(sample(), format="WEBP", exif=exif(6)), DALI, True),
    "turned3.tif": (encoded(sample(), format="TIFF", tiffinfo={0x0112: 3}), DALI, False),
    "turned6.tif": (encoded(sample(), format="TIFF", tiffinfo={0x0112: 6}), DALI, True),
    "cmyk.tif": (encoded(sample().convert("CMYK"), format="TIFF"), DALI, False),
    "lab.tif": (encoded(sample().convert("LAB"), format="TIFF"), DALI, False),
    "float.tif": (encoded(sample().convert("F"), format="TIFF"), DALI, True),
    "hundred.ppm": (b"P6\n40 30\n100\n" + bytes(40 * 30 * 3), DALI, False),
    **{
        f"cut-{part:02}.jpg": (JPEG[: len(JPEG) * part // 100], BROKEN, True)
        for part in (20, 60, 90)
    },
    "cut-1.jpg": (JPEG[:1], "not an image", True),
    "cut-end.jpg": (JPEG[:-2], BROKEN, True),
    **{
        f"cut-{part:02}.png": (PNG[: len(PNG) * part // 100], BROKEN, True) for part in (40, 60, 90)
    },
    "cut-end.png": (PNG[:-1], BROKEN, True),
    "cut-60.bmp": (encoded(sample(), format="BMP")[:2000], BROKEN, True),
}


def settings(**values):
    return load_recipe("ssd-resnet34-coco").with_values(
        **{**dict(batch_size=4, eval_batch_size=4, image_size=48, data_threads=1), **values}
    )


def size_of(content):
    """Width and height as stored, or those of a plain image if nothing can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return image.size
    except Exception:
        return 40, 30


def make(folder, contents, boxes=None):
    """A COCO folder of files with one box each, over the left half, or `boxes` per file: (xywh,
    iscrowd)."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    images, annotations = [], []
    for index, (name, content) in enumerate(contents.items()):
        (folder / "images" / name).write_bytes(content)
        width, height = size_of(content)
        images.append(dict(id=index, file_name=name, width=width, height=height))
        mine = [([0, 0, max(1, width // 2), height], 0)] if boxes is None else boxes[name]
        annotations += [
            dict(
                id=len(annotations) + k,
                image_id=index,
                category_id=1,
                bbox=list(map(float, box)),
                area=1.0,
                iscrowd=crowd,
            )
            for k, (box, crowd) in enumerate(mine)
        ]
    path = folder / "annotations" / "a.json"
    path.write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=[dict(id=1, name="thing")])
        )
    )
    return path, folder / "images"


def check(folder, capsys, *flags):
    """(exit status, the report about the split in check-data's JSON)."""
    status = main(
        [
            "check-data",
            "--data-dir",
            str(folder),
            "--split",
            "val",
            "--val-annotations",
            "annotations/a.json",
            "--val-images",
            "images",
            "--json",
            "--no-cache",
            "--examples",
            "99",
            "--jobs",
            "2",
            *flags,
        ]
    )
    return status, json.loads(capsys.readouterr().out)["splits"]["val"]


def by_name(entries, names):
    """For each file, the kinds that have it among their examples."""
    return {
        name: {
            entry["kind"]
            for entry in entries
            if any(name in example for example in entry["examples"])
        }
        for name in names
    }


def unchecked(paths):
    return load_coco(*paths, check_images="exists", require_boxes=False, report=lambda line: None)


def halves(image):
    """Mean colours of the left and the right half, without the border between them."""
    return [
        image[4:-4, columns].reshape(-1, 3).mean(0) for columns in (slice(4, 18), slice(30, 44))
    ]


@pytest.fixture(scope="module")
def handled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handled")
    return folder, make(folder, {name: content for name, (content, _, _) in HANDLED.items()})


def test_check_data_reports_images_that_are_handled(handled, capsys):
    status, report = check(handled[0], capsys)
    assert status == 0 and report["errors"] == []
    found = by_name(report["handled"], HANDLED)
    for name, (_, kinds, _) in HANDLED.items():
        assert found[name] == set(kinds), name


def test_evaluation_sees_the_right_colours(handled):
    config, data = settings(), unchecked(handled[1])
    seen = []
    for images, indices in EvaluationLoader(config, data):
        for image, index in zip(denormalise(images.asnumpy(), config), indices):
            name = data.file_names[index]
            for part, colour in zip(halves(image), HANDLED[name][2]):
                assert np.abs(part - colour).max() < 4, name
            seen.append(name)
    assert sorted(seen) == sorted(HANDLED)


def passes(loader, data, batches):
    """(name, image as 0..255, boxes, offsets, classes) of each image of some batches."""
    for _ in range(batches):
        batch = next(loader)
        for image, index, boxes, offsets, classes in zip(
            batch.images.asnumpy(),
            batch.indices,
            batch.boxes,
            batch.offsets.asnumpy(),
            batch.classes.asnumpy(),
        ):
            yield data.file_names[index], image, boxes, offsets, classes


def test_training_sees_the_right_colours_in_the_right_boxes(handled):
    config, data = settings(augment=False, batch_size=1), unchecked(handled[1])
    seen = set()
    loader = TrainingLoader(config, data, MATCHER, raw_boxes=True)
    for name, image, boxes, _, classes in passes(loader, data, len(HANDLED)):
        pixels = denormalise(image[None], config)[0]
        for part, colour in zip(halves(pixels), HANDLED[name][2]):
            assert np.abs(part - colour).max() < 4, name
        left = [0, 0, 1, 1] if name.startswith("one.") else [0, 0, 0.5, 1]
        np.testing.assert_allclose(boxes, [left], atol=1e-6)
        assert classes.max() == 1
        seen.add(name)
    assert seen == set(HANDLED), "a pass without augmentation meets each image once"


def test_augmentation_accepts_every_kind(handled):
    config, data = settings(), unchecked(handled[1])
    loader = TrainingLoader(config, data, MATCHER, raw_boxes=True)
    count = 0
    for name, image, boxes, offsets, classes in passes(loader, data, 3 * -(-len(HANDLED) // 4)):
        assert np.isfinite(image).all() and np.isfinite(offsets).all(), name
        assert len(boxes) == 1 and (boxes >= 0).all() and (boxes <= 1).all(), name
        assert (boxes[:, 2:] > boxes[:, :2]).all() and classes.max() == 1, name
        count += 1
    assert count >= 3 * len(HANDLED)


@pytest.mark.slow
def test_large_image(tmp_path, capsys):
    """10,000 x 10,000 pixels: 300 MB once decoded."""
    paths = make(
        tmp_path, {"large.jpg": encoded(Image.new("RGB", (10000, 10000), LEFT), format="JPEG")}
    )
    status, report = check(tmp_path, capsys)
    assert status == 0 and by_name(report["handled"], ["large.jpg"])["large.jpg"] == {"huge image"}
    config = settings(batch_size=1, eval_batch_size=1)
    [(images, _)] = EvaluationLoader(config, unchecked(paths))
    assert np.abs(denormalise(images.asnumpy(), config)[0] - LEFT).max() <= 2
    assert np.isfinite(
        next(TrainingLoader(config, unchecked(paths), MATCHER)).images.asnumpy()
    ).all()


def test_check_data_reports_images_that_are_refused(tmp_path, capsys):
    make(tmp_path, {name: content for name, (content, _, _) in REFUSED.items()})
    status, report = check(tmp_path, capsys)
    found = by_name(report["errors"], REFUSED)
    assert status == 1
    for name, (_, kind, _) in REFUSED.items():
        assert len(found[name]) == 1 and kind in next(iter(found[name])), (name, found[name])
    assert not any(by_name(report["handled"], REFUSED).values()), (
        "what is refused is not handled as well"
    )
    status, report = check(tmp_path, capsys, "--skip-bad-annotations")
    assert status == 1 and report["errors"][-1]["kind"] == "nothing left to evaluate"


@pytest.mark.parametrize("name", [name for name, (_, _, notices) in REFUSED.items() if notices])
def test_loaders_name_images_that_dali_cannot_decode(tmp_path, name):
    contents = {"good0.jpg": JPEG, name: REFUSED[name][0]}
    paths = make(tmp_path, contents, {"good0.jpg": [([0, 0, 9, 9], 0)], name: [([0, 0, 9, 9], 0)]})
    data, config = unchecked(paths), settings(batch_size=2, eval_batch_size=2)
    for loader in (TrainingLoader(config, data, MATCHER), EvaluationLoader(config, data)):
        with pytest.raises(UserError) as caught:
            list(zip(range(2), loader))
        assert os.path.join("images", name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [dict(format="JPEG"), dict(format="JPEG", progressive=True), dict(format="PNG")],
    ids=["baseline", "progressive", "png"],
)
def test_check_and_loader_agree_on_truncated_files(tmp_path, capsys, options):
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8))
    complete = encoded(noise, **options)
    lengths = [len(complete) * part // 10 for part in range(2, 10)] + [
        len(complete) - 2,
        len(complete),
    ]
    contents = {f"{length}.img": complete[:length] for length in lengths}
    paths = make(tmp_path, contents)
    content = json.loads(paths[0].read_text())
    for image in content["images"]:
        image.update(width=80, height=60)
    paths[0].write_text(json.dumps(content))
    status, report = check(tmp_path, capsys)
    errors = by_name(report["errors"], contents)
    assert status == 1 and not errors[f"{lengths[-1]}.img"]
    config, data = settings(eval_batch_size=1), unchecked(paths)
    for index, length in enumerate(lengths):
        loader = EvaluationLoader(config, data, rank=index, size=len(lengths))
        try:
            list(loader)
            dali = False
        except UserError as error:
            dali = True
            assert f"{length}.img" in str(error)
        assert dali == bool(errors[f"{length}.img"]), (length, len(complete))


def test_images_of_another_size_are_named(tmp_path, capsys):
    turned = encoded(sample(), format="JPEG", exif=exif(6))
    paths = make(tmp_path, {"turned.jpg": turned, "plain.jpg": JPEG})
    content = json.loads(paths[0].read_text())
    for image in content["images"]:
        image.update(width=30, height=40)
    paths[0].write_text(json.dumps(dict(content, annotations=[])))
    status, report = check(tmp_path, capsys)
    [error] = report["errors"]
    assert status == 1 and error["kind"] == "image size differs" and error["count"] == 2
    assert all(
        "40 x 30 pixels on disk, 30 x 40 in the annotations" in line for line in error["examples"]
    )
    assert "EXIF orientation" in error["examples"][0] and "EXIF" not in error["examples"][1]


def test_odd_annotations(tmp_path, capsys):
    random = np.random.RandomState(0)
    crowded = [
        (
            [
                random.uniform(0, 30),
                random.uniform(0, 20),
                random.uniform(0.1, 10),
                random.uniform(0.1, 10),
            ],
            0,
        )
        for _ in range(3000)
    ]
    boxes = {
        "none.jpg": [],
        "crowds.jpg": [([0, 0, 20, 20], 1)] * 2,
        "many.jpg": crowded,
        "edge.jpg": [([-0.5, 10, 41, 20.9], 0)],
        "twice.jpg": [([1, 2, 3, 4], 0)] * 2,
    }
    paths = make(tmp_path, dict.fromkeys(boxes, JPEG), boxes)
    status, report = check(tmp_path, capsys)
    assert status == 0 and by_name(report["handled"], boxes) == {
        "none.jpg": {"image without a box"},
        "many.jpg": {"image with 1000 boxes or more"},
        "crowds.jpg": {"image with crowds only", "crowd box", "box given twice"},
        "edge.jpg": {"box clipped at the image's edge"},
        "twice.jpg": {"box given twice"},
    }
    counts = {entry["kind"]: entry["count"] for entry in report["handled"]}
    assert counts["crowd box"] == 2 and counts["box given twice"] == 2

    data, config = unchecked(paths), settings(batch_size=1, eval_batch_size=2)
    assert sorted(
        index for _, indices in EvaluationLoader(config, data) for index in indices
    ) == list(range(5))
    loader, seen = TrainingLoader(config, data, MATCHER, raw_boxes=True), {}
    for name, image, found, offsets, classes in passes(loader, data, 12):
        assert np.isfinite(image).all() and np.isfinite(offsets).all() and len(found)
        assert (found >= 0).all() and (found <= 1).all() and classes.max() == 1
        seen[name] = max(len(found), seen.get(name, 0))
    assert (
        sorted(seen) == ["crowds.jpg", "edge.jpg", "many.jpg", "twice.jpg"]
        and seen["many.jpg"] > 100
    )
