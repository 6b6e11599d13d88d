"""Likely causes: boxes in another format, names in another spelling; good files give none."""

import unicodedata

import numpy as np
import pytest

from ssd.datasets.annotation_causes import BoxForms
from ssd.datasets.image_folder import open_images
from ssd.datasets.missing_images import cause_of_missing, other_names

# Words of the message -> function of left, top, width, height of a box, and width, height of the
# image, that gives the numbers of the file
FORMS = {
    "left, top, right, bottom": lambda x, y, w, h, W, H: (x, y, x + w, y + h),
    "top, left, bottom, right": lambda x, y, w, h, W, H: (y, x, y + h, x + w),
    "left, right, top, bottom": lambda x, y, w, h, W, H: (x, x + w, y, y + h),
    "centre x, centre y, width, height": lambda x, y, w, h, W, H: (x + w / 2, y + h / 2, w, h),
    "top, left, height, width": lambda x, y, w, h, W, H: (y, x, h, w),
    "shares of the image": lambda x, y, w, h, W, H: (x / W, y / H, w / W, h / H),
    "they seem to be shares": lambda x, y, w, h, W, H: (x / W, y / H, (x + w) / W, (y + h) / H),
    "shares of the image from 0 to 1": lambda x, y, w, h, W, H: (
        (x + w / 2) / W,
        (y + h / 2) / H,
        w / W,
        h / H,
    ),
    "percent of the image": lambda x, y, w, h, W, H: (
        100 * x / W,
        100 * y / H,
        100 * w / W,
        100 * h / H,
    ),
    "thousandths of the image": lambda x, y, w, h, W, H: (
        1e3 * x / W,
        1e3 * y / H,
        1e3 * w / W,
        1e3 * h / H,
    ),
    "images of another size": lambda x, y, w, h, W, H: (2 * x, 2 * y, 2 * w, 2 * h),
    "1.2 times the width and 1.2 times": lambda x, y, w, h, W, H: (
        1.2 * x,
        1.2 * y,
        1.2 * w,
        1.2 * h,
    ),
}
SIZES = {
    "mixed": (60, 320, 240, 0.1, 0.5),
    "small": (300, 640, 480, 0.01, 0.06),
    "large": (80, 700, 400, 0.4, 0.8),
}


def boxes_of(count, width, height, least, most, seed=0):
    random = np.random.default_rng(seed)
    sides = random.uniform(least, most, (count, 2)) * (width, height)
    return np.concatenate(
        [random.random((count, 2)) * ((width, height) - sides), sides], 1
    ), np.tile(np.float64([width, height]), (count, 1))


def forms_of(boxes, sizes):
    forms = BoxForms()
    for first in range(0, len(boxes), 50):  # in parts, as a file is read
        forms.add(boxes[first : first + 50], sizes[first : first + 50], 1.0)
    return forms


@pytest.mark.parametrize("words", FORMS)
@pytest.mark.parametrize("kind", SIZES)
def test_the_format_is_named(kind, words):
    boxes, sizes = boxes_of(*SIZES[kind])
    forms = forms_of(np.stack(FORMS[words](*boxes.T, *sizes.T), 1), sizes)
    assert words in forms.cause() and "\n" not in forms.cause()
    assert not forms_of(boxes, sizes).cause()


def test_boxes_of_smaller_images_are_noticed_and_not_refused():
    boxes, sizes = boxes_of(100, 640, 480, 0.05, 0.2)
    forms = forms_of(boxes / 2, sizes)
    assert "upper left 50 % x 50 %" in forms.note() and not forms.cause()


def good_file(seed):
    """Boxes inside their images: few or many, tiny or filling, anywhere, in the middle or at the
    edges, integers or not."""
    random = np.random.default_rng(seed)
    count = int(random.choice([1, 2, 3, 10, 50, 300]))
    sizes = (
        np.full((count, 2), random.integers(1, 900, 2))
        if seed % 2
        else random.integers(1, 900, (count, 2))
    )
    least = random.choice([0.001, 0.05, 0.2, 0.5, 0.9])
    sides = np.maximum(
        random.uniform(least, min(1, 2 * least), (count, 2)) * sizes, np.minimum(1, 0.9 * sizes)
    )
    base = (
        random.random,
        lambda size: np.clip(random.normal(0.5, 0.1, size), 0, 1),
        lambda size: np.round(random.random(size)),
    )[seed % 3]((count, 2))
    boxes = np.concatenate([base * (sizes - sides), sides], 1)
    return boxes, sizes.astype(np.float64)


@pytest.mark.parametrize("first", range(0, 2000, 200))
def test_good_files_have_no_cause(first):
    for seed in range(first, first + 200):
        boxes, sizes = good_file(seed)
        forms = forms_of(boxes, sizes)
        assert (forms.outside, forms.cause(), forms.note()) == (0, "", ""), seed


@pytest.mark.parametrize(
    "box, size",
    [
        ((0, 0, 60, 40), (60, 40)),
        ((0, 0, 1, 1), (60, 40)),
        ((0, 0, 1, 1), (1, 1)),
        ((0, 0, 0.5, 0.5), (2, 2)),
        ((59, 39, 1, 1), (60, 40)),
        ((0, 0, 60.9, 40.9), (60, 40)),
        ((3, 3, 80, 5), (60, 40)),
    ],
)
def test_one_box_is_no_evidence(box, size):
    assert not forms_of(np.float64([box]), np.float64([size])).cause()


def test_boxes_drawn_carelessly_are_no_other_format():
    """Pages with one box that fills them: some reach a few pixels out, and all would fit as corners
    too."""
    random = np.random.default_rng(0)
    sizes = np.tile([600.0, 800.0], (40, 1))
    boxes = np.concatenate(
        [random.uniform(1, 6, (40, 2)), sizes - random.uniform(0, 9, (40, 2))], 1
    )
    forms = forms_of(boxes, sizes)
    assert forms.outside > 4 and not forms.cause()


# name in the file, path of the present image, words of the message
NAMES = [
    ("a\\{}.jpg", "a/{}.jpg", "backslashes"),
    ("C:\\me\\{}.jpg", "{}.jpg", "hold folders"),
    ("/home/me/{}.jpg", "{}.jpg", "hold folders"),
    ("http://x.org/v/{}.jpg", "{}.jpg", "hold folders"),
    ("images/s/{}.jpg", "s/{}.jpg", "one folder more"),
    ("{}.jpg", "s/{}.jpg", "in folders below"),
    ("t/{}.jpg", "s/{}.jpg", "in other folders"),
    ("a%20{}.jpg", "a {}.jpg", "web addresses"),
    ("\u00fc{}.jpg", "u\u0308{}.jpg", "NFC and NFD"),
    ("u\u0308{}.jpg", "\u00fc{}.jpg", "NFC and NFD"),
    ("img{}.jpg", "IMG{}.jpg", "capital and small"),
    ("{}.jpg", "{}.JPG", "capital and small"),
    ("{}.jpg", "{}.png", "with .png"),
    ("i{}", "i{}.jpg", "with .jpg"),
    ("{}.tif", "{}.webp", "with .webp"),
    ("{}", "{:012d}.jpg", "by number"),
    ("{:06d}.jpg", "val_{:012d}.jpg", "by number"),
    ("images\\img%20{}.png", "s/IMG {}.JPG", "in another way"),
    (".\\{}.jpg", "{}.jpg", "backslashes"),
    ("a\\b\\{}.jpg", "a/b/{}.jpg", "backslashes"),
    ("a/b/c/{}.jpg", "{}.jpg", "hold folders"),
    ("{}.jpeg", "{}.jpg", "other endings; with .jpg"),
    ("{}.jpg", "{}.jpeg", "other endings; with .jpeg"),
    ("deep/{}.png", "deep/{}.jpg", "other endings; with .jpg"),
    ("{}.jpg", "other{}x.jpg", "none of the 3 images"),
]


@pytest.mark.parametrize("name, present, words", NAMES, ids=str)
def test_the_other_spelling_of_names_is_found(tmp_path, name, present, words):
    for number in range(1, 4):
        path = tmp_path / present.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [name.format(number) for number in range(1, 4)]
    line = cause_of_missing(open_images(tmp_path), names, 3)
    assert words in line and "\n" not in line
    if not line.startswith("none"):
        assert unicodedata.normalize("NFC", present.format(1)) in unicodedata.normalize("NFC", line)
        assert words in other_names([present.format(number) for number in range(1, 4)], names)


def test_names_that_are_alike_explain_nothing():
    assert other_names(["1.jpg", "2.jpg", "x.jpg"], ["1.jpg", "2.jpg", "gone.jpg"]) == ""
    assert "with .png" in other_names(["1.jpg", "2.jpg", "x.png"], ["1.jpg", "2.jpg", "x.jpg"])


def test_images_that_are_just_missing_have_no_cause(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert cause_of_missing(open_images(tmp_path), ["b.jpg", "c.jpg"], 9) == ""
    assert "which holds 1 others" in cause_of_missing(open_images(tmp_path), ["b.jpg", "c.jpg"], 2)
