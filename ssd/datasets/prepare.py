"""prepare-json: a COCO annotation file reduced to what box detection reads."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import stat
import sys

from ssd.datasets.annotation_file import SECTIONS, show
from ssd.datasets.annotation_stream import read_annotation_file
from ssd.errors import UserError
from ssd.files import replace_file, write_errors

IMAGE_KEYS = ("id", "file_name", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


def reduce_annotations(content: dict, keep_keys: bool = False) -> dict:
    """A COCO annotation object with `images`, `annotations` and `categories` alone.

    Images keep IMAGE_KEYS, annotations ANNOTATION_KEYS: `area` and `iscrowd` unchanged, because COCO scores
    by the size of the mask and treats crowds apart. With keep_keys annotations keep every key, but a
    `segmentation` becomes []. Raises UserError for an entry without one of these keys. Two keys that
    box-only data sets leave out are filled as COCO's own loader fills them for detections: iscrowd 0,
    area = width x height of the box.
    """
    images = [_pick(image, IMAGE_KEYS, "image", number) for number, image in enumerate(content["images"])]
    annotations = []
    for number, entry in enumerate(content["annotations"]):
        entry = _with_defaults(entry)
        kept = _pick(entry, ANNOTATION_KEYS, "annotation", number)
        if keep_keys:
            kept = dict(entry)
            if "segmentation" in kept:
                kept["segmentation"] = []
        annotations.append(kept)
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def _with_defaults(annotation):
    if not isinstance(annotation, dict) or ("iscrowd" in annotation and "area" in annotation):
        return annotation
    annotation = dict(annotation)
    annotation.setdefault("iscrowd", 0)
    box = annotation.get("bbox")
    if "area" not in annotation and isinstance(box, list) and len(box) == 4 \
            and all(type(side) in (int, float) for side in box):
        try:
            annotation["area"] = box[2] * box[3]
        except OverflowError:  # a whole number of hundreds of digits times a float
            annotation["area"] = float("inf")
    return annotation


def _first_not_finite(reduced) -> str:
    """': SECTION[NUMBER]' of the first that holds NaN or an infinity."""
    for section in SECTIONS:
        for number, entry in enumerate(reduced[section]):
            try:
                json.dumps(entry, allow_nan=False)
            except ValueError:
                return f": {section}[{number}]"    # alone: its numbers may be of more digits than Python prints
    return ""


def _pick(entry, keys, what, number):
    try:
        return {key: entry[key] for key in keys}
    except KeyError as error:
        raise UserError(f"{what} {show(entry.get('id', f'number {number}'))} has no {error}") from None
    except TypeError:
        raise UserError(f"{what} number {number} is not an object but {show(entry)}") from None


def prepare(source, target, keep_keys: bool = False, pretty_print: bool = False) -> dict:
    """Writes the reduced copy of annotation file `source` to `target`; returns it.

    The copy is written beside the target and renamed, so the target is whole or absent. Equal input and
    options give equal bytes. Raises UserError.
    """
    source, target = os.fspath(source), os.fspath(target)
    if os.path.realpath(source) == os.path.realpath(target) or \
            (os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)):
        raise UserError(f"input and output are the same file: {source}")
    if os.path.lexists(target) and not stat.S_ISREG(os.lstat(target).st_mode):
        raise UserError(f"output {target} exists and is not a regular file")
    reduced = reduce_annotations(read_annotation_file(source), keep_keys)
    layout = {"indent": 2} if pretty_print else {"separators": (",", ":")}
    try:
        text = json.dumps(reduced, allow_nan=False, **layout)
    except ValueError:
        raise UserError(f"annotation file {source} holds NaN or Infinity, which JSON does not have"
                        + _first_not_finite(reduced)) from None
    except RecursionError:
        raise UserError(f"annotation file {source} is nested too deeply") from None
    with write_errors(f"output {target}", target):
        replace_file(target, (text + "\n").encode("ascii"))
    return reduced


#: Other data sets' formats, and the module that converts each: add_arguments(parser), run(options).
KINDS = {"openimages": "openimages_command", "cognata": "cognata_command"}


def _kind(arguments):
    """The value of --from, None without it. UserError for one that is not in KINDS."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from", dest="kind", nargs="?", const="")
    kind = parser.parse_known_args(arguments)[0].kind
    if kind is not None and kind not in KINDS:
        raise UserError(f"--from {kind}: not one of {', '.join(KINDS)}")
    return kind


def _convert(kind: str, arguments) -> int:
    module = importlib.import_module("ssd.datasets." + KINDS[kind])
    parser = argparse.ArgumentParser(prog=f"prepare-json.py --from {kind}", allow_abbrev=False,
                                     description=module.__doc__.split(": ", 1)[1])
    parser.add_argument("--from", dest="kind", required=True, help=argparse.SUPPRESS)
    module.add_arguments(parser)
    module.run(parser.parse_args(arguments))
    return 0


def main(arguments=None) -> int:
    """The command line of prepare-json.py; returns the exit status (2 for a mistake of the user's)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        kind = _kind(arguments)
        if kind is not None:
            return _convert(kind, arguments)
    except UserError as error:
        print(f"prepare-json.py: error: {error}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        prog="prepare-json.py", allow_abbrev=False,
        description="Reduces a COCO annotation file to images, annotations and categories, without masks. "
                    f"With --from {{{','.join(KINDS)}}} it converts another data set's files to one: see "
                    f"--from {next(iter(KINDS))} --help.")
    parser.add_argument("input", metavar="INPUT", help="COCO annotation file (instances_train2017.json)")
    parser.add_argument("output", metavar="OUTPUT",
                        help="file to write (bbox_only_instances_train2017.json), replaced if it exists")
    parser.add_argument("--keep-keys", action="store_true",
                        help="keep every key of the annotations, but empty `segmentation` (default: keep "
                             + ", ".join(ANNOTATION_KEYS) + ")")
    parser.add_argument("--pretty-print", action="store_true",
                        help="indent the output (default: one line)")
    options = parser.parse_args(arguments)
    try:
        reduced = prepare(options.input, options.output, options.keep_keys, options.pretty_print)
    except UserError as error:
        print(f"prepare-json.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: " + ", ".join(f"{len(reduced[section])} {section}" for section in SECTIONS))
    return 0
