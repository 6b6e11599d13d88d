"""predict: the audio of drawn videos, and Ctrl-C."""

import os
import signal

import av
import numpy as np
import pytest
from PIL import Image

from ssd.tools import prediction
from ssd.tools.audio import AudioCopy
from tests.commands.predict_files import (
    files,
    image_paths,
    look_at,
    make_video,
    read,
)


def sound_of(path):
    """(content, seconds) of each audio packet."""
    with av.open(str(path)) as container:
        return [
            (bytes(packet), float(packet.pts * packet.time_base))
            for packet in container.demux(container.streams.audio[0])
            if packet.dts is not None
        ]


@pytest.mark.parametrize(
    "name, codec, sound", [("a.mp4", "libx264", "aac"), ("b.webm", "libvpx", "libopus")]
)
def test_audio_is_copied(predict, tmp_path, name, codec, sound):
    path = make_video(tmp_path / name, codec, sound=sound)
    status, _, err, folder = predict(path, "--batch-size", "5")
    drawn = folder / (name[0] + ".mp4")
    assert (status, err) == (0, "") and len(look_at(drawn)[2]) == 12
    before, after = sound_of(path), sound_of(drawn)
    assert len(before) > 40 and [content for content, _ in after] == [
        content for content, _ in before
    ]
    np.testing.assert_allclose(
        [seconds for _, seconds in after], [seconds for _, seconds in before], atol=2e-3
    )


def test_audio_that_an_mp4_cannot_hold(predict, tmp_path):
    path = make_video(tmp_path / "a.wmv", "wmv2", frames=5, sound="wmav2")
    status, _, err, folder = predict(path)
    assert (
        status == 0
        and err
        == f"python -m ssd predict: {path}: its audio (wmav2) is left out of the drawn video: "
        ".mp4 cannot hold it\n"
    )
    with av.open(str(folder / "a.mp4")) as container:
        assert len(container.streams) == 1
    assert predict(path, "--no-draw", output="data")[2] == "", "nothing is drawn"


def test_one_packet_of_audio_is_held(tmp_path):
    """It is read as far as the frames are, not further."""
    audio = AudioCopy(str(make_video(tmp_path / "a.mp4", sound="aac")))
    with av.open(str(tmp_path / "b.mp4"), "w") as output:
        audio.open(output, 0.0)
        for until in (0.2, 0.5, 1.0):
            audio.copy(until)
            assert until < audio.position < until + 0.03
    audio.close()
    assert sound_of(tmp_path / "b.mp4")[-1][1] == pytest.approx(1, abs=0.03)


def interrupt_after(monkeypatch, name, number):
    """A real SIGINT to this process when prediction.NAME (a function, or a class's method) has been
    called so often."""
    owner, _, method = name.rpartition(".")
    owner = getattr(prediction, owner) if owner else prediction
    calls, true = [], getattr(owner, method)

    def called(*args):
        true(*args)
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(owner, method, called)


def test_interrupted_among_images(predict, data, monkeypatch):
    whole = read(predict(*image_paths(data), "--no-draw", output="whole")[3])
    handler = signal.getsignal(signal.SIGINT)
    interrupt_after(monkeypatch, "save_image", 3)
    status, out, err, folder = predict(*image_paths(data), "--batch-size", "2")
    assert (
        status == 130
        and out.startswith("3 images: ")
        and signal.getsignal(signal.SIGINT) is handler
    )
    assert err == "python -m ssd predict: interrupted: 3 of 5 inputs were done\n"
    rows, content = read(folder)
    assert [image["file_name"] for image in content["images"]] == image_paths(data)[:3]
    assert rows == [row for row in whole[0] if row["image_id"] <= 3]
    assert files(folder) == sorted(
        ["detections.json", "images.json", *map(os.path.basename, image_paths(data)[:3])]
    )
    for image in content["images"]:
        Image.open(folder / image["drawn"]).load()


def test_interrupted_in_a_video(predict, data, tmp_path, monkeypatch):
    """The frames so far are kept, with the audio up to the last one."""
    path, other = (
        make_video(tmp_path / "clip.mp4", sound="aac"),
        make_video(tmp_path / "other.mp4", frames=2),
    )
    interrupt_after(monkeypatch, "VideoWriter.add", 4)
    status, _, err, folder = predict(image_paths(data)[0], path, other, "--batch-size", "3")
    assert status == 130
    assert (
        err
        == f"python -m ssd predict: interrupted: 1 of 3 inputs were done, and 4 frames of {path}\n"
    )
    rows, content = read(folder)
    assert [image.get("frame") for image in content["images"]] == [None, 1, 2, 3, 4]
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4, 5}
    assert len(look_at(folder / "clip.mp4")[2]) == 4 and not (folder / "other.mp4").exists()
    assert 0.2 < sound_of(folder / "clip.mp4")[-1][1] < 0.5
