"""Small video files with known colours, times and streams, and reading them."""

import struct
from fractions import Fraction

import av
import numpy as np

from ssd.tools.videos import VideoReader

# By matrix number of ITU-T H.273: the weights of red and blue in the luma.
MATRICES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


COLOURS = np.array([[(200, 40, 40), (40, 180, 60)], [(50, 70, 220), (230, 220, 90)]], float)


FULL = 2


def blocks(width=64, height=48):
    return np.repeat(np.repeat(COLOURS, height // 2, 0), width // 2, 1)


def to_yuv(rgb, matrix, full):
    """RGB to uint8 (height, width) planes by the standard's equations."""
    red, blue = MATRICES[matrix]
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    scales = (255, 0, 255) if full else (219, 16, 224)
    planes = scales[0] * luma + scales[1], scales[2] * cb + 128, scales[2] * cr + 128
    return [np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes]


def yuv_frame(planes, halves=(2, 2)):
    """A yuv420p frame, or yuv444p if halves is (1, 1)."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p" if halves == (2, 2) else "yuv444p")
    for plane, values, step in zip(frame.planes, planes, ((1, 1), halves, halves)):
        values = values[:: step[0], :: step[1]]
        lines = np.zeros((plane.height, plane.line_size), np.uint8)
        lines[:, : plane.width] = values
        plane.update(lines.tobytes())
    return frame


def block_video(
    path,
    frames=3,
    codec="libx264",
    matrix=5,
    says=True,
    full=False,
    shape=None,
    options=None,
    times=None,
    halves=(2, 2),
    rate=10,
):
    """Frames of four blocks of COLOURS, coded with a matrix and range; says: store both."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        planes = to_yuv(blocks(), matrix, full)
        stream.width, stream.height = planes[0].shape[::-1]
        context = stream.codec_context
        stream.pix_fmt = "yuv420p" if halves == (2, 2) else "yuv444p"
        stream.options = options or {}
        if says:
            context.colorspace, context.color_range = matrix, FULL if full else 1
        if shape:
            context.sample_aspect_ratio = shape
        context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
        for number in range(frames):
            frame = yuv_frame(planes, halves)
            frame.pts, frame.time_base = (times[number] if times else number), context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path):
    reader = VideoReader(path)
    try:
        return reader, list(reader)
    finally:
        reader.close()


def inner(pixels):
    """Mean colours of the four blocks, without their borders."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    return np.array(
        [
            [
                pixels[
                    y * height + 6 : (y + 1) * height - 6, x * width + 6 : (x + 1) * width - 6
                ].mean((0, 1))
                for x in range(2)
            ]
            for y in range(2)
        ]
    )


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def cover():
    """A JPEG like those embedded by music and download tools."""
    import cv2

    return cv2.imencode(".jpg", np.full((16, 20, 3), 99, np.uint8))[1].tobytes()


def with_cover(path):
    """Add a cover image to an .mp4. FFmpeg lists it before the video if it comes first, so
    moov/udta comes first."""
    content = path.read_bytes()
    data = box(b"data", struct.pack(">II", 13, 0), cover())
    handler = box(b"hdlr", struct.pack(">II4s", 0, 0, b"mdir"), b"appl" + bytes(9))
    udta = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", box(b"covr", data))))
    start = content.index(b"moov") - 4
    (size,) = struct.unpack(">I", content[start : start + 4])
    header = content.index(b"mvhd") - 4
    after = header + struct.unpack(">I", content[header : header + 4])[0]
    assert start > content.index(b"mdat"), "the frames' places do not move"
    path.write_bytes(
        content[:start]
        + struct.pack(">I", size + len(udta))
        + content[start + 4 : after]
        + udta
        + content[after:]
    )
    return path


def audio_with_cover(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4800), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return with_cover(path)
