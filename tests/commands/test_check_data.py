"""`python -m ssd check-data`: its report, exit status, cache, and how it ends when it is
interrupted."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ssd.__main__ import main
from ssd.commandline import read_settings
from ssd.config import load_recipe
from ssd.datasets import image_checks
from ssd.datasets.coco import load_coco
from ssd.datasets.image_check_cache import ImageCache
from ssd.errors import UserError
from tests.training.tiny import ROOT, tiny_data

TRAIN = os.path.join("annotations", "bbox_only_instances_train2017.json")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture
def data(pristine, tmp_path):
    return shutil.copytree(pristine, str(tmp_path / "a set"))


@pytest.fixture
def check(data, tmp_path, capsys):
    """Runs the command as the command line does: (exit status, standard output, standard error)."""

    def run(*flags):
        status = main(
            ["check-data", "--data-dir", data, "--cache-dir", str(tmp_path / "cache"), *flags]
        )
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def rewrite(data, change, path=TRAIN):
    path = os.path.join(data, path)
    with open(path) as file:
        content = json.load(file)
    change(content)
    with open(path, "w") as file:
        json.dump(content, file)
    return content


def image_path(data, number=0, split="train"):
    folder = os.path.join(data, f"{split}2017")
    return os.path.join(folder, sorted(os.listdir(folder))[number])


def cut(path):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])


def kinds(report, part="errors"):
    return {entry["kind"]: entry["count"] for entry in report[part]}


@pytest.fixture
def looks(monkeypatch):
    """Names of the image files that are really opened."""
    opened, original = [], image_checks.inspect_image

    def inspect_image(path, level):
        opened.append(os.path.basename(path))
        return original(path, level)

    monkeypatch.setattr(image_checks, "inspect_image", inspect_image)
    return opened


def test_a_good_data_set(check, data):
    status, out, err = check()
    lines = out.splitlines()
    assert (status, err) == (0, "") and lines[-1] == "no errors"
    assert lines[0].startswith("train: 12 images, ") and lines[0].endswith(
        f"3 categories in {os.path.join(data, TRAIN)}"
    )
    assert any(line.startswith("val: 6 images, ") for line in lines)
    status, out, err = check("--json", "--split", "train", "--recipe", "ssd-resnet34-shapes")
    content = json.loads(out)
    assert (status, err, len(out.splitlines())) == (0, "", 1)
    assert (content["errors"], content["refused"], list(content["splits"])) == (0, False, ["train"])
    assert content["splits"]["train"]["images"] == 12 and content["splits"]["train"]["errors"] == []


def test_all_errors_are_counted_with_examples(check, data):
    def change(content):
        for entry in content["annotations"][:3]:
            entry["bbox"][2] = 0
        content["annotations"][3]["bbox"][0] += 1000
        content["annotations"][4]["category_id"] = 99
        content["annotations"][5]["id"] = content["annotations"][6]["id"]

    content = rewrite(data, change)
    cut(image_path(data, 3))
    os.remove(image_path(data, 5))
    name = os.path.basename(image_path(data, 3))
    status, out, _ = check("--json", "--examples", "2")
    report = json.loads(out)
    train = report["splits"]["train"]
    assert status == 1 and report["refused"] and report["errors"] == 8
    assert kinds(train) == {
        "empty box": 3,
        "box outside the image": 1,
        "annotation of an unknown category": 1,
        "duplicate annotation id": 1,
        "image is cut short (does not decode)": 1,
        "image file missing": 1,
    }
    examples = {entry["kind"]: entry["examples"] for entry in train["errors"]}
    assert len(examples["empty box"]) == 2
    for entry, example in zip(content["annotations"], examples["empty box"]):
        assert f"annotation {entry['id']} of image {entry['image_id']}" in example
    assert name in examples["image is cut short (does not decode)"][0]

    status, out, _ = check("--examples", "2")
    assert status == 1 and out.splitlines()[-1].startswith(
        "8 errors: training would refuse this data set"
    )
    for text in (name, "empty box", "99", "--skip-bad-annotations"):
        assert text in out
    status, out, _ = check("--skip-bad-annotations")
    assert (
        status == 0
        and out.splitlines()[-1] == "8 errors, left out in training with --skip-bad-annotations"
    )


def test_training_refuses_the_same_in_one_line(check, data):
    rewrite(
        data,
        lambda content: [entry["bbox"].__setitem__(3, 0) for entry in content["annotations"][:2]],
    )
    with pytest.raises(UserError) as caught:
        load_coco(
            os.path.join(data, TRAIN), os.path.join(data, "train2017"), report=lambda line: None
        )
    message = str(caught.value)
    assert (
        "\n" not in message and "empty box: annotation " in message and "2 x empty box" in message
    )
    assert "python -m ssd check-data" in message
    assert check()[0] == 1


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--data-dir", "none"], "none"),
        (["--val-annotations", "none.json"], "none.json"),
        (["--jobs", "0"], "--jobs"),
        (["--examples", "few"], "few"),
        (["--split", "test"], "test"),
        (["--recipe", "none"], "none"),
        (["--decode"], "--decode"),
    ],
)
def test_bad_flags_are_status_2(check, capsys, flags, named):
    try:
        status, out, err = check(*flags)
    except SystemExit as stopped:  # of argparse
        status, (out, err) = stopped.code, capsys.readouterr()
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and named in err


def test_a_file_that_is_no_annotation_file_is_status_2(check, data):
    with open(os.path.join(data, TRAIN), "w") as file:
        file.write("[" * 10**5)
    status, out, err = check("--json")
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and "is not JSON" in err


def test_categories_that_training_would_refuse(check, data):
    rewrite(data, lambda content: content["categories"][1].update(name="Square"))
    status, out, _ = check("--json", "--recipe", "ssd-resnet34-coco", "--val-images", "val2017")
    report = json.loads(out)
    assert status == 1 and kinds(report["splits"]["train"]) == {"number of categories": 1}
    assert kinds(report["splits"]["val"]) == {"number of categories": 1, "categories differ": 1}
    assert (
        check("--split", "val", "--skip-bad-annotations", "--recipe", "ssd-resnet34-coco")[0] == 1
    ), "these cannot be left out"
    assert check("--split", "val")[0] == 0


def test_nothing_to_train_on(check, data):
    rewrite(data, lambda content: content.update(annotations=[]))
    status, out, _ = check("--split", "train")
    assert status == 1 and "holds no image with a box" in out


# ---- cache


def test_only_changed_images_are_checked_again(check, data, looks):
    assert check()[0] == 0 and len(looks) == 18
    looks.clear()
    status, out, _ = check()
    assert (status, looks) == (0, []) and out.count("(unchanged since 20") == 2
    path = image_path(data, 4)
    Image.open(path).rotate(180).save(path)
    os.utime(path, ns=(0, 0))
    status, out, _ = check("--json")
    assert status == 0 and looks == [os.path.basename(path)]
    report = json.loads(out)["splits"]
    assert (report["train"]["images_unchanged"], report["val"]["images_unchanged"]) == (11, 6)
    assert report["train"]["unchanged_since"].endswith("Z")
    looks.clear()
    assert check("--no-cache")[0] == 0 and len(looks) == 18


def test_bad_images_are_checked_each_time(check, data, looks):
    path = image_path(data, 4)
    with open(path, "rb") as file:
        whole = file.read()
    cut(path)
    assert check("--split", "train")[0] == 1
    looks.clear()
    assert check("--split", "train")[0] == 1 and looks == [os.path.basename(path)]
    status = os.stat(path)
    with open(path, "wb") as file:  # repaired without a trace in its time
        file.write(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert check("--split", "train")[0] == 0


def paths(data):
    return os.path.join(data, TRAIN), os.path.join(data, "train2017")


def test_check_data_speeds_up_the_start_of_training(check, data, tmp_path, looks, monkeypatch):
    assert check()[0] == 0
    looks.clear()
    cache = str(tmp_path / "cache")
    lines = []
    found = load_coco(
        *paths(data), image_cache_dir=cache, report=lines.append
    )  # other settings: read again
    assert looks == [] and found.num_images == 12
    monkeypatch.setattr("ssd.datasets.coco.read_annotations", lambda *_: 1 / 0)
    kept = load_coco(
        *paths(data), cache_dir=cache, report=lines.append
    )  # the recipe's settings: not even read
    assert lines[0] == lines[1] and np.array_equal(found.boxes_ltrb, kept.boxes_ltrb)


def test_training_speeds_up_check_data(check, data, tmp_path, looks):
    load_coco(*paths(data), image_cache_dir=str(tmp_path / "cache"), report=lambda line: None)
    assert len(looks) == 12
    looks.clear()
    assert check("--split", "train")[0] == 0 and looks == []


def test_header_checks_do_not_count_as_decoded(check, data, tmp_path, looks):
    stored = image_path(data, 2)
    Image.open(stored).convert("RGB").save(stored, "PNG")
    cut(stored)  # a PNG's header does not show it
    load_coco(
        *paths(data),
        check_images="header",
        image_cache_dir=str(tmp_path / "cache"),
        report=lambda line: None,
    )
    looks.clear()
    assert check("--split", "train")[0] == 1 and len(looks) == 12


def test_an_image_overwritten_in_place_is_forgotten_for_training_too(check, data, tmp_path):
    cache = str(tmp_path / "cache")
    load_coco(*paths(data), cache_dir=cache, report=lambda line: None)
    cut(image_path(data, 2))  # changes neither the folder's time nor the annotation file
    assert check("--split", "train")[0] == 1
    with pytest.raises(UserError, match="cut short"):
        load_coco(*paths(data), cache_dir=cache, report=lambda line: None)


@pytest.mark.parametrize("damage", ["half", "empty", "noise", "pickle"])
def test_a_damaged_cache_is_ignored(check, tmp_path, looks, damage):
    assert check("--split", "train")[0] == 0
    [path] = (tmp_path / "cache").glob("images-*.npz")
    content = path.read_bytes()
    if damage == "pickle":
        np.savez(str(path), names=np.array([{}], dtype=object), table=np.zeros((1, 7), np.int64))
    else:
        path.write_bytes(
            {"half": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256)) * 9}[
                damage
            ]
        )
    looks.clear()
    assert check("--split", "train")[0] == 0 and len(looks) == 12


def test_a_cache_that_cannot_be_written_costs_one_line(check, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    status, out, err = check("--split", "train")
    assert status == 0 and "no errors" in out and "checked images not kept in" in err
    assert sorted(os.listdir(tmp_path)) == ["a set", "cache"]


def test_cache_round_trip(tmp_path):
    (tmp_path / "x").write_bytes(b"12")
    status = os.stat(str(tmp_path / "x"))
    cache = ImageCache(str(tmp_path / "kept"), str(tmp_path))
    cache.keep("ü\n\ud800.jpg", status, "decode", image_checks.ImageFinding(None, (3, 4), 5), 77)
    cache.save()
    again = ImageCache(str(tmp_path / "kept"), str(tmp_path))
    found = again.find("ü\n\ud800.jpg", status, "header")
    assert found == (image_checks.ImageFinding(None, (3, 4), 5), 77)
    assert (
        ImageCache(str(tmp_path / "kept"), str(tmp_path / "kept")).find(
            "ü\n\ud800.jpg", status, "header"
        )
        is None
    )
    assert len(os.listdir(str(tmp_path / "kept"))) == 1, "nothing temporary is left"


# ---- how it ends


@pytest.fixture
def slow_data(tmp_path):
    """A data set that takes minutes: one large image under 3000 names."""
    folder = tmp_path / "slow"
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    Image.effect_noise((1200, 1200), 50).save(str(folder / "train2017" / "0.png"))
    for number in range(1, 3000):
        os.link(str(folder / "train2017" / "0.png"), str(folder / "train2017" / f"{number}.png"))
    images = [
        dict(id=number, file_name=f"{number}.png", width=1200, height=1200)
        for number in range(3000)
    ]
    (folder / TRAIN).write_text(
        json.dumps(dict(images=images, annotations=[], categories=[dict(id=1, name="x")]))
    )
    return folder


def test_interrupt_is_status_130_and_keeps_results(slow_data, tmp_path):
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "ssd",
        "check-data",
        "--data-dir",
        str(slow_data),
        "--split",
        "train",
        "--jobs",
        "2",
        "--cache-dir",
        str(tmp_path / "kept"),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    os.close(slave)
    deadline = time.monotonic() + 120

    def read_until(text):
        seen = b""
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 4096)  # OSError if the process has ended without this line
        return seen

    try:
        read_until(b"/3000 [")  # the bar
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in read_until(b"interrupted")
        assert process.wait(60) == 130 and process.stdout.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(master)
    [kept] = os.listdir(str(tmp_path / "kept"))
    with np.load(str(tmp_path / "kept" / kept), allow_pickle=False) as content:
        assert 0 < len(content["table"]) < 3000


def test_progress_without_a_terminal_is_printed_as_lines(check, monkeypatch):
    monkeypatch.setattr("ssd.progress_bar.SECONDS_PER_LINE", 0)
    status, out, err = check("--json", "--split", "train")
    assert status == 0 and json.loads(out)
    assert err.splitlines()[-1] == "train: 12 of 12 images"


def test_settings_come_from_recipe_and_flags(tmp_path):
    from ssd.__main__ import build_parser

    args = build_parser(["check-data"]).parse_args(
        ["check-data", "--data-dir", str(tmp_path), "--skip-bad-annotations"]
    )
    config = read_settings(args)
    assert config.data.data_dir == str(tmp_path) and config.data.skip_bad_annotations
    assert config.data.val_images == load_recipe("ssd-resnet34-coco").data.val_images
