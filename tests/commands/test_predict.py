"""predict through its command line: images and videos of all kinds, good and bad."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ssd import Predictor
from ssd.__main__ import main
from tests.commands.predict_files import files, image_paths, look_at, make_video, read
from tests.tools.saved import IDS, NAMES


def test_a_folder_a_file_and_a_pattern(predict, weights, data, tmp_path):
    images = image_paths(data)
    for name, source in (
        ("a/x.jpg", 0),
        ("a/deep/y.jpg", 1),
        ("b/x.jpg", 2),
        ("z0.jpg", 3),
        ("z1.jpg", 4),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images[source], tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.jpg").write_text("no image")
    status, out, err, folder = predict(
        tmp_path / "a",
        tmp_path / "b" / "x.jpg",
        tmp_path / "z*.jpg",
        tmp_path / "a" / "x.jpg",
        "--batch-size",
        "2",
    )
    assert (status, err) == (0, "")
    assert files(folder) == [
        "deep/y.jpg",
        "detections.json",
        "images.json",
        "x-2.jpg",
        "x.jpg",
        "z0.jpg",
        "z1.jpg",
    ]
    assert (
        out.startswith("5 images: 100 detections above 0.27 (") and "skipped: 1 other file" in out
    )
    rows, content = read(folder)
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5]
    assert [image["file_name"] for image in content["images"]] == [
        str(tmp_path / name) for name in ("a/x.jpg", "a/deep/y.jpg", "b/x.jpg", "z0.jpg", "z1.jpg")
    ]
    assert [image["drawn"] for image in content["images"]] == [
        "x.jpg",
        "deep/y.jpg",
        "x-2.jpg",
        "z0.jpg",
        "z1.jpg",
    ]
    assert content["categories"] == [dict(id=number, name=name) for number, name in zip(IDS, NAMES)]
    alone = Predictor.load(weights, device="cpu")(images)
    for image, found in zip(content["images"], alone):
        mine = [row for row in rows if row["image_id"] == image["id"]]
        assert [row["category_id"] for row in mine] == [IDS[number] for number in found.ids[:, 0]]
        np.testing.assert_allclose([row["score"] for row in mine], found.scores[:, 0], atol=1e-5)
        ltrb = np.array([row["bbox"] for row in mine])
        ltrb[:, 2:] += ltrb[:, :2]
        np.testing.assert_allclose(ltrb, found.boxes, atol=5e-3)
        with Image.open(folder / image["drawn"]) as drawn:
            assert (
                drawn.size
                == (image["width"], image["height"])
                == Image.open(image["file_name"]).size
            )


def test_drawn_detections(predict, data):
    """Above the threshold that is asked for, and not by default what is hardly sure."""
    image = image_paths(data)[0]
    pixels = np.asarray(Image.open(image)).astype(int)

    def changed(folder):
        return (
            np.abs(np.asarray(Image.open(folder / os.path.basename(image))).astype(int) - pixels)
            > 60
        ).mean()

    status, out, _, folder = predict(image, "--draw-threshold", "1", output="none")
    assert status == 0 and "drawings of those above 1 (0)" in out and changed(folder) < 0.001
    _, out, _, folder = predict(image, "--score-threshold", "0.26", output="all")
    assert (
        "20 detections above 0.26" in out
        and "drawings of those above 0.26 (20)" in out
        and changed(folder) > 0.01
    )
    _, out, _, folder = predict(image, "--no-draw", output="data")
    assert files(folder) == ["detections.json", "images.json"] and ", drawn those" not in out


def test_no_detection(predict, data):
    status, out, err, folder = predict(*image_paths(data)[:2], "--score-threshold", "1")
    assert (status, err) == (0, "") and out.startswith("2 images: no detection above 1\n")
    assert read(folder)[0] == [] and len(read(folder)[1]["images"]) == 2


def test_a_corrupt_image_among_others(predict, data, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(os.path.join(data, "val2017"), folder)
    content = (folder / "cut.jpg", folder / "text.png", folder / "empty.jpg")
    content[0].write_bytes(open(image_paths(data)[0], "rb").read()[:900])
    content[1].write_text("no image")
    content[2].write_bytes(b"")
    status, out, err, output = predict(folder, "--batch-size", "2")
    assert status == 1 and out.startswith("5 images: 100 detections")
    assert "failed or incomplete: 3 (exit status 1)" in out
    lines = sorted(err.splitlines())
    start = f"python -m ssd predict: failed: {folder}/"
    assert len(lines) == 3 and lines[0].startswith(start + "cut.jpg: the image does not decode: ")
    assert lines[1:] == [
        start + "empty.jpg: the file is empty",
        start + "text.png: no known image format (JPEG, PNG, BMP, TIFF, WEBP, PPM, JPEG2000)",
    ]
    assert len(read(output)[1]["images"]) == 5


def test_an_image_is_rotated_upright(predict, data, tmp_path):
    """As a camera stores it that was held upright: the network sees, and draws on, the upright
    picture."""
    tags = Image.Exif()
    tags[0x0112] = 6
    with Image.open(image_paths(data)[0]) as image:
        image.save(tmp_path / "plain.png")
        image.transpose(Image.ROTATE_90).save(tmp_path / "turned.png", exif=tags)
        size = image.size
    _, _, _, folder = predict(tmp_path / "plain.png", tmp_path / "turned.png")
    rows, content = read(folder)
    assert [(image["width"], image["height"]) for image in content["images"]] == [size, size]
    plain, turned = (
        [
            (row["category_id"], row["bbox"], row["score"])
            for row in rows
            if row["image_id"] == number
        ]
        for number in (1, 2)
    )
    assert plain == turned
    assert Image.open(folder / "turned.png").size == size
    np.testing.assert_array_equal(
        Image.open(folder / "turned.png"), Image.open(folder / "plain.png")
    )


def test_results_can_be_scored(predict, data, capsys):
    """Ids are the annotation file's, classes are matched by name, whatever their ids in the
    weights."""
    annotations = os.path.join(data, "annotations", "bbox_only_instances_val2017.json")
    with open(annotations) as file:
        truth = json.load(file)
    status, out, err, folder = predict(os.path.join(data, "val2017"), "--annotations", annotations)
    assert (status, err) == (0, "")
    rows, content = read(folder)
    assert {row["image_id"] for row in rows} == {image["id"] for image in truth["images"]}
    by_name = {category["name"]: category["id"] for category in truth["categories"]}
    assert {category["name"]: category["id"] for category in content["categories"]} == by_name
    assert {image["id"]: image["file_name"] for image in content["images"]} == {
        image["id"]: image["file_name"] for image in truth["images"]
    }
    assert (
        main(
            ["score", "--annotations", annotations, "--detections", str(folder / "detections.json")]
        )
        == 0
    )
    assert "Average Precision" in capsys.readouterr().out
    _, out, _, _ = predict(image_paths(data)[0], "--annotations", annotations, output="one")
    assert "4 of the 5 images" in out
    other = folder / os.path.basename(image_paths(data)[0])
    assert (
        "not among its images" not in predict(other, "--annotations", annotations, output="same")[2]
    )
    os.rename(other, folder / "another.jpg")
    status, _, err, _ = predict(folder / "another.jpg", "--annotations", annotations, output="two")
    assert status == 2 and "another.jpg is not among its images" in err


def test_classes_missing_in_the_annotation_file(predict, data, tmp_path):
    """Their detections are left out, everywhere."""
    with open(os.path.join(data, "annotations", "bbox_only_instances_val2017.json")) as file:
        content = json.load(file)
    content["categories"] = [{"id": 50, "name": NAMES[2]}, {"id": 60, "name": NAMES[0]}]
    content["annotations"] = []
    (tmp_path / "few.json").write_text(json.dumps(content))
    every = read(predict(*image_paths(data), "--no-draw", output="all")[3])[0]
    status, out, err, folder = predict(*image_paths(data), "--annotations", tmp_path / "few.json")
    rows, few = read(folder)
    ids = {IDS[2]: 50, IDS[0]: 60}
    wanted = [(ids[row["category_id"]], row["bbox"]) for row in every if row["category_id"] in ids]
    assert status == 0 and 0 < len(wanted) < len(every)
    assert [(row["category_id"], row["bbox"]) for row in rows] == wanted
    assert {row["id"]: row["name"] for row in few["categories"]} == {50: NAMES[2], 60: NAMES[0]}
    assert (
        out.startswith(f"5 images: {len(wanted)} detections")
        and f"does not have ({NAMES[1]!r})\n" in out
    )


# ---- videos


def test_a_video(predict, weights, tmp_path):
    path = make_video(tmp_path / "clip.mp4")
    status, out, err, folder = predict(
        path, "--score-threshold", "0.3", "--draw-threshold", "1", "--batch-size", "5"
    )
    assert (status, err) == (0, "") and out.startswith("1 video of 12 frames: ")
    codec, rate, frames = look_at(folder / "clip.mp4")
    assert (codec, rate, len(frames), frames[0][1].shape) == ("h264", 10, 12, (64, 96, 3))
    np.testing.assert_allclose([time for time, _ in frames], np.arange(12) / 10, atol=1e-3)
    rows, content = read(folder)
    assert [(image["id"], image["frame"], image["seconds"]) for image in content["images"]] == [
        (number + 1, number + 1, number / 10) for number in range(12)
    ]
    source = look_at(path)[2]
    found = Predictor.load(weights, device="cpu", score_threshold=0.3)(
        [pixels for _, pixels in source]
    )
    assert [sum(row["image_id"] == number for row in rows) for number in range(1, 13)] == [
        len(one.ids) for one in found
    ]
    for number, ((_, before), (_, after)) in enumerate(zip(source, frames)):
        assert np.abs(before.astype(int) - after).mean() < 8, f"frame {number}"
    drawn = look_at(predict(path, output="drawn")[3] / "clip.mp4")[2]
    assert (
        max(
            np.abs(before.astype(int) - after).mean()
            for (_, before), (_, after) in zip(source, drawn)
        )
        > 8
    )


@pytest.mark.parametrize(
    "name, codec, size, options",
    [
        ("clip.webm", "libvpx", (64, 48), {}),
        ("odd.gif", "gif", (61, 47), dict(pixels="rgb8")),
        ("clip.avi", "mpeg4", (64, 48), {}),
    ],
)
def test_other_videos(predict, tmp_path, name, codec, size, options):
    path = make_video(tmp_path / name, codec, size, frames=5, **options)
    status, out, err, folder = predict(path)
    assert (status, err) == (0, "") and "1 video of 5 frames" in out
    _, rate, frames = look_at(folder / (name.split(".")[0] + ".mp4"))
    assert (rate, len(frames), frames[0][1].shape) == (10, 5, (size[1], size[0], 3))


def test_a_video_from_a_phone(predict, tmp_path):
    """Stored in the sensor's orientation, with a matrix for a quarter turn
    clockwise."""
    path = make_video(tmp_path / "clip.mp4", frames=3)
    content = bytearray(path.read_bytes())
    offset = (
        content.index(b"tkhd") + 44
    )  # version and flags, times, id, duration, layer, volume: then the matrix
    content[offset : offset + 36] = np.array(
        [0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30], ">i4"
    ).tobytes()
    path.write_bytes(content)
    status, _, _, folder = predict(path)
    first = look_at(folder / "clip.mp4")[2][0][1]
    assert status == 0 and first.shape == (96, 64, 3)
    red = np.argwhere(look_at(path)[2][0][1][:, :, 0] > 180).mean(0)
    np.testing.assert_allclose(red, [19.5, 9.5], atol=2)
    rows, content = read(folder)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (64, 96)
    clean = predict(path, "--draw-threshold", "1", output="clean")[3]
    turned = np.argwhere(look_at(clean / "clip.mp4")[2][0][1][:, :, 0] > 180).mean(0)
    np.testing.assert_allclose(turned, [9.5, 63 - 19.5], atol=2)


def test_files_that_are_not_videos(predict, data, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "empty.webm").write_bytes(b"")
    shutil.copy(image_paths(data)[0], tmp_path / "picture.mov")
    whole = make_video(tmp_path / "whole.webm", "libvpx", frames=40).read_bytes()
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) // 2])
    os.remove(tmp_path / "whole.webm")
    status, out, err, folder = predict(
        tmp_path / "*.mp4", tmp_path / "*.webm", tmp_path / "*.mov", image_paths(data)[0]
    )
    assert status == 1 and out.startswith("1 image and 1 video of ")
    lines = {line.split("/")[-1].split(":")[0]: line for line in err.splitlines()}
    assert set(lines) == {"text.mp4", "empty.webm", "picture.mov", "cut.webm"}
    assert (
        "not a video that can be read" in lines["text.mp4"]
        and "the file is empty" in lines["empty.webm"]
    )
    assert "an image, not a video" in lines["picture.mov"] and "is cut short" in lines["cut.webm"]
    assert "cut.mp4" in files(folder) and not [name for name in files(folder) if "partial" in name]


# ---- refused before anything is done


def test_refused(predict, weights, data, tmp_path):
    image = image_paths(data)[0]
    (tmp_path / "nothing").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "bad.params").write_bytes(b"no weights")
    video = make_video(tmp_path / "clip.mp4", frames=2)
    annotations = os.path.join(data, "annotations", "bbox_only_instances_val2017.json")
    for arguments, output, words in (
        ([tmp_path / "none.jpg"], "out", "none.jpg: no such file or folder"),
        ([tmp_path / "*.bmp"], "out", "*.bmp: no such file or folder matches"),
        ([tmp_path / "nothing"], "out", "nothing: a folder without images or videos"),
        ([image], "full", "full: holds files already; name a new folder"),
        ([image, "--recipe", "ssd-resnet34-coco"], "out", "has shape"),
        ([image, "--weights", tmp_path / "bad.params"], "", "not a file of MXNet arrays"),
        ([image, "--weights", tmp_path / "no.params"], "", "no.params: no such file"),
        ([image, "--score-threshold", "7"], "out", "--score-threshold: 7.0 must be at most 1"),
        ([image, "--draw-threshold", "7"], "out", "--draw-threshold: 7 is not from 0 to 1"),
        ([image, "--batch-size", "0"], "out", "--batch-size: 0 is not at least 1"),
        ([image, "--device", "tpu"], "out", "--device: 'tpu' is not one of auto, cpu, gpu"),
        ([video, "--annotations", annotations], "out", "clip.mp4 is a video"),
    ):
        if not output:
            arguments = arguments + ["--output", str(tmp_path / "out")]
        status, out, err, _ = predict(*arguments, output=output)
        assert status == 2 and out == "", arguments
        assert err.count("\n") == 1 and words in err, err
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / "full") == ["a.txt"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_only_shown_on_a_terminal(data, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        main(
            [
                "predict",
                *image_paths(data),
                "--weights",
                weights,
                "--device",
                "cpu",
                "--output",
                str(tmp_path / "out"),
            ]
        )
    assert "images" in terminal.getvalue() and "5/5" in terminal.getvalue()
    assert "5/5" not in capsys.readouterr().out
