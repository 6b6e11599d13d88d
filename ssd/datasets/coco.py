"""A COCO data set, read once and checked before training.

DALI aborts on a box outside the image and on a file that does not decode, and it silently drops
boxes that it considers too small. So everything is checked here first, and each problem is named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Optional

import numpy as np

from ssd.datasets import left_out
from ssd.datasets.annotation_boxes import AnnotationBoxes, clipped_ltrb
from ssd.datasets.annotation_checks import Images, Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.annotations import read_annotations
from ssd.datasets.categories import same_names
from ssd.datasets.coco_cache import dataset_fingerprint, read_cache, write_cache
from ssd.datasets.image_check_cache import ImageCache
from ssd.datasets.image_checks import LEVELS, MISSING, ImageReport, check_image_files
from ssd.datasets.image_folder import open_images
from ssd.datasets.left_out import Found
from ssd.datasets.missing_images import cause_of_missing
from ssd.errors import UserError


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """n images, k categories and m boxes; images in the file's order, boxes sorted by image.

    path, image_folder: str, the folder of image files or of records. image_ids: (n,) int64, as in
    the file. file_names: n strings relative to the folder. sizes: (n, 2) int64, width and height in
    pixels. category_ids, category_names: k each, in the order of the file's `categories`; class c =
    1 + position, 0 is the background. boxes_ltrb: (m, 4) float64, pixels, inside the image.
    box_classes: (m,) int64, 1 to k. box_crowd: (m,) bool. box_image: (m,) int64, position of the
    image, ascending. found: what the file held. For scoring, None in a set that is not scored:
    boxes_xywh: (m, 4) float64 left, top, width, height in pixels, as in the file; box_area: (m,)
    float64 px^2, width * height where the file has none.
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
    boxes_xywh: Optional[np.ndarray] = None
    box_area: Optional[np.ndarray] = None
    found: Found = Found()

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """Categories and the background."""
        return 1 + len(self.category_ids)

    @cached_property
    def images(self):
        """The image files by name, see ssd.datasets.image_folder. UserError for unusable
        records."""
        return open_images(self.image_folder)

    @property
    def images_with_boxes(self) -> np.ndarray:
        """Positions of the images with at least one box: int64, ascending."""
        return np.unique(self.box_image)

    def without_crowds(self) -> CocoDataset:
        """The same images without the boxes of groups (iscrowd)."""
        kept = ~self.box_crowd
        return replace(
            self,
            **{
                name: getattr(self, name)[kept]
                for name in (
                    "boxes_ltrb",
                    "box_classes",
                    "box_crowd",
                    "box_image",
                    "boxes_xywh",
                    "box_area",
                )
                if getattr(self, name) is not None
            },
        )

    def for_training(self) -> CocoDataset:
        """The same without what only scoring needs, 40 bytes a box."""
        return replace(self, boxes_xywh=None, box_area=None)


def load_coco(
    annotation_file,
    image_folder,
    *,
    check_images: str = "decode",
    skip_bad: bool = False,
    skip_files: bool = False,
    max_left_out: float = 1.0,
    require_boxes: bool = True,
    report=print,
    cache_dir=None,
    image_cache_dir=None,
    threads: int = 0,
    on_gpu: bool = False,
    check_categories=None,
) -> CocoDataset:
    """Reads and checks a COCO data set.

    check_images: "exists", "header" (format and size; truncated JPEGs) or "decode" (every byte,
    with `threads` threads, 0 for one per core). on_gpu: a GPU is to decode the images, and what it
    decodes wrong is a problem too. Boxes up to annotation_boxes.TOLERANCE pixels outside
    their image are clipped and counted. Any other problem raises UserError, one line that names the
    first and counts the rest (if there are several kinds, the first of each is reported before);
    with skip_bad, bad annotations, bad images and the annotations of bad images are left out and
    reported instead. Categories must be right in any case: classes are numbered by them.
    skip_files: only bad image files and their annotations are left out. max_left_out: the largest
    share of images or boxes, 0 to 1, that skip_bad may leave out; 1: no limit. require_boxes: an
    image with a box must be left, as training needs one. check_categories: called with (ids, names)
    before image files are checked, to refuse them early.

    cache_dir: a folder for checked results, so that the next run only stats the annotation file and
    the folder. An image overwritten in place changes neither; nothing is kept if image files were
    bad, so that repairing them is always noticed. image_cache_dir: a folder for the findings about
    each good image file, by its size and time, shared with `python -m ssd check-data`: if the data
    set must be checked, only new and changed images are read.
    """
    annotation_file, image_folder = os.fspath(annotation_file), os.fspath(image_folder)
    fingerprint = None
    if is_stream(annotation_file):
        cache_dir = None
    else:
        fingerprint = result_fingerprint(
            annotation_file, image_folder, check_images, skip_bad, require_boxes, on_gpu
        )
    cached = read_cache(cache_dir, fingerprint) if cache_dir is not None else None
    if cached is not None:
        fields, lines = cached
        data = CocoDataset(
            annotation_file, image_folder, **dict(fields, found=Found(*fields["found"]))
        )
        if check_categories is not None:
            check_categories(data.category_ids, data.category_names)
        check_left_out(data, max_left_out, skip_bad)
        for line in lines:
            report(line)
        return data

    image_cache = ImageCache(image_cache_dir, image_folder)
    try:
        found = inspect_coco(
            annotation_file,
            image_folder,
            check_images=check_images,
            threads=threads,
            image_cache=image_cache,
            on_gpu=on_gpu,
            check_categories=check_categories,
        )
    finally:
        image_cache.save(report)
    data, lines = select_or_refuse(found, skip_bad, skip_files, max_left_out, require_boxes, report)
    for line in lines:
        report(line)
    if cache_dir is not None:
        keep_result(cache_dir, fingerprint, found, data, lines, report)
    return data


def load_ground_truth(
    annotation_file,
    *,
    skip_bad: bool = False,
    max_left_out: float = 1.0,
    named: bool = False,
    report=print,
) -> CocoDataset:
    """An annotation file read and checked as by load_coco, without its image files. named: the
    images must have names and sizes; if not, as for scoring, they may all be without."""
    found = inspect_coco(os.fspath(annotation_file), None, named=named)
    data, lines = select_or_refuse(found, skip_bad, False, max_left_out, False, report)
    for line in lines[:-1]:  # the last one counts images and boxes, as the score does
        report(line)
    return data


def select_or_refuse(
    found: Inspection,
    skip_bad: bool,
    skip_files: bool,
    max_left_out: float,
    require_boxes: bool,
    report,
):
    """(CocoDataset of the good entries, lines about it). UserError if bad ones may not be left out;
    if there are several kinds, each is reported before."""
    path = found.annotation_file
    if found.problems and not skip_bad and not (skip_files and not found.entry_problems):
        if len(found.problems) > 1:
            for line in found.problems.lines():
                report(f"{path}: {line}")
        hint = (
            "; `python -m ssd check-data` shows more"
            if sum(found.problems.counts.values()) > 1
            else ""
        )
        cause = f"{found.cause}: " if found.cause else ""
        raise UserError(f"{path}: {cause}{found.problems.summary(hint)}")
    data, lines = select_good(found)
    empty = nothing_left(data, found, require_boxes)
    if empty:
        raise UserError(empty)
    check_left_out(data, max_left_out, skip_bad)
    return data, lines


def is_stream(annotation_file: str) -> bool:
    """Whether it can be read only once, and has no state by which a result could be cached."""
    return (
        os.path.exists(annotation_file)
        and not os.path.isfile(annotation_file)
        and not os.path.isdir(annotation_file)
    )


def result_fingerprint(
    annotation_file,
    image_folder,
    check_images: str,
    skip_bad: bool,
    require_boxes: bool,
    on_gpu: bool = False,
) -> str:
    """The name under which `load_coco` keeps its result in cache_dir."""
    assert check_images in LEVELS
    return dataset_fingerprint(
        annotation_file,
        image_folder,
        {
            "check_images": check_images,
            "skip_bad": skip_bad,
            "require_boxes": require_boxes,
            "on_gpu": on_gpu,
        },
    )


@dataclass(frozen=True, eq=False)
class Inspection:
    """A data set as found, the bad entries included (good = False in images and boxes).

    files: the report on the files of images[on_disk], on_disk being the positions of the images
    whose entries are good, (n,) int64.
    """

    annotation_file: str
    image_folder: str
    images: Images
    boxes: AnnotationBoxes
    category_ids: tuple
    category_names: tuple
    problems: Problems
    entry_problems: int  # how many of them are of entries, not of image files
    cause: str  # likely cause of the problems, or ""
    note: str  # what may be wrong although there is no problem, or ""
    files: ImageReport
    on_disk: np.ndarray


def inspect_coco(
    annotation_file,
    image_folder: Optional[str],
    *,
    check_images: str = "decode",
    threads: int = 0,
    image_cache=None,
    examples: int = 1,
    progress=None,
    check_categories=None,
    named: bool = True,
    on_gpu: bool = False,
    raw=None,
) -> Inspection:
    """Reads and checks everything, and counts the problems; `examples` of each kind are kept.

    image_folder: None: image files are not checked; named: see load_ground_truth; raw: see
    read_annotations; progress: called with (images done, images), a few times a second. UserError:
    an annotation file that cannot be read, is not COCO, holds no image or has bad categories.
    """
    content = read_annotations(annotation_file, examples, files=named, raw=raw)
    if check_categories is not None:
        check_categories(content.category_ids, content.category_names)
    images, problems = content.images, content.problems
    on_disk, entry_problems = np.flatnonzero(images.good), sum(problems.counts.values())
    files = (
        ImageReport({}, np.zeros(len(on_disk), np.int64))
        if image_folder is None
        else check_image_files(
            image_folder,
            [images.names[i] for i in on_disk],
            images.sizes[on_disk],
            check_images,
            threads,
            image_cache,
            progress and (lambda done: progress(done, len(on_disk))),
            on_gpu,
        )
    )
    for position, (kind, detail) in files.problems.items():
        index = on_disk[position]
        problems.add(kind, f"image {images.ids[index]} ({show(images.names[index])}): {detail}")
        images.good[index] = False
        images.labels[index] = images.names[index]
    missing = images.leaving if image_folder is not None else []
    missing = missing + [
        images.names[on_disk[position]]
        for position, (kind, _) in files.problems.items()
        if kind == MISSING
    ]
    forms = content.boxes.forms
    cause = (
        forms.cause()
        or (missing and cause_of_missing(open_images(image_folder), missing, len(images.ids)))
        or ""
    )
    return Inspection(
        annotation_file,
        image_folder or "",
        images,
        content.boxes,
        content.category_ids,
        content.category_names,
        problems,
        entry_problems,
        cause,
        forms.note(),
        files,
        on_disk,
    )


def select_good(found: Inspection):
    """(CocoDataset of what passed the checks, lines about what was left out and what it holds)."""
    path, images, boxes = found.annotation_file, found.images, found.boxes
    lines = left_out.lines_of(path, found.problems, images, boxes)
    data = CocoDataset(
        path,
        found.image_folder,
        category_ids=found.category_ids,
        category_names=found.category_names,
        **keep_good(images, boxes),
        found=Found(
            len(images.ids),
            len(boxes.good),
            tuple(map(images.labels.get, sorted(images.labels))),
            found.cause,
            bool(boxes.forms.cause()),
            tuple(images.bad_ids()),
            tuple(images.names[index] for index in sorted(images.labels) if images.names[index]),
        ),
    )
    for line in (found.cause, found.note):
        if line:
            lines.append(f"{path}: {line}")
    double = same_names(
        data.category_ids,
        data.category_names,
        np.bincount(data.box_classes, minlength=data.num_classes)[1:].tolist(),
    )
    if double:
        lines.append(f"{path}: {double}")
    number = int(boxes.clipped.sum())
    clipped = f", {number} of them clipped at the image's edge" if number else ""
    lines.append(
        f"{path}: {data.num_images} images ({data.num_images - len(data.images_with_boxes)} "
        f"without a box), {len(data.boxes_ltrb)} boxes{clipped}, {len(data.category_ids)} "
        "categories"
    )
    return data, lines


def nothing_left(data: CocoDataset, found: Inspection, require_boxes: bool):
    """One line about a data set in which nothing is left, else None."""
    if data.num_images and (len(data.box_image) or not require_boxes):
        return None
    what = "image with a box" if data.num_images else "image"
    return (
        f"annotation file {data.path} holds no {what}"
        + (f" once bad entries are left out ({found.problems.summary()})" if found.problems else "")
        + (f"; {found.cause}" if found.cause else "")
    )


def check_left_out(data: CocoDataset, max_left_out: float, skip_bad: bool) -> None:
    """UserError if too much was left out, see left_out.check_share_left_out."""
    left_out.check_share_left_out(
        data.path, data.found, data.num_images, len(data.box_image), max_left_out, skip_bad
    )


def keep_result(
    cache_dir, fingerprint: str, found: Inspection, data: CocoDataset, lines: list, report
) -> None:
    """Keeps a data set for the next `load_coco`, unless it has bad image files."""
    if not found.files.problems:
        fields = {
            name: getattr(data, name)
            for name in CocoDataset.__dataclass_fields__
            if name not in ("path", "image_folder")
        }
        write_cache(cache_dir, fingerprint, fields, lines, report)


def keep_good(images, boxes) -> dict:
    """CocoDataset's arrays from what passed the checks, boxes sorted by image."""
    new_position = np.cumsum(images.good) - 1
    kept_images = np.flatnonzero(images.good)
    good = boxes.good & images.good[boxes.image]
    if good.all() and (boxes.image[1:] >= boxes.image[:-1]).all():
        keep = slice(None)  # the usual case, without a copy
    else:
        keep = np.flatnonzero(good)
        keep = keep[np.argsort(boxes.image[keep], kind="stable")]
    xywh, image = boxes.xywh[keep], new_position[boxes.image[keep]].astype(np.int64, copy=False)
    return dict(
        image_ids=images.ids[kept_images],
        file_names=tuple(images.names[i] for i in kept_images.tolist()),
        sizes=images.sizes[kept_images],
        boxes_ltrb=clipped_ltrb(xywh, images.sizes[kept_images], image),
        boxes_xywh=xywh,
        box_area=boxes.area[keep],
        box_classes=boxes.classes[keep],
        box_crowd=boxes.crowd[keep],
        box_image=image,
    )
