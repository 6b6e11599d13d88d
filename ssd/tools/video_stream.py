"""The properties of a video file that its frames depend on: which stream to read, how colours are
coded, which way is up."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple, Optional

import numpy as np

UNSPECIFIED = 2
# Numbers of ITU-T H.273, which all video formats use: the matrix between RGB and YUV, by its name
# in FFmpeg's scaler.
_MATRICES = {
    1: "bt709",
    UNSPECIFIED: "bt601",
    4: "fcc",
    5: "bt470",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
_BT709, _SRGB_TRANSFER, _LIMITED = 1, 13, 1
_WIDENED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(
    np.uint8
)  # limited to full range


def video_stream_of(container):
    """The main video stream of a container, None without one: a default one before others, then the
    largest, then the first. Embedded cover images and thumbnails of chapters, which FFmpeg lists as
    video streams, do not count."""
    lines = _stream_lines(container)
    streams = [
        stream
        for stream in container.streams.video
        if "(attached pic)" not in lines.get(stream.index, "")
        and "(still image)" not in lines.get(stream.index, "")
    ]

    def rank(stream):
        context = stream.codec_context
        return (
            "(default)" in lines.get(stream.index, ""),
            (context.width or 0) * (context.height or 0),
            -stream.index,
        )

    return max(streams, key=rank, default=None)


def _stream_lines(container) -> dict:
    """FFmpeg's description line of each stream, by index: PyAV 12 has no other access to a stream's
    disposition."""
    import av.logging

    level = av.logging.get_level()
    try:
        av.logging.set_level(av.logging.INFO)
        lines = container.dumps_format()
    finally:
        av.logging.set_level(level)
    return {
        int(number): line
        for number, line in re.findall(r"^  Stream #\d+:(\d+)(.*)$", lines, re.MULTILINE)
    }


class DisplayInfo(NamedTuple):
    """How a video is to be shown. primaries, transfer, matrix: H.273's numbers, 2 if unknown;
    pixel_shape: width to height of a pixel of the upright image, None if unknown."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    pixel_shape: Optional[Fraction] = None


def display_info(stream, frame, turned: bool) -> DisplayInfo:
    """The DisplayInfo of a stream whose first frame is decoded. Unspecified RGB counts as sRGB.
    turned: whether frames are rotated by a quarter turn."""
    context = stream.codec_context
    primaries, transfer, matrix = context.color_primaries, context.color_trc, frame.colorspace
    if frame.format.is_rgb or matrix == 0:  # will be written as YUV, which needs these numbers
        primaries = _BT709 if primaries == UNSPECIFIED else primaries
        transfer = _SRGB_TRANSFER if transfer == UNSPECIFIED else transfer
        matrix = _BT709
    shape = stream.sample_aspect_ratio or None
    return DisplayInfo(primaries, transfer, matrix, 1 / shape if shape and turned else shape)


def unknown_matrix(info: DisplayInfo) -> bool:
    """Whether FFmpeg's scaler does not know the colour matrix: it uses BT.601 instead."""
    return info.matrix not in _MATRICES


class ToRGB:
    """Converts frames to uint8 (height, width, 3) RGB, by the matrix and range of each frame; all
    in the size of the first. Default: BT.601 with limited range, as in FFmpeg and OpenCV."""

    def __init__(self, stream):
        # FFmpeg's filter reads the matrix and range of each frame; VideoFrame.reformat of PyAV 12
        # does not.
        self._graph = _chain(
            ("scale", "flags=bilinear:out_range=pc"), ("format", "rgb24"), template=stream
        )

    def __call__(self, frame) -> np.ndarray:
        self._graph.push(frame)
        pixels = self._graph.pull().to_ndarray()
        if frame.format.name.startswith("gray") and frame.color_range == _LIMITED:
            pixels = _WIDENED[pixels]  # the scaler treats all grey frames as full range
        return pixels


class FromRGB:
    """Converts RGB to frames for an encoder, with a given matrix and limited range."""

    def __init__(self, width: int, height: int, pixels: str, matrix: int, tick: Fraction):
        """pixels: FFmpeg's name of the pixel format; tick: the unit of frame times [seconds]."""
        matrix = _MATRICES.get(matrix, _MATRICES[UNSPECIFIED])
        self._graph = _chain(
            ("scale", f"flags=bilinear:out_color_matrix={matrix}:out_range=tv"),
            ("format", pixels),
            width=width,
            height=height,
            format="rgb24",
            time_base=tick,
        )

    def __call__(self, frame):
        self._graph.push(frame)
        return self._graph.pull()


def tag(context, info: DisplayInfo) -> None:
    """Make an encoder store how its frames, made by FromRGB, are to be shown."""
    context.color_primaries, context.color_trc = info.primaries, info.transfer
    context.colorspace, context.color_range = info.matrix, _LIMITED
    if info.pixel_shape is not None:
        context.sample_aspect_ratio = info.pixel_shape


def _chain(*filters, **source):
    from av.filter import Graph

    graph = Graph()
    nodes = [
        graph.add_buffer(**source),
        *[graph.add(*one) for one in filters],
        graph.add("buffersink"),
    ]
    for before, after in zip(nodes, nodes[1:]):
        before.link_to(after)
    graph.configure()
    return graph


class Upright:
    """Rotates (by quarter turns) and mirrors arrays (height, width, ...) as the video's display
    matrix asks."""

    def __init__(self, stream, frame):
        """frame: the first one."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is not None:
            # 16.16 fixed point, rows (a b u), (c d v), (x y w): the pixel at (p, q) moves to (a p +
            # c q, b p + d q).
            a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
        else:  # the decoder does not pass it on; degrees, counterclockwise
            angle = np.deg2rad(stream.side_data.get("DISPLAYMATRIX", 0))
            a, b, c, d = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        self.quarter = abs(b) + abs(c) > abs(a) + abs(d)
        across, down = (c, b) if self.quarter else (a, d)
        self._step = (-1 if down < 0 else 1, -1 if across < 0 else 1)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.swapaxes(0, 1) if self.quarter else pixels
        return pixels[:: self._step[0], :: self._step[1]]
