"""Orientation, colour profiles and the like in image files: training, evaluation, predict and the
report follow the same rule, though their decoders differ (DALI, Pillow, OpenCV)."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from ssd.config import load_recipe
from ssd.data.graphs import decoding_pipeline
from ssd.datasets.image_checks import PROFILE, ROTATED, SEVERAL, bit, inspect_image
from ssd.datasets.image_folder import open_images
from ssd.report.example_images import stored_image
from ssd.tools.image_input import load_image

CONFIG = load_recipe("ssd-resnet34-coco").with_values(data_threads=1)
BLOCKS = np.array([[(200, 40, 40), (40, 180, 60)], [(50, 70, 220), (230, 220, 90)]], np.uint8)


def sample(colours=BLOCKS):
    return Image.fromarray(np.repeat(np.repeat(colours, 24, 0), 32, 1))


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def jpeg(image=None, **options):
    return encoded(
        image or sample(), format="JPEG", **{**dict(quality=98, subsampling=0), **options}
    )


def tags(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def ycck():
    """Adobe's four channels, inverted and in YCCK: its marker is 2. (YCC is computed from 255 minus
    the inverted values.)"""
    cmyk = sample().convert("CMYK")
    planes = (
        *Image.merge("RGB", cmyk.split()[:3]).convert("YCbCr").split(),
        ImageChops.invert(cmyk.split()[3]),
    )
    content = bytearray(jpeg(ImageChops.invert(Image.merge("CMYK", planes)), quality=100))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def without_adobe():
    """Four channels as in the standard: no marker, and not inverted."""
    content = jpeg(ImageChops.invert(sample().convert("CMYK")))
    offset = content.index(b"Adobe") - 4
    return content[:offset] + content[offset + 16 :]


def profile(name):
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    utf16 = [text.encode("utf-16-be") for text in ("sRGB", name)]
    return content.replace(b"sRGB", name.encode()).replace(*utf16)


def deep(alpha):
    import cv2

    pixels = np.asarray(sample())[:, :, ::-1].astype(np.uint16) * 256 + 99
    if alpha:
        pixels = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 777, np.uint16)], 2)
    return cv2.imencode(".png", pixels)[1].tobytes()


def clear(image):
    """Fully transparent, but with its colours."""
    return Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 0)))


def with_gamma():
    """gAMA is 1.0, where screens have 1 / 2.2."""
    content, chunk = encoded(sample(), format="PNG"), b"gAMA" + struct.pack(">I", 100000)
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + chunk + content[33:]


OTHER = sample(BLOCKS[::-1])  # a second image in a file, to be ignored
# name: (bytes, how far its colours may be off)
KINDS = {
    "plain.jpg": (jpeg(), 4),
    "progressive.jpg": (jpeg(progressive=True), 4),
    "rgb.jpg": (jpeg(keep_rgb=True), 4),  # Adobe's marker is 0: three channels that are no YCbCr
    "cmyk.jpg": (jpeg(sample().convert("CMYK")), 6),  # Adobe's marker, inverted
    "ycck.jpg": (ycck(), 8),
    "cmyk-plain.jpg": (without_adobe(), 6),
    **{f"turned{k}.jpg": (jpeg(exif=tags(k)), 4) for k in range(2, 9)},
    "turned9.jpg": (jpeg(exif=tags(9)), 4),  # no orientation at all
    "turned6.png": (encoded(sample(), format="PNG", exif=tags(6)), 0),
    "srgb.jpg": (jpeg(icc_profile=profile("sRGB")), 4),
    "wide-gamut.jpg": (jpeg(icc_profile=profile("aRGB")), 4),
    "wide-gamut.png": (encoded(sample(), format="PNG", icc_profile=profile("aRGB")), 0),
    "bad-profile.jpg": (jpeg(icc_profile=b"no profile"), 4),
    "deep.png": (deep(False), 1),
    "deep-clear.png": (deep(True), 1),
    "clear.png": (encoded(clear(sample()), format="PNG"), 0),
    "clear-palette.png": (
        encoded(sample().convert("P", palette=Image.ADAPTIVE), format="PNG", transparency=0),
        4,
    ),
    "gamma.png": (with_gamma(), 0),
    "animated.png": (encoded(sample(), format="PNG", save_all=True, append_images=[OTHER]), 0),
    "several.tif": (encoded(sample(), format="TIFF", save_all=True, append_images=[OTHER]), 0),
    "several.jpg": (
        encoded(
            sample(), format="MPO", save_all=True, append_images=[OTHER], quality=98, subsampling=0
        ),
        4,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_reader_sees_the_same_pixels(name, tmp_path):
    content, most = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = dict(
            predict=load_image(tmp_path / name, upright=False),
            training=np.array(
                decoding_pipeline(
                    CONFIG, lambda: [np.frombuffer(content, np.uint8)], "cpu", 0
                ).run()[0][0]
            ),
            report=stored_image(open_images(tmp_path), name),
        )
    for reader, pixels in seen.items():
        assert pixels.shape == (48, 64, 3), reader
        colours = pixels[12::24, 16::32].astype(int)
        assert np.abs(colours - BLOCKS).max() <= most, (reader, colours.tolist())


@pytest.mark.parametrize(
    "name, kind",
    [
        ("wide-gamut.jpg", PROFILE),
        ("wide-gamut.png", PROFILE),
        ("bad-profile.jpg", PROFILE),
        ("animated.png", SEVERAL),
        ("several.tif", SEVERAL),
        ("several.jpg", SEVERAL),
        ("turned3.jpg", ROTATED),
        ("plain.jpg", None),
        ("srgb.jpg", None),
    ],
)
def test_check_data_reports_metadata_that_is_not_applied(name, kind, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name][0])
    look = inspect_image(str(tmp_path / name), "decode")
    assert look.problem is None and look.notes == (bit(kind) if kind else 0)


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.swapaxes(0, 1)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).swapaxes(0, 1)),
        (8, np.rot90),
        (9, lambda p: p),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_predict_applies_exif_orientation(orientation, upright, ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(
        jpeg(exif=tags(orientation))
        if ending == "jpg"
        else encoded(sample(), format="PNG", exif=tags(orientation))
    )
    pixels, expected = load_image(path), upright(np.asarray(sample())).astype(int)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).max() < 30
    assert np.abs(pixels[12::24, 12::24] - expected[12::24, 12::24]).mean() < 3
