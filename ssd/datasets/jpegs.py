"""Checks of a JPEG file before a GPU decodes it, as a GPU decodes two kinds wrong without a
message.

nvJPEG fills the missing part of a truncated file with arbitrary data, where libjpeg reports it; and
it decodes every JPEG of three components as YCbCr. Observed with DALI 1.53 on an H100.
"""

from __future__ import annotations

import io

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_RGB_IDS = [ord(letter) for letter in "RGB"]


def has_no_end(content) -> bool:
    """Whether these bytes are a JPEG without its end marker at the end, which cannot occur in pixel
    data: it is truncated, or followed by something else."""
    return bytes(content[:3]) == _START and bytes(content[-2:]) != _END


def truncation(content) -> str:
    """Pillow's message if a file's bytes (k,) uint8 are a truncated JPEG, else ""."""
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
    position = image.fp.tell()
    image.fp.seek(-2, io.SEEK_END)
    end = image.fp.read(2)
    image.fp.seek(position)
    return end != _END


def is_rgb(image) -> bool:
    """Whether the JPEG that Pillow has opened holds R, G and B, not YCbCr: by libjpeg's rules, it
    has no JFIF marker, and either an Adobe marker of that meaning, or none and components of these
    names."""
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or "jfif" in image.info:
        return False
    if "adobe" in image.info:
        return image.info.get("adobe_transform") == 0
    return [component[0] for component in image.layer] == _RGB_IDS
