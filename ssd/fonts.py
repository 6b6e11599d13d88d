"""Text of any script on images: finds installed fonts with its letters, and replaces letters that
no font has.

OpenCV draws only ASCII. Pillow draws the rest (by FreeType, and by HarfBuzz if FriBiDi is
installed, for scripts that join letters or run from right to left). It uses Matplotlib's DejaVu
Sans, which has Latin, Greek, Cyrillic, Hebrew and Arabic; the machine's fonts, for example Noto
Sans CJK; and IPAexGothic (Han and Japanese) if the package matplotlib-fontja is installed (the
extra "fonts").
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import unicodedata
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd.errors import breaks_lines, on_a_line

_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
_PLAIN = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "condensed")
_ASKED = 16  # letters looked up in fontconfig at most: names have few that DejaVu does not


class _Font(NamedTuple):
    """A font file and the index of the font in it; letters: the code points that it has."""

    path: str
    index: int
    letters: FrozenSet[int]


def readable(text: str) -> str:
    """`text` with everything that cannot be drawn (letters that no font has, control characters,
    broken encoding) as escapes such as \\u65b9, so that different names stay different."""
    if text.isascii() and text.isprintable():
        return text
    missing = missing_letters(text)
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter in missing or _is_control(letter)
        else letter
        for letter in text
    )


def shortened(text: str, most: int) -> str:
    """`text` with at most so many letters (at least 3): its beginning and end around "..", because
    similar names often differ at the end, and because labels end with the score."""
    if len(text) <= most:
        return text
    end = (most - 2) // 2
    return text[: most - 2 - end] + ".." + (text[-end:] if end else "")


def missing_letters(text: str) -> FrozenSet[str]:
    """The letters of `text` that no installed font has."""
    wanted = frozenset(
        letter for letter in text if not letter.isascii() and not _is_control(letter)
    )
    return wanted - frozenset(letter for letter in wanted if _font_of(letter, wanted) is not None)


def labels_of(names: Sequence[str]) -> Tuple[Dict[str, str], str]:
    """(label of each class name in drawn images, legend). A label is the name; if no font has some
    of its letters, it is the number of the class, from 1, as #1, or as ##1 if another class is
    named #1. The legend is "" if all labels are names."""
    labels = {}
    for number, name in enumerate(names, 1):
        label = f"#{number}" if missing_letters(name) else name
        while label != name and label in names:
            label = "#" + label
        labels[name] = label
    numbered = [f"{label} is {on_a_line(name)}" for name, label in labels.items() if label != name]
    return labels, (
        numbered
        and (
            f"in the drawn images {', '.join(numbered)}: no installed font has these letters "
            "(fonts that may: the system's Noto Sans or Noto Sans CJK; for Chinese and Japanese "
            "also pip install matplotlib-fontja)"
        )
    ) or ""


def text_extent(text: str, pixels: int) -> Tuple[int, int, int]:
    """(width, height above the baseline, height below it) of drawn text [pixels]; pixels: size of
    the em square."""
    runs = _runs(text, pixels)
    return (
        round(sum(font.getlength(part, **_across(font)) for part, font in runs)) or 1,
        max(font.getmetrics()[0] for _, font in runs),
        max(font.getmetrics()[1] for _, font in runs),
    )


def render_text(
    canvas: np.ndarray, text: str, left: int, baseline: int, color, pixels: int
) -> None:
    """Draw text on `canvas`, uint8 (height, width, 3), in place; color: three numbers, 0 to
    255."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(canvas)
    pen, x = ImageDraw.Draw(image), float(left)
    for part, font in _runs(text, pixels):
        pen.text(
            (x, baseline),
            part,
            fill=tuple(map(int, color)),
            font=font,
            anchor="ls",
            **_across(font),
        )
        x += font.getlength(part, **_across(font))
    canvas[:] = np.asarray(image)


def for_matplotlib(texts: Iterable[str]) -> List[str]:
    """Font families for Matplotlib's `font.family` that together have the letters of `texts`."""
    from matplotlib import font_manager

    families, letters = ["DejaVu Sans"], frozenset("".join(texts))
    for letter in sorted(letters):
        font = None if letter.isascii() else _font_of(letter, letters)
        if (
            font is not None
            and font.index == 0
            and not font.path.startswith(os.path.dirname(_dejavu() or "/none/"))
        ):
            font_manager.fontManager.addfont(font.path)
            families.append(font_manager.FontProperties(fname=font.path).get_name())
    return list(dict.fromkeys(families))


def _is_control(letter: str) -> bool:
    return breaks_lines(letter) or unicodedata.category(letter) in ("Cn", "Co")


def _runs(text: str, pixels: int) -> list:
    """(part of the text, Pillow's font for it), in order; each part is as long as possible."""
    parts, wanted = [], frozenset(text)
    for letter in text:
        before = parts[-1][1] if parts else None
        if (
            before is not None
            and ord(letter) in before.letters
            and not (letter.isascii() and letter.isalnum() and before is not _first())
        ):
            parts[-1][0] += letter
            continue
        font = _font_of(letter, wanted) or before or _first()
        if font is before and parts:
            parts[-1][0] += letter
        else:
            parts.append([letter, font])
    return [(part, _loaded(font, pixels)) for part, font in parts]


def _across(font) -> Dict[str, str]:
    """For Pillow: lines run from left to right even if their first letter does not, as in file
    names."""
    from PIL import ImageFont

    return dict(direction="ltr") if font.layout_engine == ImageFont.Layout.RAQM else {}


@functools.lru_cache(maxsize=None)
def _loaded(font, pixels: int):
    from PIL import ImageFont

    if font is None:  # Pillow's default font has Latin letters
        return ImageFont.load_default(pixels)
    return ImageFont.truetype(font.path, pixels, index=font.index)


def _font_of(letter: str, wanted: FrozenSet[str]):
    """The font that draws a letter, None without one. wanted: all letters of the text, which are
    looked up together."""
    first = _first()
    if first is not None and ord(letter) in first.letters:
        return first
    rest = frozenset(
        one
        for one in wanted
        if not one.isascii()
        and not _is_control(one)
        and not (first is not None and ord(one) in first.letters)
    ) | {letter}
    return _chosen(rest).get(letter)


@functools.lru_cache(maxsize=64)
def _chosen(letters: FrozenSet[str]) -> Dict[str, _Font]:
    """A font for each letter that some font of the machine has; greedily, to use few fonts."""
    left, chosen, known = set(letters), {}, {}
    for path, index in _candidates(letters):
        font = _read(path, index)
        if font is not None and any(ord(letter) in font.letters for letter in left):
            known[path, index] = font
    while left and known:
        key = max(
            known,
            key=lambda key: (
                sum(ord(letter) in known[key].letters for letter in left),
                -_oddness(key[0]),
                [-ord(one) for one in key[0]],
            ),
        )
        font = known.pop(key)
        mine = {letter for letter in left if ord(letter) in font.letters}
        chosen.update(dict.fromkeys(mine, font))
        left -= mine
    return chosen


def _oddness(path: str) -> int:
    name = os.path.basename(path).lower().replace("sansserif", "sans")
    return sum(word in name for word in _PLAIN)


def _candidates(letters: FrozenSet[str]) -> List[Tuple[str, int]]:
    """(file, index in it) of fonts that may have some of the letters: by fontconfig if it is
    installed, else every font in the usual folders."""
    found, shipped, tool = (
        {},
        importlib.util.find_spec("matplotlib_fontja"),
        shutil.which("fc-list"),
    )
    if tool:
        for letter in sorted(letters)[:_ASKED]:
            try:
                done = subprocess.run(
                    [tool, "-f", "%{file}\t%{index}\n", f":charset={ord(letter):x}"],
                    timeout=20,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired):
                break
            for line in os.fsdecode(done.stdout).splitlines():
                path, _, index = line.partition("\t")
                if path.lower().endswith(_ENDINGS) and index.isdigit():
                    # The upper bits are the instance of a variable font.
                    found[path, int(index) & 0xFFFF] = None
    if not found:
        for folder in _folders():
            for parent, _, names in os.walk(folder):
                found.update(
                    {
                        (os.path.join(parent, name), 0): None
                        for name in names
                        if name.lower().endswith(_ENDINGS)
                    }
                )
    if shipped is not None and shipped.origin:
        found[os.path.join(os.path.dirname(shipped.origin), "fonts", "ipaexg.ttf"), 0] = None
    return sorted(found)


def _folders() -> List[str]:
    home = os.path.expanduser("~")
    data = [
        os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"),
        *(os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"),
    ]
    return [os.path.join(home, ".fonts")] + [
        os.path.join(folder, "fonts") for folder in data if folder
    ]


@functools.lru_cache(maxsize=None)
def _read(path: str, index: int):
    """A font that Pillow can draw with, else None."""
    try:
        from fontTools.ttLib import TTFont  # comes with Matplotlib

        with TTFont(path, fontNumber=index, lazy=True) as file:
            letters = frozenset(file.getBestCmap() or ())
        font = _Font(path, index, letters)
        _loaded(font, 14)  # fails for bitmap fonts (colour emoji), which have one size
        return font
    except Exception:  # a damaged font raises nearly anything
        return None


def _dejavu() -> str:
    spec = importlib.util.find_spec("matplotlib")
    return (
        os.path.join(os.path.dirname(spec.origin), "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if spec is not None and spec.origin
        else ""
    )


@functools.lru_cache(maxsize=None)
def _first():
    """The font tried first, None without Matplotlib."""
    return _read(_dejavu(), 0)
