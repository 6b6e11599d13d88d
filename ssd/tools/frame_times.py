"""The times of a video's frames, where FFmpeg's time of a frame is wrong or missing."""

from __future__ import annotations

import collections
import os
from fractions import Fraction
from typing import Optional, Tuple


class FrameTimes:
    """The times of the frames of one stream. end: the end of the packets and frames so far, in the
    file's time [seconds]."""

    def __init__(self, container, rate: Fraction):
        # AVI numbers its chunks in decoding order only. Frames come in display order, so the n-th
        # frame has the time of the n-th chunk.
        self._queue = collections.deque() if container.format.name == "avi" else None
        self._length, self._last, self.end = float(1 / rate), None, 0.0

    def note(self, packet) -> None:
        """Take note of a packet, before its frames are decoded."""
        if not packet.size or (packet.dts is None and packet.pts is None):
            return
        if self._queue is not None and packet.dts is not None:
            self._queue.append(float(packet.dts * packet.time_base))
        start = packet.dts if packet.pts is None or self._queue is not None else packet.pts
        self.end = max(self.end, float((start + (packet.duration or 0)) * packet.time_base))

    def of(self, frame) -> float:
        """The time of the next frame in the file [seconds]: never before the last one, and one
        frame duration after it if the file has no time."""
        time = frame.time
        if self._queue:
            time = self._queue.popleft()
        if time is None:
            time = 0.0 if self._last is None else self._last + self._length
        self._last = time if self._last is None else max(self._last, time)
        self.end = max(self.end, self._last)
        return self._last


def is_cut(path: str, format: str) -> Optional[bool]:
    """Whether a file is shorter than its header states; None if that cannot be known. format:
    FFmpeg's name. FFmpeg does not report this, and the times in MP4 and Matroska do not show it:
    their last frame may have any duration."""
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
    """Whether a Matroska file, though not cut short, has a gap between its elements: FFmpeg skips
    what it cannot parse. False for other files."""
    if "matroska" not in format:
        return False
    with open(path, "rb") as file:
        offset, end = _segment(file)
        waiting = [(offset, end or os.path.getsize(path))]
        while waiting:
            offset, end = waiting.pop()
            while offset < end:
                kind, start, stop = _element(file, offset)
                if not start or stop > end:
                    return True
                if kind == _CLUSTER:
                    waiting.append((start, stop))
                offset = stop
    return False


_CLUSTER = b"\x1f\x43\xb6\x75"
# In a segment: seek head, information, tracks, cues, attachments, chapters, tags, cluster; in a
# cluster: time, position, sizes, blocks; anywhere: void, checksum.
_ELEMENTS = {
    bytes.fromhex(name)
    for name in (
        "114d9b74 1549a966 1654ae6b 1c53bb6b 1941a469 1043a770 1254c367 1f43b675 "
        "e7 a7 ab 5854 a3 a0 af ec bf"
    ).split()
}


def _element(file, offset: int) -> Tuple[bytes, int, int]:
    """(id, start, end) of the content of the Matroska element at `offset` [bytes]; start is 0 if it
    is not a known element, end is 0 if its size is not stated."""
    file.seek(offset)
    head = file.read(12)
    length = _width(head[:1])  # of the id
    width = _width(head[length : length + 1])
    if not length or not width or len(head) < length + width:
        return b"", 0, 0
    size = int.from_bytes(head[length : length + width], "big") & (1 << 7 * width) - 1
    start, kind = offset + length + width, head[:length]
    known = kind in _ELEMENTS or kind in (
        b"\x1a\x45\xdf\xa3",
        b"\x18\x53\x80\x67",
    )  # EBML's header, the segment
    return kind, start if known else 0, 0 if size == (1 << 7 * width) - 1 else start + size


def _segment(file) -> Tuple[int, int]:
    """(start, stated end) of the content of a Matroska file's segment [bytes]; the end is 0 in
    recordings that do not state it."""
    return _element(file, _element(file, 0)[2])[1:]


def _mp4_end(file, size: int) -> int:
    """The stated end of the last top-level box [bytes]."""
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # in 64 bits
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file; other values are invalid
            return size
        offset += length
    return offset


def _width(first: bytes) -> int:
    """The number of bytes of an EBML integer, from its first byte: leading zero bits plus one; 0 if
    it is invalid."""
    return 9 - first[0].bit_length() if first and first[0] else 0
