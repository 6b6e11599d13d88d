"""Reads and writes videos frame by frame, by PyAV (FFmpeg)."""

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
# Audio files may hold a cover image. They count as videos, so that they are refused as such.
AUDIO_ENDINGS = (
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
_DEFAULT_RATE = 25  # frames per second if a video does not state it
_HIGHEST_RATE = 240  # of cameras: FFmpeg may have taken the time unit for a higher rate
_COARSEST = Fraction(1, 1000)  # time unit of drawn frames [seconds]


class VideoFrame(NamedTuple):
    """seconds: since the start of the video; pixels: uint8 (height, width, 3) RGB, upright."""

    seconds: float
    pixels: np.ndarray


class VideoReader:
    """A video's frames in order. rate: frames per second, a Fraction; frames: their number, None if
    unknown; start: time of the first frame in the file [seconds], and display: how the frames are
    to be shown, both None before the first frame; end: of the last frame read, since the start
    [seconds]; damaged: number of frames that FFmpeg repaired."""

    def __init__(self, path):
        """UserError names the file if it is not a video."""
        import av

        self._path, self.read, self.start, self.display = os.fspath(path), 0, None, None
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
        # FFmpeg opens a single image as a video, whatever its name.
        single_image = (
            self._container.format.name.endswith("_pipe") or "image2" in self._container.format.name
        )
        if self._stream is None or single_image:
            cover = ", only a cover image" if self._container.streams.video else ""
            self.close()
            raise UserError(
                f"{path}: "
                + ("an image, not a video" if single_image else f"has no video stream{cover}")
            )
        self._stream.thread_type = "AUTO"
        self.rate = self._rate()
        stated_end = self._stated_end()
        start = float((self._stream.start_time or 0) * self._stream.time_base)
        self.frames = self._stream.frames or (
            max(1, round((stated_end - start) * self.rate)) if stated_end else None
        )

    def _rate(self) -> Fraction:
        average, guessed = self._stream.average_rate, self._stream.guessed_rate
        # DV and some AVI files state their time unit as the rate; FFmpeg's guess is better then.
        chosen = (
            guessed
            if average and guessed and average > _HIGHEST_RATE > guessed
            else average or guessed
        )
        return Fraction(chosen or _DEFAULT_RATE)

    def _stated_end(self) -> Optional[float]:
        """The end of the frames as the file states it, in the file's time [seconds]; None if it
        does not."""
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

    def __iter__(self) -> Iterator[VideoFrame]:
        """UserError where the file cannot be decoded further; `read` frames have been returned
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
                        # Phones store a video in the sensor's orientation, with a rotation.
                        upright, to_rgb = Upright(self._stream, frame), ToRGB(self._stream)
                        self.display = display_info(self._stream, frame, upright.quarter)
                    pixels = upright(to_rgb(frame))
                    self.read += 1
                    self.damaged += bool(frame.is_corrupt or packet.is_corrupt)
                    self.end = max(times.end, time) - self.start
                    yield VideoFrame(time - self.start, np.ascontiguousarray(pixels))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"{self._path}: does not decode after frame {self.read} ({_reason(error)})"
            ) from None
        if not self.read:
            raise UserError(f"{self._path}: has no frame")
        self.end = max(self.end, times.end - self.start)
        self._check_length(times.end)

    def _check_length(self, end: float) -> None:
        """UserError if the file states that it has more."""
        stated_end = self._stated_end()
        kind, seconds = self._container.format.name, end - self.start
        less = stated_end is not None and seconds < 0.9 * (stated_end - self.start) - 0.5
        cut = is_cut(self._path, kind)
        if cut or (less and (cut is None or is_damaged(self._path, kind))):
            of = f" of {stated_end - self.start:.1f}" if less else ""
            what = "damaged" if cut is False else "cut short"
            raise UserError(f"{self._path}: is {what}, has only {seconds:.1f}{of} seconds")

    def notes(self) -> str:
        """A line on frames that may be wrong, "" without any."""
        lines = []
        if self.display is not None and unknown_matrix(self.display):
            lines.append(
                f"unknown colour matrix {self.display.matrix} of ITU-T H.273; its colours were "
                "read as BT.601"
            )
        if self.damaged:
            lines.append(f"damaged frames: {self.damaged} of {self.read}")
        return "; ".join(lines)

    def audio(self) -> Optional[AudioCopy]:
        """Its audio, to be copied to the drawn video; None without any."""
        return AudioCopy(self._path) if self._container.streams.audio else None

    def close(self) -> None:
        self._container.close()


class VideoWriter:
    """Writes an .mp4: H.264 if this FFmpeg can, else MPEG-4. The file appears at its path only with
    `finish`."""

    def __init__(self, path: str, rate: Fraction, audio: Optional[AudioCopy] = None):
        """rate: frames per second; audio: copied along with the frames. UserError if the file
        cannot be written."""
        import av

        self._path, self._partial, self._audio = path, temporary_path(path), audio
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
        display: DisplayInfo = DisplayInfo(),
    ) -> None:
        """Add a frame, uint8 (height, width, 3) RGB, all of one size; `seconds` since the start,
        ascending. Only the first frame's start and display count: its time in the audio's file
        [seconds], and how the frames are to be shown."""
        import av

        with write_errors(self._path, self._path, av.error.FFmpegError):
            if self._stream is None:
                self._open(*pixels.shape[:2], display)
                if self._audio is not None:
                    self._audio.open(self._container, start)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            self._last = max(self._last + 1, round(seconds / self._tick))
            frame.pts, frame.time_base = self._last, self._tick
            packets = self._stream.encode(self._from_rgb(frame))
            if packets and self._delay is None:
                self._delay = _delay(packets)
            self._container.mux(packets)
            if self._audio is not None:
                self._audio.copy(seconds)

    def _open(self, height: int, width: int, display: DisplayInfo) -> None:
        # 4:2:0 subsampling as usual; H.264 has none for odd sizes.
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        if self._codec == "libx264":  # PyAV sets 1 Mbit/s, whatever the size
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
        tag(self._stream.codec_context, display)
        self._from_rgb = FromRGB(width, height, self._stream.pix_fmt, display.matrix, self._tick)

    def finish(self, complete: bool = True, end: float = 0.0) -> None:
        """Finish the file and move it to its path. complete: include the audio after the last
        frame; end: of the last frame, since the start [seconds], 0 if unknown."""
        import av

        with write_errors(self._path, self._path, av.error.FFmpegError):
            packets = self._stream.encode(None)
            if packets:
                # The last packet lasts until the end, counted in decoding time as .mp4 does.
                first = self._delay if self._delay is not None else _delay(packets)
                packets[-1].duration = max(
                    packets[-1].duration or 0, round(end / self._tick) - first - packets[-1].dts
                )
            self._container.mux(packets)
            if self._audio is not None and complete:
                self._audio.copy()
            self._container.close()
            put_in_place(self._partial, self._path)

    def close(self) -> None:
        """Discard an unfinished file; does nothing after `finish`."""
        self._container.close()
        if self._audio is not None:
            self._audio.close()
        discard(self._partial)


def _tick(rate: Fraction, most: int) -> Fraction:
    """The unit of frame times [seconds] for videos of this rate: fine enough for frames at any
    time, as in GIFs and videos of phones. most: ticks a second that the codec allows; 65,535 for
    MPEG-4."""
    times = min(100, 65535 // rate.numerator)
    for count in (max(times, -(-rate.denominator // (rate.numerator * _COARSEST))), times):
        if count and (rate * count).numerator <= most:
            return 1 / (rate * count)
    return Fraction(1, min(most, 90000))


def _delay(packets) -> int:
    """How long before its display time a packet is decoded [ticks]; packets: the first ones."""
    return packets[0].pts - packets[0].dts


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) == 1:  # some decoders' "failed" looks like EPERM
        return "its data are damaged"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
