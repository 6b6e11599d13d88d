"""When the frames of a video stand, where FFmpeg's word on a frame is not the whole truth."""

from __future__ import annotations

import collections
import os
from fractions import Fraction
from typing import Optional, Tuple


class FrameTimes:
    """The times of the frames of one stream. end: of what was noted so far, in the file
    [seconds]."""

    def __init__(self, container, rate: Fraction):
        # AVI numbers its chunks in the order of decoding alone. Frames come in the order of
        # showing, so that the n-th frame stands where the n-th chunk does.
        self._queue = collections.deque() if container.format.name == "avi" else None
        self._length, self._last, self.end = float(1 / rate), None, 0.0

    def note(self, packet) -> None:
        """A packet, before its frames are decoded."""
        if not packet.size or (packet.dts is None and packet.pts is None):
            return
        if self._queue is not None and packet.dts is not None:
            self._queue.append(float(packet.dts * packet.time_base))
        start = packet.dts if packet.pts is None or self._queue is not None else packet.pts
        self.end = max(self.end, float((start + (packet.duration or 0)) * packet.time_base))

    def of(self, frame) -> float:
        """The time of the next frame in the file [seconds]: never before the last one, and a
        frame's length after it where the file does not say."""
        time = frame.time
        if self._queue:
            time = self._queue.popleft()
        if time is None:
            time = 0.0 if self._last is None else self._last + self._length
        self._last = time if self._last is None else max(self._last, time)
        self.end = max(self.end, self._last)
        return self._last


def is_cut(path: str, format: str) -> Optional[bool]:
    """Whether a file is shorter than the parts say that it is made of; None where that cannot be
    known. format: FFmpeg's name. FFmpeg says nothing of it, and the times of MP4 and Matroska do
    not tell: their last frames may last for any time."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if "matroska" in format:
            return _segment(file)[1] > size
        if "mp4" in format:
            return _mp4_end(file, size) > size
        if format == "gif":
            file.seek(max(0, size - 64))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
    return None


def is_damaged(path: str, format: str) -> bool:
    """Whether the elements of a Matroska file, whose end is there, do not follow each other: FFmpeg
    then passes by what it cannot make sense of. False for other files."""
    if "matroska" not in format:
        return False
    with open(path, "rb") as file:
        place, end = _segment(file)
        waiting = [(place, end or os.path.getsize(path))]
        while waiting:
            place, end = waiting.pop()
            while place < end:
                kind, start, stop = _element(file, place)
                if not start or stop > end:
                    return True
                if kind == _CLUSTER:
                    waiting.append((start, stop))
                place = stop
    return False


_CLUSTER = b"\x1f\x43\xb6\x75"
# Inside a segment: seek head, information, tracks, cues, attachments, chapters, tags; a cluster and
# what is in it: time, place, sizes, blocks; and what may be anywhere: void, check sum.
_ELEMENTS = {
    bytes.fromhex(name)
    for name in (
        "114d9b74 1549a966 1654ae6b 1c53bb6b 1941a469 1043a770 1254c367 1f43b675 "
        "e7 a7 ab 5854 a3 a0 af ec bf"
    ).split()
}


def _element(file, place: int) -> Tuple[bytes, int, int]:
    """(id, start, end) of the content of a Matroska element [bytes]; start is 0 where there is none
    that is known; end is 0 where the element does not say."""
    file.seek(place)
    head = file.read(12)
    length = _width(head[:1])  # of the id
    width = _width(head[length : length + 1])
    if not length or not width or len(head) < length + width:
        return b"", 0, 0
    size = int.from_bytes(head[length : length + width], "big") & (1 << 7 * width) - 1
    start, kind = place + length + width, head[:length]
    known = kind in _ELEMENTS or kind in (
        b"\x1a\x45\xdf\xa3",
        b"\x18\x53\x80\x67",
    )  # EBML's header, the segment
    return kind, start if known else 0, 0 if size == (1 << 7 * width) - 1 else start + size


def _segment(file) -> Tuple[int, int]:
    """Where the segment of a Matroska file starts and, by its own word, ends [bytes]; 0 of
    recordings that do not say."""
    return _element(file, _element(file, 0)[2])[1:]


def _mp4_end(file, size: int) -> int:
    """Where the last of the outer boxes ends by its own word [bytes]."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # in 64 bits
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file; others are no boxes
            return size
        place += length
    return place


def _width(first: bytes) -> int:
    """Bytes of one of EBML's numbers, from its first one: one more than the zeros in front; 0 where
    there is none."""
    return 9 - first[0].bit_length() if first and first[0] else 0
