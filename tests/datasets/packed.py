"""A small data set with all the oddities that records must keep, and the command that packs it."""

import json
import os
import struct

import numpy as np
from PIL import Image

from ssd.__main__ import main
from ssd.config import load_recipe
from ssd.datasets.coco import load_coco
from ssd.datasets.recordio import MAGIC

SHARD_SIZE = 12e-6  # GB: of the training images below, five files with some images each
DATA = load_recipe("ssd-resnet34-coco").data
MAGIC_NUMBER = struct.unpack("<I", MAGIC)[0]
PATHS = {
    "train": (DATA.train_annotations, DATA.train_images),
    "val": (DATA.val_annotations, DATA.val_images),
}


def with_magic(path):
    """Puts RecordIO's magic number into a JPEG's comment: twice in a row at multiples of 4 bytes,
    and beside them."""
    with open(path, "rb") as file:
        content = file.read()
    comment = b"--" + MAGIC + MAGIC + b"-" + MAGIC + b"---" + MAGIC
    assert content[:2] == b"\xff\xd8" and (6 + comment.index(MAGIC)) % 4 == 0
    with open(path, "wb") as file:
        file.write(
            content[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + content[2:]
        )


def odd_set(folder, train_images=13, val_images=8, magic_id=True):
    """A data set in COCO's layout in `folder`: boxes that float32 does not hold, crowds, images
    without a box, names with folders and umlauts, ids beyond 32 bits and one that is the magic
    number, images that have it inside."""
    random = np.random.RandomState(4)
    for split, count in (("train", train_images), ("val", val_images)):
        annotations_name, images_name = PATHS[split]
        images, annotations = [], []
        for index in range(count):
            name = (f"deep/er/ü {index}.jpg", f"{index}.png", f"{index:04d}.jpg")[index % 3]
            path = os.path.join(folder, images_name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            width, height = random.randint(40, 90, 2).tolist()
            pixels = random.randint(0, 256, (6, 7, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize((width, height), Image.BICUBIC).save(path)
            if index % 3 == 2:
                with_magic(path)
            number = MAGIC_NUMBER if index == 2 and magic_id else (1 << 40) + 7 * index
            images.append(dict(id=number, file_name=name, width=width, height=height))
            for box in range(0 if index == 3 else 1 + index % 4):
                left, top = random.uniform(0, 20, 2).tolist()
                annotations.append(
                    dict(
                        id=1 + len(annotations),
                        image_id=number,
                        category_id=(5, 90)[box % 2],
                        area=100,
                        iscrowd=int(box == 3),
                        bbox=[left, top, 10 + left / 3, 11 + top / 7],
                    )
                )
        path = os.path.join(folder, annotations_name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                dict(
                    images=images,
                    annotations=annotations,
                    info="kept as it is",
                    categories=[dict(id=5, name="thing"), dict(id=90, name="ü")],
                ),
                file,
            )
    return str(folder)


def load(folder, split="train"):
    """The data set of a folder in COCO's layout, not cached."""
    return load_coco(
        *(os.path.join(folder, name) for name in PATHS[split]),
        check_images="exists",
        require_boxes=False,
        report=lambda line: None,
    )


def pack(data, output, *flags):
    """`python -m ssd pack-data` in this process: its exit status."""
    return main(
        [
            "pack-data",
            "--data-dir",
            str(data),
            "--output",
            str(output),
            "--check-images",
            "exists",
            "--cache-dir",
            os.path.join(os.path.dirname(str(output)), "cache"),
            *map(str, flags),
        ]
    )


def record_offset(folder, number):
    """Offset [bytes] in train-00000.rec of the record of image `number`, by its index."""
    with open(os.path.join(folder, "train-00000.idx")) as file:
        return dict(tuple(map(int, line.split())) for line in file)[number]
