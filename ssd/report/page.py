"""A self-contained HTML page: style, script, charts and images are in the one file."""

from __future__ import annotations

import os
from html import escape
from typing import NamedTuple, Sequence, Tuple

from ssd.errors import UserError
from ssd.files import replace_file, write_errors
from ssd.report.style import SCRIPT, STYLE

GENERATOR = "ssd report"  # marks our reports, which may be overwritten


class Section(NamedTuple):
    """name: the anchor; heading, html: the content; a section with empty html is left out."""

    name: str
    heading: str
    html: str


def page(
    title: str, subtitle: str, tiles: Sequence[Tuple[str, str, str]], sections: Sequence[Section]
) -> str:
    """The HTML of the page. tiles: the numbers on top, each (value, caption, CSS class "good",
    "bad" or "")."""
    shown = [section for section in sections if section.html]
    boxes = "".join(
        f'<div class="tile"><b class="{style}">{escape(value)}</b>'
        f"<span>{escape(caption)}</span></div>"
        for value, caption, style in tiles
    )
    links = "".join(f'<a href="#{section.name}">{escape(section.heading)}</a>' for section in shown)
    body = "".join(
        f'<section id="{section.name}"><h2>{escape(section.heading)}</h2>{section.html}</section>\n'
        for section in shown
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta '
        f'charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="generator" content="{GENERATOR}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><main><header><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(subtitle)}</p></header>\n<div '
        f'class="tiles">{boxes}</div>\n<nav>{links}</nav>\n'
        f"{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def write_page(path: str, text: str) -> None:
    """Write `text` to `path`, atomically; an older report is replaced. UserError if any other file
    exists or if writing fails."""
    if os.path.lexists(path) and not is_report(path):
        raise UserError(f"{path}: exists already and is not a report")
    with write_errors(f"report {path}", path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        # Paths may hold bytes that are not UTF-8.
        replace_file(path, text.encode("utf-8", "backslashreplace"))


def is_report(path: str) -> bool:
    """Whether the file is a page made by `page`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return f'name="generator" content="{GENERATOR}"' in file.read(2000)
    except OSError:
        return False


def facts(rows: Sequence[Tuple[str, str]]) -> str:
    """A table of names and values; rows with an empty value are left out."""
    return (
        "<table>"
        + "".join(
            f'<tr><td class="key">{escape(name)}</td><td class="value">{escape(value)}</td></tr>'
            for name, value in rows
            if value
        )
        + "</table>"
    )


def fraction(value: float, digits: int = 3) -> str:
    """A number in [0, 1], or a dash for COCO's -1 (undefined), as text."""
    return "–" if value < 0 else f"{value:.{digits}f}"
