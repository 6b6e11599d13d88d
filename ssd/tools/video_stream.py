"""What a video file says of its film: which stream it is, how its colours are coded, which way up
it stands."""

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
    """The stream of a container whose frames are the film, None where there is none: a default one
    before others, then the largest, then the first. Embedded cover pictures and thumbnails of
    chapters, which FFmpeg lists among the streams of video, are none."""
    said = _stream_lines(container)
    films = [
        stream
        for stream in container.streams.video
        if "(attached pic)" not in said.get(stream.index, "")
        and "(still image)" not in said.get(stream.index, "")
    ]

    def rank(stream):
        context = stream.codec_context
        return (
            "(default)" in said.get(stream.index, ""),
            (context.width or 0) * (context.height or 0),
            -stream.index,
        )

    return max(films, key=rank, default=None)


def _stream_lines(container) -> dict:
    """FFmpeg's line on each stream, by its index. PyAV 12 shows a stream's disposition nowhere
    else."""
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
    """How a film is to be shown. primaries, transfer, matrix: H.273's numbers, 2 where they are not
    known; pixel_shape: width to height of a pixel, upright, None where it is not known."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    pixel_shape: Optional[Fraction] = None


def display_info(stream, frame, turned: bool) -> DisplayInfo:
    """Of a stream whose first frame is decoded. RGB of no known kind is taken for sRGB. turned: by
    a quarter."""
    context = stream.codec_context
    primaries, transfer, matrix = context.color_primaries, context.color_trc, frame.colorspace
    if frame.format.is_rgb or matrix == 0:  # written as YUV, of which it then says how
        primaries = _BT709 if primaries == UNSPECIFIED else primaries
        transfer = _SRGB_TRANSFER if transfer == UNSPECIFIED else transfer
        matrix = _BT709
    shape = stream.sample_aspect_ratio or None
    return DisplayInfo(primaries, transfer, matrix, 1 / shape if shape and turned else shape)


def unknown_matrix(look: DisplayInfo) -> bool:
    """Whether the colours are coded in a way that FFmpeg's scaler does not know: it takes
    BT.601."""
    return look.matrix not in _MATRICES


class ToRGB:
    """Frames as uint8 (height, width, 3) RGB, from the matrix and the range that each says; all of
    the size of the first. Where a frame says nothing, BT.601 of limited range is taken, as FFmpeg
    and OpenCV do."""

    def __init__(self, stream):
        # FFmpeg's filter reads matrix and range of each frame, which VideoFrame.reformat of PyAV 12
        # does not.
        self._graph = _chain(
            ("scale", "flags=bilinear:out_range=pc"), ("format", "rgb24"), template=stream
        )

    def __call__(self, frame) -> np.ndarray:
        self._graph.push(frame)
        pixels = self._graph.pull().to_ndarray()
        if frame.format.name.startswith("gray") and frame.color_range == _LIMITED:
            pixels = _WIDENED[pixels]  # the scaler takes all grey for full range
        return pixels


class FromRGB:
    """RGB as frames to be encoded, of a matrix and of limited range."""

    def __init__(self, width: int, height: int, pixels: str, matrix: int, tick: Fraction):
        """pixels: FFmpeg's name of their kind; tick: the unit of their times [seconds]."""
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


def tag(context, look: DisplayInfo) -> None:
    """Has an encoder say how its frames, made by FromRGB, are to be shown."""
    context.color_primaries, context.color_trc = look.primaries, look.transfer
    context.colorspace, context.color_range = look.matrix, _LIMITED
    if look.pixel_shape is not None:
        context.sample_aspect_ratio = look.pixel_shape


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
    """Turns and mirrors arrays (height, width, ...) as a film says that it is to be shown, to the
    nearest quarter."""

    def __init__(self, stream, frame):
        """frame: the first."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is not None:
            # 16.16 fixed point, rows (a b u), (c d v), (x y w): a pixel's place (p, q) becomes (a p
            # + c q, b p + d q).
            a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
        else:  # of a decoder that does not hand it on; degrees against the clock
            angle = np.deg2rad(stream.side_data.get("DISPLAYMATRIX", 0))
            a, b, c, d = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        self.quarter = abs(b) + abs(c) > abs(a) + abs(d)
        across, down = (c, b) if self.quarter else (a, d)
        self._step = (-1 if down < 0 else 1, -1 if across < 0 else 1)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.swapaxes(0, 1) if self.quarter else pixels
        return pixels[:: self._step[0], :: self._step[1]]
