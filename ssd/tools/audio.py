"""Copies the audio of a video packet by packet into the drawn video, by PyAV (FFmpeg)."""

from __future__ import annotations

import io
import math
from typing import Optional


class AudioCopy:
    """The audio of a video file. The file is opened a second time for it, so that only one packet
    is held in memory.

    missing: a line on the audio that is not copied, "" if all of it is.
    """

    def __init__(self, path: str, format: str = "mp4"):
        """path: a file that FFmpeg can open; format: FFmpeg's name of the output format; streams
        that it cannot hold are left out."""
        import av

        self.missing, self._out, self._start = "", {}, 0.0
        self._container = av.open(path)
        streams = list(self._container.streams.audio)
        self._streams = [stream for stream in streams if is_accepted(stream, format)]
        refused = [stream for stream in streams if stream not in self._streams]
        if refused:
            names = ", ".join(dict.fromkeys(stream.codec_context.name for stream in refused))
            self.missing = (
                f"its audio ({names}) is left out of the drawn video: .{format} cannot hold it"
            )
        self._packets = self._container.demux(*self._streams) if self._streams else iter(())
        self._next = None

    def open(self, output, start: float) -> None:
        """Add the streams to `output`, an av container that has not been started. start: the time
        of the first frame in the file [seconds], which is 0 in the output."""
        self._out = {stream.index: output.add_stream(template=stream) for stream in self._streams}
        self._output, self._start = output, start
        self._advance()

    def copy(self, until: float = math.inf) -> None:
        """Write the audio up to `until` seconds after the start."""
        import av

        while self._next is not None and self._seconds(self._next) <= until:
            packet = self._next
            seconds, shift = self._seconds(packet), round(self._start / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = self._out[packet.stream.index]
            try:
                self._output.mux(packet)
            except (
                av.error.ValueError,
                av.error.InvalidDataError,
            ) as error:  # times that do not rise
                self._stop(seconds, error)
                return
            self._advance()

    def _advance(self) -> None:
        import av

        before = self._next
        try:
            self._next = next((packet for packet in self._packets if packet.dts is not None), None)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._stop(0.0 if before is None else self._seconds(before), error)

    def _stop(self, seconds: float, error: Exception) -> None:
        self._next = None
        self.missing = f"its audio ends at {max(0.0, seconds):.1f} s in the drawn video ({error})"

    def _seconds(self, packet) -> float:
        return float(packet.dts * packet.time_base) - self._start

    @property
    def position(self) -> Optional[float]:
        """Time of the first packet that is not copied yet [seconds since the start], None at the
        end."""
        return None if self._next is None else self._seconds(self._next)

    def close(self) -> None:
        self._container.close()


def is_accepted(stream, format: str) -> bool:
    """Whether a file of this format can hold the packets of an audio stream unchanged: tries it
    with FFmpeg, in memory."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            trial.add_stream(template=stream)
            trial.start_encoding()
        return True
    except (av.error.FFmpegError, OSError, ValueError):
        return False
