"""Whether the image files of a data set are what its annotations say."""

from __future__ import annotations

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor

LEVELS = ("exists", "header", "decode")
# What DALI decodes too. Naming them also keeps Pillow from trying formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")

MISSING = "image file missing"
UNREADABLE = "image file unreadable"
NOT_IMAGE = "not an image"
WRONG_SIZE = "image size differs"
BROKEN = "image does not decode"


def check_image_files(folder, names, sizes, level: str, threads: int = 0):
    """The problems of image files: dict from position in `names` to (kind, detail), in ascending order.

    names: file names below `folder`; sizes: (n, 2) width and height in pixels as annotated. Level "exists"
    asks the file system, "header" also reads format and size, "decode" also decodes, JPEGs at an eighth of
    the scale and without colour: that reads every byte, and finds the truncated files that abort DALI.
    threads: 0 means one per usable core.
    """
    assert level in LEVELS
    threads = threads or len(os.sched_getaffinity(0))

    def check(index):
        width, height = sizes[index]
        return check_image_file(os.path.join(folder, names[index]), int(width), int(height), level)

    with warnings.catch_warnings():  # a large image or odd metadata is no problem of ours
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(check, range(len(names))))
    return {index: problem for index, problem in enumerate(found) if problem}


def check_image_file(path: str, width: int, height: int, level: str):
    """None for a good file, else (kind, detail)."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return MISSING, f"no such file in {os.path.dirname(path)}"
    except OSError as error:
        return UNREADABLE, error.strerror
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        return NOT_IMAGE, "not a regular file"
    return None if level == "exists" else _check_content(path, width, height, level)


def _check_content(path, width, height, level):
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as image:
            # Raw pixels, as annotated and decoded: an EXIF orientation is not applied.
            if image.size != (width, height):
                return WRONG_SIZE, (f"{image.size[0]} x {image.size[1]} pixels on disk, "
                                    f"{width} x {height} in the annotations")
            if level == "decode":
                try:
                    image.draft("L", (max(1, width // 8), max(1, height // 8)))
                    image.load()
                except Exception as error:  # Pillow's decoders raise nearly anything on bad data
                    return BROKEN, _one_line(error)
    except UnidentifiedImageError:
        return NOT_IMAGE, "no image format known here (" + ", ".join(FORMATS) + ")"
    except OSError as error:
        return (UNREADABLE if error.errno else BROKEN), _one_line(error)  # a header cut short has no errno
    except Exception as error:
        return BROKEN, _one_line(error)
    return None


def _one_line(error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
