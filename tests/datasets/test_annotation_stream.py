"""The reader in pieces against json.loads: the same entries, the same refusals,
the same words."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd.datasets import annotation_stream
from ssd.datasets.annotation_file import SECTIONS, show
from ssd.datasets.annotation_stream import read_annotation_file, stream_annotation_file
from ssd.errors import UserError

COMMON = dict(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["},", "}", "],[", '"},{"', "\\", "\ud800", "\U0001f600", "é" * 9, -0.0, 10**30]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)
CONTENTS = st.fixed_dictionaries(
    {name: st.lists(VALUES, max_size=6) | VALUES for name in SECTIONS}, optional={"info": VALUES}
)
GOOD = {
    "info": {"},": ["},{"]},
    "images": [{"id": key, "name": "a},é\U0001f600\n"[:key]} for key in range(6)],
    "annotations": [
        {
            "id": key,
            "bbox": [1.5, -2e-7, key, 10**30],
            "segmentation": [{"a": [1, 2]}, {"counts": "x}," * key}],
        }
        for key in range(9)
    ],
    "categories": [1, "x", None, [], {}, -1.5e30],
}


def streamed(path):
    """What read_annotation_file returns, put together from pieces, or the words of the refusal."""
    found = {}

    def section(name):
        def begin():
            found[name] = []
            return found[name].extend

        return begin

    try:
        stream_annotation_file(path, {name: section(name) for name in SECTIONS})
    except UserError as error:
        return str(error)
    return {name: found[name] for name in SECTIONS}


def in_one(path):
    """The same by json.loads."""
    twice = []

    def pairs(found):
        names = [name for name, _ in found if name in SECTIONS]
        twice[:] = [name for index, name in enumerate(names) if name in names[:index]][
            :1
        ]  # the outermost comes last
        return dict(found)

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        return f"annotation file {path} is not JSON: {' '.join(str(error).split())}"
    if isinstance(content, list):
        return (
            f"annotation file {path} is not COCO ground truth: a list at the top level, as COCO "
            "detections have it"
        )
    if not isinstance(content, dict):
        return f"annotation file {path} is not COCO: {show(content)} at the top level"
    if twice:
        return (
            f"annotation file {path}: {twice[0]!r} occurs twice, and which one counts cannot be "
            "known"
        )
    for section in SECTIONS:
        if section not in content:
            return f"annotation file {path} is not COCO: it has no {section!r}"
        if not isinstance(content[section], list):
            return (
                f"annotation file {path} is not COCO: {section!r} is not a list but "
                f"{show(content[section])}"
            )
    return {name: content[name] for name in SECTIONS}


def same(path, piece, patch):
    patch.setattr(annotation_stream, "PIECE", piece)
    mine, theirs = streamed(path), in_one(path)
    if isinstance(theirs, str) and isinstance(mine, str) and "is not JSON" in theirs:
        # Each has its own message on bytes that are not UTF-8, json before it reads anything else;
        # ours names an archive by its first bytes ("Rar!").
        if "unpack it first" in mine or (
            "is not JSON" in mine and ("codec" in theirs or "UTF-8" in mine)
        ):
            return
    assert repr(mine) == repr(theirs)


@settings(max_examples=150, **COMMON)
@given(CONTENTS, st.integers(1, 90), st.sampled_from([None, 0, 2]), st.booleans())
def test_any_content(tmp_path, content, piece, indent, ascii_only):
    path = tmp_path / "a.json"
    path.write_bytes(
        json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    )
    with pytest.MonkeyPatch.context() as patch:
        same(path, piece, patch)


@settings(max_examples=150, **COMMON)
@given(
    st.integers(0, 1000),
    st.binary(max_size=6) | st.sampled_from([b",", b"]", b"}", b"{", b'"', b"[", b"-Inf", b"1e"]),
    st.integers(0, 6),
    st.integers(1, 90),
    st.booleans(),
)
def test_damaged_content(tmp_path, index, put, lost, piece, cut):
    text = json.dumps(GOOD, indent=1, ensure_ascii=False).encode()
    index %= len(text)
    path = tmp_path / "a.json"
    path.write_bytes(text[:index] + put + (b"" if cut else text[index + lost :]))
    with pytest.MonkeyPatch.context() as patch:
        same(path, piece, patch)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "",
        " ",
        "[]",
        "[",
        "{",
        '{"a"',
        '{"a":',
        '{"a":1',
        '{"a":1,',
        '{"a":1,}',
        "{,}",
        "{1:2}",
        '{"images":[}',
        "nul",
        '{"images":[1,],"annotations":[],"categories":[]}',
        '{"images":[{"a":1},],"annotations":[],"categories":[]}',
        '{"images":[{"a":1},,{}],"annotations":[],"categories":[]}',
        '{"images":[{"a":1}{}],"annotations":[],"categories":[]}',
        '{"images":[],"annotations":[],"categories":[]}x',
        '{"images":[],"annotations":[],"categories":[]} \n ',
        '{"images":[NaN,-Infinity,Infinity,-0,1e5,true],"annotations":[ ],"categories":[\t]}',
        '{"images":[1],"images":[2],"annotations":[],"categories":[],"categories":7}',
        '{"images":7,"images":[2,{"a":"},"}],"annotations":[],"categories":[]}',
        '{"images":[1],"images":[2]}',
        '{"images":["\\ud83d\\ude00\\n"],"annotations":["\\u12"],"categories":[]}',
        '{"images":["a\nb"]}',
        '\ufeff{"images":[1],"annotations":[2],"categories":[3]}',
        '{"images":[' + "1" * 5000 + "]}",
        '{"images":[{"a":'
        + "[" * 30
        + "]" * 30
        + '},{"b":"}, {"},{"c":2}],"annotations":[{}],"categories":[]}',
    ],
    ids=lambda text: repr(text)[:40],
)
def test_edges(tmp_path, text, piece, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    same(path, piece, monkeypatch)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig", "latin-1"])
def test_other_encodings(tmp_path, encoding, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes('{"images":["é"],"annotations":[],"categories":[]}'.encode(encoding))
    same(path, 5, monkeypatch)


def test_the_complete_content_has_every_other_key_too(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_stream, "PIECE", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert read_annotation_file(path) == GOOD


def test_pieces_are_small(tmp_path, monkeypatch):
    """A large file is read in many pieces, and entries come many at a time, however the entries are
    nested."""
    monkeypatch.setattr(annotation_stream, "PIECE", 4096)
    for entry in (
        {"id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 1, "segmentation": {"counts": "},", "size": [1]}, "x": 1},
    ):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(dict(images=[], annotations=[entry] * 4000, categories=[])))
        sizes = []
        stream_annotation_file(
            path, {"annotations": lambda: lambda entries: sizes.append(len(entries))}
        )
        assert (
            sum(sizes) == 4000
            and max(sizes) < 300
            and len(sizes) < 2.2 * path.stat().st_size / 4096
        )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    """30,000 annotations with all of Open Images' keys: as dicts they are some 30 MB, as columns
    2."""
    import tracemalloc

    from ssd.datasets.annotations import read_annotations

    monkeypatch.setattr(annotation_stream, "PIECE", 1 << 16)
    path = tmp_path / "a.json"
    annotations = [
        {
            "id": key + 1,
            "image_id": key // 10,
            "category_id": key % 7,
            "bbox": [key / 7, 1.5, 3.25, 4],
            "area": 13.0,
            "iscrowd": 0,
            "IsOccluded": False,
            "IsTruncated": False,
            "IsGroupOf": False,
            "IsDepiction": False,
            "IsInside": False,
        }
        for key in range(30000)
    ]
    images = [
        {"id": key, "file_name": f"{key:016x}.jpg", "width": 5000, "height": 10}
        for key in range(3000)
    ]
    categories = [{"id": key, "name": str(key)} for key in range(7)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    del annotations, images
    tracemalloc.start()
    try:
        found = read_annotations(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (
        len(found.boxes.xywh) == 30000 and found.boxes.good.all() and len(found.images.ids) == 3000
    )
    assert peak < 6.7e6 < path.stat().st_size, peak
