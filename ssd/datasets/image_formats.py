"""Which image files DALI decodes with the right colours, and what the others are, by their tags.

Every rule was observed with DALI 1.53 on a CPU (which reads TIFF, JPEG 2000 and more with OpenCV),
compared with the pixels that were written to the file.
"""

from __future__ import annotations

import struct

from ssd.errors import UserError

# The formats that DALI decodes too. Naming them also keeps Pillow from trying formats that start
# other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
# Pillow's modes (colour spaces and depths) that DALI reads with the right colours, if not all.
_MODES = {
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "I;16", "I;16B"),
    "PPM": ("1", "L", "RGB", "I"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
}
# TIFF's tags
BITS, COMPRESSION, PHOTOMETRIC, _ORIENTATION, PLANES, COLOURS = 258, 259, 262, 274, 284, 320
_TILE, _EXTRA, SAMPLE_FORMAT = (322, 323), 338, 339
# Kinds of compression: none, CCITT, LZW, JPEG, Deflate, PackBits, Zstandard.
_DECODED = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
}
_STARTS = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"P7\n", "a PAM file"),
    (b"PF\n", "a PFM file"),
    (b"Pf\n", "a PFM file"),
    (b"qoif", "a QOI file"),
    (b"DDS ", "a DDS file"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance file"),
    (b"\xff\xd8\xff", "a JPEG of 12 bits, a lossless or a damaged one"),
    (b"II*\0", "a TIFF file that is cut short or of a rare kind"),
    (b"MM\0*", "a TIFF file that is cut short or of a rare kind"),
    (b"\x89PNG", "a damaged PNG file"),
)


def unknown_format(start: bytes) -> str:
    """What a file is that Pillow cannot identify, by its first bytes (about 300); one line."""
    if not start:
        return "the file is empty"
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12], "")
        return (
            f"{'an AVIF' if kind == 'AVIF' else 'a HEIC'} file, which is not supported; convert it "
            "to JPEG or PNG"
            if kind
            else "a video, not an image"
        )
    if b"<svg" in start[:300]:
        return "an SVG drawing, which has no pixels; convert it to PNG"
    if start.startswith(b"GIF8"):
        return "a GIF, which DALI does not decode"
    for beginning, name in _STARTS:
        if start.startswith(beginning):
            return f"{name}, which is not supported"
    return "no known image format (" + ", ".join(FORMATS) + ")"


def refused(image, read) -> str:
    """Why DALI cannot decode an image that Pillow has opened and not yet loaded, "" if it can.
    read(count): the file's first bytes, -1: all."""
    if image.format == "WEBP" and read(16)[12:] == b"VP8X":  # transparency, animation, EXIF
        return (
            "an extended WebP file (transparency, animation or metadata), which DALI does not "
            "decode"
        )
    if image.mode not in _MODES.get(image.format, (image.mode,)):
        return (
            f"a {image.format} file of mode {image.mode}, whose colours DALI gets wrong or does "
            "not decode"
        )
    if image.mode == "P" and image.palette is None:
        return "a palette image without its palette"
    if image.format == "TIFF":
        return _refused_tiff(image, read)
    if image.format == "PPM":
        return _refused_ppm(image, read)
    if image.format == "JPEG2000":
        return _refused_jpeg2000(read(4096))
    return ""


def _refused_tiff(image, read) -> str:
    tags = image.tag_v2
    orientation, compression = tags.get(_ORIENTATION, 1), tags.get(COMPRESSION, 1)
    bits, tile = first(tags, BITS, 1), [tags.get(side, 32) for side in _TILE]
    if b"+" in read(4):
        return "a BigTIFF file, which DALI does not decode"
    if orientation in range(2, 9):
        return f"a TIFF file of orientation {orientation}, which decoders turn in different ways"
    if compression not in _DECODED:
        return f"a TIFF file of compression {compression}, which DALI does not decode"
    if any(side % 32 for side in tile):
        return f"a TIFF file of tiles of {tile[0]} x {tile[1]} pixels, which DALI does not decode"
    if tags.get(PLANES, 1) == 2 and len(image.getbands()) > 1:
        return "a TIFF file of a plane for each colour, which DALI gets wrong"
    if first(tags, SAMPLE_FORMAT, 1) != 1:
        return "a TIFF file of signed numbers or fractions, whose greys have no one meaning"
    if tags.get(PHOTOMETRIC) == 0 and bits > 1:
        return f"a TIFF file of {bits} bits in which 0 is white, which DALI takes for black"
    if bits not in ((1, 4, 8) if image.mode == "P" else (1, 8, 16)):
        return f"a TIFF file of {bits} bits, which DALI does not decode"
    extra = first(tags, _EXTRA, 0)
    if image.mode == "RGBA" and bits == 16 and extra:
        return "a TIFF file of 16 bits with transparency, whose colours DALI gets wrong"
    if image.mode == "RGBA" and extra == 1 and image.getchannel("A").getextrema() != (255, 255):
        return (
            "a TIFF file whose colours are multiplied by its transparency, which DALI takes for "
            "the colours"
        )
    return ""


def first(tags, tag: int, default: int) -> int:
    """A TIFF tag's value, the first if there are several."""
    value = tags.get(tag, default)
    return (value[0] if value else default) if isinstance(value, tuple) else value


def _refused_ppm(image, read) -> str:
    _, _, offset, arguments = image.tile[0]
    greatest = arguments[-1] if isinstance(arguments, tuple) else 255
    if greatest not in (255, 65535):
        return f"a {image.format} file whose greatest value is {greatest}, which DALI takes for 255"
    if b"#" in read(offset):
        return f"a {image.format} file with a comment, which DALI does not decode"
    if read(2) in (b"P1", b"P2", b"P3") and not read(-1)[-1:].isspace():
        return f"a {image.format} file of digits without a line's end, which DALI does not decode"
    return ""


def _refused_jpeg2000(start: bytes) -> str:
    if not start.startswith(_JP2):
        return "a bare JPEG 2000 codestream, which DALI does not decode; in a JP2 file it does"
    offset = start.find(b"colr")
    if offset >= 0 and start[offset + 4 : offset + 5] == b"\x01":  # the colour space by its number
        (number,) = struct.unpack(">I", start[offset + 7 : offset + 11].ljust(4, b"\0"))
        if number not in (16, 17):
            return (
                f"a JPEG 2000 file of colour space {number} (not sRGB or grey), whose colours DALI "
                "gets wrong"
            )
    # The codestream: width, height, depth of each component
    offset = start.find(b"\xff\x4f\xff\x51")
    if offset >= 0 and len(start) > offset + 42 and start[offset + 42] & 0x80:
        return "a JPEG 2000 file of signed numbers, which DALI does not decode"
    return ""


def refuse_unknown_numbers(image) -> None:
    """UserError for an opened image whose numbers have no meaning as colours."""
    if image.format == "TIFF":
        if first(image.tag_v2, SAMPLE_FORMAT, 1) != 1:
            raise UserError(
                "a TIFF file of signed numbers or fractions, whose greys have no one meaning"
            )
        if first(image.tag_v2, BITS, 1) > 16:
            raise UserError("more than 16 bits of grey")
    if image.mode == "P" and image.palette is None:
        raise UserError("a palette image without its palette")
