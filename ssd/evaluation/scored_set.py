"""The ground truth that detections are scored against: a data set as loaded, without the entries
that were left out."""

from __future__ import annotations

import json
import zipfile
import zlib
from typing import Dict, NamedTuple

import numpy as np

from ssd.errors import UserError
from ssd.evaluation.scoring_backends import GroundTruth
from ssd.files import replacing

FORMAT = 1
KEPT = "validation.npz"  # file in a run's folder: the ground truth of its evaluations


class ScoredSet(NamedTuple):
    """boxes: with images and categories numbered by their index in the two fields below; images:
    sorted ids; categories: names by sorted id; names: file names by image id, "" where the file
    has none; path: of the annotation file; left_out: ids of images in the file that are not
    scored."""

    boxes: GroundTruth
    images: list
    categories: Dict[int, str]
    names: Dict[int, str]
    path: str
    left_out: tuple = ()

    @property
    def objects(self) -> int:
        """Number of boxes, without crowd regions."""
        return int((self.boxes.crowd == 0).sum())

    @property
    def extent(self) -> Dict[str, int]:
        """The numbers of `images` and `objects`, written beside a score."""
        return dict(images=len(self.images), objects=self.objects)

    def __str__(self) -> str:
        return images_and_objects(**self.extent)

    def of_images(self, ids) -> ScoredSet:
        """The subset of these images."""
        ids = np.asarray(ids, np.int64)
        kept = np.isin(np.array(self.images, np.int64), ids)
        truth, chosen = self.boxes, kept[self.boxes.image]
        boxes = GroundTruth(
            int(kept.sum()),
            truth.categories,
            (np.cumsum(kept) - 1)[truth.image[chosen]],
            *(column[chosen] for column in truth[3:]),
        )
        images = [number for number, keep in zip(self.images, kept) if keep]
        return self._replace(
            boxes=boxes, images=images, names={number: self.names[number] for number in images}
        )

    def write(self, path: str) -> None:
        """Write an .npz file of arrays, for read_scored_set."""
        text = json.dumps(
            dict(
                format=FORMAT,
                path=self.path,
                categories=list(self.categories.items()),
                names=[self.names[number] for number in self.images],
            )
        )
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(
                file,
                text=np.frombuffer(text.encode(), np.uint8),
                images=np.array(self.images, np.int64),
                **{name: getattr(self.boxes, name) for name in GroundTruth._fields[2:]},
            )


def images_and_objects(images: int, objects: int) -> str:
    """The numbers of images and objects, shown beside a score."""
    return (
        f"{images:,} image{'' if images == 1 else 's'}, {objects:,} "
        f"object{'' if objects == 1 else 's'}"
    )


def scored_set(dataset) -> ScoredSet:
    """The ScoredSet of an ssd.datasets.coco.CocoDataset: its images and boxes, including crowd
    regions."""
    image_order = np.argsort(dataset.image_ids, kind="stable")
    category_ids = np.array(dataset.category_ids, np.int64)
    category_order = np.argsort(category_ids, kind="stable")
    image_rank, category_rank = np.argsort(image_order), np.argsort(category_order)
    boxes = GroundTruth(
        len(image_order),
        len(category_order),
        image_rank[dataset.box_image].astype(np.int64),
        category_rank[dataset.box_classes - 1].astype(np.int64),
        np.asarray(dataset.boxes_xywh, np.float64),
        np.asarray(dataset.box_area, np.float64),
        dataset.box_crowd.astype(np.int64),
    )
    return ScoredSet(
        boxes,
        dataset.image_ids[image_order].tolist(),
        {
            int(category_ids[index]): dataset.category_names[index]
            for index in category_order.tolist()
        },
        {
            int(dataset.image_ids[index]): dataset.file_names[index]
            for index in image_order.tolist()
        },
        dataset.path,
        tuple(dataset.found.ids),
    )


def read_scored_set(path: str) -> ScoredSet:
    """Read a file of ScoredSet.write. UserError names any other file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            text, images = json.loads(kept["text"].tobytes()), kept["images"].tolist()
            columns = [kept[name] for name in GroundTruth._fields[2:]]
        assert text["format"] == FORMAT
        categories = {int(number): str(name) for number, name in text["categories"]}
        return ScoredSet(
            GroundTruth(len(images), len(categories), *columns),
            images,
            categories,
            dict(zip(images, map(str, text["names"]))),
            str(text["path"]),
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        raise UserError(f"{path}: not the ground truth of a run") from None
