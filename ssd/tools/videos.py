"""Videos read and written frame by frame, by PyAV (FFmpeg)."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Iterator, NamedTuple, Optional

import numpy as np

from ssd.errors import UserError
from ssd.files import discard, put_in_place, temporary_path, write_errors
from ssd.tools.audio import AudioCopy
from ssd.tools.frame_times import FrameTimes, is_cut, is_damaged
from ssd.tools.video_stream import (
    DisplayInfo,
    FromRGB,
    ToRGB,
    Upright,
    display_info,
    tag,
    unknown_matrix,
    video_stream_of,
)

ENDINGS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".qt",
    ".webm",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".m2v",
    ".vob",
    ".ts",
    ".mts",
    ".m2ts",
    ".m2t",
    ".wmv",
    ".asf",
    ".flv",
    ".f4v",
    ".ogv",
    ".3gp",
    ".3g2",
    ".mxf",
    ".dv",
    ".y4m",
    ".gif",
    ".apng",
    ".divx",
    ".m1v",
    ".mpe",
    ".rm",
    ".rmvb",
    ".nut",
    ".ivf",
    ".obu",
    ".h264",
    ".264",
    ".h265",
    ".265",
    ".hevc",
    ".mjpeg",
    ".mjpg",
)
# : Files of sound, which may hold a cover picture: named on a command line, they are said to be no
# film.
SOUND_ENDINGS = (
    ".m4a",
    ".m4b",
    ".mp3",
    ".aac",
    ".ogg",
    ".oga",
    ".opus",
    ".flac",
    ".wav",
    ".wma",
    ".mka",
)
_USUAL_RATE = 25  # frames per second where a video does not say
_HIGHEST_RATE = 240  # of cameras: above, FFmpeg may have taken the unit of the times for the rate
_COARSEST = Fraction(1, 1000)  # unit of the times of drawn frames [seconds]


class Frame(NamedTuple):
    """seconds: since the start of the video; pixels: uint8 (height, width, 3) RGB, upright."""

    seconds: float
    pixels: np.ndarray


class VideoReader:
    """A video's frames in order. rate: frames per second, a Fraction; frames: their number, None
    where unknown; start: of the first one in the file [seconds], and look: how the frames are to be
    shown, both None before it is read; end: of the last one that was read, since the start
    [seconds]; damaged: frames that FFmpeg has mended."""

    def __init__(self, path):
        """Raises UserError naming the file if it is no video."""
        import av

        self._path, self.read, self.start, self.look = os.fspath(path), 0, None, None
        self.end, self.damaged = 0.0, 0
        try:
            self._container = av.open(self._path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            empty = os.path.isfile(self._path) and not os.path.getsize(self._path)
            reason = (
                "the file is empty" if empty else f"not a video that can be read ({_reason(error)})"
            )
            raise UserError(f"{path}: {reason}") from None
        self._stream = video_stream_of(self._container)
        # FFmpeg takes a single picture for a video, whatever its name.
        picture = (
            self._container.format.name.endswith("_pipe") or "image2" in self._container.format.name
        )
        if self._stream is None or picture:
            cover = ", only a cover" if self._container.streams.video else ""
            self.close()
            raise UserError(
                f"{path}: "
                + ("a picture, not a video" if picture else f"holds no moving pictures{cover}")
            )
        self._stream.thread_type = "AUTO"
        self.rate = self._rate()
        claimed = self._claimed_end()
        start = float((self._stream.start_time or 0) * self._stream.time_base)
        self.frames = self._stream.frames or (
            max(1, round((claimed - start) * self.rate)) if claimed else None
        )

    def _rate(self) -> Fraction:
        average, guessed = self._stream.average_rate, self._stream.guessed_rate
        # Where a file gives its unit of time for the rate, as DV and some AVI do, FFmpeg's guess
        # knows better.
        chosen = (
            guessed
            if average and guessed and average > _HIGHEST_RATE > guessed
            else average or guessed
        )
        return Fraction(chosen or _USUAL_RATE)

    def _claimed_end(self) -> Optional[float]:
        """The time in the file at which its pictures end by its own word [seconds], None where it
        says nothing."""
        if self._stream.duration:
            return float(
                ((self._stream.start_time or 0) + self._stream.duration) * self._stream.time_base
            )
        if self._container.duration and len(self._container.streams) == 1:
            early = (
                0 if "matroska" in self._container.format.name else self._container.start_time or 0
            )
            return (early + self._container.duration) / 1e6
        return None

    def __iter__(self) -> Iterator[Frame]:
        """Raises UserError where the file cannot be decoded any further; `read` frames are done
        then."""
        import av

        upright = to_rgb = None
        times = FrameTimes(self._container, self.rate)
        try:
            for packet in self._container.demux(self._stream):
                times.note(packet)
                for frame in packet.decode():
                    time = times.of(frame)
                    self.start = time if self.start is None else self.start
                    if upright is None:
                        # Phones store a video as the sensor lies and say how it is to be turned.
                        upright, to_rgb = Upright(self._stream, frame), ToRGB(self._stream)
                        self.look = display_info(self._stream, frame, upright.quarter)
                    pixels = upright(to_rgb(frame))
                    self.read += 1
                    self.damaged += bool(frame.is_corrupt or packet.is_corrupt)
                    self.end = max(times.end, time) - self.start
                    yield Frame(time - self.start, np.ascontiguousarray(pixels))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"{self._path}: does not decode after frame {self.read} ({_reason(error)})"
            ) from None
        if not self.read:
            raise UserError(f"{self._path}: holds no frame")
        self.end = max(self.end, times.end - self.start)
        self._check_length(times.end)

    def _check_length(self, end: float) -> None:
        """UserError where the file says that there is more."""
        claimed = self._claimed_end()
        kind, there = self._container.format.name, end - self.start
        less = claimed is not None and there < 0.9 * (claimed - self.start) - 0.5
        cut = is_cut(self._path, kind)
        if cut or (less and (cut is None or is_damaged(self._path, kind))):
            of = f" of {claimed - self.start:.1f}" if less else ""
            what = "damaged" if cut is False else "cut short"
            raise UserError(f"{self._path}: is {what}, {there:.1f}{of} seconds are there")

    def odd(self) -> str:
        """A line on what could not be obeyed, "" where everything is."""
        lines = []
        if self.look is not None and unknown_matrix(self.look):
            lines.append(
                f"its colours are coded in a way that is not known here (matrix {self.look.matrix} "
                "of ITU-T H.273); it was looked at as BT.601"
            )
        if self.damaged:
            lines.append(f"damaged frames: {self.damaged} of {self.read}")
        return "; ".join(lines)

    def sound(self) -> Optional[AudioCopy]:
        """What is heard beside it, None without any."""
        return AudioCopy(self._path) if self._container.streams.audio else None

    def close(self) -> None:
        self._container.close()


class VideoWriter:
    """An .mp4: H.264 where this FFmpeg can write it, else MPEG-4. It is at its place only after
    `finish`."""

    def __init__(self, path: str, rate: Fraction, sound: Optional[AudioCopy] = None):
        """rate: frames per second; sound: is copied beside them, as far as they are. UserError if
        it cannot be written."""
        import av

        self._path, self._partial, self._sound = path, temporary_path(path), sound
        self._rate, self._last = rate.limit_denominator(65535), -1
        self._codec = next(
            (name for name in ("libx264", "libopenh264") if name in av.codecs_available), "mpeg4"
        )
        self._stream = self._delay = None
        with write_errors(path, path, av.error.FFmpegError):
            self._container = av.open(self._partial, "w", format="mp4")

    def add(
        self,
        pixels: np.ndarray,
        seconds: float,
        start: float = 0.0,
        look: DisplayInfo = DisplayInfo(),
    ) -> None:
        """A frame, uint8 (height, width, 3) RGB, all of one size; `seconds` since the start,
        rising. start: of the first one in the file of the sound [seconds]; look: what the file says
        of them, that of the first counts."""
        import av

        with write_errors(self._path, self._path, av.error.FFmpegError):
            if self._stream is None:
                self._open(*pixels.shape[:2], look)
                if self._sound is not None:
                    self._sound.open(self._container, start)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            self._last = max(self._last + 1, round(seconds / self._tick))
            frame.pts, frame.time_base = self._last, self._tick
            packets = self._stream.encode(self._from_rgb(frame))
            if packets and self._delay is None:
                self._delay = _delay(packets)
            self._container.mux(packets)
            if self._sound is not None:
                self._sound.copy(seconds)

    def _open(self, height: int, width: int, look: DisplayInfo) -> None:
        # Half of the colour is left out as usual, but for odd sizes, where H.264 cannot.
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        if self._codec == "libx264":  # PyAV asks for a megabit a second, whatever the size
            self._stream.codec_context.bit_rate, self._stream.options = 0, {"crf": "20"}
        else:
            self._stream.codec_context.bit_rate = int(
                max(1e6, 0.2 * width * height * min(60, self._rate))
            )
        self._stream.pix_fmt = (
            "yuv444p" if (width % 2 or height % 2) and self._codec == "libx264" else "yuv420p"
        )
        self._tick = _tick(self._rate, 65535 if self._codec == "mpeg4" else 10**7)
        self._stream.codec_context.time_base = self._tick
        tag(self._stream.codec_context, look)
        self._from_rgb = FromRGB(width, height, self._stream.pix_fmt, look.matrix, self._tick)

    def finish(self, whole: bool = True, end: float = 0.0) -> None:
        """Ends the file and puts it at its place. whole: with the sound beyond the last frame; end:
        of the last frame, since the start [seconds], where it is known."""
        import av

        with write_errors(self._path, self._path, av.error.FFmpegError):
            packets = self._stream.encode(None)
            if (
                packets
            ):  # the last lasts until the end, in the order of decoding, in which .mp4 counts
                first = self._delay if self._delay is not None else _delay(packets)
                packets[-1].duration = max(
                    packets[-1].duration or 0, round(end / self._tick) - first - packets[-1].dts
                )
            self._container.mux(packets)
            if self._sound is not None and whole:
                self._sound.copy()
            self._container.close()
            put_in_place(self._partial, self._path)

    def close(self) -> None:
        """Drops what was not finished; after `finish` it does nothing."""
        self._container.close()
        if self._sound is not None:
            self._sound.close()
        discard(self._partial)


def _tick(rate: Fraction, most: int) -> Fraction:
    """The unit of frame times [seconds] for videos of this rate: frames may stand at any time, as
    in videos of phones and in GIFs. most: ticks a second that the codec knows; MPEG-4's are 65,535.
    """
    times = min(100, 65535 // rate.numerator)
    for count in (max(times, -(-rate.denominator // (rate.numerator * _COARSEST))), times):
        if count and (rate * count).numerator <= most:
            return 1 / (rate * count)
    return Fraction(1, min(most, 90000))


def _delay(packets) -> int:
    """By how much packets are decoded before they are shown [ticks]; packets: the first."""
    return packets[0].pts - packets[0].dts


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) == 1:  # some decoders' "failed" looks like EPERM
        return "its data are damaged"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
