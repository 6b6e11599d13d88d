"""Small files in the form of Open Images', for the tests of conversion and download."""

from __future__ import annotations

import numpy as np

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
)
CLASSES = "/m/0zebra,Zebra\n/m/0apple,Apple\n/m/0banana,Banana\n/m/0person,Person\n"
CLICKS = ",0.5" * 8


def row(image: int, label: str, sides: str, flags: str = "0,0,0,0,0", clicks: str = CLICKS) -> str:
    """A line of a box file. sides: "XMin,XMax,YMin,YMax"."""
    return f"{image:016x},xclick,/m/0{label},1,{sides},{flags}{clicks}"


def save_jpeg(path, width: int, height: int, seed: int = 0, **options) -> None:
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(str(path), "JPEG", **options)
