"""What --skip-bad-annotations leaves out is left out by every command, with what was detected on
it; and what is lost to a mistake in all of a file is refused by every command."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

from ssd.__main__ import main
from ssd.commands.predict import IdScheme
from ssd.datasets.json_files import open_bytes
from ssd.errors import UserError
from ssd.evaluation.per_class import evaluate
from ssd.evaluation.scoring import STAT_NAMES, read_ground_truth
from ssd.tools.inputs import find_inputs
from tests.commands.outcomes import equal_stats, refusal, to_detections
from tests.datasets import odd_files
from tests.evaluation.odd_sets import score_directly

BAD = [
    (2, dict(id="2")),
    (2, dict(id=None)),
    (3, dict(width="60")),
    (1, dict(height=0)),
    (6, dict(file_name="../6.jpg")),
    (4, dict(file_name=None)),
    (5, dict(width=None, height=None)),
    (1, dict(file_name="./2.jpg")),
    (3, dict(id=float("inf"))),
    (4, dict(id=2**63)),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left") / "images"
    odd_files.draw_images(folder)
    return folder


@pytest.mark.parametrize("image, change", BAD, ids=str)
def test_detections_on_images_left_out(image, change, images, tmp_path, capsys):
    """A file of detections knows nothing of the annotation file's faults: its rows on a bad image
    are left out too."""
    content = odd_files.content()
    content["images"][image - 1].update(change)
    if "./2.jpg" in change.values():  # the second of two of one name is the bad one
        image = 2
    path, rows = tmp_path / "a.json", odd_files.found()
    path.write_text(json.dumps(content))
    truth = odd_files.expected(odd_files.Odd("", images=[image]))
    (tmp_path / "clean.json").write_text(json.dumps(truth))
    kept = [row for row in rows if row["image_id"] != image]
    expected = score_directly(tmp_path / "clean.json", kept).stats
    # An image whose id cannot be used is in the file for nobody, so that its detections are those
    # of a foreign image.
    known = "id" not in change or change["id"] == "2"
    given = rows if known else kept
    to_detections(given, None).to_npz(tmp_path / "found.npz")
    (tmp_path / "found.json").write_text(json.dumps(given))
    for name in ("found.json", "found.npz"):
        flags = [
            "--annotations",
            str(path),
            "--detections",
            str(tmp_path / name),
            "--json",
            "--skip-bad-annotations",
        ]
        for more in ([], ["--images", str(images)]):
            capsys.readouterr()
            assert main(["score", *flags, *more]) == 0
            out, err = capsys.readouterr()
            assert equal_stats(json.loads(out), expected) and "on 5 images" in err
            assert (
                f"left out: {len(rows) - len(kept)} detections on images that are left out" in err
            ) == known
    whole = read_ground_truth(path, skip_bad=True)
    assert equal_stats(
        evaluate(path, to_detections(given, None), ground_truth=whole).stats, expected
    )
    if known:
        read_ground_truth(
            path, skip_bad=True, images=list(range(1, 7))
        )  # what a run's detections say that they are of


def test_images_of_entries_left_out(images, tmp_path):
    content = odd_files.content()
    content["images"][2]["width"] = "60"
    content["images"][4]["width"] = 61
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    inputs = find_inputs([str(images)])[0]
    assert "usable size" in refusal(lambda: IdScheme(str(path), inputs, False, 0.5))
    scheme = IdScheme(str(path), inputs, True, 0.5)
    assert {os.path.basename(name) for name in scheme.left_out} == {
        "3.jpg",
        "5.jpg",
    } and not scheme.bad
    assert "2 of 6 images would be left out" in refusal(
        lambda: IdScheme(str(path), inputs, True, 0.2)
    )


def commands(path, images, folder):
    """Those that read one annotation file and do not need a network, all with
    --skip-bad-annotations where it is."""
    flags = ["--annotations", str(path), "--images", str(images)]
    (folder / "none.json").write_text("[]")
    return {
        "check-data": ["check-data", *flags, "--no-cache", "--jobs", "1", "--skip-bad-annotations"],
        "score": [
            "score",
            *flags[:2],
            "--detections",
            str(folder / "none.json"),
            "--skip-bad-annotations",
        ],
        "split-data": [
            "split-data",
            str(path),
            "--output",
            str(folder / "split"),
            "--val-fraction",
            "0.5",
            "--skip-bad-annotations",
        ],
        "summary": [
            "summary",
            "--recipe",
            "ssd-resnet34-own",
            "--image-size",
            "64",
            "--width",
            "0.125",
            *flags[:2],
        ],
        "pack-data": [
            "pack-data",
            "--data-dir",
            str(path.parent),
            "--val-annotations",
            path.name,
            "--val-images",
            "images",
            "--split",
            "val",
            "--output",
            str(folder / "packed"),
            "--skip-bad-annotations",
            "--cache-dir",
            str(folder / "cache"),
            "--jobs",
            "1",
        ],
    }


def corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def shares(box):
    return (np.array(box) / np.tile([odd_files.WIDTH, odd_files.HEIGHT], 2)).tolist()


@pytest.mark.parametrize(
    "form, words", [(corners, "as left, top, right, bottom"), (shares, "shares of the image")]
)
def test_boxes_in_another_form_are_refused_by_all_commands(form, words, tmp_path, capsys):
    content = odd_files.content()
    for entry in content["annotations"]:
        entry["bbox"] = form([20 + entry["bbox"][0] / 20, 15 + entry["bbox"][1] / 20, 20, 15])
    odd_files.draw_images(tmp_path / "images")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    for name, arguments in commands(path, tmp_path / "images", tmp_path).items():
        status = main(arguments)
        assert status == (1 if name == "check-data" else 2) and words in "".join(
            capsys.readouterr()
        ), name
        if form is shares:
            assert main([*arguments, "--max-left-out", "1"]) == 0, name
    inputs = find_inputs([str(tmp_path / "images")])[0]
    assert words in refusal(lambda: IdScheme(str(path), inputs, True, 0.5))


PLAIN = json.dumps(odd_files.content()).encode()


@pytest.mark.parametrize(
    "content, words",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a pointer of Git LFS",
        ),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?><annotation/>", "it is XML"),
    ],
)
def test_other_content_than_annotations_is_named(content, words, tmp_path, capsys):
    path = tmp_path / "null.json"  # Python's message for a bad path contains this, too
    path.write_bytes(content)
    for name, arguments in commands(path, tmp_path, tmp_path).items():
        (tmp_path / "images").mkdir(exist_ok=True)
        assert main(arguments) == 2, name
        err = capsys.readouterr().err
        assert words in err and err.count(str(path)) == 1 and err.count("\n") == 1
    path.write_bytes(b"")
    assert main(commands(path, tmp_path, tmp_path)["score"]) == 2
    assert capsys.readouterr().err.count("annotation file") == 1


@pytest.mark.parametrize("name", ["check-data", "score", "split-data", "summary"])
def test_a_pipe_is_read_once(name, images, tmp_path, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    feeder = threading.Thread(target=path.write_bytes, args=(PLAIN,))
    feeder.start()
    status = main(commands(path, images, tmp_path)[name])
    feeder.join()
    assert status == 0, "".join(capsys.readouterr())


def test_training_and_packing_need_a_file(images, tmp_path, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    (tmp_path / "images").mkdir()
    assert main(commands(path, images, tmp_path)["pack-data"]) == 2
    assert "is a pipe or a device, not a file" in capsys.readouterr().err
    assert main(commands(tmp_path, images, tmp_path)["check-data"]) == 2
    assert "is a folder, not a file" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(PLAIN)
    for error in (None, ValueError("not JSON")):
        with pytest.raises(OSError, match="it was changed while it was read"):
            with open_bytes(path):
                with open(path, "ab") as other:
                    other.write(b" ")
                if error:
                    raise error
    with pytest.raises(ValueError, match="not JSON"), open_bytes(path):
        raise UserError("not JSON")


@pytest.mark.parametrize(
    "name, words",
    [
        ("Disc", "did you mean disc? They differ in capital letters alone"),
        ("disc ", "in blanks alone ('disc ', 'disc')"),
        ("disk", "did you mean disc?"),
        ("square", "'square' is not among them"),
    ],
)
def test_names_of_categories_that_differ(name, words, images, tmp_path, capsys):
    (tmp_path / "train.json").write_bytes(PLAIN)
    (tmp_path / "val.json").write_bytes(PLAIN.replace(b'"disc"', json.dumps(name).encode()))
    assert (
        main(
            [
                "check-data",
                "--data-dir",
                str(tmp_path),
                "--train-annotations",
                "train.json",
                "--val-annotations",
                "val.json",
                "--train-images",
                str(images),
                "--val-images",
                str(images),
                "--no-cache",
            ]
        )
        == 1
    )
    assert words in capsys.readouterr().out


def test_names_that_look_alike(images, tmp_path, capsys):
    for file, name in (("train.json", "m\u00fcll"), ("val.json", "mu\u0308ll")):
        (tmp_path / file).write_bytes(PLAIN.replace(b'"disc"', json.dumps(name).encode()))
    main(
        [
            "check-data",
            "--data-dir",
            str(tmp_path),
            "--train-annotations",
            "train.json",
            "--val-annotations",
            "val.json",
            "--train-images",
            str(images),
            "--val-images",
            str(images),
            "--no-cache",
        ]
    )
    assert "how accents are coded" in capsys.readouterr().out


def test_control_characters_in_names_are_not_printed(images, tmp_path, capsys):
    content = odd_files.content()
    content["categories"][0]["name"] = "a\nb\x1b[31m"
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(odd_files.found()))
    assert (
        main(
            [
                "score",
                "--annotations",
                str(tmp_path / "a.json"),
                "--detections",
                str(tmp_path / "found.json"),
                "--per-class",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert r"AP/'a\nb\x1b[31m' = " in out and len(out.splitlines()) == len(STAT_NAMES) + len(
        odd_files.NAMES
    )
