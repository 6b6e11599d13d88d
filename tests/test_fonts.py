"""Class names of any script on images: in a font that has their letters, else a number and a
legend."""

import os

import numpy as np
import pytest

from ssd import fonts
from ssd.drawing import draw_boxes

GREY = 90
HAN, CAT = "\u65b9\u5f62", "\U0001f408"


def make_font(path, letters, family="Boxes"):
    """A font in which every letter is a filled rectangle, as wide as its index in `letters`
    says."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = [".notdef"] + [f"letter{number}" for number in range(len(letters))]
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        if number:
            right = 300 + 150 * number
            for place, point in enumerate(((100, 0), (100, 700), (right, 700), (right, 0))):
                (pen.lineTo if place else pen.moveTo)(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName=family, styleName="Regular"))
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(str(path))
    return path


def forget():
    for function in (fonts._chosen, fonts._read, fonts._loaded, fonts._first):
        function.cache_clear()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without fonts, fontconfig and matplotlib-fontja; the folder of its user's fonts."""
    for name, value in dict(
        HOME=tmp_path,
        XDG_DATA_HOME=tmp_path / "share",
        XDG_DATA_DIRS=tmp_path / "none",
        PATH=tmp_path / "bin",
    ).items():
        monkeypatch.setenv(name, str(value))
    find = fonts.importlib.util.find_spec
    monkeypatch.setattr(
        fonts.importlib.util,
        "find_spec",
        lambda name: None if name == "matplotlib_fontja" else find(name),
    )
    forget()
    yield tmp_path / "share" / "fonts"
    forget()


def label(name, scale=1):
    """The drawn label of a class, on grey, without its box."""
    image = np.full((120 * scale, 400 * scale, 3), GREY, np.uint8)
    drawn = draw_boxes(
        image, [[20, 60, 60, 100]], [name], [0.5], {name: (255, 0, 0)}, caption="{name}"
    )
    return drawn[:60]


# Scripts that Matplotlib's DejaVu Sans has: two words of each that differ.
SCRIPTS = {
    "German": ("M\u00fcll", "M\u00f6ll"),
    "Polish": ("\u0141\u00f3d\u017a", "\u0141\u00f3d\u017e"),
    "Turkish": ("\u0131\u015f\u0131k", "i\u015f\u0131k"),
    "Vietnamese": ("ch\u00f3 m\u1ec7t", "ch\u00f3 m\u1eb9t"),
    "Greek": ("\u03b1\u03b2\u03b3", "\u03b1\u03b2\u03b4"),
    "Russian": ("\u043a\u043e\u0442", "\u043a\u0438\u0442"),
    "Ukrainian": ("\u0457\u0436\u0430\u043a", "\u0454\u0436\u0430\u043a"),
    "Armenian": ("\u0561\u0562", "\u0561\u0563"),
    "Georgian": ("\u10d0\u10d1", "\u10d0\u10d2"),
    "Hebrew": ("\u05d0\u05d1", "\u05d0\u05d2"),
    "Arabic": ("\u0635\u0646\u062f\u0648\u0642", "\u0635\u0646\u062f\u0648\u0641"),
    "signs": ("\u2192 \u20ac", "\u2190 \u20ac"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_the_bundled_font(machine, script):
    one, other = SCRIPTS[script]
    assert fonts.labels_of([one, other]) == ({one: one, other: other}, "")
    assert fonts.readable(one) == one
    drawn = label(one)
    assert (drawn != label(other)).any() and (drawn != GREY).any()
    assert (drawn != label(one.encode("ascii", "replace").decode())).any(), (
        "not the question marks of OpenCV"
    )


def test_letters_run_from_right_to_left(machine):
    """The first letter of a Hebrew word is its rightmost."""
    from PIL import features

    if not features.check("raqm"):
        pytest.skip("this Pillow has no FriBiDi")
    alef, bet = "\u05d0", "\u05d1"
    canvas = [np.zeros((40, 60, 3), np.uint8) for _ in range(2)]
    fonts.render_text(canvas[0], alef + bet, 5, 30, (255, 255, 255), 24)
    fonts.render_text(canvas[1], bet, 5, 30, (255, 255, 255), 24)
    width = fonts.text_extent(bet, 24)[0]
    assert (canvas[0][:, : 5 + width - 2] == canvas[1][:, : 5 + width - 2]).mean() > 0.97


def test_a_font_of_the_machine_is_found(machine):
    assert fonts.readable(HAN) == "\\u65b9\\u5f62"
    forget()
    make_font(machine / "deep" / "Boxes.ttf", HAN)
    assert fonts.readable(HAN) == HAN and fonts.labels_of([HAN, "circle"]) == (
        {HAN: HAN, "circle": "circle"},
        "",
    )
    drawn, other = label(HAN), label(HAN[::-1])
    assert (drawn != other).any()
    # rectangles of 350 and 500 thousandths of the em (40 pixels), which begin one em apart
    canvas = np.zeros((40, 90, 3), np.uint8)
    fonts.render_text(canvas, HAN, 0, 30, (255, 255, 255), 40)
    assert np.flatnonzero(canvas[20, :, 0] > 200).tolist() == [*range(14), *range(40, 60)]
    assert fonts.text_extent(HAN, 40) == (80, 32, 8)


def test_a_label_in_several_fonts(machine):
    make_font(machine / "a.ttf", HAN, "A")
    make_font(machine / "b.otf", CAT, "B")
    name = f"{HAN} M\u00fcll {CAT} 0.95"
    assert fonts.readable(name) == name
    runs = [(part, os.path.basename(font.path)) for part, font in fonts._runs(name, 20)]
    assert [(part.strip(), font) for part, font in runs] == [
        (HAN, "a.ttf"),
        ("M\u00fcll", "DejaVuSans.ttf"),
        (CAT, "b.otf"),
        ("0.95", "DejaVuSans.ttf"),
    ]
    assert "".join(part for part, _ in runs) == name
    assert label(name).shape == (60, 400, 3)


def test_damaged_fonts_are_skipped(machine):
    make_font(machine / "good.ttf", HAN)
    (machine / "bad.ttf").write_bytes(b"no font")
    (machine / "cut.ttf").write_bytes((machine / "good.ttf").read_bytes()[:300])
    (machine / "empty.otf").write_bytes(b"")
    (machine / "gone.ttf").symlink_to(machine / "nothing")
    assert fonts.readable(HAN) == HAN


def test_a_plain_font_is_preferred(machine):
    for name in ("A-Bold", "B-Italic", "Plain", "Serif-Regular"):
        make_font(machine / f"{name}.ttf", HAN)
    [(_, font)] = fonts._runs(HAN, 20)
    assert os.path.basename(font.path) == "Plain.ttf"


def test_fontconfig_is_used(machine, tmp_path, monkeypatch):
    """It knows folders that nobody else does, and answers letter by letter."""
    font = make_font(tmp_path / "elsewhere" / "Boxes.ttf", HAN)
    tool = tmp_path / "bin" / "fc-list"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\ncase "$3" in :charset=65b9) printf "%s\\t0\\n%s\\t0\\n" "{font}" '
        f'"{font}.gz";; esac\n'
    )
    tool.chmod(0o755)
    assert fonts._candidates(frozenset(HAN)) == [(str(font), 0)] and fonts.readable(HAN) == HAN


def test_numbers_and_a_legend_without_a_font(machine):
    names = ["circle", HAN, "M\u00fcll", "\u4e09\u89d2"]
    labels, legend = fonts.labels_of(names)
    assert labels == {"circle": "circle", HAN: "#2", "M\u00fcll": "M\u00fcll", "\u4e09\u89d2": "#4"}
    assert legend.startswith(
        f"in the drawn images #2 is {HAN}, #4 is \u4e09\u89d2: no installed font has these letters"
    )
    assert (label(labels[HAN]) != label(labels["\u4e09\u89d2"])).any()
    assert fonts.labels_of([HAN, "#1", "##1"])[0] == {HAN: "###1", "#1": "#1", "##1": "##1"}


@pytest.mark.parametrize(
    "name, drawn",
    [
        ("a\nb", "a\\nb"),
        ("a\tb", "a\\tb"),
        ("a\x00b", "a\\x00b"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff", "\\udcff"),
        ("M\u00fcll\r", "M\u00fcll\\r"),
        ("\ue000", "\\ue000"),
        ("a\x7fb", "a\\x7fb"),
        ("", ""),
        ("%s {name} $x$", "%s {name} $x$"),
        ("\u0085", "\\x85"),
    ],
)
def test_control_characters_are_escaped(machine, name, drawn):
    assert fonts.readable(name) == drawn
    assert label(name).shape == (60, 400, 3)


def test_without_matplotlib_pillow_draws_latin_letters(machine, monkeypatch):
    monkeypatch.setattr(fonts, "_dejavu", lambda: "/no/such/font")
    assert fonts.readable("M\u00fcll") == "M\\xfcll"
    assert fonts.text_extent("M\u00fcll", 20)[0] > 20  # and nothing fails


def test_matplotlib_gets_the_same_fonts(machine):
    make_font(machine / "Boxes.ttf", HAN, "Boxes of Han")
    assert fonts.for_matplotlib(["plain", f"runs/{HAN}"]) == ["DejaVu Sans", "Boxes of Han"]
    assert fonts.for_matplotlib(["plain"]) == ["DejaVu Sans"]


# ---- lines of text


@pytest.mark.parametrize(
    "name, line",
    [
        ("M\u00fcll \u65b9", "M\u00fcll \u65b9"),
        ("a\nb\t", "a\\nb\\t"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("a\u2028b", "a\\u2028b"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("\udcff", "\\udcff"),
        ("a\\n", "a\\n"),
    ],
)
def test_names_stay_on_their_line(machine, name, line):
    """Characters that control a terminal or reverse the rest of a line are escaped; joiners of
    Persian and of emoji stay."""
    from ssd.errors import on_a_line

    assert on_a_line(name) == line
    if name != line:
        assert fonts.readable(name) == line, "nor is a score drawn backwards"


def test_a_line_runs_from_left_to_right(machine):
    """A file's name of Hebrew letters does not turn the text around it: its ending stays beside
    it."""
    from PIL import features

    if not features.check("raqm"):
        pytest.skip("this Pillow has no FriBiDi")
    hebrew = "\u05d0\u05d1"
    canvas = [np.zeros((40, 200, 3), np.uint8) for _ in range(2)]
    fonts.render_text(canvas[0], hebrew + ".png", 5, 30, (255, 255, 255), 24)
    fonts.render_text(canvas[1], hebrew, 5, 30, (255, 255, 255), 24)
    width = fonts.text_extent(hebrew, 24)[0]
    assert (canvas[0][:, : 5 + width - 2] == canvas[1][:, : 5 + width - 2]).mean() > 0.97
