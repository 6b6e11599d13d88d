"""Annotation files as users have them, each with the result that every command must have."""

import bz2
import copy
import gzip
import json
import lzma
from typing import Callable, NamedTuple, Sequence

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
NAMES = ("disc", "star", "bar")
IDS = (7, 3, 12)


class Odd(NamedTuple):
    """change: of the content, or None. words: of the refusal, "" where the file is taken as it is.
    images, boxes: ids of what --skip-bad-annotations leaves out; None: it cannot be left out.
    encode: of the text, to the file's bytes."""

    name: str
    change: Callable = None
    words: str = ""
    images: Sequence = ()
    boxes: Sequence = None
    encode: Callable = str.encode


def content():
    """Six images, two boxes in each, areas that are no products, a group, three categories."""
    random = np.random.default_rng(5)
    annotations = []
    for image in range(1, 7):
        for _ in range(2):
            number = len(annotations) + 1
            box = [
                int(side)
                for side in (
                    random.integers(0, 20),
                    random.integers(0, 10),
                    random.integers(5, 39),
                    random.integers(5, 29),
                )
            ]
            annotations.append(
                dict(
                    id=number,
                    image_id=image,
                    category_id=IDS[number % 3],
                    bbox=box,
                    iscrowd=0,
                    area=box[2] * box[3] * 0.75,
                )
            )
    annotations[5]["iscrowd"] = 1
    return dict(
        images=[
            dict(id=image, file_name=f"{image}.jpg", width=WIDTH, height=HEIGHT)
            for image in range(1, 7)
        ],
        annotations=annotations,
        categories=[dict(id=key, name=name) for key, name in zip(IDS, NAMES)],
    )


def found(seed=0):
    """Detections near the boxes, wrong ones among them, as rows of COCO's results."""
    random, rows = np.random.default_rng(seed), []
    for entry in content()["annotations"]:
        for share in (1, 2):
            box = (np.array(entry["bbox"]) + random.random(4) * 2 * share).round(2).tolist()
            rows.append(
                dict(
                    image_id=entry["image_id"],
                    bbox=box,
                    score=float(random.random().__round__(4)),
                    category_id=entry["category_id"] if random.random() < 0.9 else IDS[0],
                )
            )
    return rows


def draw_images(folder):
    folder.mkdir()
    for image in range(1, 7):
        Image.new("RGB", (WIDTH, HEIGHT), (9 * image, 90, 200)).save(str(folder / f"{image}.jpg"))


def expected(odd):
    """The content that counts, with plain numbers."""
    file_content, gone = content(), set(odd.boxes or ())
    for row in file_content["annotations"]:
        if odd.name == "area missing":
            row["area"] = row["bbox"][2] * row["bbox"][3]
    return dict(
        file_content,
        images=[row for row in file_content["images"] if row["id"] not in odd.images],
        annotations=[
            row
            for row in file_content["annotations"]
            if row["id"] not in gone and row["image_id"] not in odd.images
        ],
    )


def as_bytes(odd):
    changed = copy.deepcopy(content())
    if odd.change is not None:
        changed = odd.change(changed) or changed
    return odd.encode(
        changed if isinstance(changed, str) else json.dumps(changed, ensure_ascii=False)
    )


def each(section, **values):
    """A change of every entry; a value may be a function of the old one."""

    def change(file_content):
        for entry in file_content[section]:
            for key, value in values.items():
                entry[key] = value(entry[key]) if callable(value) else value

    return change


def one(section, position, **values):
    def change(file_content):
        file_content[section][position].update(values)

    return change


def drop(section, key, position=None):
    def change(file_content):
        for entry in (
            file_content[section] if position is None else [file_content[section][position]]
        ):
            del entry[key]

    return change


def twice(section):
    return lambda file_content: json.dumps(file_content)[:-1] + f', "{section}": []}}'


ENCODINGS = [
    Odd("utf-8 with a mark", encode=lambda text: text.encode("utf-8-sig")),
    Odd("utf-16", encode=lambda text: text.encode("utf-16")),
    Odd("utf-16 without a mark", encode=lambda text: text.encode("utf-16-le")),
    Odd("utf-16, large end first", encode=lambda text: b"\xfe\xff" + text.encode("utf-16-be")),
    Odd("utf-32", encode=lambda text: text.encode("utf-32")),
    Odd("gzip", encode=lambda text: gzip.compress(text.encode())),
    Odd("gzip of utf-8 with a mark", encode=lambda text: gzip.compress(text.encode("utf-8-sig"))),
    Odd("bzip2", encode=lambda text: bz2.compress(text.encode())),
    Odd("xz", encode=lambda text: lzma.compress(text.encode())),
    Odd(
        "gzip cut short",
        encode=lambda text: gzip.compress(text.encode())[:-30],
        words="cut short or damaged",
    ),
    Odd("zip", encode=lambda text: b"PK\x03\x04" + text.encode(), words="a ZIP archive"),
    Odd(
        "zstandard",
        encode=lambda text: b"\x28\xb5\x2f\xfd" + text.encode(),
        words="compressed by Zstandard",
    ),
    Odd(
        "latin-1",
        change=one("categories", 0, name="Müll"),
        encode=lambda text: text.encode("latin-1"),
        words="is no UTF-8",
    ),
    Odd("empty", encode=lambda text: b"", words="is not JSON"),
    Odd("cut short", encode=lambda text: text.encode()[:-9], words="is not JSON"),
    Odd("windows lines", encode=lambda text: text.replace(", ", ",\r\n").encode()),
]
NUMBERS = [
    Odd("area as text", each("annotations", area=str), "area '", boxes=range(1, 13)),
    Odd("area missing", drop("annotations", "area")),
    Odd("one area as text", one("annotations", 3, area="12"), "which is text", boxes=[4]),
    Odd("area NaN", one("annotations", 3, area=float("nan")), "area nan", boxes=[4]),
    Odd("area infinite", one("annotations", 3, area=float("inf")), "area inf", boxes=[4]),
    Odd("area negative", one("annotations", 3, area=-1), "area -1", boxes=[4]),
    Odd("area a list", one("annotations", 3, area=[1]), "area [1]", boxes=[4]),
    Odd("area true", one("annotations", 3, area=True), "area True", boxes=[4]),
    Odd("area of hundreds of digits", one("annotations", 3, area=10**400), "area 1000", boxes=[4]),
    Odd(
        "ids with a point",
        lambda file_content: (
            [
                each("annotations", image_id=float, category_id=float, id=float)(file_content),
                each("images", id=float, width=float, height=float)(file_content),
                each("categories", id=float)(file_content),
            ]
            and None
        ),
    ),
    Odd(
        "ids with a point in the annotations alone",
        each("annotations", image_id=float, category_id=float),
    ),
    Odd(
        "a category id with a point and no whole",
        one("annotations", 2, category_id=3.5),
        "category 3.5, which is no whole number",
        boxes=[3],
    ),
    Odd(
        "image ids as text",
        each("annotations", image_id=str),
        "is text, not a number",
        boxes=range(1, 13),
    ),
    Odd(
        "an image id as text in images",
        one("images", 2, id="3"),
        "is text, not a number",
        images=[3],
    ),
    Odd("category ids as text", each("categories", id=str), "is text, not a number"),
    Odd(
        "category id of an annotation as text",
        one("annotations", 0, category_id="3"),
        "which is text",
        boxes=[1],
    ),
    Odd(
        "iscrowd missing",
        lambda file_content: (
            [entry.pop("iscrowd") for entry in file_content["annotations"] if not entry["iscrowd"]]
            and None
        ),
    ),
    Odd(
        "iscrowd null",
        lambda file_content: (
            [
                entry.update(iscrowd=None)
                for entry in file_content["annotations"]
                if not entry["iscrowd"]
            ]
            and None
        ),
    ),
    Odd("iscrowd true and false", each("annotations", iscrowd=bool)),
    Odd("iscrowd with a point", each("annotations", iscrowd=float)),
    Odd("iscrowd as text", one("annotations", 1, iscrowd="0"), "iscrowd '0'", boxes=[2]),
    Odd("iscrowd of 2", one("annotations", 1, iscrowd=2), "iscrowd 2", boxes=[2]),
    Odd("iscrowd empty", one("annotations", 1, iscrowd=""), "iscrowd ''", boxes=[2]),
    Odd("a box as text", one("annotations", 1, bbox="1,2,3,4"), "not four numbers", boxes=[2]),
    Odd(
        "numbers of a box as text",
        one("annotations", 1, bbox=["1", "2", "3", "4"]),
        "not four numbers",
        boxes=[2],
    ),
    Odd("no box", drop("annotations", "bbox", 1), "not four numbers", boxes=[2]),
    Odd("null box", one("annotations", 1, bbox=None), "not four numbers", boxes=[2]),
    Odd("empty box list", one("annotations", 1, bbox=[]), "not four numbers", boxes=[2]),
    Odd("box of no width", one("annotations", 1, bbox=[3, 3, 0, 5]), "empty box", boxes=[2]),
    Odd(
        "box of negative width",
        one("annotations", 1, bbox=[9, 3, -3, 5]),
        "negative size",
        boxes=[2],
    ),
    Odd("box outside", one("annotations", 1, bbox=[50, 3, 30, 5]), "outside the image", boxes=[2]),
    Odd(
        "box with NaN",
        one("annotations", 1, bbox=[1, 2, float("nan"), 4]),
        "NaN or infinity",
        boxes=[2],
    ),
    Odd("no annotation id", drop("annotations", "id", 1), "its id is missing", boxes=[2]),
    Odd("annotation id twice", one("annotations", 1, id=1), "duplicate annotation id", boxes=[2]),
    Odd(
        "annotation of no image",
        one("annotations", 1, image_id=99),
        "no image has this id",
        boxes=[2],
    ),
    Odd(
        "annotation of no category", one("annotations", 1, category_id=99), "category 99", boxes=[2]
    ),
]
IMAGES = [
    Odd("image without a width", drop("images", "width", 1), "usable size", images=[2]),
    Odd(
        "image without a size",
        lambda file_content: (
            [drop("images", key, 1)(file_content) for key in ("width", "height")] and None
        ),
        "usable size",
        images=[2],
    ),
    Odd("width as text", one("images", 1, width="60"), "usable size", images=[2]),
    Odd("width of 0", one("images", 1, width=0), "usable size", images=[2]),
    Odd("width null", one("images", 1, width=None), "usable size", images=[2]),
    Odd("image without a name", drop("images", "file_name", 1), "usable file name", images=[2]),
    Odd("empty name", one("images", 1, file_name=""), "usable file name", images=[2]),
    Odd("name a number", one("images", 1, file_name=2), "usable file name", images=[2]),
    Odd(
        "name of a folder above",
        one("images", 1, file_name="../2.jpg"),
        "leaves the image folder",
        images=[2],
    ),
    Odd(
        "absolute name", one("images", 1, file_name="/2.jpg"), "leaves the image folder", images=[2]
    ),
    Odd("name twice", one("images", 1, file_name="./1.jpg"), "duplicate file name", images=[2]),
    Odd(
        "image null",
        lambda file_content: file_content["images"].__setitem__(1, None),
        "not an object",
        images=[2],
    ),
    Odd(
        "other keys",
        lambda file_content: (
            [
                file_content.update(info="", licenses=None),
                each("images", license="x")(file_content),
                each("annotations", segmentation=None, attributes={})(file_content),
            ]
            and None
        ),
    ),
]
WHOLE = [
    Odd("images twice", twice("images"), "'images' occurs twice"),
    Odd("annotations twice", twice("annotations"), "'annotations' occurs twice"),
    Odd("categories twice", twice("categories"), "'categories' occurs twice"),
    Odd(
        "no annotations",
        lambda file_content: file_content.pop("annotations") and None,
        "has no 'annotations'",
    ),
    Odd(
        "annotations null",
        lambda file_content: file_content.update(annotations=None),
        "is not a list but None",
    ),
    Odd(
        "a list",
        lambda file_content: json.dumps(file_content["annotations"]),
        "a list at the top level, as COCO detections",
    ),
    Odd("category without a name", drop("categories", "name", 1), "has no integer id or no name"),
    Odd("category id twice", one("categories", 1, id=7), "duplicate category id 7"),
    Odd(
        "no categories",
        lambda file_content: file_content.update(categories=[]),
        "holds no category",
    ),
    Odd("no images", lambda file_content: file_content.update(images=[]), "holds no image"),
]
EVERY = ENCODINGS + NUMBERS + IMAGES + WHOLE
