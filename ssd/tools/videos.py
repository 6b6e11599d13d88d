"""Videos read and written frame by frame, by PyAV (FFmpeg)."""
from __future__ import annotations

import os
from fractions import Fraction
from typing import Iterator, NamedTuple, Optional

import numpy as np

from ssd.errors import UserError
from ssd.files import discard, put_in_place, temporary_path, write_errors
from ssd.tools.film import FromRGB, Look, ToRGB, Upright, film_stream, look_of, tag, unknown_matrix
from ssd.tools.sound import Sound

ENDINGS = (".mp4", ".m4v", ".mov", ".qt", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts",
           ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".mxf", ".dv", ".y4m", ".gif")
#: Files of sound, which may hold a cover picture: named on a command line, they are said to be no film.
SOUND_ENDINGS = (".m4a", ".m4b", ".mp3", ".aac", ".ogg", ".oga", ".opus", ".flac", ".wav", ".wma", ".mka")
_USUAL_RATE = 25    # frames per second where a video does not say


class Frame(NamedTuple):
    """seconds: since the start of the video; pixels: uint8 (height, width, 3) RGB, upright."""
    seconds: float
    pixels: np.ndarray


class VideoReader:
    """A video's frames in order. rate: frames per second, a Fraction; frames: their number, None where unknown;
    start: of the first one in the file [seconds], and look: how the frames are to be shown, both None before it is
    read."""

    def __init__(self, path):
        """Raises UserError naming the file if it is no video."""
        import av
        self._path, self.read, self.start, self.look = os.fspath(path), 0, None, None
        try:
            self._container = av.open(self._path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"{path}: not a video that can be read ({_reason(error)})") from None
        self._stream = film_stream(self._container)
        # FFmpeg takes a single picture for a video, whatever its name.
        picture = self._container.format.name.endswith("_pipe") or "image2" in self._container.format.name
        if self._stream is None or picture:
            cover = ", only a cover" if self._container.streams.video else ""
            self.close()
            raise UserError(f"{path}: " + ("a picture, not a video" if picture else f"holds no moving pictures{cover}"))
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or _USUAL_RATE)
        seconds = self._seconds()
        self.frames = self._stream.frames or (max(1, round(seconds * self.rate)) if seconds else None)

    def _seconds(self) -> Optional[float]:
        """The length that the file claims, where it is that of the pictures."""
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration and len(self._container.streams) == 1:
            late = self._container.start_time or 0    # Matroska counts from 0, when the first frame may be later
            return (self._container.duration - late * ("matroska" in self._container.format.name)) / 1e6
        return None

    def __iter__(self) -> Iterator[Frame]:
        """Raises UserError where the file cannot be decoded any further; `read` frames are done then."""
        import av
        end, claimed, upright, to_rgb = 0.0, self._seconds(), None, None
        try:
            for frame in self._container.decode(self._stream):
                time = frame.time if frame.time is not None else float(self.read / self.rate)
                self.start = start = time if self.start is None else self.start
                if upright is None:
                    # Phones store a video as the sensor lies and say how it is to be turned.
                    upright, to_rgb = Upright(self._stream, frame), ToRGB(self._stream)
                    self.look = look_of(self._stream, frame, upright.quarter)
                pixels = upright(to_rgb(frame))
                self.read += 1
                end = time - start + float(1 / self.rate)
                yield Frame(time - start, np.ascontiguousarray(pixels))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"{self._path}: does not decode after frame {self.read} ({_reason(error)})") from None
        if not self.read:
            raise UserError(f"{self._path}: holds no frame")
        if claimed is not None and end < 0.9 * claimed - 0.5:    # FFmpeg says nothing of a file that was cut short
            raise UserError(f"{self._path}: is cut short, {end:.1f} of {claimed:.1f} seconds are there")

    def odd(self) -> str:
        """A line on what could not be obeyed, "" where everything is."""
        if self.look is not None and unknown_matrix(self.look):
            return (f"its colours are coded in a way that is not known here (matrix {self.look.matrix} of ITU-T "
                    "H.273); it was looked at as BT.601")
        return ""

    def sound(self) -> Optional[Sound]:
        """What is heard beside it, None without any."""
        return Sound(self._path) if self._container.streams.audio else None

    def close(self) -> None:
        self._container.close()


class VideoWriter:
    """An .mp4: H.264 where this FFmpeg can write it, else MPEG-4. It is at its place only after `finish`."""

    def __init__(self, path: str, rate: Fraction, sound: Optional[Sound] = None):
        """rate: frames per second; sound: is copied beside them, as far as they are. UserError if it cannot be
        written."""
        import av
        self._path, self._partial, self._sound = path, temporary_path(path), sound
        self._rate, self._last = rate.limit_denominator(65535), -1
        self._codec = next((name for name in ("libx264", "libopenh264") if name in av.codecs_available), "mpeg4")
        self._stream = None
        with write_errors(path, path, av.error.FFmpegError):
            self._container = av.open(self._partial, "w", format="mp4")

    def add(self, pixels: np.ndarray, seconds: float, start: float = 0.0, look: Look = Look()) -> None:
        """A frame, uint8 (height, width, 3) RGB, all of one size; `seconds` since the start, rising. start: of the
        first one in the file of the sound [seconds]; look: what the file says of them, that of the first counts."""
        import av
        with write_errors(self._path, self._path, av.error.FFmpegError):
            if self._stream is None:
                self._open(*pixels.shape[:2], look)
                if self._sound is not None:
                    self._sound.open(self._container, start)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            self._last = max(self._last + 1, round(seconds / self._tick))
            frame.pts, frame.time_base = self._last, self._tick
            self._container.mux(self._stream.encode(self._from_rgb(frame)))
            if self._sound is not None:
                self._sound.copy(seconds)

    def _open(self, height: int, width: int, look: Look) -> None:
        # Half of the colour is left out as usual, but for odd sizes, where H.264 cannot.
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv444p" if (width % 2 or height % 2) and self._codec == "libx264" else "yuv420p"
        # Frames may stand at any time, as in videos of phones and in GIFs. MPEG-4 knows 65,535 ticks a second at most.
        times = max(1, min(100, 65535 // self._rate.numerator))
        self._tick = 1 / (self._rate * times)
        self._stream.codec_context.time_base = self._tick
        tag(self._stream.codec_context, look)
        self._from_rgb = FromRGB(width, height, self._stream.pix_fmt, look.matrix, self._tick)

    def finish(self, whole: bool = True) -> None:
        """Ends the file and puts it at its place. whole: with the sound beyond the last frame."""
        import av
        with write_errors(self._path, self._path, av.error.FFmpegError):
            self._container.mux(self._stream.encode(None))
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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
