"""Lines as wide as a terminal, and lines for scripts."""

import io
import sys

import pytest

from ssd.terminal import columns, fitted, padded

LINE = "machine             " + " ".join(f"word{number}" for number in range(20))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_columns_of_letters():
    assert columns("cat") == 3 and columns("\u4ea4\u901a") == 4 and columns("re\u0301") == 2
    assert (
        padded("\u4ea4\u901a", 6) == "\u4ea4\u901a  "
        and padded("much too long", 3) == "much too long"
    )


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_on_a_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    lines = fitted(LINE + "\n\nshort", 20).split("\n")
    assert max(map(len, lines)) <= width and lines[-2:] == ["", "short"]
    assert " ".join(" ".join(lines[:-2]).split()) == " ".join(LINE.split())
    assert all(line.startswith(" " * 20 + "word") for line in lines[1:-2])
    assert (len(lines) == 3) == (width == 200)


def test_what_cannot_be_broken_stays_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "x" * 90 in fitted("name " + "x" * 90, 20).split()
    monkeypatch.setenv("COLUMNS", "30")
    assert fitted(LINE, 20) == LINE, "no room beside the names"


def test_scripts_get_every_line_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert fitted(LINE, 20) == LINE
