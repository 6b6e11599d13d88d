"""Most of a file wrong for one cause, through the loaders: named in one line, and refused although
each box alone could be left out. The rules of the causes: test_annotation_causes."""

import json

import numpy as np
import pytest
from PIL import Image

from ssd.config import load_recipe
from ssd.datasets.coco import load_coco, load_ground_truth
from ssd.datasets.locate import load_datasets
from ssd.errors import UserError

WIDTH, HEIGHT = 60, 40


def as_given(ltrb):
    return np.concatenate([ltrb[:, :2], ltrb[:, 2:] - ltrb[:, :2]], axis=1)


def as_centres(ltrb):
    sides = ltrb[:, 2:] - ltrb[:, :2]
    return np.concatenate([ltrb[:, :2] + sides / 2, sides], axis=1)


def as_shares(boxes):
    return boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT]


CORNERS, CENTRES, SHARES = (
    "left, top, right, bottom",
    "centre x, centre y, width, height",
    "shares of the image",
)
FORMS = {
    "corners": (lambda ltrb: ltrb, CORNERS),
    "centres": (as_centres, CENTRES),
    "corners in shares": (as_shares, SHARES),
    "centres in shares": (lambda ltrb: as_shares(as_centres(ltrb)), SHARES),
    "sides in shares": (lambda ltrb: as_shares(as_given(ltrb)), SHARES),
    "right": (as_given, ""),
}


def boxes_of(seed, rounded):
    """(m, 4) ltrb inside the image, in pixels, spread over it."""
    random = np.random.default_rng(seed)
    low = random.random((20, 2)) * [WIDTH - 12, HEIGHT - 12]
    high = low + 6 + random.random((20, 2)) * ([WIDTH, HEIGHT] - low - 6)
    ltrb = np.concatenate([low, high], axis=1)
    return np.round(ltrb) if rounded else ltrb


def write(path, boxes, names=("a.jpg", "b.jpg"), categories=("x", "y")):
    path.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=number, file_name=name, width=WIDTH, height=HEIGHT)
                    for number, name in enumerate(names, 1)
                ],
                annotations=[
                    dict(
                        id=number,
                        image_id=1 + number % len(names),
                        category_id=1 + number % len(categories),
                        bbox=list(map(float, box)),
                        iscrowd=0,
                    )
                    for number, box in enumerate(boxes, 1)
                ],
                categories=[
                    dict(id=number, name=name) for number, name in enumerate(categories, 1)
                ],
            )
        )
    )
    return path


def refusal(action):
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_another_format(tmp_path, form, seed):
    change, words = FORMS[form]
    ltrb = boxes_of(seed, rounded=seed % 2 and "shares" not in form)
    path = write(tmp_path / "a.json", change(ltrb))
    message = refusal(lambda: load_ground_truth(path, max_left_out=0.5))
    assert words in message and bool(message) == bool(words), message
    for skip in (False, True):
        message = refusal(lambda: load_ground_truth(path, skip_bad=skip, max_left_out=0.5))
        assert words in message and bool(message) == bool(words)
    lines = []
    left = len(
        load_ground_truth(path, skip_bad=True, max_left_out=1, report=lines.append).box_image
    )
    assert left == 20 or "outside" in " ".join(lines)
    assert not words or any(words in line for line in lines), "reported although it is accepted"


@pytest.mark.parametrize("few", range(1, 6))
def test_a_few_mistakes_are_no_other_format(tmp_path, few):
    """They are left out with the flag, up to half of all."""
    boxes = as_given(boxes_of(few, True))
    boxes[:few, 0] = WIDTH - 3
    path = write(tmp_path / "a.json", boxes)
    assert "box outside the image" in refusal(lambda: load_ground_truth(path))
    outside = int((boxes[:, 0] + boxes[:, 2] > WIDTH + 1).sum())
    assert (
        len(load_ground_truth(path, skip_bad=True, max_left_out=0.5, report=len).box_image)
        == 20 - outside
    )


def test_objects_that_fill_their_images_are_no_corners(tmp_path):
    boxes = np.tile([[2.0, 1, 57, 38]], (20, 1)) + np.random.default_rng(0).integers(0, 2, (20, 4))
    assert (
        len(
            load_ground_truth(
                write(tmp_path / "a.json", boxes), max_left_out=0.5, report=len
            ).box_image
        )
        == 20
    )


# As in the file, path of the images, words of the message. The other spellings are tried in
# test_annotation_causes.
NAMES = [
    ("train\\1.jpg", "train/1.jpg", "backslashes"),
    ("../images/1.jpg", "1.jpg", "hold folders"),
    ("1.jpg", "1.png", "other endings; with .png"),
    ("1.jpg", "2.jpg", ""),
]


@pytest.mark.parametrize("given, present, words", NAMES)
def test_names_of_another_folder_or_system(tmp_path, given, present, words):
    """Three of four images are found with the other spelling."""
    folder = tmp_path / "images"
    for number in "134":
        path = folder / present.replace("1", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(str(path), "PNG")
    file = write(
        tmp_path / "a.json",
        as_given(boxes_of(0, True)),
        [given.replace("1", number) for number in "1345"],
    )
    for skip in (False, True):
        message = refusal(
            lambda: load_coco(file, folder, skip_bad=skip, max_left_out=0.5, report=len)
        )
        if words:
            assert words in message and "they are there (images/" in message, message
        else:
            assert "they are there" not in message and (
                "missing" in message or "4 of 4 images" in message or skip
            )


def val_without(content):
    content["annotations"] = []


def val_of_groups(content):
    for row in content["annotations"]:
        row["iscrowd"] = 1


def val_of_bad(content):
    for row in content["annotations"]:
        row["bbox"] = [1, 1, 0, 0]


@pytest.mark.parametrize(
    "change, words",
    [
        (val_without, "it holds no annotation, as files of test images"),
        (val_of_groups, "all its 20 boxes are of groups"),
        (val_of_bad, "20 of 20 boxes would be left out"),
    ],
)
def test_validation_of_nothing(tmp_path, change, words):
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(str(tmp_path / "images" / f"{name}.jpg"))
    train, val = (
        write(tmp_path / f"{name}.json", as_given(boxes_of(0, True))) for name in ("train", "val")
    )
    content = json.loads(val.read_text())
    change(content)
    val.write_text(json.dumps(content))
    config = load_recipe("ssd-resnet34-own").with_values(
        train_annotations=str(train),
        val_annotations=str(val),
        train_images=str(tmp_path / "images"),
        val_images=str(tmp_path / "images"),
        cache_dir=str(tmp_path / "cache"),
        skip_bad_annotations=True,
    )
    assert words in refusal(lambda: load_datasets(config))


@pytest.mark.parametrize(
    "names, ids, line",
    [
        (
            ("x", "x"),
            (),
            "categories 1 (10 boxes) and 2 (10 boxes) have one name, 'x', and are classes of their "
            "own; if they are one class, their annotations need one category_id",
        ),
        (
            ("x", "y", "x"),
            (1, 2),
            "categories 1 (10 boxes) and 3 (0 boxes) have one name, 'x', and are classes of their "
            "own; 3 seems to be left over from an export, and can be removed",
        ),
        (("x", "x", "y"), (2, 3), "1 seems to be left over"),
        (("x", "y"), (), ""),
    ],
)
def test_two_categories_of_one_name(tmp_path, names, ids, line):
    file = write(tmp_path / "a.json", as_given(boxes_of(0, True)), categories=names)
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["category_id"] = ids[row["id"] % 2] if ids else row["category_id"]
    file.write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(str(tmp_path / "images" / f"{name}.jpg"))
    lines = []
    data = load_coco(file, tmp_path / "images", report=lines.append)
    assert data.num_classes == 1 + len(names)
    assert any(line in one for one in lines) and any("one name" in one for one in lines) == bool(
        line
    )
