"""One of two ranks fails: all processes end, and the last line reports which one, why and where."""

import json
import os
import shutil

import pytest

from tests.faults.launch import run
from tests.training.tiny import tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "fault, text",
    [
        ("raise", "ValueError: a fault in the program"),
        ("kill", "is gone (killed, crashed, or left early)"),
        ("stop", "does not answer for "),
        ("leave", "is gone (killed, crashed, or left early)"),
        ("exit", "left early, by sys.exit(0)"),
    ],
)
def test_a_rank_fails(data, tmp_path, fault, text, victim):
    result = run(
        f"{fault}:{victim}:3",
        data,
        tmp_path / "out",
        "--max-steps",
        "50",
        "--save-interval",
        "1steps",
        ranks=2,
    )
    last = result.last_line()
    assert "python -m ssd train: stopped: " in last and f"rank {victim} of 2" in last, (
        result.output[-3000:]
    )
    assert text in last and " step " in last
    assert result.output.count("ssd train: stopped: ") == 1
    assert result.status != 0 and not result.survivors
    assert result.ranks_output().count("Traceback (most recent call last)") == (fault == "raise"), (
        "only the failed rank's"
    )
    if not (victim == 0 and fault in ("kill", "stop", "leave")):
        with open(tmp_path / "out" / "mlperf.log") as file:
            assert '"aborted"' in file.read().splitlines()[-1]
    saved = os.listdir(tmp_path / "out" / "checkpoints")
    assert "step-00000001" in saved or "step-00000002" in saved, "checkpoints are kept"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_hangs(data, tmp_path, victim):
    """It is alive and answers, but gets no data, and the others wait for its gradients."""
    result = run(f"hang:{victim}:3", data, tmp_path / "out", "--max-steps", "50", ranks=2)
    last = result.last_line()
    assert (
        f"rank {victim} of 2" in last
        and "hangs" in last
        and "step 3 (epoch 2, reading data)" in last
    ), last
    assert result.status != 0 and not result.survivors and "Traceback" not in result.ranks_output()


def test_a_user_error_on_one_rank_names_the_image(data, tmp_path):
    """Images are damaged while two ranks train: one line, from the rank that reads one."""
    data = shutil.copytree(data, tmp_path / "set")
    path = os.path.join(data, "annotations", "bbox_only_instances_train2017.json")
    with open(path) as file:
        images = [image["file_name"] for image in json.load(file)["images"]]
    for name in images:
        with open(os.path.join(data, "train2017", name), "wb") as file:
            file.write(b"no image")
    result = run(
        "none:0:1", data, tmp_path / "out", "--check-images", "exists", "--max-steps", "3", ranks=2
    )
    last = result.last_line()
    assert (
        "stopped: rank " in last
        and "cannot be decoded" in last
        and any(name in last for name in images)
    )
    assert result.status != 0 and not result.survivors
    assert "Traceback" not in result.ranks_output()
