"""The share of the machine that other work takes, computed from synthetic process files."""

import pytest

from ssd.machine_load import OtherWork


def machine(folder, cpu, processes):
    """Writes process files. cpu: ticks user, nice, system, idle, iowait, irq, softirq, steal of the
    two cores 0 and 1 that we may use; processes: by pid (parent, command line, ticks user, system,
    and of ended children)."""
    folder.mkdir(exist_ok=True)
    halves = [[number // 2 for number in cpu], [number - number // 2 for number in cpu]]
    rows = {
        "cpu ": cpu,
        "cpu0": halves[0],
        "cpu1": halves[1],
        "cpu2": [90 * number for number in cpu],
    }
    (folder / "stat").write_text(
        "".join(f"{name} {' '.join(map(str, row))} 0 0\n" for name, row in rows.items())
        + "intr 1 2 3\n"
    )
    for pid, (parent, command, *ticks) in processes.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        (folder / str(pid) / "stat").write_text(
            f"{pid} (a (b) c) R {parent} " + "0 " * 9 + " ".join(map(str, ticks)) + " 20 0 1 0\n"
        )
        (folder / str(pid) / "cmdline").write_bytes(command)
    (folder / "self").mkdir(exist_ok=True)


TRAIN = b"python\0-m\0ssd\0train\0"
BEFORE = {
    10: (1, TRAIN, 100, 10, 0, 0),
    11: (1, TRAIN, 100, 10, 0, 0),
    12: (10, b"scorer\0", 0, 0, 0, 0),
    20: (1, b"other\0", 500, 0, 0, 0),
}


@pytest.mark.parametrize(
    "after, share",
    [
        ({}, 0.5),  # 100 of 200 ticks were busy, none of them ours
        ({10: (1, TRAIN, 140, 20, 0, 0)}, 0.25),  # 50 are ours
        (
            {10: (1, TRAIN, 140, 20, 0, 0), 11: (1, TRAIN, 150, 10, 0, 0)},
            0.0,
        ),  # and 50 of another rank
        (
            {10: (1, TRAIN, 140, 20, 0, 0), 12: (10, b"scorer\0", 30, 0, 0, 0)},
            0.1,
        ),  # and 30 of our child
        ({10: (1, TRAIN, 140, 20, 30, 0)}, 0.1),  # which has ended
        ({10: (1, TRAIN, 900, 20, 0, 0)}, 0.0),  # the files are not read at the same moment
    ],
)
def test_the_share_of_other_processes(tmp_path, after, share):
    machine(tmp_path / "proc", (1000, 0, 0, 1000, 0, 0, 0, 0), BEFORE)
    work = OtherWork(str(tmp_path / "proc"), 10, (0, 1))
    machine(tmp_path / "proc", (1060, 10, 20, 1060, 40, 5, 4, 1), {**BEFORE, **after})
    assert work.share() == pytest.approx(share)
    assert work.share() == 0, "no time has passed"


def test_a_process_that_has_ended_and_a_system_without_such_files(tmp_path):
    machine(tmp_path / "proc", (0, 0, 0, 0, 0, 0, 0, 0), BEFORE)
    work = OtherWork(str(tmp_path / "proc"), 10, (0, 1))
    (tmp_path / "proc" / "20" / "stat").unlink()
    machine(tmp_path / "proc", (50, 0, 0, 50, 0, 0, 0, 0), {10: (1, TRAIN, 100, 10, 0, 0)})
    assert work.share() == 0.5
    assert OtherWork(str(tmp_path / "none"), 10).share() == 0
