"""Decoded images as 8-bit RGB, with exactly the pixels that DALI gives in training."""

from __future__ import annotations

import numpy as np

from ssd.datasets import image_formats
from ssd.errors import UserError


def to_rgb(image, upright: bool = False) -> np.ndarray:
    """A PIL image as uint8 (height, width, 3) RGB. upright: rotated as its EXIF data asks, else as
    it is stored. UserError for a mode whose colours are not known."""
    from PIL import ImageChops, ImageOps

    image_formats.refuse_unknown_numbers(image)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = image_formats.first(tags, image_formats.BITS, 16)
    _refuse_deep_planes(image, tags, bits)
    image.load()
    # A palette of 8 bits, where TIFF asks for 16
    if image.mode == "P" and 0 < max(tags.get(image_formats.COLOURS, (0,))) < 256:
        image.putpalette(bytes(np.uint8(tags[image_formats.COLOURS]).reshape(3, -1).T))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow assumes Adobe's, which are stored inverted
    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
            raise UserError("more than 16 bits of grey")
        grey = (grey >> max(0, bits - 8)).astype(np.uint8)
        if tags.get(image_formats.PHOTOMETRIC) == 0:  # 0 is white, which Pillow obeys up to 8 bits
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("F", "LAB", "HSV"):
        raise UserError(f"an image of mode {image.mode}, whose colours are not known")
    return np.array(image.convert("RGB"))


def _refuse_deep_planes(image, tags, bits: int) -> None:
    # Pillow takes the lower 8 bits of each number if the file is not compressed.
    if tags.get(image_formats.PLANES) == 2 and bits > 8 and image.mode not in ("I;16", "I;16B"):
        raise UserError(
            "a TIFF file of 16 bits and a plane for each colour, which is not decoded correctly"
        )
