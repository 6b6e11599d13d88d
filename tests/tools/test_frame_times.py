"""Times of frames and ends of odd videos, read and drawn."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from ssd.errors import UserError
from ssd.tools.inputs import find_inputs
from ssd.tools.videos import VideoReader, VideoWriter
from tests.tools.video_files import COLOURS, blocks, inner, read, to_yuv, yuv_frame


def timed_video(path, times, lengths=None, b_frames=0, codec="libx264"):
    """Frames at times [ms]; lengths: of the frames in the file [ms]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = (
            {"crf": "1", "bf": str(b_frames), "g": "12"}
            if codec == "libx264"
            else {"bf": str(b_frames)}
        )
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for time in times:
            frame = yuv_frame(to_yuv(blocks(), 6, False))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += stream.encode(frame)
        for number, packet in enumerate(packets + stream.encode(None)):
            if lengths:
                packet.duration = lengths[number]
            container.mux(packet)
    return path


def gif(path, lengths):
    images = [Image.fromarray(np.rint(blocks()).astype(np.uint8)).quantize(8) for _ in lengths]
    for number, image in enumerate(images):
        image.putpixel((0, 0), number % 4)
    images[0].save(path, save_all=True, append_images=images[1:], duration=lengths)
    return path


def drawn(reader, frames, path):
    writer = VideoWriter(str(path), reader.rate)
    for frame in frames:
        writer.add(frame.pixels, frame.seconds, reader.start, reader.display)
    writer.finish(True, reader.end)
    return path


@pytest.mark.parametrize(
    "name, times, lengths",
    [
        ("still.mp4", [0, 100, 200, 300], [100, 100, 100, 5000]),
        ("still.mkv", [0, 100, 200, 300], [100, 100, 100, 5000]),
        ("slide.mp4", [0], [9000]),
        ("gap.mp4", [0, 100, 200, 3600000, 3600100], None),
        ("slow.mkv", [0, 3141, 60000, 60007, 200003], None),
        ("phone.mp4", [0, 33, 67, 101, 133, 171, 200, 234], None),
        ("late.mkv", [5000, 5100, 5200], None),
    ],
)
def test_frames_of_any_duration(tmp_path, name, times, lengths):
    """None counts as cut short, and the drawn video keeps all times to a millisecond."""
    reader, frames = read(timed_video(tmp_path / name, times, lengths))
    expected = (np.array(times) - times[0]) / 1000
    np.testing.assert_allclose([frame.seconds for frame in frames], expected, atol=0.0011)
    again = read(drawn(reader, frames, tmp_path / "drawn.mp4"))[1]
    np.testing.assert_allclose([frame.seconds for frame in again], expected, atol=0.0011)


def test_the_last_frame_of_a_gif_keeps_its_duration(tmp_path):
    reader, frames = read(gif(tmp_path / "film.gif", [100, 100, 100, 5000]))
    assert len(frames) == 4 and abs(reader.end - 5.3) < 0.01
    with av.open(str(drawn(reader, frames, tmp_path / "drawn.mp4"))) as container:
        assert abs(container.duration / 1e6 - 5.3) < 0.25


@pytest.mark.parametrize("codec, b_frames", [("libx264", 3), ("libx264", 0), ("mpeg4", 2)])
def test_avi_numbers_frames_in_decoding_order(tmp_path, codec, b_frames):
    times = list(range(0, 1200, 100))
    frames = read(timed_video(tmp_path / "film.avi", times, b_frames=b_frames, codec=codec))[1]
    np.testing.assert_allclose(
        [frame.seconds for frame in frames], np.array(times) / 1000, atol=0.0011
    )


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.6, 0.97])
@pytest.mark.parametrize("name", ["film.mkv", "film.gif"])
def test_truncated_files_are_reported(tmp_path, name, share):
    path = tmp_path / name
    times = list(range(0, 4000, 100))
    cut(gif(path, [100] * 40) if name.endswith("gif") else timed_video(path, times), share)
    reader = VideoReader(path)
    with pytest.raises(UserError, match="cut short|does not decode"):
        list(reader)
    reader.close()
    assert 0 < reader.read <= 40


def test_skipped_damaged_parts_are_reported(tmp_path):
    path = timed_video(tmp_path / "film.mkv", list(range(0, 4000, 100)))
    content = bytearray(path.read_bytes())
    offset = len(content) // 2
    content[offset : offset + 200] = np.random.RandomState(0).bytes(200)
    path.write_bytes(bytes(content))
    reader = VideoReader(path)
    with pytest.raises(
        UserError, match=r"is damaged, has only \d\.\d of 4\.0 seconds|does not decode after frame"
    ):
        list(reader)
    reader.close()


@pytest.mark.parametrize(
    "codec, options",
    [
        ("libx265", {"x265-params": "lossless=1:log-level=none"}),
        ("ffv1", {}),
        ("libaom-av1", {"crf": "1", "cpu-used": "8"}),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_grey_of_both_ranges(tmp_path, codec, options, full):
    luma = to_yuv(blocks(), 6, full)[0]
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "gray", options
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(64, 48, "gray")
        lines = np.zeros((48, frame.planes[0].line_size), np.uint8)
        lines[:, :64] = luma
        frame.planes[0].update(lines.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pixels = read(path)[1][0].pixels
    assert np.abs(inner(pixels) - (COLOURS @ [0.299, 0.587, 0.114])[..., None]).max() < 2


def test_large_videos_get_enough_bits(tmp_path):
    """Not always 1 Mbit/s."""
    noise = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    picture = np.repeat(np.repeat(noise, 12, 0), 12, 1)
    writer = VideoWriter(str(tmp_path / "drawn.mp4"), Fraction(30))
    for number in range(12):
        writer.add(np.roll(picture, 7 * number, 1), number / 30)
    writer.finish()
    frames = read(tmp_path / "drawn.mp4")[1]
    assert (
        np.abs(
            frames[9].pixels[6::12, 9::12].astype(float) - np.roll(picture, 63, 1)[6::12, 9::12]
        ).mean()
        < 12
    )


def test_named_files_with_unknown_extensions_are_recognised_by_content(tmp_path):
    timed_video(tmp_path / "a.mkv", [0, 100]).rename(tmp_path / "film")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "picture.dat")
    (tmp_path / "notes.txt").write_text("no picture")
    names = [str(tmp_path / name) for name in ("film", "picture.dat", "notes.txt")]
    assert [one.video for one in find_inputs(names)[0]] == [True, False, True]
    with pytest.raises(UserError, match="notes.txt: not a video that can be read"):
        VideoReader(names[2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="empty.mp4: the file is empty"):
        VideoReader(tmp_path / "empty.mp4")
