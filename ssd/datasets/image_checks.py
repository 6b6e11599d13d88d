"""Whether the image files of a data set match its annotations, and what is odd about them.

Pillow reads them, in threads: it lets other threads run while it decodes, and all but 0.06 of the
1.6 ms that a COCO image takes is decoding, so processes (1.8 ms) gain nothing, and a process that
is killed leaves no pool waiting. JPEGs are decoded at an eighth of the scale and without colour:
that reads every byte, as OpenCV's reduced decoding does (1.6 ms), and Pillow gives the reason if it
fails. At full scale an image takes 2.6 ms.
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

from ssd.datasets.image_folder import open_images, record_at
from ssd.datasets.image_formats import FORMATS, refused, unknown_format
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
TRUNCATED = "image is cut short (does not decode)"
BROKEN = "image does not decode"
REFUSED = "image that DALI does not decode correctly"

GREY, CMYK, DEEP = "grey image", "CMYK image", "16-bit image"
PALETTE, TRANSPARENT = "palette image", "image with transparency"
ROTATED = "image with an EXIF orientation"
TINY, HUGE = "tiny image", "huge image"
MISNAMED = "image named as another format"
RGB_JPEG, GREY_JPEG2000 = "JPEG of RGB", "grey JPEG 2000 image"
SEVERAL, PROFILE = "file of several images", "image with a colour profile"
# Oddities that training handles; bit k of a file's `notes` stands for ODD[k].
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
# Images that are refused if a GPU decodes, as it decodes them wrong without a message. Observed
# with DALI 1.53 on an H100.
REFUSED_ON_GPU = {
    RGB_JPEG: "a JPEG of RGB, whose colours a GPU decodes wrong; use --decode cpu",
    GREY_JPEG2000: "a grey JPEG 2000 file, which a GPU decodes to noise; use --decode cpu",
}
TINY_SIDE, HUGE_SIDE = 10, 10000  # pixels: tiny below the one, huge from the other
_ORIENTATION = 0x0112  # EXIF and TIFF tag; 1 is upright
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk, which Pillow does not need


class ImageFinding(NamedTuple):
    """The result of checking one image file. problem: None or (kind, detail); size: (width, height)
    in pixels as stored, or None; notes: bits of ODD."""

    problem: Optional[Tuple[str, str]]
    size: Optional[Tuple[int, int]] = None
    notes: int = 0


@dataclass
class ImageReport:
    """problems: position -> (kind, detail), ascending; notes: (n,) int64 bits of ODD; reused:
    number of images taken from the cache; since: when the oldest of them was checked [seconds since
    the epoch], 0 without one."""

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
    """Checks image files: names below `folder`, which may be one of records; sizes: (n, 2) width
    and height in pixels as annotated.

    Level "exists" asks the file system, "header" also reads format and size and finds truncated
    JPEGs, "decode" also decodes: that finds all truncated files. on_gpu: a GPU is to decode them,
    so REFUSED_ON_GPU applies. threads: 0 means one per usable core. cache: an ImageCache of this
    folder; files whose size and time it knows are not read again. progress: called with the number
    of images done, a few times a second. An interrupt ends the threads and keeps the findings so
    far in the cache. UserError for unusable records.
    """
    assert level in LEVELS
    images = open_images(folder)
    report = ImageReport({}, np.zeros(len(names), np.int64))
    # Written by all threads, each write atomic: position -> problem; times of cached findings.
    found, cached = {}, []

    def work(index):
        width, height = map(int, sizes[index])
        finding = _check_image_file(images, names[index], width, height, level, cache, cached)
        if on_gpu and finding.problem is None:
            finding = _for_gpu(finding)
        report.notes[index] = finding.notes
        if finding.problem is not None:
            found[index] = finding.problem

    with warnings.catch_warnings():  # a large image or odd metadata is no problem of ours
        warnings.simplefilter("ignore")
        in_threads(lambda: work, len(names), threads, progress)
    report.problems = dict(sorted(found.items()))
    report.reused, report.since = len(cached), min(cached, default=0)
    return report


def _check_image_file(images, name, width, height, level, cache, cached) -> ImageFinding:
    try:
        status = images.status(name)
    except (FileNotFoundError, NotADirectoryError):
        return ImageFinding((MISSING, images.missing(name)))
    except OSError as error:
        return ImageFinding((UNREADABLE, error.strerror))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        return ImageFinding((NOT_IMAGE, "not a regular file"))
    if level == "exists":
        return ImageFinding(None)
    known = cache.find(name, status, level) if cache is not None else None
    if known is not None:
        finding, when = known
        cached.append(when)
    else:
        # Pillow reads as much of a file as it needs; a record is read completely, which checks it
        try:
            finding = (
                inspect_image(images.path(name), level)
                if images.in_files
                else inspect_image(images.path(name), level, images.read(name))
            )
        except UserError as error:
            return ImageFinding((UNREADABLE, str(error)))
        if cache is not None and finding.problem is None:
            cache.keep(name, status, level, finding, int(time.time()))
    return with_size_compared(finding, width, height)


def check_image_header(path: str, width: int, height: int) -> Optional[Tuple[str, str]]:
    """The problem that a data set's check finds in one image by its header: None or (kind, detail).

    path: of a file, or of records and an image's name in them; width, height: as annotated.
    UserError of records that cannot be used.
    """
    return with_size_compared(inspect_image(path, "header", record_at(path)), width, height).problem


def with_size_compared(finding: ImageFinding, width: int, height: int) -> ImageFinding:
    """The finding about an image, with its size compared to the annotated width x height."""
    if finding.problem is None and finding.size != (width, height):
        turned = (
            "; its EXIF orientation, which is not applied, would turn it"
            if finding.notes & bit(ROTATED) and finding.size == (height, width)
            else _how_it_differs(finding.size, width, height)
        )
        return finding._replace(
            problem=(
                WRONG_SIZE,
                f"{finding.size[0]} x {finding.size[1]} pixels on disk, {width} x {height} in the "
                f"annotations{turned}",
            )
        )
    return finding


def _how_it_differs(size, width: int, height: int) -> str:
    if size == (height, width):
        return "; width and height are swapped"
    ratio = size[0] / width
    if abs(size[1] - ratio * height) <= max(1.0, ratio):  # rounded to a pixel
        return f"; the image seems to have been scaled by {ratio:.3g}"
    return ""


def _for_gpu(finding: ImageFinding) -> ImageFinding:
    """The finding about a good file if a GPU decodes it."""
    for kind, reason in REFUSED_ON_GPU.items():
        if finding.notes & bit(kind):
            return finding._replace(problem=(REFUSED, reason))
    return finding


def bit(kind: str) -> int:
    """The bit of a kind of ODD."""
    return 1 << ODD.index(kind)


def inspect_image(path: str, level: str, content=None) -> ImageFinding:
    """Opens an image file and, at level "decode" or if it may be a truncated JPEG, decodes it.
    content: its bytes, if they are not a file at `path`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
            size, reason = image.size, refused(image, lambda count: _bytes(path, content, count))
            if reason:
                return ImageFinding((REFUSED, reason), size)
            notes = sum(map(bit, _notes(image, path)))  # before draft() changes mode and size
            if level == "decode" or opened_has_no_end(image):
                try:
                    reduce(image)
                    image.load()
                except Exception as error:  # Pillow's decoders raise nearly anything on bad data
                    cut = "truncated" in str(error)
                    return ImageFinding((TRUNCATED if cut else BROKEN, _one_line(error)), size)
                # DALI needs the end chunk.
                if image.format == "PNG" and _PNG_END not in _bytes(path, content):
                    return ImageFinding((TRUNCATED, "its end chunk is missing"), size)
            return ImageFinding(None, size, notes)
    except UnidentifiedImageError:
        return ImageFinding((NOT_IMAGE, unknown_format(_bytes(path, content, 300))))
    except Image.DecompressionBombError as error:
        return ImageFinding((REFUSED, _one_line(error)))
    except OSError as error:  # a header cut short has no errno
        return ImageFinding((UNREADABLE if error.errno else BROKEN, _one_line(error)))
    except Exception as error:
        return ImageFinding((BROKEN, _one_line(error)))


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
    # MPO: a JPEG with several images, as phones write them.
    if named and named != image.format.replace("MPO", "JPEG"):
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
