"""Whether the image files of a data set are what its annotations say, and what is odd about them.

Pillow reads them, in threads: it lets other threads run while it decodes, and all but 0.06 of the
1.6 ms that a COCO image takes is decoding, so processes (1.8 ms) gain nothing, and a process that
is killed leaves no pool waiting. JPEGs are decoded at an eighth of the scale and without colour:
that reads every byte, as OpenCV's reduced decoding does (1.6 ms), and Pillow gives the reason where
it fails. Whole images take 2.6 ms.
"""

from __future__ import annotations

import io
import os
import stat
import time
import warnings
from dataclasses import dataclass
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

from ssd.datasets.image_formats import FORMATS, refused, unknown_format
from ssd.datasets.images import open_images, record_at
from ssd.datasets.in_threads import in_threads
from ssd.datasets.jpegs import is_rgb, opened_has_no_end, reduce
from ssd.errors import UserError

LEVELS = ("exists", "header", "decode")
_ENDINGS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "bmp": "BMP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "webp": "WEBP",
    "gif": "GIF",
    "ppm": "PPM",
    "pgm": "PPM",
    "pbm": "PPM",
    "jp2": "JPEG2000",
}

MISSING = "image file missing"
UNREADABLE = "image file unreadable"
NOT_IMAGE = "not an image"
WRONG_SIZE = "image size differs"
CUT_SHORT = "image is cut short (does not decode)"
BROKEN = "image does not decode"
REFUSED = "image that DALI does not decode rightly"

GREY, CMYK, DEEP = "grey image", "CMYK image", "16-bit image"
PALETTE, TRANSPARENT = "palette image", "image with transparency"
ROTATED = "image with an EXIF orientation"
TINY, HUGE = "tiny image", "huge image"
MISNAMED = "image named as another format"
RGB_JPEG, GREY_JPEG2000 = "JPEG of RGB", "grey JPEG 2000 image"
SEVERAL, PROFILE = "file of several images", "image with a colour profile"
#: What is odd about an image that is handled; bit k of a file's `notes` stands for ODD[k].
ODD = (
    GREY,
    CMYK,
    DEEP,
    PALETTE,
    TRANSPARENT,
    ROTATED,
    TINY,
    HUGE,
    MISNAMED,
    RGB_JPEG,
    GREY_JPEG2000,
    SEVERAL,
    PROFILE,
)
# : What is refused where a GPU decodes: it comes out wrong there, and nothing is said. Seen with
# DALI 1.53 on an H100.
REFUSED_ON_GPU = {
    RGB_JPEG: "a JPEG of RGB, whose colours a GPU gets wrong; decode cpu gets them right",
    GREY_JPEG2000: "a grey JPEG 2000 file, of which a GPU makes noise; decode cpu decodes it",
}
TINY_SIDE, HUGE_SIDE = (
    10,
    10000,
)  # pixels: an image with a side below the one, or of the other or more
_ORIENTATION = 0x0112  # EXIF and TIFF tag; 1 is upright
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk, without which Pillow does


class Look(NamedTuple):
    """What a look at one file gave. problem: None or (kind, detail); size: (width, height) in
    pixels as stored, or None; notes: bits of ODD."""

    problem: Optional[Tuple[str, str]]
    size: Optional[Tuple[int, int]] = None
    notes: int = 0


@dataclass
class ImageReport:
    """problems: from position to (kind, detail), ascending; notes: (n,) int64 bits of ODD; reused:
    images that were taken from the cache; since: when the oldest of them was looked at [seconds
    since the epoch], 0 without one."""

    problems: Dict[int, Tuple[str, str]]
    notes: np.ndarray
    reused: int = 0
    since: int = 0


def check_image_files(
    folder,
    names,
    sizes,
    level: str,
    threads: int = 0,
    cache=None,
    progress=None,
    on_gpu: bool = False,
) -> ImageReport:
    """Looks at image files: names below `folder`, which may be one of records; sizes: (n, 2) width
    and height in pixels as annotated.

    Level "exists" asks the file system, "header" also reads format and size and finds truncated
    JPEGs, "decode" also decodes: that finds all truncated files. on_gpu: a GPU is to decode them,
    which REFUSED_ON_GPU is about. threads: 0 means one per usable core. cache: an ImageCache of
    this folder; files whose size and time it knows are not read again. progress: called with the
    number of images done, a few times a second. An interrupt ends the threads and keeps in the
    cache what was done. UserError for records that cannot be used at all.
    """
    assert level in LEVELS
    images = open_images(folder)
    report = ImageReport({}, np.zeros(len(names), np.int64))
    # Written by all threads, each write atomic: from position to problem; times of what the cache
    # knew.
    found, cached = {}, []

    def work(index):
        width, height = map(int, sizes[index])
        look = _check_image_file(images, names[index], width, height, level, cache, cached)
        if on_gpu and look.problem is None:
            look = _for_gpu(look)
        report.notes[index] = look.notes
        if look.problem is not None:
            found[index] = look.problem

    with warnings.catch_warnings():  # a large image or odd metadata is no problem of ours
        warnings.simplefilter("ignore")
        in_threads(lambda: work, len(names), threads, progress)
    report.problems = dict(sorted(found.items()))
    report.reused, report.since = len(cached), min(cached, default=0)
    return report


def _check_image_file(images, name, width, height, level, cache, cached) -> Look:
    try:
        status = images.status(name)
    except (FileNotFoundError, NotADirectoryError):
        return Look((MISSING, images.missing(name)))
    except OSError as error:
        return Look((UNREADABLE, error.strerror))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return Look((NOT_IMAGE, "not a regular file"))
    if level == "exists":
        return Look(None)
    known = cache.find(name, status, level) if cache is not None else None
    if known is not None:
        look, when = known
        cached.append(when)
    else:
        # Pillow reads as much of a file as it needs; a record is read whole, and checked by that
        try:
            look = (
                look_at(images.path(name), level)
                if images.in_files
                else look_at(images.path(name), level, images.read(name))
            )
        except UserError as error:
            return Look((UNREADABLE, str(error)))
        if cache is not None and look.problem is None:
            cache.keep(name, status, level, look, int(time.time()))
    return compared(look, width, height)


def check_picture(path: str, width: int, height: int) -> Optional[Tuple[str, str]]:
    """What a data set's check says of one image, with its header read alone: None or (kind,
    detail).

    path: of a file, or of records and an image's name in them; width, height: as annotated.
    UserError of records that cannot be used.
    """
    return compared(look_at(path, "header", record_at(path)), width, height).problem


def compared(look: Look, width: int, height: int) -> Look:
    """A look at an image whose size is annotated as width x height."""
    if look.problem is None and look.size != (width, height):
        turned = (
            "; its EXIF orientation, which is not applied, would turn it"
            if look.notes & bit(ROTATED) and look.size == (height, width)
            else _how_it_differs(look.size, width, height)
        )
        return look._replace(
            problem=(
                WRONG_SIZE,
                f"{look.size[0]} x {look.size[1]} pixels on disk, {width} x {height} in the "
                f"annotations{turned}",
            )
        )
    return look


def _how_it_differs(size, width: int, height: int) -> str:
    if size == (height, width):
        return "; width and height are exchanged"
    ratio = size[0] / width
    if abs(size[1] - ratio * height) <= max(1.0, ratio):  # rounded to a pixel
        return f"; the image seems to have been scaled by {ratio:.3g}"
    return ""


def _for_gpu(look: Look) -> Look:
    """A look at a good file, as it is where a GPU decodes it."""
    for kind, reason in REFUSED_ON_GPU.items():
        if look.notes & bit(kind):
            return look._replace(problem=(REFUSED, reason))
    return look


def bit(kind: str) -> int:
    """The bit of a kind of ODD."""
    return 1 << ODD.index(kind)


def look_at(path: str, level: str, content=None) -> Look:
    """Opens an image file and, at level "decode" or where it may be a truncated JPEG, decodes it.
    content: its bytes, where they are not in a file of their own at `path`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
            size, reason = image.size, refused(image, lambda count: _bytes(path, content, count))
            if reason:
                return Look((REFUSED, reason), size)
            notes = sum(map(bit, _notes(image, path)))  # before draft() changes mode and size
            if level == "decode" or opened_has_no_end(image):
                try:
                    reduce(image)
                    image.load()
                except Exception as error:  # Pillow's decoders raise nearly anything on bad data
                    cut = "truncated" in str(error)
                    return Look((CUT_SHORT if cut else BROKEN, _one_line(error)), size)
                if image.format == "PNG" and _PNG_END not in _bytes(
                    path, content
                ):  # DALI does not do without it
                    return Look((CUT_SHORT, "its end chunk is not there"), size)
            return Look(None, size, notes)
    except UnidentifiedImageError:
        return Look((NOT_IMAGE, unknown_format(_bytes(path, content, 300))))
    except Image.DecompressionBombError as error:
        return Look((REFUSED, _one_line(error)))
    except OSError as error:  # a header cut short has no errno
        return Look((UNREADABLE if error.errno else BROKEN, _one_line(error)))
    except Exception as error:
        return Look((BROKEN, _one_line(error)))


def _notes(image, path):
    """The kinds of ODD of an image just opened."""
    mode, arguments = image.mode, str(image.tile[0][3]) if image.tile else ""
    if mode in ("1", "L", "LA") or mode.startswith("I"):
        yield GREY
    if mode == "CMYK":
        yield CMYK
    if mode.startswith("I") or ";16" in arguments or "65535" in arguments:
        yield DEEP
    if mode == "P":
        yield PALETTE
    if mode in ("RGBA", "LA") or "transparency" in image.info:
        yield TRANSPARENT
    if "exif" in image.info and image.getexif().get(_ORIENTATION) in range(2, 9):
        yield ROTATED
    if min(image.size) < TINY_SIDE:
        yield TINY
    if max(image.size) >= HUGE_SIDE:
        yield HUGE
    if is_rgb(image):
        yield RGB_JPEG
    if image.format == "JPEG2000" and mode in ("L", "LA", "I;16"):
        yield GREY_JPEG2000
    named = _ENDINGS.get(os.path.splitext(path)[1][1:].lower())
    if named and named != image.format.replace(
        "MPO", "JPEG"
    ):  # a JPEG with several pictures, as phones write them
        yield MISNAMED
    if getattr(image, "n_frames", 1) > 1:
        yield SEVERAL
    profile = image.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile.replace(b"\0", b""):  # its name, in Latin-1 or UTF-16
        yield PROFILE


def _bytes(path, content, count: int = -1) -> bytes:
    """The first bytes of an image file, or all."""
    if content is not None:
        return bytes(content[:count] if count >= 0 else content)
    with open(path, "rb") as file:
        return file.read(count)


def _one_line(error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
