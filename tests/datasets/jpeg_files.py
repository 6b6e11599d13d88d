"""JPEG files that Pillow does not write, made from its files by changing markers."""

import io

from PIL import Image

JFIF, ADOBE = 0xE0, 0xEE


def jpeg_of(image) -> bytes:
    """A JPEG of an image in mode RGB, with full chroma, as Pillow writes it: JFIF and YCbCr."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def with_markers(jpeg: bytes, jfif: bool, transform=None, ids=(1, 2, 3)) -> bytes:
    """`jpeg` with its JFIF marker or without, with Adobe's marker of `transform` (0: no YCbCr)
    where that is given, its three components called `ids`."""
    parts, position = [jpeg[:2]], 2
    adobe = (
        b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
        if transform is not None
        else b""
    )
    while True:
        marker, length = (
            jpeg[position + 1],
            int.from_bytes(jpeg[position + 2 : position + 4], "big") + 2,
        )
        segment = bytearray(jpeg[position : position + length])
        if marker in (
            0xC0,
            0xDA,
        ):  # frame and scan: each component by its id, three bytes or two apart
            start, step = (10, 3) if marker == 0xC0 else (5, 2)
            segment[start : start + 3 * step : step] = bytes(ids)
        if marker != JFIF or jfif:
            parts.append(bytes(segment))
        if marker == JFIF:
            parts.append(adobe)
        position += length
        if marker == 0xDA:
            return b"".join(parts) + jpeg[position:]


def rgb_jpeg(image) -> bytes:
    """A JPEG that holds R, G and B, by Adobe's marker."""
    buffer = io.BytesIO()
    Image.merge("YCbCr", image.split()).save(
        buffer, "JPEG", quality=95, subsampling=0
    )  # stored unchanged
    return with_markers(buffer.getvalue(), jfif=False, transform=0)
