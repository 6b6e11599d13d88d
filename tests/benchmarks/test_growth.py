"""benchmarks/growth.py at sizes of nothing: exponents are right, every axis has what it needs,
points run and are kept."""

import json

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth_axes import AXES, Measure


def entries(amounts, seconds, megabytes):
    return [
        dict(
            point=str(amount),
            amount=amount,
            seconds=[one, one, 9 * one],
            megabytes=[many],
            notes={"boxes": 7},
        )
        for amount, one, many in zip(amounts, seconds, megabytes)
    ]


def test_exponents_of_known_growth():
    amounts = np.array([10, 100, 1000])
    grown = growth.exponents(entries(amounts, 3e-5 * amounts**1.5, [0.2, 5, 50]))
    assert grown["seconds"] == pytest.approx(1.5) and grown["last megabytes"] == pytest.approx(1)
    assert grown["megabytes"] == pytest.approx(1), "too little memory to say anything is left out"
    grown = growth.exponents(entries(amounts, 2 + amounts * 1e-2, [0, 0, 0]))
    assert grown["seconds"] < grown["last seconds"] < 1 and np.isnan(grown["megabytes"])


def test_axes():
    assert len({axis.name for axis in AXES} | {axis.group for axis in AXES}) == len(AXES) + 5
    for axis in AXES:
        amounts = [axis.amount(point) for point in axis.points]
        assert (
            amounts == sorted(amounts) and len(amounts) > 2 and axis.must and callable(axis.measure)
        )
    assert [axis.name for axis in growth.chosen_axes(["plan", "size"])][-1] == "plan"
    with pytest.raises(SystemExit, match="--axes nonsense: not one of boxes, "):
        growth.chosen_axes(["nonsense"])


def test_a_measurement_counts_what_was_added():
    measure = Measure()
    assert measure(lambda: len(np.ones(5_000_000)), "array", wide=3) == 5_000_000
    assert 39 < measure.results["array"]["megabytes"] < 60 and measure.results["array"][
        "notes"
    ] == {"wide": 3}
    called = []
    measure(lambda: called.append(1), warm=True)
    assert len(called) == 6, "once to warm up, and again since it is quick"


def test_points_run_in_processes(tmp_path, capsys):
    kept = tmp_path / "kept.json"
    growth.main(
        [
            "--axes",
            "order",
            "names",
            "--points",
            "20",
            "400",
            "--rounds",
            "2",
            "--folder",
            str(tmp_path),
            "--json",
            str(kept),
        ]
    )
    shown, found = capsys.readouterr().out, json.loads(kept.read_text())
    assert set(found) == {"order", "names"}
    for series in found.values():
        [points] = series.values()
        assert [one["point"] for one in points] == ["20", "400"]
        assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in points)
    assert "### Order of an epoch" in shown and shown.count("Exponents: seconds") == 2
    growth.main(
        [
            "--axes",
            "plan",
            "--points",
            "8",
            "--rounds",
            "1",
            "--folder",
            str(tmp_path),
            "--json",
            str(kept),
        ]
    )
    assert set(json.loads(kept.read_text())) == {"order", "names", "plan"}, (
        "added to what was measured before"
    )
    assert "Exponents: seconds nan" in capsys.readouterr().out


def test_a_failed_point_ends_its_axis(tmp_path, capfd):
    assert growth.measure_axis(
        growth.chosen_axes(["names"])[0], ["5", "none"], 1, str(tmp_path), 60
    ).keys() == {""}
    assert "names none: abandoned, and the larger ones" in capfd.readouterr().err
