"""predict --annotations: every input is one image of the file, checked as by evaluate; and
earlier output is not an input."""

import json
import os

import pytest
from PIL import Image

from ssd.commands.predict import IdScheme
from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.evaluation.saved_network import load_images
from ssd.files import marked_output
from ssd.tools.inputs import find_inputs

SIZE = (60, 40)


def draw(folder, names, size=SIZE):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 90, 200)).save(str(path), "PNG")


def write(path, names, **changes):
    images = [
        dict(
            dict(id=500 + number, file_name=name, width=SIZE[0], height=SIZE[1]),
            **changes.get(name, {}),
        )
        for number, name in enumerate(names)
    ]
    path.write_text(
        json.dumps(
            dict(
                images=images,
                categories=[dict(id=1, name="x")],
                annotations=[dict(id=1, image_id=500, category_id=1, bbox=[1, 2, 3, 4], iscrowd=0)],
            )
        )
    )
    return str(path)


def scheme(file, inputs, skip=False):
    return IdScheme(file, inputs, skip, 1.0)


# Names in the file; images that are named, and the index in the file of each, or the message of the
# refusal.
WAYS = {
    "one name in two folders": (
        ["x.jpg"],
        ["a/x.jpg", "b/x.jpg"],
        "a/x.jpg and {}/b/x.jpg are both its image 'x.jpg'",
    ),
    "each with its folder": (["a/x.jpg", "b/x.jpg"], ["a/x.jpg", "b/x.jpg"], [0, 1]),
    "the other way round": (["b/x.jpg", "a/x.jpg"], ["a/x.jpg", "b/x.jpg"], [1, 0]),
    "the longest that fits": (["x.jpg", "a/x.jpg"], ["a/x.jpg", "b/x.jpg"], [1, 0]),
    "two of the shortest": (
        ["x.jpg", "a/x.jpg"],
        ["b/x.jpg", "c/x.jpg"],
        "c/x.jpg are both its image 'x.jpg'",
    ),
    "two of the longest": (
        ["a/x.jpg"],
        ["a/x.jpg", "b/a/x.jpg"],
        "b/a/x.jpg are both its image 'a/x.jpg'",
    ),
    "a folder that only ends alike": (
        ["a/x.jpg"],
        ["aa/x.jpg"],
        "aa/x.jpg is not among its images",
    ),
    "a name that only ends alike": (["x.jpg"], ["ax.jpg"], "ax.jpg is not among its images"),
    "a point in front": (["./a/./x.jpg"], ["a/x.jpg"], [0]),
    "three, the last twice": (
        ["x.jpg", "y.jpg", "z.jpg"],
        ["x.jpg", "y.jpg", "z.jpg", "a/z.jpg"],
        "are both its image 'z.jpg'",
    ),
    "another ending": (["x.png"], ["x.jpg"], "x.jpg is not among its images"),
    "another case": (["X.jpg"], ["x.jpg"], "x.jpg is not among its images"),
    "not all of the file": (["a/x.jpg", "a/y.jpg", "b/x.jpg"], ["b/x.jpg"], [2]),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_and_entries(tmp_path, way):
    names, named, wanted = WAYS[way]
    draw(tmp_path / "in", named)
    file = write(tmp_path / "a.json", names)
    inputs, _ = find_inputs([str(tmp_path / "in" / name) for name in named])
    if isinstance(wanted, str):
        with pytest.raises(UserError) as error:
            scheme(file, inputs)
        assert wanted.format(tmp_path / "in") in str(error.value) and "\n" not in str(error.value)
        return
    found = scheme(file, inputs)
    assert [found.id_and_name(one.path)["id"] for one in inputs] == [
        500 + index for index in wanted
    ]
    assert not found.bad and found.count == len(names)


def test_one_file_with_two_names_is_one_image(tmp_path):
    draw(tmp_path, ["a/x.jpg"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    inputs, _ = find_inputs(
        [str(tmp_path / "a"), str(tmp_path / "link"), str(tmp_path / "a" / "x.jpg")]
    )
    assert (
        len(inputs) == 1
        and scheme(write(tmp_path / "a.json", ["x.jpg"]), inputs).id_and_name(inputs[0].path)["id"]
        == 500
    )


# A change of the second of three images; whether it makes the file bad, or the entry.
BAD = {
    "another size": (lambda path: Image.new("RGB", (40, 60)).save(str(path)), {}),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-20]), {}),
    "empty": (lambda path: path.write_bytes(b""), {}),
    "no image": (lambda path: path.write_bytes(b"no image at all"), {}),
    "a GIF": (lambda path: Image.new("P", SIZE).save(str(path), "GIF"), {}),
    "an entry without width": (None, dict(width=None)),
    "an entry of another height": (None, dict(height=41)),
    "an entry with width as text": (None, dict(width="60")),
    "an id as text": (None, dict(id="501")),
    "an id twice": (None, dict(id=500)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("skip", [False, True])
def test_same_checks_as_evaluate(tmp_path, bad, skip):
    """predict leaves out and refuses the same as evaluate."""
    names = ["1.jpg", "2.jpg", "3.jpg"]
    damage, changes = BAD[bad]
    draw(tmp_path / "in", names)
    if damage:
        damage(tmp_path / "in" / "2.jpg")
    file = write(tmp_path / "a.json", names, **{"2.jpg": changes})
    config = load_recipe("ssd-resnet34-own").with_values(
        skip_bad_annotations=skip, max_left_out=1.0, cache_dir=str(tmp_path / "cache")
    )
    inputs, _ = find_inputs([str(tmp_path / "in")])

    def refusal(action):
        try:
            return action(), ""
        except UserError as error:
            return None, str(error)

    loaded, line = refusal(lambda: load_images(config, file, str(tmp_path / "in"), report=len))
    found, other = refusal(lambda: scheme(file, inputs, skip))
    if line:
        assert not skip and other.partition(";")[0] == line.partition(";")[0]
        return
    assert loaded.file_names == (("3.jpg",) if bad == "an id twice" else ("1.jpg", "3.jpg"))
    if found is None:  # its entry is left out, so that no entry is left for the image
        assert skip and f"{inputs[1].path} is not among its images that are left" in other
        found = scheme(file, [inputs[0], inputs[2]], skip)
    left = [one for one in inputs if one.path not in found.bad and one.inside in loaded.file_names]
    assert [found.id_and_name(one.path)["id"] for one in left] == loaded.image_ids.tolist()


def test_a_video_has_no_image_id(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="clip.mp4 is a video, which has no image id"):
        scheme(write(tmp_path / "a.json", ["x.jpg"]), find_inputs([str(tmp_path / "clip.mp4")])[0])


def of_predict(folder):
    for name in ("detections.json", "images.json"):
        (folder / name).write_text("[]")


def of_show_data(folder):
    draw(folder, ["training-images.png", "matched-default-boxes.png"])


def broken_off(folder):
    try:
        with marked_output(str(folder)):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


FOLDERS = ("out", "a/out", "a/deep/out", "predictions/20270101-000000")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("made", [of_predict, of_show_data, broken_off])
def test_output_folders_are_no_inputs(tmp_path, made, folder):
    """Below a named folder, or by a pattern, but not if it is named itself."""
    draw(tmp_path, ["x.jpg", "a/y.jpg", f"{folder}/x.jpg", f"{folder}/deep/y.jpg"])
    made(tmp_path / folder)

    def found(*names):
        return sorted(
            os.path.relpath(one.path, tmp_path)
            for one in find_inputs([str(tmp_path / name) for name in names])[0]
        )

    assert (
        found("")
        == found("**")
        == found("**/*.jpg")
        == found("[a-z]*", "**/*.jpg")
        == ["a/y.jpg", "x.jpg"]
    )
    own = {f"{folder}/x.jpg", f"{folder}/deep/y.jpg"}
    assert (
        set(found(folder)) >= own
        and found(f"{folder}/*.jpg") == [f"{folder}/x.jpg"]
        and found(f"{folder}/x.jpg")
    )
    assert set(found(f"{folder}/**/*.jpg")) == own


def test_a_folder_that_only_looks_like_output(tmp_path):
    """A user's folder with one of the two files is not output."""
    draw(tmp_path, ["a/x.jpg"])
    (tmp_path / "a" / "detections.json").write_text("[]")
    assert [one.inside for one in find_inputs([str(tmp_path)])[0]] == ["a/x.jpg"]
