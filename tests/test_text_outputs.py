"""Names with any characters in our outputs: pages, tables, curves, events."""

import csv
import glob
import os

import pytest

from ssd.evaluation import sweep
from ssd.evaluation.scoring import STAT_NAMES
from ssd.report.page import Section, page, write_page
from ssd.training.tensorboard import Events

NAMES = (
    "\u65b9\u5f62",
    "M\u00fcll",
    "\u0635\u0646\u062f\u0648\u0642",
    "\U0001f408",
    "a & <b>",
    "$x$ $y",
    "\u0928\u092e",
    "e\u0301",
    "\u202etxt",
    "tab\there",
    "\udcff",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_page(tmp_path, name):
    path = tmp_path / "report.html"
    write_page(str(path), page(name, name, [("0.5", name, "")], [Section("one", name, "<p>x</p>")]))
    text = path.read_text(encoding="utf-8")
    shown = (
        name.encode("utf-8", "backslashreplace").decode().replace("&", "&amp;").replace("<", "&lt;")
    )
    assert text.count(shown.replace(">", "&gt;")) >= 5 and '<meta charset="utf-8">' in text


@pytest.mark.parametrize("name", NAMES)
def test_a_table_and_a_curve(tmp_path, name, recwarn):
    """If only their names tell the files apart, these are printed below the curve."""
    results = [
        dict(weights=f"runs/{part}/weights.params", images=3, **dict.fromkeys(STAT_NAMES, 0.25))
        for part in (name, "other")
    ]
    sweep.write_sweep(str(tmp_path / "out"), results)
    with open(tmp_path / "out" / "sweep.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["weights"] == results[0]["weights"].encode("utf-8", "backslashreplace").decode()
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not [one for one in recwarn if "missing from" in str(one.message)], (
        "Matplotlib had no glyph for it"
    )


@pytest.mark.parametrize("name", NAMES[:4])
def test_events_of_a_run(tmp_path, name):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / name
    events = Events(str(folder), 1)
    events.evaluated(1, dict.fromkeys(STAT_NAMES, 0.25))
    events.close()
    assert len(glob.glob(os.path.join(glob.escape(str(folder)), "tensorboard", "events*"))) == 1
