"""The report of `python -m ssd check-data`: errors, which training refuses, and oddities, which it
handles.

annotation file that is unreadable, not JSON, not COCO, without images or with bad categories
    refused at once
annotation with a missing or wrong id, image, category, iscrowd or box; box that is empty, negative,
not finite or more than a pixel outside its image
    error
image without a usable id, file name or size; a duplicate id or file name; a path that leaves the
folder
    error
image file that is missing, unreadable, not a regular file, empty, or not an image; a GIF
    error
image that is truncated, or damaged so that it does not decode
    error
width or height that differ from the file's stored pixels
    error, both are named
extended WebP; CMYK, LAB, YCbCr, LA or float TIFF; turned TIFF; CMYK JPEG 2000; odd PPM
    error: DALI refuses them or decodes their colours wrong
image of more than 178 million pixels (Pillow's limit)
    error
JPEG of RGB, grey JPEG 2000
    error with --decode gpu and cache, which decode them wrong without a message; handled with cpu
grey, CMYK (JPEG), 16-bit, palette and transparent images
    handled: see HANDLED
EXIF orientation (JPEG, PNG)
    handled: not applied, boxes count in the stored pixels
several images in a file (TIFF, animated PNG, JPEG of a phone); a colour profile other than sRGB's
    handled
images of 1x1 and of 10,000 pixels a side
    handled
image without a box, with crowds only, with thousands of boxes; duplicate boxes; boxes a pixel
outside
    handled
JPEG whose middle is overwritten
    decodes to damaged pixels in both Pillow and DALI: not noticed

tests/faults/test_odd_images.py tries each of these, in the check itself and through the real
loaders.
"""

from __future__ import annotations

import time

import numpy as np

from ssd.datasets import image_checks
from ssd.datasets.annotation_checks import Problems
from ssd.datasets.annotation_file import show
from ssd.datasets.categories import same_names
from ssd.errors import on_a_line

NO_BOX, CROWDS_ONLY, MANY = (
    "image without a box",
    "image with crowds only",
    "image with 1000 boxes or more",
)
CROWD, DUPLICATE, CLIPPED = "crowd box", "box given twice", "box clipped at the image's edge"
UNUSED = "category without a box"
MANY_BOXES = 1000
_ROWS = 1 << 19  # boxes that are sorted at a time
# What training does with each oddity.
HANDLED = {
    image_checks.GREY: "three equal channels",
    image_checks.CMYK: "converted to RGB without its colour profile",
    image_checks.DEEP: "reduced to 8 bits",
    image_checks.PALETTE: "converted to RGB",
    image_checks.TRANSPARENT: "transparency is ignored: hidden colours show",
    image_checks.ROTATED: "not turned: boxes count in the pixels as stored",
    image_checks.TINY: f"a side below {image_checks.TINY_SIDE} pixels; enlarged like any image",
    image_checks.HUGE: (
        f"a side of {image_checks.HUGE_SIDE} pixels or more; decoded at full size, 3 bytes a pixel"
    ),
    image_checks.MISNAMED: "decoded by its content",
    image_checks.RGB_JPEG: "right colours with --decode cpu; refused with gpu and cache",
    image_checks.GREY_JPEG2000: (
        "three equal channels with --decode cpu; refused with gpu and cache"
    ),
    image_checks.SEVERAL: "the first is taken",
    image_checks.PROFILE: "not sRGB, and not applied: colours count as stored",
    NO_BOX: "not trained on, evaluated",
    CROWDS_ONLY: "trained on, evaluated",
    MANY: "trained on with all of them",
    CROWD: "trained on like any box, ignored in scoring",
    DUPLICATE: "kept, counts twice",
    CLIPPED: "it reached at most a pixel outside",
    UNUSED: "keeps its class; left out of the mean in scoring",
}


def name_of(text: str) -> str:
    """A file or category name unchanged, or in quotes with escapes if it would break a line or be
    invisible."""
    return text if text and text == on_a_line(text) else show(text)


def report_split(found, data, examples: int) -> dict:
    """The report of a split, ready for JSON, from an Inspection and the CocoDataset of its good
    entries.

    `errors` and `handled` are lists of {kind, count, examples}; `unchanged_since` is the time of
    the oldest cached check of an image (UTC), or None if every image was read now.
    """
    files, since = found.files, None
    boxes = np.bincount(data.box_classes, minlength=data.num_classes)[1:].tolist()
    if files.reused:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(files.since))
    return {
        "annotations": found.annotation_file,
        "image_folder": found.image_folder,
        "images": len(found.images.ids),
        "boxes": len(found.boxes.good),
        "categories": len(found.category_ids),
        "same_names": same_names(data.category_ids, data.category_names, boxes),
        "images_unchanged": files.reused,
        "unchanged_since": since,
        "likely_cause": found.cause or found.note,
        "errors": as_list(found.problems),
        "handled": (
            as_list(_image_notes(found, examples), HANDLED)
            + as_list(_box_notes(found, data, examples), HANDLED)
        ),
    }


def as_list(problems: Problems, what=None) -> list:
    """Problems as JSON holds them."""
    return [
        dict(
            {"kind": kind, "count": count, "examples": problems.examples[kind]},
            **({"what": what[kind]} if what else {}),
        )
        for kind, count in problems.counts.items()
    ]


def _image_notes(found, examples) -> Problems:
    notes = Problems(examples)
    for kind in image_checks.ODD:
        positions = found.on_disk[np.flatnonzero(found.files.notes & image_checks.bit(kind))]
        positions = positions[found.images.good[positions]]
        if len(positions):
            notes.add(
                kind,
                *(name_of(found.images.names[index]) for index in positions[:examples]),
                count=len(positions),
            )
    return notes


def _box_notes(found, data, examples) -> Problems:
    notes = Problems(examples)

    def note(kind, images, count=None):
        """`images`: positions of images; the examples are the first of them."""
        if len(images):
            names = (name_of(data.file_names[index]) for index in np.unique(images)[:examples])
            notes.add(kind, *names, count=len(images))

    boxes = np.bincount(data.box_image, minlength=data.num_images)
    crowds = np.bincount(data.box_image[data.box_crowd], minlength=data.num_images)
    note(NO_BOX, np.flatnonzero(boxes == 0))
    note(CROWDS_ONLY, np.flatnonzero((boxes > 0) & (crowds == boxes)))
    note(MANY, np.flatnonzero(boxes >= MANY_BOXES))
    note(CROWD, data.box_image[data.box_crowd])
    note(DUPLICATE, _duplicates(data))
    moved = found.boxes.image[found.boxes.clipped & found.images.good[found.boxes.image]]
    note(CLIPPED, (np.cumsum(found.images.good) - 1)[moved])
    unused = np.flatnonzero(np.bincount(data.box_classes, minlength=data.num_classes)[1:] == 0)
    if len(unused):
        notes.add(
            UNUSED,
            *(name_of(data.category_names[index]) for index in unused[:examples]),
            count=len(unused),
        )
    return notes


def _duplicates(data) -> np.ndarray:
    """Positions of the images of repeated boxes, one per repetition."""
    found, start = [], 0
    while start < len(data.box_image):
        end = start + _ROWS  # rounded up to the end of an image
        if end < len(data.box_image):
            end = int(np.searchsorted(data.box_image, data.box_image[end], side="right"))
        part = slice(start, end)
        # Rows sorted by all values of a box, so that equal ones are neighbours.
        rows = np.concatenate(
            [data.boxes_ltrb[part], data.box_classes[part, None], data.box_image[part, None]],
            axis=1,
        )
        rows = rows[np.lexsort(rows.T)]
        found.append(rows[1:][(rows[1:] == rows[:-1]).all(axis=1), 5].astype(np.int64))
        start = end
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def format_split(split: str, report: dict) -> list:
    """Lines for people."""
    lines = [
        f"{split}: {report['images']} images, {report['boxes']} boxes, {report['categories']} "
        f"categories in {report['annotations']}"
    ]
    if report["images_unchanged"]:
        lines.append(
            f"  {report['images_unchanged']} images (unchanged since {report['unchanged_since']})"
        )
    width = max(
        [len(entry["kind"]) for part in ("errors", "handled") for entry in report[part]], default=0
    )
    lines += [
        f"  {line}"
        for line in (
            report["likely_cause"],
            report.get("categories_mapped"),
            report.get("same_names"),
        )
        if line
    ]
    if report["errors"]:
        lines.append("  errors")
    for entry in report["errors"]:
        lines.append(f"    {entry['kind']:{width}}  {entry['count']:7}")
        lines += [f"        {example}" for example in entry["examples"]]
        if entry["count"] > len(entry["examples"]):
            lines.append("        ...")
    if report["handled"]:
        lines.append("  handled")
    for entry in report["handled"]:
        more = ", ..." if entry["count"] > len(entry["examples"]) else ""
        lines.append(
            f"    {entry['kind']:{width}}  {entry['count']:7}  ({entry['what']})  "
            f"{', '.join(entry['examples'])}{more}"
        )
    return lines
