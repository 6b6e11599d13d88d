"""A COCO annotation file as arrays, checked without its image files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ssd.datasets.annotation_boxes import AnnotationBoxes, BoxReader
from ssd.datasets.annotation_checks import ImageReader, Images, Problems, read_categories
from ssd.datasets.annotation_file import SECTIONS
from ssd.datasets.annotation_stream import stream_annotation_file
from ssd.errors import UserError


@dataclass
class Annotations:
    """category_ids, category_names: tuples in the file's order; images, boxes: the bad ones
    included (good = False); problems: counted by kind."""

    category_ids: tuple
    category_names: tuple
    images: Images
    boxes: AnnotationBoxes
    problems: Problems


def read_annotations(
    path, examples: int = 1, files: bool = True, raw: Optional[Dict[str, Any]] = None
) -> Annotations:
    """Reads an annotation file of any size, once; `examples` of each kind of problem are kept. All
    commands use this reader.

    A file of 1.17 million images and 10 million boxes (2.5 GB) needs about a gigabyte of memory:
    see benchmarks/openimages_data.md.

    files: image files are to be read; if not, images without names or sizes are accepted. raw:
    receives the complete content of the file, as JSON has it.
    UserError: a file that cannot be read, is not COCO, holds no image or has bad categories.
    """
    path = os.fspath(path)
    readers = {"images": ImageReader(Problems(examples), files), "annotations": BoxReader()}
    categories: List[Any] = []
    takes = {
        "categories": categories.extend,
        **{name: reader.add for name, reader in readers.items()},
    }

    def begin(section: str):
        def take(entries):
            takes[section](entries)
            if raw is not None:
                raw.setdefault(section, []).extend(entries)

        if raw is not None:
            raw[section] = []
        return lambda: take

    stream_annotation_file(path, {section: begin(section) for section in SECTIONS}, raw)
    return _checked(readers["images"], readers["annotations"], categories, path)


def check_content(content: Dict[str, Any], path: str) -> Annotations:
    """As read_annotations, for a file that was read already. content: as JSON has it; path: its
    name in errors."""
    images, boxes = ImageReader(Problems()), BoxReader()
    images.add(content["images"])
    boxes.add(content["annotations"])
    return _checked(images, boxes, content["categories"], path)


def _checked(
    image_reader: ImageReader, box_reader: BoxReader, categories: List[Any], path: str
) -> Annotations:
    problems, images = image_reader.problems, image_reader.images()
    if not len(images.ids):
        raise UserError(f"annotation file {path} holds no image")
    ids, names = read_categories(categories, path)
    return Annotations(ids, names, images, box_reader.boxes(images, ids, problems), problems)


def categories_of(path) -> Tuple[tuple, tuple]:
    """(ids, names) of an annotation file's categories, in its order. UserError as of
    read_annotations."""
    path, found = os.fspath(path), []
    stream_annotation_file(path, {"categories": lambda: found.extend})
    return read_categories(found, path)
