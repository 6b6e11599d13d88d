"""A COCO annotation file read piece by piece: files of gigabytes in tens of megabytes of memory.

json.loads needs the complete text and an object per value, some 10 GB for ten million boxes. This
module reads the text in pieces and decodes the entries of each section with json's own scanner,
thousands at a time. What is accepted, what is refused and the position that an error names are the
same as with json.loads.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, List, Optional

from ssd.datasets.annotation_file import SECTIONS, collector_off, not_json, opened, show
from ssd.errors import UserError

PIECE = 1 << 20  # bytes that are read at a time
# An error that json finds this close to the end of the text read so far may vanish with more text:
# the start of -Infinity, or the two halves of an escaped character.
_NEAR_END = 16
_SPACE = " \t\n\r"


# Takes the entries of a section; and what makes one of these when a section begins.
Take = Callable[[List[Any]], None]
Begin = Callable[[], Take]


def stream_annotation_file(
    path, sections: Dict[str, Begin], others: Optional[Dict[str, Any]] = None
) -> None:
    """Passes on the entries of `images`, `annotations` and `categories` in lists, in the file's
    order; the file is read once.

    sections: for each section that is wanted, a function that is called where it begins; its result
    is called with each list. The entries are not checked. others: receives the other values of the
    top level, by name.

    Raises UserError, in one line, for a file that cannot be read, is not JSON or is not COCO ground
    truth (a list at the top level is named as COCO detections, a section that occurs twice is
    named). An error at the file's end is raised after all entries were passed on.
    """
    path = os.fspath(path)
    with opened(path) as file, collector_off():
        takes: Dict[str, Take] = {}
        try:
            text = _open_text(file)
            if text.next() != "{":
                raise _no_object(path, text)
            for section, entries in _parts(path, text, others):
                if section not in sections:
                    continue
                if entries is None:
                    takes[section] = sections[section]()
                else:
                    takes[section](entries)
        except UserError:
            raise
        except (
            ValueError,
            RecursionError,
        ) as error:  # ValueError: _Mistake, and an integer too long
            raise not_json(path, error) from None


def read_annotation_file(path) -> Dict[str, Any]:
    """A COCO annotation file as one object whose three sections are lists; the entries are not
    checked. UserError as of stream_annotation_file."""
    content: Dict[str, Any] = {}

    def begin(section: str) -> Begin:
        def take() -> Take:
            content[section] = []
            return content[section].extend

        return take

    stream_annotation_file(path, {section: begin(section) for section in SECTIONS}, content)
    return content


def _open_text(file) -> _Text:
    """The text of a file in any of JSON's encodings. Others than UTF-8 are rare, and read at
    once."""
    start = file.read(4)
    encoding = json.detect_encoding(start)
    if encoding == "utf-8-sig":
        return _Text(file, start[3:], 3)
    return (
        _Text(file, start)
        if encoding == "utf-8"
        else _Text(text=(start + file.read()).decode(encoding, "surrogatepass"))
    )


def _no_object(path: str, text: _Text) -> UserError:
    """Names what the top level is instead of an object; _Mistake if the text is not JSON."""
    is_list = text.next() == "["
    content = text.value()
    if text.next():
        raise text.mistake("Extra data", text.position)
    return UserError(
        f"annotation file {path} is not COCO ground truth: a list at the top level, as COCO "
        "detections have it"
        if is_list
        else f"annotation file {path} is not COCO: {show(content)} at the top level"
    )


class _Mistake(ValueError):
    """json's message for an error in the text; not a JSONDecodeError, which needs the complete
    text."""


class _Text:
    """The text of a file, as much as has been read and not consumed; `position` is the next
    character."""

    def __init__(self, file=None, start: bytes = b"", passed: int = 0, text: str = ""):
        """file: in UTF-8, of which `start` has been read already, after `passed` bytes; or `text`:
        all of it."""
        self._file, self._rest, self.ended = file, start, file is None
        self._bytes = passed  # decoded or skipped
        self.text, self.position = text, 0
        # Of the text that was dropped: characters, lines, and characters of the last line
        self._characters = self._lines = self._column = 0
        self.scan = json.JSONDecoder().scan_once

    def more(self) -> None:
        """Reads at least as much again as is kept, so that long values are not scanned many
        times."""
        if self.ended:
            return
        new = self._file.read(max(PIECE, len(self.text) - self.position))
        block, self.ended = self._rest + new, not new
        cut = len(block) if self.ended else _complete_characters(block)
        self._rest = block[cut:]
        try:
            decoded = block[:cut].decode("utf-8", "surrogatepass")  # as json.loads does
        except UnicodeDecodeError as error:
            raise _Mistake(
                f"byte 0x{block[error.start]:02x} at position {self._bytes + error.start} is no "
                f"UTF-8: {error.reason}"
            ) from None
        self._bytes += cut
        dropped = self.text[: self.position]
        self._characters += len(dropped)
        if "\n" in dropped:
            self._lines, self._column = self._lines + dropped.count("\n"), 0
            dropped = dropped[dropped.rindex("\n") + 1 :]
        self._column += len(dropped)
        self.text, self.position = self.text[self.position :] + decoded, 0

    def offset(self) -> int:
        """Characters before `position`, from the start of the file."""
        return self._characters + self.position

    def next(self) -> str:
        """The next character that is not a space, "" at the end of the file; it is not consumed."""
        while True:
            text, position = self.text, self.position
            while position < len(text) and text[position] in _SPACE:
                position += 1
            self.position = position
            if position < len(text) or self.ended:
                return text[position : position + 1]
            self.more()

    def take(self, character: str, message: str) -> None:
        """Consumes a character, which must be next."""
        if self.next() != character:
            raise self.mistake(message, self.position)
        self.position += 1

    def value(self):
        """Consumes the next value, and returns it decoded."""
        self.next()
        while True:
            length = len(self.text)
            try:
                value, end = self.scan(self.text, self.position)
                # A number may continue in the next piece.
                if type(value) not in (int, float) or end < length - _NEAR_END or self.ended:
                    self.position = end
                    return value
            except StopIteration as error:
                if self.ended or error.value < length - _NEAR_END:
                    raise self.mistake("Expecting value", error.value) from None
            except json.JSONDecodeError as error:
                cut = error.pos >= length - _NEAR_END or error.msg.startswith("Unterminated string")
                if self.ended or not cut:
                    raise self.mistake(error.msg, error.pos) from None
            self.more()

    def mistake(self, message: str, position: int) -> _Mistake:
        """With json.JSONDecodeError's message, for a position in `text`."""
        before = self.text[:position]
        line = self._lines + before.count("\n") + 1
        column = (
            len(before) - before.rindex("\n") if "\n" in before else self._column + len(before) + 1
        )
        return _Mistake(
            f"{message}: line {line} column {column} (char {self._characters + position})"
        )


def _complete_characters(block: bytes) -> int:
    """Number of bytes of the block without an incomplete last character."""
    for back in range(1, min(4, len(block) + 1)):
        byte = block[-back]
        if byte >= 0xC0:  # the first byte of a character; its value tells how many there are
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(block) - back if back < wanted else len(block)
        if byte < 0x80:
            break
    return len(block)


def _parts(path: str, text: _Text, others: Optional[Dict[str, Any]]):
    """(section, None) where a section of the next object begins, then (section, entries). UserError
    at once for a section that occurs twice; for one that is missing or not a list, once all is
    read.
    """
    found: Dict[str, Optional[str]] = {}
    text.take("{", "Expecting value")
    if text.next() == "}":
        text.position += 1
    else:
        while True:
            if text.next() != '"':
                raise text.mistake(
                    "Expecting property name enclosed in double quotes", text.position
                )
            name = text.value()
            text.take(":", "Expecting ':' delimiter")
            if name in found:
                raise UserError(
                    f"annotation file {path}: {name!r} occurs twice, and which one counts cannot "
                    "be known"
                )
            if name not in SECTIONS:
                value = text.value()
                if others is not None:
                    others[name] = value
            elif text.next() != "[":
                found[name] = show(text.value())
            else:
                yield name, None
                found[name] = None
                for entries in _entries(text):
                    yield name, entries
            if text.next() == "}":
                text.position += 1
                break
            text.take(",", "Expecting ',' delimiter")
    if text.next():
        raise text.mistake("Extra data", text.position)
    for section in SECTIONS:
        if section not in found:
            raise UserError(f"annotation file {path} is not COCO: it has no {section!r}")
        if found[section] is not None:
            raise UserError(
                f"annotation file {path} is not COCO: {section!r} is not a list but "
                f"{found[section]}"
            )


def _entries(text: _Text):
    """The entries of the next list, in parts; consumes it."""
    text.take("[", "Expecting value")
    if text.next() == "]":
        text.position += 1
        return
    while True:
        yield _some_entries(text)
        if text.next() == "]":
            text.position += 1
            return
        text.take(",", "Expecting ',' delimiter")
        if text.next() == "]":
            raise text.mistake("Expecting value", text.position)


def _some_entries(text: _Text) -> List[Any]:
    """At least one entry, and of a list of objects all that are completely in the text so far."""
    # The text up to the last "}," is scanned as a list. That works if the list ends before or
    # exactly at the cut; a cut inside an entry or a string leaves something open, which json
    # refuses.
    start, cut = text.position, text.text.rfind("},", text.position) + 1
    if cut > 0:
        part = f"[{text.text[start:cut]}]"
        try:
            entries, end = text.scan(part, 0)
            text.position = cut if end == len(part) else start + end - 2
            return entries
        except (ValueError, StopIteration):
            pass
    limit, entries = text.offset() + cut - start, [text.value()]
    # One by one, but not beyond the end of the text so far.
    while text.offset() < limit and text.next() == ",":
        text.position += 1
        if text.next() == "]":
            raise text.mistake("Expecting value", text.position)
        entries.append(text.value())
    return entries
