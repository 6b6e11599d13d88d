"""A COCO data set, read once and checked before training.

DALI aborts on a box outside the image and on a file that does not decode, and it silently leaves out what it
takes for too small, so everything is looked at here first, and each problem is named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ssd.data import annotation_checks as checks
from ssd.data.annotation_file import read_annotation_file, show
from ssd.data.coco_cache import dataset_fingerprint, read_cache, write_cache
from ssd.data.dali_annotations import write_dali_annotations
from ssd.data.image_checks import LEVELS, check_image_files
from ssd.errors import UserError

__all__ = ["CocoDataset", "load_coco", "dataset_fingerprint", "write_dali_annotations"]


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """n images, k categories and m boxes; the boxes of an image lie together, images in the file's order.

    path, image_folder: str. image_ids: (n,) int64, as in the file. file_names: n strings relative to the
    folder. sizes: (n, 2) int64, width and height in pixels. category_ids, category_names: k each, in the
    order of the file's `categories`; class c = 1 + position, 0 is the background. boxes_ltrb: (m, 4)
    float64, pixels, inside the image. box_classes: (m,) int64, 1 to k. box_crowd: (m,) bool. box_image: (m,)
    int64, position of the image, ascending.
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

    @property
    def images_with_boxes(self) -> np.ndarray:
        """Positions of the images with at least one box: int64, ascending."""
        return np.unique(self.box_image)


def load_coco(annotation_file, image_folder, *, check_images: str = "decode", skip_bad: bool = False,
              require_boxes: bool = True, report=print, cache_dir=None, threads: int = 0) -> CocoDataset:
    """Reads and checks a COCO data set.

    check_images: "exists", "header" (format and size) or "decode" (every byte, with `threads` threads, 0 for
    one per core). Boxes up to checks.TOLERANCE pixels outside their image are clipped and counted. Any other
    problem raises UserError, one line that names the first and counts the rest (where there are several
    kinds, the first of each is given to `report` before); with skip_bad, bad annotations, bad images and
    the annotations of bad images are left out and reported instead. Categories must be right in any case:
    classes are numbered by them. require_boxes: an image with a box must be left, as training needs one.

    cache_dir: a folder for checked results, so that the next run only stats the annotation file and the
    folder. An image overwritten in place changes neither; nothing is kept where image files were bad, so
    that repairing them is always noticed.
    """
    assert check_images in LEVELS
    annotation_file, image_folder = os.fspath(annotation_file), os.fspath(image_folder)
    fingerprint = dataset_fingerprint(annotation_file, image_folder, {
        "check_images": check_images, "skip_bad": skip_bad, "require_boxes": require_boxes})
    cached = read_cache(cache_dir, fingerprint) if cache_dir is not None else None
    if cached is not None:
        fields, lines = cached
        for line in lines:
            report(line)
        return CocoDataset(annotation_file, image_folder, **fields)

    content = read_annotation_file(annotation_file)
    if not content["images"]:
        raise UserError(f"annotation file {annotation_file} holds no image")
    category_ids, category_names = checks.read_categories(content["categories"], annotation_file)
    problems = checks.Problems()
    images = checks.read_images(content["images"], problems)
    boxes = checks.read_boxes(content["annotations"], images, category_ids, problems)
    del content

    on_disk = np.flatnonzero(images.good)
    bad_files = check_image_files(image_folder, [images.names[i] for i in on_disk], images.sizes[on_disk],
                                  check_images, threads)
    for position, (kind, detail) in bad_files.items():
        index = on_disk[position]
        problems.add(kind, f"image {images.ids[index]} ({show(images.names[index])}): {detail}")
        images.good[index] = False

    if problems and not skip_bad:
        if len(problems) > 1:
            for line in problems.lines():
                report(f"{annotation_file}: {line}")
        raise UserError(f"{annotation_file}: {problems.summary()}")
    lines = [f"{annotation_file}: left out: {line}" for line in problems.lines()]
    orphans = boxes.good & ~images.good[boxes.image]
    if orphans.any():
        lines.append(f"{annotation_file}: left out: {orphans.sum()} x annotation of an image left out")

    fields = _keep_good(images, boxes)
    fields.update(category_ids=category_ids, category_names=category_names)
    data = CocoDataset(annotation_file, image_folder, **fields)
    with_boxes = len(data.images_with_boxes)
    if not data.num_images or (require_boxes and not with_boxes):
        what = "image with a box" if data.num_images else "image"
        raise UserError(f"annotation file {annotation_file} holds no {what}"
                        + (f" once bad entries are left out ({problems.summary()})" if problems else ""))
    clipped = f", {boxes.clipped} of them clipped at the image's edge" if boxes.clipped else ""
    lines.append(f"{annotation_file}: {data.num_images} images"
                 f" ({data.num_images - with_boxes} without a box), "
                 f"{len(data.boxes_ltrb)} boxes{clipped}, {len(category_ids)} categories")
    for line in lines:
        report(line)
    if cache_dir is not None and not bad_files:
        write_cache(cache_dir, fingerprint, fields, lines, report)
    return data


def _keep_good(images, boxes) -> dict:
    """CocoDataset's arrays from what passed the checks, boxes sorted by image."""
    new_position = np.cumsum(images.good) - 1
    keep = np.flatnonzero(boxes.good & images.good[boxes.image])
    keep = keep[np.argsort(boxes.image[keep], kind="stable")]
    kept_images = np.flatnonzero(images.good)
    return dict(
        image_ids=images.ids[kept_images],
        file_names=tuple(images.names[i] for i in kept_images),
        sizes=images.sizes[kept_images],
        boxes_ltrb=boxes.ltrb[keep],
        box_classes=boxes.classes[keep],
        box_crowd=boxes.crowd[keep],
        box_image=new_position[boxes.image[keep]].astype(np.int64),
    )
