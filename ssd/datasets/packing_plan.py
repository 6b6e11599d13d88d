"""The plan of `python -m ssd pack-data`: which image goes into which file of records, and the space
needed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from ssd.config import Config
from ssd.datasets import recordio
from ssd.datasets.coco import CocoDataset, load_coco
from ssd.datasets.in_threads import in_threads
from ssd.datasets.locate import cache_folder, dataset_paths
from ssd.datasets.record_folder import FORMAT
from ssd.errors import UserError

SHARD_BYTES = 10**9  # default size of a file of records, ...
SHARDS = 128  # ... or larger, so that there are at most about as many
MOST_SHARDS = 500  # readers keep all open, and a process often has 1,024 descriptors
# A label is LABEL_HEADER float32 values (LABEL_HEADER, LABEL_OBJECT, width and height [pixels]),
# then LABEL_OBJECT values for each object: class from 0, box ltrb in shares of the image, 1 for a
# group (iscrowd) or 0.
LABEL_HEADER, LABEL_OBJECT = 4, 6
_TABLE_BYTES = 100  # of an image in table and index, roughly


@dataclass(eq=False)
class PackedSplit:
    """The images of a split that go into one folder of records.

    annotations: path of the split's file; annotations_name, folder: paths of the copied file and of
    the records, relative to the output; indices: (k,) positions of these images in the dataset,
    without those that an earlier split packs into the same folder; sizes: (k,) bytes of their
    files; stored: (k,) bytes of their records if no content has the magic number.
    """

    split: str
    annotations: str
    annotations_name: str
    folder: str
    dataset: CocoDataset
    indices: np.ndarray
    sizes: np.ndarray
    stored: np.ndarray = field(init=False)

    def __post_init__(self):
        boxes = np.bincount(self.dataset.box_image, minlength=self.dataset.num_images)
        self._ends = np.cumsum(boxes)
        self.stored = recordio.image_record_size(
            LABEL_HEADER + LABEL_OBJECT * boxes[self.indices], self.sizes
        )

    def label(self, index: int) -> np.ndarray:
        """The label of an image's record, (4 + 6 m,) float32, see LABEL_HEADER."""
        data = self.dataset
        rows = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        size = data.sizes[index]
        objects = np.column_stack(
            [
                data.box_classes[rows] - 1,
                data.boxes_ltrb[rows] / np.tile(size, 2),
                data.box_crowd[rows],
            ]
        )
        return np.concatenate([[LABEL_HEADER, LABEL_OBJECT, *size], objects.ravel()]).astype(
            np.float32
        )

    @cached_property
    def annotations_sha256(self) -> str:
        return file_sha256(self.annotations)

    def described(self) -> Dict[str, Any]:
        """The manifest's entry for the split."""
        data = self.dataset
        return dict(
            split=self.split,
            annotations=self.annotations_name,
            annotations_sha256=self.annotations_sha256,
            images=data.num_images,
            records=len(self.indices),
            boxes=len(data.box_image),
            crowds=int(data.box_crowd.sum()),
            categories=[
                dict(id=int(number), name=name)
                for number, name in zip(data.category_ids, data.category_names)
            ],
        )

    def digest(self) -> str:
        """SHA-256 of everything that the records depend on; for the content of image files, of the
        size only."""
        data, digest = self.dataset, hashlib.sha256()
        digest.update(
            json.dumps(
                [
                    [data.file_names[index] for index in self.indices.tolist()],
                    data.category_ids,
                    data.category_names,
                ]
            ).encode()
        )
        for array in (
            self.sizes,
            data.image_ids[self.indices],
            data.sizes,
            data.boxes_ltrb,
            data.box_classes,
            data.box_crowd,
            data.box_image,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class Shard(NamedTuple):
    """One file of records: the images first to last - 1 of a part. name: of its files, without
    their endings."""

    part: int
    name: str
    first: int
    last: int
    bytes: int


@dataclass(eq=False)
class PackingPlan:
    """parts: in the order of the splits; shards: in the order of the parts; shard_bytes: the most
    that a shard with several images has."""

    parts: List[PackedSplit]
    shards: List[Shard]
    shard_bytes: int

    @property
    def images(self) -> int:
        """Images that are packed."""
        return sum(len(part.indices) for part in self.parts)

    @property
    def folders(self) -> List[str]:
        """Folders of records, relative to the output."""
        return list(dict.fromkeys(part.folder for part in self.parts))

    def bytes_needed(self, shards: Sequence[Shard]) -> int:
        """Bytes on the disc for these shards, annotations, tables and indices."""
        annotations = sum(os.path.getsize(part.annotations) for part in self.parts)
        return sum(shard.bytes for shard in shards) + annotations + _TABLE_BYTES * self.images

    def as_json(self) -> Dict[str, Any]:
        """What must be the same for an interrupted packing to continue."""
        return dict(
            format=FORMAT,
            shard_bytes=self.shard_bytes,
            parts=[
                dict(part.described(), folder=part.folder, digest=part.digest())
                for part in self.parts
            ],
        )


def plan_packing(
    config: Config, splits: Sequence[str], shard_bytes: Optional[int], threads: int, report
) -> PackingPlan:
    """Reads and checks the data set of `splits` as training does, and looks up the size of every
    image file.

    shard_bytes: the largest size of a file of records, None for SHARD_BYTES. threads: 0 for one
    per core. report: gets lines about the data set. UserError for a data set that training refuses,
    for one outside --data-dir, and for images that are records already.
    """
    parts: List[PackedSplit] = []
    taken: Dict[str, Set[str]] = {}
    for split in splits:
        annotations, images = dataset_paths(config, split)
        data = config.data
        folder, annotations_name = (
            _inside(getattr(data, f"{split}_{kind}"), f"--{split}-{kind}")
            for kind in ("images", "annotations")
        )
        dataset = load_coco(
            annotations,
            images,
            check_images=data.check_images,
            skip_bad=data.skip_bad_annotations,
            max_left_out=data.max_left_out,
            require_boxes=False,
            cache_dir=cache_folder(config),
            image_cache_dir=cache_folder(config),
            report=report,
            threads=threads,
        )
        if not dataset.images.in_files:
            raise UserError(f"--{split}-images {images}: holds records already")
        indices = _not_taken(dataset, taken.setdefault(folder, set()))
        parts.append(
            PackedSplit(
                split,
                annotations,
                annotations_name,
                folder,
                dataset,
                indices,
                _file_sizes(dataset, indices, threads),
            )
        )
    longest = max((int(part.stored.max()) for part in parts if len(part.indices)), default=0)
    if longest > recordio.LONGEST:
        part = next(part for part in parts if len(part.indices) and part.stored.max() == longest)
        name = part.dataset.file_names[part.indices[part.stored.argmax()]]
        raise UserError(
            f"image {part.dataset.images.path(name)}: {part.sizes[part.stored.argmax()]} bytes; a "
            f"RecordIO record holds {recordio.LONGEST} at most"
        )
    if shard_bytes is None:
        shard_bytes = max(SHARD_BYTES, sum(int(part.stored.sum()) for part in parts) // SHARDS)
    shards = [
        Shard(number, f"{part.split}-{count:05d}", first, last, int(part.stored[first:last].sum()))
        for number, part in enumerate(parts)
        for count, (first, last) in enumerate(_cut(part.stored, shard_bytes))
    ]
    if len(shards) > MOST_SHARDS:
        raise UserError(
            f"--shard-size {shard_bytes / 1e9:g}: would make {len(shards)} files of records, more "
            f"than {MOST_SHARDS}"
        )
    return PackingPlan(parts, shards, shard_bytes)


def file_sha256(path: str) -> str:
    """SHA-256 of a file of any size. OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _inside(name: str, flag: str) -> str:
    name = os.path.normpath(name)
    if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
        raise UserError(
            f"{flag} {name}: not in --data-dir; the output is laid out as --data-dir is, so what "
            "is packed must be in it (a link is enough)"
        )
    return name


def _not_taken(dataset: CocoDataset, taken: Set[str]) -> np.ndarray:
    """Positions of images whose names are not in `taken` yet, the first image of each name; adds
    the names."""
    indices = []
    for index, name in enumerate(dataset.file_names):
        if name not in taken:
            taken.add(name)
            indices.append(index)
    return np.array(indices, np.int64)


def _file_sizes(dataset: CocoDataset, indices: np.ndarray, threads: int) -> np.ndarray:
    sizes = np.zeros(len(indices), np.int64)

    def work(row):
        name = dataset.file_names[indices[row]]
        try:
            sizes[row] = dataset.images.status(name).st_size
        except OSError as error:
            raise UserError(
                f"image {dataset.images.path(name)} cannot be read: {error.strerror}"
            ) from None

    in_threads(lambda: work, len(indices), threads)
    return sizes


def _cut(stored: np.ndarray, limit: int):
    """(first, last) of runs of at most `limit` bytes, or of a single image that has more."""
    first, total = 0, 0
    for row, size in enumerate(stored.tolist()):
        if row > first and total + size > limit:
            yield first, row
            first, total = row, 0
        total += size
    if first < len(stored):
        yield first, len(stored)
