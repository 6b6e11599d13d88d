"""A COCO data set, read once and checked before training.

DALI aborts on a box outside the image and on a file that does not decode, and it silently leaves out what it
takes for too small, so everything is looked at here first, and each problem is named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ssd.datasets.annotation_boxes import Boxes
from ssd.datasets.annotation_checks import Images, Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.annotations import read_annotations
from ssd.datasets.coco_cache import dataset_fingerprint, read_cache, write_cache
from ssd.datasets.image_cache import ImageCache
from ssd.datasets.image_checks import LEVELS, ImageReport, check_image_files
from ssd.datasets.images import open_images
from ssd.errors import UserError


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """n images, k categories and m boxes; the boxes of an image lie together, images in the file's order.

    path, image_folder: str, the folder of image files or of records. image_ids: (n,) int64, as in the file.
    file_names: n strings relative to the folder. sizes: (n, 2) int64, width and height in pixels. category_ids,
    category_names: k each, in the order of the file's `categories`; class c = 1 + position, 0 is the background.
    boxes_ltrb: (m, 4) float64, pixels, inside the image. box_classes: (m,) int64, 1 to k. box_crowd: (m,) bool.
    box_image: (m,) int64, position of the image, ascending.
    """

    path: str
    image_folder: str
    image_ids: np.ndarray
    file_names: tuple
    sizes: np.ndarray
    category_ids: tuple
    category_names: tuple
    boxes_ltrb: np.ndarray
    box_classes: np.ndarray
    box_crowd: np.ndarray
    box_image: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """Categories and the background."""
        return 1 + len(self.category_ids)

    @cached_property
    def images(self):
        """The image files by their names, see ssd.datasets.images. UserError for records that cannot be used."""
        return open_images(self.image_folder)

    @property
    def images_with_boxes(self) -> np.ndarray:
        """Positions of the images with at least one box: int64, ascending."""
        return np.unique(self.box_image)

    def without_crowds(self) -> "CocoDataset":
        """The same images without the boxes of groups (iscrowd)."""
        kept = ~self.box_crowd
        return replace(self, **{name: getattr(self, name)[kept] for name in
                                ("boxes_ltrb", "box_classes", "box_crowd", "box_image")})


def load_coco(annotation_file, image_folder, *, check_images: str = "decode", skip_bad: bool = False,
              require_boxes: bool = True, report=print, cache_dir=None, image_cache_dir=None,
              threads: int = 0, on_gpu: bool = False) -> CocoDataset:
    """Reads and checks a COCO data set.

    check_images: "exists", "header" (format and size; truncated JPEGs) or "decode" (every byte, with `threads` threads,
    0 for one per core). on_gpu: a GPU is to decode the images, and what it gets wrong is a problem too. Boxes up to
    annotation_boxes.TOLERANCE pixels outside their image are clipped and counted. Any other problem raises UserError,
    one line that names the first and counts the rest (where there are several kinds, the first of each is given to
    `report` before); with skip_bad, bad annotations, bad images and the annotations of bad images are left out and
    reported instead. Categories must be right in any case: classes are numbered by them. require_boxes: an image with a
    box must be left, as training needs one.

    cache_dir: a folder for checked results, so that the next run only stats the annotation file and the
    folder. An image overwritten in place changes neither; nothing is kept where image files were bad, so
    that repairing them is always noticed. image_cache_dir: a folder for what was found in each good image
    file, by its size and time, shared with `python -m ssd check-data`: where the data set must be checked,
    only new and changed images are read.
    """
    annotation_file, image_folder = os.fspath(annotation_file), os.fspath(image_folder)
    fingerprint = result_fingerprint(annotation_file, image_folder, check_images, skip_bad, require_boxes, on_gpu)
    cached = read_cache(cache_dir, fingerprint) if cache_dir is not None else None
    if cached is not None:
        fields, lines = cached
        for line in lines:
            report(line)
        return CocoDataset(annotation_file, image_folder, **fields)

    image_cache = ImageCache(image_cache_dir, image_folder)
    try:
        found = inspect_coco(annotation_file, image_folder, check_images=check_images, threads=threads,
                             image_cache=image_cache, on_gpu=on_gpu)
    finally:
        image_cache.save(report)
    if found.problems and not skip_bad:
        if len(found.problems) > 1:
            for line in found.problems.lines():
                report(f"{annotation_file}: {line}")
        hint = "; `python -m ssd check-data` shows more" if sum(found.problems.counts.values()) > 1 else ""
        raise UserError(f"{annotation_file}: {found.problems.summary(hint)}")
    data, lines = select_good(found)
    lacking = what_is_lacking(data, found, require_boxes)
    if lacking:
        raise UserError(lacking)
    for line in lines:
        report(line)
    if cache_dir is not None:
        keep_result(cache_dir, fingerprint, found, data, lines, report)
    return data


def result_fingerprint(annotation_file, image_folder, check_images: str, skip_bad: bool, require_boxes: bool,
                       on_gpu: bool = False) -> str:
    """Under what name `load_coco` keeps its result in cache_dir."""
    assert check_images in LEVELS
    return dataset_fingerprint(annotation_file, image_folder, {
        "check_images": check_images, "skip_bad": skip_bad, "require_boxes": require_boxes, "on_gpu": on_gpu})


@dataclass(frozen=True, eq=False)
class Inspection:
    """A data set as found, the bad entries included (good = False in images and boxes).

    files: the report on the files of images[on_disk], on_disk being the positions of the images whose entries
    are good, (n,) int64.
    """

    annotation_file: str
    image_folder: str
    images: Images
    boxes: Boxes
    category_ids: tuple
    category_names: tuple
    problems: Problems
    files: ImageReport
    on_disk: np.ndarray


def inspect_coco(annotation_file, image_folder, *, check_images: str = "decode", threads: int = 0,
                 image_cache=None, examples: int = 1, progress=None, on_gpu: bool = False) -> Inspection:
    """Reads and checks everything, and counts what is wrong; `examples` of each kind are kept.

    UserError: an annotation file that cannot be read, is not COCO, holds no image or has bad categories.
    progress: called with (images done, images), a few times a second.
    """
    content = read_annotations(annotation_file, examples)
    images, problems = content.images, content.problems
    on_disk = np.flatnonzero(images.good)
    files = check_image_files(image_folder, [images.names[i] for i in on_disk], images.sizes[on_disk],
                              check_images, threads, image_cache,
                              progress and (lambda done: progress(done, len(on_disk))), on_gpu)
    for position, (kind, detail) in files.problems.items():
        index = on_disk[position]
        problems.add(kind, f"image {images.ids[index]} ({show(images.names[index])}): {detail}")
        images.good[index] = False
    return Inspection(annotation_file, image_folder, images, content.boxes, content.category_ids,
                      content.category_names, problems, files, on_disk)


def select_good(found: Inspection):
    """(CocoDataset of what passed the checks, lines that say what was left out and what is there)."""
    path, images, boxes = found.annotation_file, found.images, found.boxes
    lines = [f"{path}: left out: {line}" for line in found.problems.lines()]
    orphans = boxes.good & ~images.good[boxes.image]
    if orphans.any():
        lines.append(f"{path}: left out: {orphans.sum()} x annotation of an image left out")
    data = CocoDataset(path, found.image_folder, category_ids=found.category_ids,
                       category_names=found.category_names, **_keep_good(images, boxes))
    number = int(boxes.clipped.sum())
    clipped = f", {number} of them clipped at the image's edge" if number else ""
    lines.append(f"{path}: {data.num_images} images ({data.num_images - len(data.images_with_boxes)} without a box), "
                 f"{len(data.boxes_ltrb)} boxes{clipped}, {len(data.category_ids)} categories")
    return data, lines


def what_is_lacking(data: CocoDataset, found: Inspection, require_boxes: bool):
    """None, or one line about a data set in which nothing is left."""
    if data.num_images and (len(data.box_image) or not require_boxes):
        return None
    what = "image with a box" if data.num_images else "image"
    return (f"annotation file {data.path} holds no {what}"
            + (f" once bad entries are left out ({found.problems.summary()})" if found.problems else ""))


def keep_result(cache_dir, fingerprint: str, found: Inspection, data: CocoDataset, lines: list, report) -> None:
    """Keeps a data set for the next `load_coco`, unless it has bad image files."""
    if not found.files.problems:
        fields = {name: getattr(data, name) for name in CocoDataset.__dataclass_fields__
                  if name not in ("path", "image_folder")}
        write_cache(cache_dir, fingerprint, fields, lines, report)


def _keep_good(images, boxes) -> dict:
    """CocoDataset's arrays from what passed the checks, boxes sorted by image."""
    new_position = np.cumsum(images.good) - 1
    kept_images = np.flatnonzero(images.good)
    good = boxes.good & images.good[boxes.image]
    if good.all() and (boxes.image[1:] >= boxes.image[:-1]).all():
        keep = slice(None)  # the usual case, in which nothing is copied
    else:
        keep = np.flatnonzero(good)
        keep = keep[np.argsort(boxes.image[keep], kind="stable")]
    return dict(
        image_ids=images.ids[kept_images],
        file_names=tuple(images.names[i] for i in kept_images.tolist()),
        sizes=images.sizes[kept_images],
        boxes_ltrb=boxes.ltrb[keep],
        box_classes=boxes.classes[keep],
        box_crowd=boxes.crowd[keep],
        box_image=new_position[boxes.image[keep]].astype(np.int64, copy=False),
    )
