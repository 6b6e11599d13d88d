"""Whatever an annotation file contains, the result is a data set or one line, never a traceback or
a hang."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssd.__main__ import build_parser
from ssd.commandline import read_settings
from ssd.commands import check_data
from ssd.data.dali_annotations import float32_xywh
from ssd.datasets.coco import load_coco
from ssd.datasets.prepare_json import write_reduced
from ssd.errors import UserError

COMMON = dict(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALID = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [
        dict(id=key, file_name=f"{key}.jpg", width=40, height=30, license=1) for key in (1, 2, 3)
    ],
    "annotations": [
        dict(
            id=10 + key,
            image_id=1 + key % 2,
            category_id=(7, 3)[key % 2],
            bbox=[1 + key, 2, 10.5, 20],
            area=210.0,
            iscrowd=key % 2,
            segmentation=[[1, 2, 3, 4, 5, 6]],
        )
        for key in range(4)
    ],
    "categories": [
        dict(id=7, name="cat", supercategory="animal"),
        dict(id=3, name="dog", supercategory="animal"),
    ],
}
NUMBERS = st.one_of(
    st.integers(-3, 45),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [
            0,
            -1,
            2**24 + 1,
            2**31,
            2**63,
            2**64,
            10**400,
            -(10**400),
            10**4000,
            1e308,
            -1e308,
            5e-324,
            -0.0,
            math.nan,
            math.inf,
            -math.inf,
            0.1,
            1e-7,
            40.0,
            39.999999999,
        ]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "",
            "1.jpg",
            "2.jpg",
            "./1.jpg",
            "../1.jpg",
            "/etc/passwd",
            "a\0b",
            "a\nb",
            "\ud800",
            "12",
            "nan",
            "x" * 5000,
        ]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths_in(content, path=()):
    """Paths to everything inside a JSON value."""
    keys = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in keys:
        yield (*path, key)
        yield from paths_in(value, (*path, key))


for _key in ("area", "iscrowd", "segmentation"):  # missing in data sets with boxes only
    del VALID["annotations"][3][_key]
PATHS = list(paths_in(VALID))


def mutate(content, path, action, value):
    """Changes the value at `path`; does nothing if an earlier change has removed it."""
    holder = content
    for key in path[:-1]:
        try:
            holder = holder[key]
        except (KeyError, IndexError, TypeError):
            return
    key = path[-1]
    if isinstance(holder, str) or not hasattr(holder, "__getitem__"):
        return
    try:
        if action == "remove":
            del holder[key]
        elif action == "replace":
            holder[key] = value
        elif action == "wrap":
            holder[key] = [holder[key]]
        elif action == "text":
            holder[key] = json.dumps(holder[key])
        elif isinstance(holder, list):  # repeat
            holder.append(copy.deepcopy(holder[key]))
    except (KeyError, IndexError, TypeError):  # an earlier change has put something else here
        pass


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(PATHS),
        st.sampled_from(["remove", "replace", "replace", "wrap", "text", "repeat"]),
        VALUES,
    ),
    min_size=1,
    max_size=4,
)


class Outcome:
    """Passes annotation files to everything that reads one."""

    def __init__(self, folder):
        self.folder, self.file, self.images = folder, folder / "a.json", folder / "val2017"
        self.images.mkdir()
        for key in (1, 2, 3):
            Image.new("RGB", (40, 30), (key, 90, 200)).save(str(self.images / f"{key}.jpg"))
        self.arguments = [
            build_parser(["check-data"]).parse_args(
                [
                    "check-data",
                    "--data-dir",
                    str(folder),
                    "--split",
                    split,
                    "--train-annotations",
                    "a.json",
                    "--val-annotations",
                    "a.json",
                    "--train-images",
                    "val2017",
                    "--val-images",
                    "val2017",
                    "--no-cache",
                    "--jobs",
                    "1",
                    *flags,
                ]
            )
            for split, flags in (("train", ["--json"]), ("val", ["--skip-bad-annotations"]))
        ]
        self.seen = set()

    def of(self, action):
        """The result of `action()`, or None if it refuses the file in one line."""
        try:
            return action()
        except UserError as error:
            message = str(error)
            assert message.strip() and len(message.splitlines()) == 1
            message.encode()
            return None

    def try_everything(self, content: bytes):
        self.file.write_bytes(content)
        lines = []
        sets = {
            skip: self.of(
                lambda: load_coco(
                    self.file,
                    self.images,
                    skip_bad=skip,
                    check_images="header",
                    report=lines.append,
                    threads=1,
                )
            )
            for skip in (False, True)
        }
        assert all(len(line.splitlines()) == 1 for line in lines)
        for data in filter(None, sets.values()):
            assert (0 <= data.boxes_ltrb).all() and (
                data.boxes_ltrb[:, :2] < data.boxes_ltrb[:, 2:]
            ).all()
            assert (data.boxes_ltrb[:, 2:] <= data.sizes[data.box_image]).all()
            assert ((1 <= data.box_classes) & (data.box_classes < data.num_classes)).all()
            float32_xywh(data.boxes_ltrb, data.sizes[data.box_image])
        target = self.folder / "out.json"
        if self.of(lambda: write_reduced(self.file, target)) is not None:
            json.loads(
                target.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the output")
            )
            target.unlink()
        assert sorted(path.name for path in self.folder.iterdir()) == ["a.json", "val2017"], (
            "no temporary files"
        )
        statuses = [self.of(lambda: self.check(arguments)) for arguments in self.arguments]
        assert statuses[0] in (None, 0, 1) and (statuses[0] == 0) == (sets[False] is not None)
        self.seen.add((statuses[0], sets[True] is not None))

    def check(self, arguments):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            status = check_data.run(arguments)
        output.getvalue().encode()
        if arguments.json:
            report = json.loads(output.getvalue())
            assert report["refused"] == bool(status) and bool(report["errors"]) == bool(status)
        return status


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    outcome = Outcome(tmp_path_factory.mktemp("fuzz"))
    settings_of = {id(arguments): read_settings(arguments) for arguments in outcome.arguments}
    # Reading the recipe every time would take longer than everything else.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd.commandline.read_settings", lambda arguments: settings_of[id(arguments)])
        yield outcome


def test_the_unchanged_file_is_accepted(outcome):
    outcome.seen.clear()
    outcome.try_everything(json.dumps(VALID).encode())
    assert outcome.seen == {(0, True)}


@settings(max_examples=200, **COMMON)
@given(MUTATIONS)
def mutated(outcome, mutations):
    content = copy.deepcopy(VALID)
    for path, action, value in mutations:
        mutate(content, path, action, value)
    outcome.try_everything(json.dumps(content).encode())


def test_mutated_files(outcome):
    outcome.seen.clear()
    mutated(outcome)
    # Files of all kinds occur: accepted, refused with and without usable annotations, unreadable.
    assert outcome.seen >= {(0, True), (1, True), (None, False)}


@settings(max_examples=80, **COMMON)
@given(
    VALUES | st.fixed_dictionaries(dict.fromkeys(("images", "annotations", "categories"), VALUES))
)
def test_any_json(outcome, content):
    outcome.try_everything(json.dumps(content).encode())


@settings(max_examples=80, **COMMON)
@given(st.integers(0, len(json.dumps(VALID))), st.binary(max_size=8), st.integers(0, 8))
def test_damaged_bytes(outcome, position, bytes_put, bytes_lost):
    """Cut, overwritten and inserted bytes, invalid UTF-8 among them."""
    content = json.dumps(VALID).encode()
    outcome.try_everything(content[:position] + bytes_put + content[position + bytes_lost :])
    outcome.try_everything(content[:position])


DEEP = ["[" * 10**5, "[" * 5000 + "]" * 5000, '{"images":' * 5000, '{"a":' * 900 + "1" + "}" * 900]


@pytest.mark.parametrize(
    "text",
    DEEP
    + [json.dumps(VALID).replace("210.0", deep) for deep in DEEP[1::2]]
    + [
        json.dumps(VALID).replace("[1, 2, 10.5, 20]", deep)
        for deep in ("[" * 900 + "]" * 900, "1" * 5000, "1e999")
    ]
    + [
        json.dumps(VALID).replace("[4, 2, 10.5, 20]", huge)
        for huge in (f"[1, 2, 1.5, {10**400}]", f"[1, 2, {10**4000}, {10**4000}]")
    ]
    + [
        json.dumps(dict(VALID, categories=[dict(id=7, name=[[[[[[[[["deep"]]]]]]]]])])),
        "",
        " ",
        "\ufeff" + json.dumps(VALID),
        json.dumps(VALID) + "x",
        '{"images":[],"images":[]}',
    ],
)
def test_deep_and_other_odd_texts(outcome, text):
    outcome.try_everything(text.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "latin-1"])
def test_other_encodings(outcome, encoding):
    content = copy.deepcopy(VALID)
    content["categories"][0]["name"] = "Häschen"
    outcome.try_everything(json.dumps(content, ensure_ascii=False).encode(encoding))
