"""benchmarks/python_lock.py at sizes of nothing."""

import os
import subprocess
import sys

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "benchmarks", "python_lock.py")


def test_every_side_is_measured():
    run = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--calls",
            "40",
            "--threads",
            "1",
            "--batch-size",
            "2",
            "--pace",
            "0.02",
            "--rounds",
            "1",
            "--seconds",
            "0.3",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rows = {
        line.split(",")[0]: line.split("calls")[1].split()
        for line in run.stdout.splitlines()
        if " calls " in line
    }
    assert list(rows) == ["no loader", "loader", "made"]
    for milliseconds, _, _, steps in rows.values():
        assert float(milliseconds) > 0 and int(steps) > 3
