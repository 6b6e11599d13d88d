"""Properties of videos: frames with the right colours, shape, orientation and times, read and
written."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from ssd.errors import UserError
from ssd.tools.videos import VideoReader, VideoWriter
from tests.tools.video_files import (
    COLOURS,
    MATRICES,
    audio_with_cover,
    block_video,
    blocks,
    inner,
    read,
    to_yuv,
    with_cover,
    yuv_frame,
)


def written(reader, frames, path):
    writer = VideoWriter(str(path), reader.rate)
    for frame in frames:
        writer.add(frame.pixels, frame.seconds, reader.start, reader.display)
    writer.finish()
    return path


EXACT = {"qp": "0", "x265-params": "lossless=1:log-level=none", "lossless": "1", "qscale": "1"}
CASES = [("libx264", "mp4", matrix, full) for matrix in MATRICES for full in (False, True)] + [
    ("libx265", "mp4", 1, True),
    ("libx265", "mkv", 9, False),
    ("libvpx-vp9", "webm", 1, True),
    ("libvpx-vp9", "webm", 9, False),
    ("ffv1", "mkv", 1, False),
    ("ffv1", "mkv", 6, True),
    ("libx264", "mov", 1, True),
    ("libx264", "ts", 1, False),
    ("mpeg2video", "mpg", 1, False),
]


@pytest.mark.parametrize("codec, ending, matrix, full", CASES)
def test_colours_are_those_of_the_standard(tmp_path, codec, ending, matrix, full):
    """As computed by H.273's equations; the same in the drawn video."""
    path = block_video(
        tmp_path / f"film.{ending}", codec=codec, matrix=matrix, full=full, options=EXACT
    )
    reader, frames = read(path)
    assert len(frames) == 3
    for frame in frames:
        assert np.abs(inner(frame.pixels) - COLOURS).max() < 3.5
    drawn = written(reader, frames, tmp_path / "drawn.mp4")
    again = read(drawn)
    assert np.abs(inner(again[1][1].pixels) - COLOURS).max() < 7
    with av.open(str(drawn)) as container:  # a player gets the same information as before
        context = container.streams.video[0].codec_context
        assert context.colorspace == reader.display.matrix == matrix and context.color_range in (
            0,
            1,
        )


def test_unspecified_colours_are_bt601(tmp_path):
    """As in FFmpeg and OpenCV; the drawn video has no colour information either, so that a player
    shows both alike."""
    import cv2

    path = block_video(tmp_path / "film.mp4", matrix=6, says=False, options=EXACT)
    reader, frames = read(path)
    assert reader.display.matrix == 2 and np.abs(inner(frames[0].pixels) - COLOURS).max() < 3.5
    video = cv2.VideoCapture(str(path))
    ok, other = video.read()
    assert ok and np.abs(inner(other[:, :, ::-1]) - inner(frames[0].pixels)).max() < 3
    with av.open(str(written(reader, frames, tmp_path / "drawn.mp4"))) as container:
        assert container.streams.video[0].codec_context.colorspace == 2
        [frame, *_] = container.decode(video=0)
        planes = [
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[2:8, 2:8].mean()
            for plane in frame.planes
        ]
    np.testing.assert_allclose(
        planes, [plane[8, 8] for plane in to_yuv(blocks(), 6, False)], atol=2.5
    )


def test_an_unknown_matrix_is_reported(tmp_path):
    reader, frames = read(block_video(tmp_path / "film.mkv", codec="ffv1", matrix=6, says=False))
    assert reader.notes() == "" and len(frames) == 3
    path = tmp_path / "ycgco.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 8
        container.mux(stream.encode(yuv_frame(to_yuv(blocks(), 6, False))))
        container.mux(stream.encode(None))
    reader, frames = read(path)
    assert len(frames) == 1 and "matrix 8 of ITU-T H.273" in reader.notes()


@pytest.mark.parametrize(
    "codec, ending, shape",
    [
        ("libx264", "mp4", (4, 3)),
        ("libx264", "mkv", (16, 15)),
        ("libx264", "mov", (8, 9)),
        ("libx265", "mp4", (64, 45)),
        ("mpeg2video", "mpg", (1, 1)),
        ("libx265", "mkv", (2, 1)),
        ("mpeg4", "avi", (12, 11)),
        ("libx264", "ts", (3, 4)),
        ("mpeg4", "mkv", (10, 11)),
        ("libx264", "mp4", (1, 1)),
        ("libx264", "mp4", None),
    ],
)
def test_pixels_keep_their_shape(tmp_path, codec, ending, shape):
    shape = Fraction(*shape) if shape else None
    path = block_video(tmp_path / f"film.{ending}", codec=codec, shape=shape)
    if ending == "mpg":  # stores the aspect ratio of the frame
        with av.open(str(path)) as container:
            shape = container.streams.video[0].sample_aspect_ratio
    reader, frames = read(path)
    assert frames[0].pixels.shape == (48, 64, 3)
    with av.open(str(written(reader, frames, tmp_path / "drawn.mp4"))) as container:
        found = container.streams.video[0].sample_aspect_ratio
    assert found == shape or (not shape and found in (None, 0, 1))


def with_display_matrix(path, a, b, c, d):
    """An .mp4 whose track matrix moves a pixel at (p, q) to (a p + c q, b p + d q)."""
    content = bytearray(path.read_bytes())
    offset = (
        content.index(b"tkhd") + 44
    )  # version and flags, times, id, duration, layer, volume: then the matrix
    content[offset : offset + 36] = struct.pack(
        ">9i", *(round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30
    )
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "matrix, upright",
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
        ((0.9962, 0.0872, -0.0872, 0.9962), lambda p: p),
        ((2, 0, 0, 2), lambda p: p),
    ],
)
def test_rotated_and_mirrored_videos_become_upright(tmp_path, matrix, upright):
    path = with_display_matrix(block_video(tmp_path / "film.mp4", shape=Fraction(4, 3)), *matrix)
    reader, frames = read(path)
    expected = upright(blocks())
    assert frames[0].pixels.shape == expected.shape
    assert np.abs(inner(frames[0].pixels) - inner(expected)).max() < 9
    with av.open(str(written(reader, frames, tmp_path / "drawn.mp4"))) as container:
        stream = container.streams.video[0]
        assert not stream.side_data
        assert stream.sample_aspect_ratio == (
            Fraction(3, 4) if reader.display.pixel_shape < 1 else Fraction(4, 3)
        )
        assert (stream.sample_aspect_ratio < 1) == (expected.shape[0] > expected.shape[1])


# ---- the main stream


def streams(path):
    with av.open(str(path)) as container:
        return [(stream.type, stream.codec_context.name) for stream in container.streams]


def test_a_cover_image_is_not_the_video(tmp_path):
    path = with_cover(block_video(tmp_path / "film.mp4", frames=10))
    assert streams(path) == [("video", "mjpeg"), ("video", "h264")]
    reader, frames = read(path)
    assert len(frames) == reader.frames == 10 and frames[0].pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["song.m4a", "song.mp4", "song.mov", "song.m4b"])
def test_audio_with_a_cover_is_not_a_video(tmp_path, name):
    with pytest.raises(UserError, match="has no video stream, only a cover image"):
        VideoReader(audio_with_cover(tmp_path / name))


@pytest.mark.parametrize(
    "order, chosen",
    [
        ([(32, 24), (64, 48)], (64, 48)),
        ([(64, 48), (32, 24)], (64, 48)),
        ([(64, 48), (64, 48)], (64, 48)),
        ([(16, 16), (32, 24), (64, 48)], (64, 48)),
    ],
)
def test_the_largest_of_several_streams(tmp_path, order, chosen):
    """Cameras store a small preview beside the video, in either order."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        made = []
        for size in order:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            made.append(stream)
        for number in range(3):
            for stream, (width, height) in zip(made, order):
                pixels = np.full((height, width, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in made:
            container.mux(stream.encode(None))
    reader, frames = read(path)
    assert len(frames) == 3 and frames[0].pixels.shape[1::-1] == chosen


# ---- timing


@pytest.mark.parametrize(
    "ending, times, atol",
    [
        ("mp4", (0, 100, 200, 300, 400), 0.001),
        ("mkv", (0, 40, 200, 210, 900), 0.001),
        ("mp4", (0, 33, 67, 100, 133), 0.001),
        ("mkv", (0, 1000, 1500, 1600, 4000), 0.003),
        ("ts", (0, 100, 200, 300, 400), 0.001),
        ("mkv", (5000, 5100, 5200, 5300, 5400), 0.001),
        ("mp4", (3000, 3100, 3300, 3350, 3500), 0.001),
        ("ts", (700, 800, 900, 1000, 1100), 0.001),
        ("mov", (0, 250, 500, 750, 1000), 0.001),
        ("mkv", (0, 5, 10, 15, 20), 0.001),
    ],
)
def test_frames_keep_their_times(tmp_path, ending, times, atol):
    """Counted from the first frame, in the video read and in the one written."""
    reader, frames = read(block_video(tmp_path / f"film.{ending}", frames=5, times=times))
    expected = (np.array(times) - times[0]) / 1000
    np.testing.assert_allclose([frame.seconds for frame in frames], expected, atol=0.001)
    again = read(written(reader, frames, tmp_path / "drawn.mp4"))[1]
    np.testing.assert_allclose([frame.seconds for frame in again], expected, atol=atol)


def test_a_video_with_changing_size_keeps_the_first(tmp_path):
    """Transport streams of broadcasts and conferences do: two films, one after the other."""
    parts = []
    for number, size in enumerate(((64, 48), (32, 24))):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for step in range(4):
                frame = av.VideoFrame.from_ndarray(
                    np.rint(blocks(*size)).astype(np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = number * 4 + step, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    path = tmp_path / "film.ts"
    path.write_bytes(b"".join(parts))
    frames = read(path)[1]
    assert len(frames) == 8 and {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert np.abs(inner(frames[-1].pixels) - COLOURS).max() < 12
