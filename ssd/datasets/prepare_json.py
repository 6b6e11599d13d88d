"""prepare-json: a COCO annotation file reduced to what box detection reads."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import stat
import sys

from ssd.datasets.annotation_file import SECTIONS, show
from ssd.datasets.annotation_stream import read_annotation_file
from ssd.datasets.json_files import whole_number
from ssd.errors import UserError
from ssd.files import replace_file, write_errors
from ssd.flag_types import share

IMAGE_KEYS = ("id", "file_name", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
INTEGER_KEYS = ("id", "image_id", "category_id", "height", "width", "iscrowd")  # 3.0 becomes 3


def reduce_annotations(content: dict, keep_keys: bool = False) -> dict:
    """A COCO annotation object with only `images`, `annotations` and `categories`.

    Images keep IMAGE_KEYS, annotations ANNOTATION_KEYS: `area` and `iscrowd` unchanged, because
    COCO scores by the size of the mask and treats crowds separately. With keep_keys annotations
    keep every key, but a `segmentation` becomes []. Raises UserError for an entry without one of
    these keys. Two keys that box-only data sets omit, or set to null, are filled as COCO's own
    loader fills them for detections: iscrowd 0, area = width x height of the box. Integers are
    written without a point, iscrowd is 0 or 1.
    """
    images = [
        _plain(_pick(image, IMAGE_KEYS, "image", number))
        for number, image in enumerate(content["images"])
    ]
    annotations = []
    for number, entry in enumerate(content["annotations"]):
        entry = _with_defaults(entry)
        kept = _pick(entry, ANNOTATION_KEYS, "annotation", number)
        if keep_keys:
            kept = dict(entry)
            if "segmentation" in kept:
                kept["segmentation"] = []
        annotations.append(_plain(kept))
    categories = [
        _plain(dict(entry)) if isinstance(entry, dict) else entry for entry in content["categories"]
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _with_defaults(annotation):
    if not isinstance(annotation, dict) or None not in (
        annotation.get("iscrowd"),
        annotation.get("area"),
    ):
        return annotation
    annotation = dict(annotation)
    if annotation.get("iscrowd") is None:
        annotation["iscrowd"] = 0
    box = annotation.get("bbox")
    if (
        annotation.get("area") is None
        and isinstance(box, list)
        and len(box) == 4
        and all(type(side) in (int, float) for side in box)
    ):
        try:
            annotation["area"] = box[2] * box[3]
        except OverflowError:  # an integer of hundreds of digits times a float
            annotation["area"] = float("inf")
    return annotation


def _first_not_finite(reduced) -> str:
    """': SECTION[NUMBER]' of the first entry with NaN or an infinity."""
    for section in SECTIONS:
        for number, entry in enumerate(reduced[section]):
            try:
                json.dumps(entry, allow_nan=False)
            except ValueError:
                # Without the entry, whose numbers may have more digits than Python prints
                return f": {section}[{number}]"
    return ""


def _pick(entry, keys, what, number):
    try:
        return {key: entry[key] for key in keys}
    except KeyError as error:
        raise UserError(
            f"{what} {show(entry.get('id', f'number {number}'))} has no {error}"
        ) from None
    except TypeError:
        raise UserError(f"{what} number {number} is not an object but {show(entry)}") from None


def _plain(entry: dict) -> dict:
    """The entry, changed in place: integers without a point."""
    for key in INTEGER_KEYS:
        value = entry.get(key)
        if type(value) is float:
            number = whole_number(value)
            entry[key] = value if number is None else number
    if type(entry.get("iscrowd")) is bool:
        entry["iscrowd"] = int(entry["iscrowd"])
    return entry


def write_reduced(
    source,
    target,
    keep_keys: bool = False,
    pretty_print: bool = False,
    skip_bad: bool = False,
    max_left_out: float = 1.0,
    report=lambda line: None,
) -> dict:
    """Writes the reduced copy of annotation file `source` to `target`; returns it.

    The copy is written beside the target and renamed, so the target is complete or absent. Equal
    input and options give equal bytes. Raises UserError, also for a file that training would
    refuse; skip_bad and max_left_out as in training. Boxes without area, of which COCO's own
    training file has some, are copied and counted anyway. report: gets lines.
    """
    source, target = os.fspath(source), os.fspath(target)
    if os.path.realpath(source) == os.path.realpath(target) or (
        os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)
    ):
        raise UserError(f"input and output are the same file: {source}")
    if os.path.lexists(target) and not stat.S_ISREG(os.lstat(target).st_mode):
        raise UserError(f"output {target} exists and is not a regular file")
    content = read_annotation_file(source)
    if skip_bad:
        content = _checked(content, source, report, skip_bad=True, max_left_out=max_left_out)
    reduced = reduce_annotations(content, keep_keys)
    layout = {"indent": 2} if pretty_print else {"separators": (",", ":")}
    try:
        text = json.dumps(reduced, allow_nan=False, **layout)
    except ValueError:
        raise UserError(
            f"annotation file {source} holds NaN or Infinity, which JSON does not have"
            + _first_not_finite(reduced)
        ) from None
    except RecursionError:
        raise UserError(f"annotation file {source} is nested too deeply") from None
    if not skip_bad:
        _checked(content, source, report, max_left_out=max_left_out)
    with write_errors(f"output {target}", target):
        replace_file(target, (text + "\n").encode("ascii"))
    return reduced


def _checked(content: dict, source: str, report, **rules) -> dict:
    """The content that good_entries leaves. The checks need NumPy, without which this program must
    run too."""
    if importlib.util.find_spec("numpy") is None:
        if rules.get("skip_bad"):
            raise UserError("--skip-bad-annotations: needs NumPy, which this Python does not have")
        report(
            f"{source}: its entries are not checked, as this Python has no NumPy; `python -m ssd "
            "check-data` checks them"
        )
        return content
    from ssd.datasets.annotations import check_content
    from ssd.datasets.left_out import EMPTY_BOX, good_entries

    content, lines = good_entries(
        content, check_content(content, source), source, passed_on=EMPTY_BOX, **rules
    )
    for line in lines:
        report(line)
    return content


# Other data sets' formats, and the module that converts each: add_arguments(parser), run(options).
KINDS = {"openimages": "openimages_command", "cognata": "cognata_command"}


def _kind(arguments):
    """The value of --from, None without it. UserError if it is not in KINDS."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from", dest="kind", nargs="?", const="")
    kind = parser.parse_known_args(arguments)[0].kind
    if kind is not None and kind not in KINDS:
        raise UserError(f"--from {kind}: not one of {', '.join(KINDS)}")
    return kind


def _convert(kind: str, arguments) -> int:
    module = importlib.import_module("ssd.datasets." + KINDS[kind])
    parser = argparse.ArgumentParser(
        prog=f"prepare-json.py --from {kind}",
        allow_abbrev=False,
        description=module.__doc__.split(": ", 1)[1],
    )
    parser.add_argument("--from", dest="kind", required=True, help=argparse.SUPPRESS)
    module.add_arguments(parser)
    module.run(parser.parse_args(arguments))
    return 0


def main(arguments=None) -> int:
    """The command line of prepare-json.py; returns the exit status (2 for a mistake of the
    user's)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        kind = _kind(arguments)
        if kind is not None:
            return _convert(kind, arguments)
    except UserError as error:
        print(f"prepare-json.py: error: {error}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        prog="prepare-json.py",
        allow_abbrev=False,
        description="Reduces a COCO annotation file to images, annotations and categories, without "
        f"masks. With --from {{{','.join(KINDS)}}} it converts another data set's files to one: "
        f"see --from {next(iter(KINDS))} --help.",
    )
    parser.add_argument(
        "input", metavar="INPUT", help="COCO annotation file (instances_train2017.json)"
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="file to write (bbox_only_instances_train2017.json), replaced if it exists",
    )
    parser.add_argument(
        "--keep-keys",
        action="store_true",
        help="keep every key of the annotations, but empty `segmentation` (default: keep "
        + ", ".join(ANNOTATION_KEYS)
        + ")",
    )
    parser.add_argument(
        "--pretty-print", action="store_true", help="indent the output (default: one line)"
    )
    parser.add_argument(
        "--skip-bad-annotations",
        action="store_true",
        help="leave out bad annotations and images, as in training (default: they are refused, but "
        "for boxes without an area)",
    )
    parser.add_argument(
        "--max-left-out",
        type=share,
        default=0.5,
        metavar="X",
        help="with --skip-bad-annotations: the largest share of images or boxes that may be left "
        "out (0 to 1, default: 0.5); 1: whatever the likely cause",
    )
    options = parser.parse_args(arguments)
    try:
        reduced = write_reduced(
            options.input,
            options.output,
            options.keep_keys,
            options.pretty_print,
            options.skip_bad_annotations,
            options.max_left_out,
            lambda line: print(f"prepare-json.py: {line}", file=sys.stderr),
        )
    except UserError as error:
        print(f"prepare-json.py: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.output}: "
        + ", ".join(f"{len(reduced[section])} {section}" for section in SECTIONS)
    )
    return 0
