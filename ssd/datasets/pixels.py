"""Decoded images as 8-bit RGB, with the very pixels that DALI gives in training."""
from __future__ import annotations

import numpy as np

from ssd.errors import UserError


def to_rgb(image, upright: bool = False) -> np.ndarray:
    """A PIL image as uint8 (height, width, 3) RGB, as it is stored or turned as its EXIF data says. UserError for a
    mode whose colours are not known."""
    from PIL import ImageChops, ImageOps
    image.load()
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)    # Pillow takes all for Adobe's, which are stored inverted
    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
            raise UserError("more than 16 bits of grey")
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("F", "LAB", "HSV"):
        raise UserError(f"a picture of mode {image.mode}, whose colours are not known")
    return np.array(image.convert("RGB"))
