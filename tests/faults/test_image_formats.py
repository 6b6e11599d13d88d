"""Kinds of TIFF, JPEG 2000, PPM and other files that decoders read differently: training refuses
those that DALI decodes wrongly; predict reads the original colours, or refuses the file."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from ssd.config import load_recipe
from ssd.data.graphs import decoding_pipeline
from ssd.datasets.image_checks import NOT_IMAGE, REFUSED, inspect_image
from ssd.errors import UserError
from ssd.tools.image_input import load_image

BLOCKS = np.array([[(200, 40, 40), (40, 180, 60)], [(50, 70, 220), (230, 220, 90)]], np.uint8)
RGB = np.repeat(np.repeat(BLOCKS, 24, 0), 32, 1)
GREYS = np.array([[17, 102], [170, 255]], np.uint8)
GREY = np.repeat(np.repeat(GREYS, 24, 0), 32, 1)
THREE = np.repeat(GREYS[:, :, None], 3, 2)
DEEP, DEEP_GREY = RGB.astype("<u2") * 256 + 99, GREY.astype("<u2") * 256 + 200


def tiff(parts, photometric, bits, samples, *extra, planes=1, tile=None, compression=1):
    """A TIFF of 64 x 48 pixels by its specification. parts: arrays or bytes of the strips or tiles;
    extra: (tag, numbers)."""
    blobs, entries = b"", []

    def put(content):
        nonlocal blobs
        blobs += content + bytes(len(content) % 2)
        return 8 + len(blobs) - len(content) - len(content) % 2

    contents = [
        part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes() for part in parts
    ]
    offsets, lengths = [put(content) for content in contents], list(map(len, contents))
    where = (
        [(322, [tile[0]]), (323, [tile[1]]), (324, offsets), (325, lengths)]
        if tile
        else [(273, offsets), (278, [48]), (279, lengths)]
    )
    for tag, numbers in sorted(
        [
            (256, [64]),
            (257, [48]),
            (258, [bits] * samples),
            (259, [compression]),
            (262, [photometric]),
            (277, [samples]),
            (284, [planes]),
            *where,
            *extra,
        ]
    ):
        long = tag in (273, 279, 324, 325)
        raw = struct.pack(f"<{len(numbers)}{'I' if long else 'H'}", *numbers)
        raw = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", put(raw))
        entries.append(struct.pack("<HHI", tag, 4 if long else 3, len(numbers)) + raw)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(blobs))
        + blobs
        + struct.pack("<H", len(entries))
        + b"".join(entries)
        + bytes(4)
    )


def with_alpha(pixels, alpha):
    return np.concatenate([pixels, np.full((48, 64, 1), alpha, pixels.dtype)], 2)


def nibbles(values):
    return (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8)


def twelve(values):
    """12 bits each, packed."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).astype(np.uint8)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def tiles(width, height):
    return [
        np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)))
        for part in (
            RGB[top : top + height, left : left + width]
            for top in range(0, 48, height)
            for left in range(0, 64, width)
        )
    ]


def sycc():
    """A JP2 with its colours in YCbCr, number 18."""
    content = encoded(Image.fromarray(RGB).convert("YCbCr"), format="JPEG2000")
    offset = content.index(b"colr") + 7
    return content[:offset] + struct.pack(">I", 18) + content[offset + 4 :]


NUMBERS = np.repeat(np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2), 24, 0), 32, 1)


def palette(entries, factor):
    table = np.zeros((entries, 3), int)
    table[:4] = BLOCKS.reshape(4, 3)
    return 320, (table.T.ravel() * factor).tolist()


PICTURE = Image.fromarray(RGB)
SIGNED = encoded(PICTURE, format="JPEG2000", signed=True)
# name: (bytes, what predict sees or a part of its refusal, a part of training's refusal or "" where
# it sees the same)
KINDS = {
    "white-is-zero.tif": (tiff([255 - GREY], 0, 8, 1), THREE, "8 bits in which 0 is white"),
    "white-is-zero-16.tif": (
        tiff([65535 - DEEP_GREY], 0, 16, 1),
        THREE,
        "16 bits in which 0 is white",
    ),
    "black-is-zero-16.tif": (tiff([DEEP_GREY], 1, 16, 1), THREE, ""),
    "4-bits.tif": (tiff([nibbles(GREY // 17)], 1, 4, 1), THREE, "4 bits"),
    "12-bits.tif": (tiff([twelve(GREY.astype(int) * 16 + 9)], 1, 12, 1), THREE, "12 bits"),
    "planes.tif": (
        tiff([RGB[:, :, k] for k in range(3)], 2, 8, 3, planes=2),
        BLOCKS,
        "a plane for each colour",
    ),
    "deep-planes.tif": (
        tiff([DEEP[:, :, k] for k in range(3)], 2, 16, 3, planes=2),
        "a plane for each colour",
        "a plane for each colour",
    ),
    "tiles.tif": (tiff(tiles(32, 32), 2, 8, 3, tile=(32, 32)), BLOCKS, ""),
    "odd-tiles.tif": (
        tiff(tiles(48, 16), 2, 8, 3, tile=(48, 16)),
        BLOCKS,
        "tiles of 48 x 16 pixels",
    ),
    "deep.tif": (tiff([DEEP], 2, 16, 3), BLOCKS, ""),
    "clear.tif": (tiff([with_alpha(RGB, 9)], 2, 8, 4, (338, [2])), BLOCKS, ""),
    "deep-clear.tif": (
        tiff([with_alpha(DEEP, 700)], 2, 16, 4, (338, [2])),
        BLOCKS,
        "16 bits with transparency",
    ),
    "multiplied.tif": (
        tiff([with_alpha(RGB // 2, 128)], 2, 8, 4, (338, [1])),
        BLOCKS,
        "multiplied by its transp",
    ),
    "multiplied-by-1.tif": (tiff([with_alpha(RGB, 255)], 2, 8, 4, (338, [1])), BLOCKS, ""),
    "palette.tif": (tiff([NUMBERS], 3, 8, 1, palette(256, 257)), BLOCKS, ""),
    "palette-of-8-bits.tif": (tiff([NUMBERS], 3, 8, 1, palette(256, 1)), BLOCKS, ""),
    "palette-of-4.tif": (tiff([nibbles(NUMBERS)], 3, 4, 1, palette(16, 257)), BLOCKS, ""),
    "signed.tif": (tiff([GREY], 1, 8, 1, (339, [2])), "signed numbers", "signed numbers"),
    "32-bits.tif": (tiff([GREY.astype("<u4")], 1, 32, 1), "more than 16 bits", "mode I"),
    "lzma.tif": (encoded(PICTURE, format="TIFF", compression="lzma"), BLOCKS, "compression 34925"),
    "big.tif": (encoded(PICTURE, format="TIFF", big_tiff=True), BLOCKS, "BigTIFF"),
    "no-turn.tif": (encoded(PICTURE, format="TIFF", tiffinfo={274: 0}), BLOCKS, ""),
    "float.tif": (
        tiff([RGB.astype("<f2")], 2, 16, 3, (339, [3] * 3)),
        "TIFF file that is cut short or of a rare kind",
        "TIFF file that is cut short or of a rare kind",
    ),
    "comment.ppm": (b"P6\n# by hand\n64 48\n255\n" + RGB.tobytes(), BLOCKS, "comment"),
    "comment.pgm": (
        b"P2 64 #\n48 255\n" + b" ".join(b"%d" % v for v in GREY.ravel()),
        THREE,
        "comment",
    ),
    "digits.pgm": (
        b"P2 64 48 255\n" + b" ".join(b"%d" % v for v in GREY.ravel()) + b"\n",
        THREE,
        "",
    ),
    "no-end.pgm": (
        b"P2 64 48 255\n" + b" ".join(b"%d" % v for v in GREY.ravel()),
        THREE,
        "without a line's end",
    ),
    "bare.jp2": (
        encoded(PICTURE, format="JPEG2000", no_jp2=True),
        BLOCKS,
        "bare JPEG 2000 codestream",
    ),
    "sycc.jp2": (sycc(), BLOCKS, "colour space 18"),
    "signed.jp2": (SIGNED, None, "signed numbers"),
    "no-palette.png": (
        encoded(PICTURE.quantize(4), format="PNG").replace(b"PLTE", b"pLTE"),
        "damaged PNG",
        "damaged PNG",
    ),
    "photo.heic": (
        struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(99),
        "HEIC file",
        "HEIC file",
    ),
    "photo.avif": (
        struct.pack(">I", 24) + b"ftypavif\0\0\0\0avifmif1" + bytes(99),
        "AVIF file",
        "AVIF file",
    ),
    "drawing.png": (
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "SVG",
        "SVG",
    ),
    "page.jpg": (b"%PDF-1.4\n", "a PDF", "a PDF"),
    "film.jpg": (struct.pack(">I", 24) + b"ftypisom" + bytes(99), "a video", "a video"),
}


@pytest.mark.parametrize("name", KINDS)
def test_predict_and_training(name, tmp_path):
    content, seen, refusal = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    if isinstance(seen, str):
        with pytest.raises(UserError, match=seen) as caught:
            load_image(path, upright=False)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    elif seen is not None:
        colours = load_image(path, upright=False)[12::24, 16::32].astype(int)
        assert np.abs(colours - seen).max() <= 2, colours.tolist()
    look = inspect_image(str(path), "header")
    if refusal:
        assert (
            look.problem is not None
            and look.problem[0] in (REFUSED, NOT_IMAGE)
            and refusal in look.problem[1]
        )
    else:
        assert look.problem is None
        config = load_recipe("ssd-resnet34-coco").with_values(data_threads=1)
        pixels = np.array(
            decoding_pipeline(config, lambda: [np.frombuffer(content, np.uint8)], "cpu", 0).run()[
                0
            ][0]
        )
        assert np.abs(pixels[12::24, 16::32].astype(int) - seen).max() <= 1


@pytest.mark.parametrize(
    "kind, count, value",
    [
        (2, 2, b"6\0\0\0"),
        (4, 1, struct.pack("<I", 6)),
        (11, 1, struct.pack("<f", 6)),
        (9, 1, struct.pack("<i", -6)),
        (3, 0, bytes(4)),
        (3, 1, struct.pack("<HH", 0, 0)),
        (7, 4, b"\6\0\0\0"),
        (3, 9, b"\xff\xff\xff\x7f"),
    ],
    ids=str,
)
def test_an_orientation_of_an_odd_type_breaks_nothing(kind, count, value, tmp_path):
    tags = (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0"
        + struct.pack("<HHI", 0x112, kind, count)
        + value
        + bytes(4)
    )
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PICTURE, format="JPEG", exif=tags))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sorted(load_image(path).shape) == [3, 48, 64]
        assert inspect_image(str(path), "decode").problem is None
