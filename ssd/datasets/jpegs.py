"""What must be known of a JPEG file before a GPU decodes it: two kinds come out wrong there, and
nothing is said.

nvJPEG fills what a truncated file lacks with whatever it finds, where libjpeg says so; and it takes
every JPEG of three components for YCbCr. Seen with DALI 1.53 on an H100.
"""

from __future__ import annotations

import io

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_RGB_IDS = [ord(letter) for letter in "RGB"]


def has_no_end(content) -> bool:
    """Whether these bytes are a JPEG's and do not end in its end marker, which no data of pixels
    can hold: it is truncated, or followed by something else."""
    return bytes(content[:3]) == _START and bytes(content[-2:]) != _END


def truncation(content) -> str:
    """Why a file's bytes (k,) uint8 are a truncated JPEG, in Pillow's words; "" where they are
    not."""
    from PIL import Image

    if not has_no_end(content):
        return ""
    try:
        with Image.open(io.BytesIO(bytes(content)), formats=("JPEG",)) as image:
            reduce(image)
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on bad data
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def reduce(image) -> None:
    """Has Pillow decode an image just opened in the cheapest way that still reads every byte."""
    image.draft("L", (max(1, image.size[0] // 8), max(1, image.size[1] // 8)))


def opened_has_no_end(image) -> bool:
    """`has_no_end` of an image that Pillow has opened and not yet loaded."""
    if image.format not in ("JPEG", "MPO"):
        return False
    place = image.fp.tell()
    image.fp.seek(-2, io.SEEK_END)
    end = image.fp.read(2)
    image.fp.seek(place)
    return end != _END


def is_rgb(image) -> bool:
    """Whether the JPEG that Pillow has opened holds R, G and B as they are: by libjpeg's rules,
    without a JFIF marker, and with an Adobe marker that says so or without one and with components
    of these names."""
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or "jfif" in image.info:
        return False
    if "adobe" in image.info:
        return image.info.get("adobe_transform") == 0
    return [component[0] for component in image.layer] == _RGB_IDS
