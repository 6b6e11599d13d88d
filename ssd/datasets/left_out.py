"""How much of an annotation file may be left out, and its JSON without what is left out."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

from ssd.datasets.annotations import Annotations
from ssd.errors import UserError

# The kind of a box without area. Two of the 860,001 boxes of COCO's own training file have no
# height (images 200365 and 550395; github.com/cocodataset/cocoapi/issues/355). Commands that only
# copy annotations keep them, since training needs --skip-bad-annotations in any case.
EMPTY_BOX = "empty box"


class Found(NamedTuple):
    """What an annotation file held before anything was left out. images, boxes: how many; left_out:
    labels of the images that were left out; cause: the likely cause of the problems, in a line, or
    ""; misread: with this cause, boxes that pass the checks are wrong too; ids, names: of images
    that were left out, if usable."""

    images: int = 0
    boxes: int = 0
    left_out: tuple = ()
    cause: str = ""
    misread: bool = False
    ids: tuple = ()
    names: tuple = ()


def check_share_left_out(
    path: str, found: Found, images: int, boxes: int, max_left_out: float, skip_bad: bool
) -> None:
    """UserError if the rest of a file is wrong too, or if skip_bad leaves out more than the share
    `max_left_out` of its images or boxes; 1: no limit. images, boxes: how many are left."""
    if max_left_out >= 1:
        return
    lost = found.boxes - boxes
    if found.misread:
        others = (
            f"{lost} of {found.boxes} boxes would be left out, and the others are just as wrong: "
            if lost
            else ""
        )
        raise UserError(f"{path}: {others}{found.cause} (--max-left-out 1 takes what is left)")
    for what, count, left in (("images", found.images, images), ("boxes", found.boxes, boxes)):
        if skip_bad and count - left > max_left_out * count:
            cause = f"; {found.cause}" if found.cause else ""
            raise UserError(
                f"{path}: {count - left} of {count} {what} would be left out, more than the share "
                f"of --max-left-out {max_left_out:g}{cause}"
            )


def lines_of(path: str, problems, images, boxes) -> List[str]:
    """Lines about what is left out of a file. images, boxes: with their masks of good ones."""
    lines = [f"{path}: left out: {line}" for line in problems.lines()]
    orphans = int((boxes.good & ~images.good[boxes.image]).sum())
    return lines + [f"{path}: left out: {orphans} x annotation of an image left out"] * (
        orphans > 0
    )


def good_entries(
    content: Dict[str, Any],
    found: Annotations,
    path: str,
    *,
    skip_bad: bool = False,
    max_left_out: float = 1.0,
    passed_on: str = "",
) -> Tuple[Dict[str, Any], List[str]]:
    """(`content` without its bad entries, lines about them), by the rules of training, without
    checking image files.

    content: an annotation file as JSON has it; found: of the same; skip_bad, max_left_out: as in
    training. passed_on: a kind of problem for which the file is not refused: without skip_bad its
    entries stay, and a line counts them. UserError for a file that training would refuse.
    """
    boxes = found.boxes.good & found.images.good[found.boxes.image]
    kept_images, kept_boxes = int(found.images.good.sum()), int(boxes.sum())
    cause = found.boxes.forms.cause()
    problems = found.problems if skip_bad else found.problems.without(passed_on)
    if problems and not skip_bad:
        raise UserError(
            f"{path}: {cause + ': ' if cause else ''}{problems.summary()}; --skip-bad-annotations "
            "leaves out what is bad"
        )
    check_share_left_out(
        path,
        Found(len(found.images.ids), len(boxes), cause=cause, misread=bool(cause)),
        kept_images,
        kept_boxes,
        max_left_out,
        skip_bad,
    )
    if not found.problems:
        return content, []
    if not skip_bad:
        return content, [
            f"{path}: {line}; kept, but training refuses it without --skip-bad-annotations"
            for line in found.problems.lines()
        ]
    lines = lines_of(path, found.problems, found.images, found.boxes)
    if not kept_images:
        raise UserError(
            f"annotation file {path} holds no image once bad entries are left out "
            f"({found.problems.summary()})" + (f"; {cause}" if cause else "")
        )
    return dict(
        content,
        images=[entry for entry, good in zip(content["images"], found.images.good) if good],
        annotations=[entry for entry, good in zip(content["annotations"], boxes) if good],
    ), lines
