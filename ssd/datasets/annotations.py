"""A COCO annotation file as arrays, checked, without its images being looked at."""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict

from ssd.datasets.annotation_boxes import Boxes, BoxReader
from ssd.datasets.annotation_checks import ImageReader, Images, Problems, read_categories
from ssd.datasets.annotation_stream import entries_at, stream_annotation_file
from ssd.errors import UserError


@dataclass
class Annotations:
    """category_ids, category_names: tuples in the file's order; images, boxes: the bad ones included (good = False);
    problems: counted by kind."""

    category_ids: tuple
    category_names: tuple
    images: Images
    boxes: Boxes
    problems: Problems


def read_annotations(path, examples: int = 1) -> Annotations:
    """Reads an annotation file of any size; `examples` of each kind of problem are kept.

    Of a file of 1.17 million images and 10 million boxes (2.5 GB) about a gigabyte is in memory at a time: see
    benchmarks/openimages_data.md.
    UserError: a file that cannot be read, is not COCO, holds no image or has bad categories.
    """
    path = os.fspath(path)
    found: Dict[str, Any] = {}

    def begin_images():
        found["images"] = ImageReader(Problems(examples))
        return found["images"].add

    def begin_boxes():
        found["boxes"] = BoxReader()
        return found["boxes"].add

    def begin_categories():
        found["categories"] = []
        return found["categories"].extend

    stream_annotation_file(path, {"images": begin_images, "annotations": begin_boxes, "categories": begin_categories})
    problems, images = found["images"].problems, found["images"].images()
    if not len(images.ids):
        raise UserError(f"annotation file {path} holds no image")
    ids, names = read_categories(found["categories"], path)
    boxes = found["boxes"].boxes(images, ids, problems, lambda indices: entries_at(path, "annotations", indices))
    return Annotations(ids, names, images, boxes, problems)
