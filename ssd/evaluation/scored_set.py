"""What detections are scored against: the ground truth of a data set as it was loaded, left-out
entries left out."""

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
KEPT = "validation.npz"  # in a run's folder: what its detections are scored against


class ScoredSet(NamedTuple):
    """boxes: of the images and categories, numbered by their places here; images: sorted ids;
    categories: names by their sorted ids; names: file names by image id, "" where the file has
    none; path: of the annotation file; left_out: ids of images that the file has too, and that are
    not scored."""

    boxes: GroundTruth
    images: list
    categories: Dict[int, str]
    names: Dict[int, str]
    path: str
    left_out: tuple = ()

    @property
    def objects(self) -> int:
        """Boxes that count: without crowd regions."""
        return int((self.boxes.crowd == 0).sum())

    @property
    def extent(self) -> Dict[str, int]:
        """What stands beside a score in files: `images` and `objects`, how many it is of."""
        return dict(images=len(self.images), objects=self.objects)

    def __str__(self) -> str:
        return count_words(**self.extent)

    def of_images(self, ids) -> ScoredSet:
        """These images alone."""
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
        """To an .npz file of arrays, which read_scored_set reads."""
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


def count_words(images: int, objects: int) -> str:
    """What stands beside a score: how many images and objects it is of."""
    return (
        f"{images:,} image{'' if images == 1 else 's'}, {objects:,} "
        f"object{'' if objects == 1 else 's'}"
    )


def scored_set(dataset) -> ScoredSet:
    """Of an ssd.datasets.coco.CocoDataset: its images and boxes, those of groups too, and nothing
    else of its file."""
    image_order = np.argsort(dataset.image_ids, kind="stable")
    category_ids = np.array(dataset.category_ids, np.int64)
    category_order = np.argsort(category_ids, kind="stable")
    image_place, category_place = np.argsort(image_order), np.argsort(category_order)
    boxes = GroundTruth(
        len(image_order),
        len(category_order),
        image_place[dataset.box_image].astype(np.int64),
        category_place[dataset.box_classes - 1].astype(np.int64),
        np.asarray(dataset.boxes_xywh, np.float64),
        np.asarray(dataset.box_area, np.float64),
        dataset.box_crowd.astype(np.int64),
    )
    return ScoredSet(
        boxes,
        dataset.image_ids[image_order].tolist(),
        {
            int(category_ids[place]): dataset.category_names[place]
            for place in category_order.tolist()
        },
        {
            int(dataset.image_ids[place]): dataset.file_names[place]
            for place in image_order.tolist()
        },
        dataset.path,
        tuple(dataset.found.ids),
    )


def read_scored_set(path: str) -> ScoredSet:
    """What ScoredSet.write wrote. UserError naming the file for anything else."""
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
        raise UserError(f"{path}: no ground truth that a run has kept") from None
