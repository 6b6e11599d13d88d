"""Annotation files: what is read, what is refused and how, what is kept, and what DALI makes of
it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd.data import dali_annotations
from ssd.data.dali_annotations import float32_xywh, write_dali_annotations
from ssd.datasets.coco import load_coco
from ssd.datasets.coco_cache import dataset_fingerprint
from ssd.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not (SHARED / "coco_full").is_dir(), reason="../shared/data is absent"
)


def quiet(line):
    pass


def image(key=1, name=None, width=40, height=30, **more):
    return dict(
        id=key, file_name=f"{key}.jpg" if name is None else name, width=width, height=height, **more
    )


def box(key=1, of=1, category=7, bbox=(1, 2, 10, 20), **more):
    return dict(
        id=key,
        image_id=of,
        category_id=category,
        bbox=list(bbox),
        area=1.0,
        **{"iscrowd": 0, **more},
    )


CATEGORIES = [dict(id=7, name="cat"), dict(id=3, name="dog")]


@pytest.fixture()
def make(tmp_path):
    """Writes annotations and 40 x 30 images for the images named; returns load_coco's two
    paths."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for key in (1, 2, 3):
        Image.new("RGB", (40, 30), (key, 90, 200)).save(folder / f"{key}.jpg")

    def write(images=None, annotations=None, categories=CATEGORIES, **more):
        content = dict(
            images=[image()] if images is None else images,
            annotations=[box()] if annotations is None else annotations,
            categories=categories,
            **more,
        )
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path / "a.json", folder

    return write


def refused(paths, **options):
    """The one line of the UserError."""
    with pytest.raises(UserError) as caught:
        load_coco(*paths, **{"report": quiet, **options})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_reads_boxes_grouped_by_image(make):
    lines = []
    data = load_coco(
        *make(
            [image(2), image(1, width=40.0), image(3)],
            [box(1, 1, 3, (30, 20, 10.5, 10.25)), box(5, 2, 7, iscrowd=1), box(-4, 1, 7)],
        ),
        report=lines.append,
    )
    assert (data.num_images, data.num_classes, data.category_ids, data.category_names) == (
        3,
        3,
        (7, 3),
        ("cat", "dog"),
    )
    assert data.image_ids.tolist() == [2, 1, 3] and data.image_ids.dtype == np.int64
    assert data.file_names == ("2.jpg", "1.jpg", "3.jpg") and data.sizes.tolist() == [[40, 30]] * 3
    assert data.box_image.tolist() == [0, 1, 1] and data.box_classes.tolist() == [1, 2, 1]
    assert data.box_crowd.tolist() == [True, False, False]
    assert data.boxes_ltrb.tolist() == [[1, 2, 11, 22], [30, 20, 40, 30], [1, 2, 11, 22]]
    assert data.boxes_ltrb.dtype == np.float64 and data.images_with_boxes.tolist() == [0, 1]
    assert len(lines) == 1 and lines[0].endswith(
        "3 images (1 without a box), 3 boxes, 1 of them clipped at the image's edge, 2 categories"
    )


@pytest.mark.parametrize(
    "content, named",
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 10**5, "is not JSON"),
        (b"[]", "detections"),
        (b"null", "not COCO"),
        (b'"x"', "not COCO"),
        (b"{}", "'images'"),
        (b'{"images":[],"categories":[]}', "'annotations'"),
        (b'{"images":{"a":1},"annotations":[],"categories":[]}', "'images' is not a list"),
        (b'{"images":[],"annotations":[],"categories":[]}', "holds no image"),
        (b'{"images":[1],"annotations":[],"categories":[]}', "holds no category"),
    ],
)
def test_not_an_annotation_file(make, content, named):
    paths = make()
    paths[0].write_bytes(content)
    message = refused(paths)
    assert named in message and str(paths[0]) in message


def test_missing_paths(make, tmp_path):
    file, folder = make()
    assert str(tmp_path / "no.json") in refused((tmp_path / "no.json", folder))
    assert str(tmp_path / "none") in refused((file, tmp_path / "none"))
    assert "not a folder" in refused((file, file)) and "not a file" in refused((folder, folder))


@pytest.mark.parametrize(
    "categories, named",
    [
        (CATEGORIES + [dict(id=7, name="cow")], "duplicate category id 7 ('cat' and 'cow')"),
        ([dict(id="7", name="cat")], "'7'"),
        ([dict(id=True, name="cat")], "True"),
        ([None], "category"),
        ([dict(id=7)], "category"),
        ([dict(id=2**70, name="a")], "category"),
        ([[]], "category"),
    ],
)
def test_categories_must_be_right_even_with_skip_bad(make, categories, named):
    for skip_bad in (False, True):
        assert named in refused(make(categories=categories), skip_bad=skip_bad)


BAD_IMAGES = [
    ("image entry is not an object", [], "images[1]"),
    ("64-bit whole number", image("1"), "'1'"),
    ("64-bit whole number", image(True, "2.jpg"), "True"),
    ("64-bit whole number", image(2**64, "2.jpg"), "1844"),
    ("64-bit whole number", image([[]], "2.jpg"), "[[]]"),
    ("64-bit whole number", dict(file_name="2.jpg"), "images[1]"),
    ("duplicate image id", image(1), "1.jpg"),
    ("duplicate file name", image(2, "./1.jpg"), "./1.jpg"),
    ("usable size", image(2, width=0), "image 2 ('2.jpg')"),
    ("usable size", image(2, height="30"), "'30'"),
    ("usable size", image(2, height=float("nan")), "nan"),
    ("usable size", image(2, width=1e300), "1e+300"),
    ("usable file name", image(2, 5), "image 2"),
    ("usable file name", image(2, ""), "image 2"),
    ("usable file name", image(2, "a\0"), "image 2"),
    ("usable file name", image(2, "\ud800.jpg"), "\\ud800"),
    (
        "usable file name",
        image(2, "\udcff.jpg"),
        "\\udcff",
    ),  # what Python makes of a name that is no UTF-8
    ("leaves the image folder", image(2, "../a.json"), "../a.json"),
    ("leaves the image folder", image(2, "x/../../a.json"), "image 2"),
    ("leaves the image folder", image(2, "/etc/passwd"), "/etc/passwd"),
    ("image file missing", image(9), "image 9 ('9.jpg')"),
    ("image file missing", image(2, "1.jpg/x"), "1.jpg/x"),
    ("image size differs", image(2, width=30, height=40), "40 x 30 pixels on disk, 30 x 40"),
    ("image file unreadable", image(2, "a" * 300), "image 2"),
]


def test_two_images_of_one_id_are_both_left_out(make):
    """The boxes may belong to either."""
    paths, lines = make([image(3), image(1), image(1, "2.jpg")]), []
    assert "duplicate image id: image 1 ('2.jpg') and images[1] ('1.jpg')" in refused(paths)
    data = load_coco(*paths, skip_bad=True, require_boxes=False, report=lines.append)
    assert data.file_names == ("3.jpg",) and "2 x duplicate image id" in lines[0]


@pytest.mark.parametrize("kind, bad, named", BAD_IMAGES)
def test_bad_images(make, kind, bad, named):
    paths = make([image(3), bad, image(1)][::-1])
    message, lines = refused(paths), []
    assert kind in message and named in message
    data = load_coco(*paths, skip_bad=True, report=lines.append)
    assert data.file_names == ("1.jpg", "3.jpg") and len(data.boxes_ltrb) == 1
    assert len(lines) == 2 and kind in lines[0] and "1 x " in lines[0] and named in lines[0]


BAD_BOXES = [
    ("annotation is not an object", None, "annotations[1]"),
    ("annotation is not an object", [1], "annotations[1]"),
    ("annotation id is not", box("2"), "'2'"),
    ("annotation id is not", box(2**63), "9223"),
    ("annotation id is not", box(None), "annotation"),
    ("annotation id is not", box(False), "False"),
    ("duplicate annotation id", box(1), "annotation 1 of image 1 ('1.jpg')"),
    ("unknown image", box(2, 99), "annotation 2 of image 99"),
    ("unknown image", box(2, [1]), "image [1]"),
    ("unknown image", box(2, True), "image True"),
    ("unknown image", box(2, 10**30), "annotation 2"),
    ("unknown category", box(2, category=5), "category 5"),
    ("unknown category", box(2, category={}), "category {}"),
    ("iscrowd is neither", box(2, iscrowd="no"), "'no'"),
    ("iscrowd is neither", box(2, iscrowd=2), "iscrowd 2"),
    (
        "not four numbers",
        box(2, bbox=[1, 2, 3]),
        "annotation 2 of image 1 ('1.jpg'): box [1, 2, 3]",
    ),
    ("not four numbers", box(2, bbox=[1, 2, 3, "4"]), "'4'"),
    ("not four numbers", box(2, bbox=[1, 2, 3, [4]]), "[4]"),
    ("not four numbers", box(2, bbox=[1, 2, 3, True]), "True"),
    ("not four numbers", dict(box(2), bbox={"x": 1}), "{'x': 1}"),
    ("NaN or infinity", box(2, bbox=[1, float("nan"), 3, 4]), "nan"),
    ("NaN or infinity", box(2, bbox=[1, 2, 3, float("inf")]), "inf"),
    ("NaN or infinity", box(2, bbox=[1, 2, 3, 10**400]), "annotation 2"),
    ("negative size", box(2, bbox=[9, 2, -3, 4]), "-3"),
    ("empty box", box(2, bbox=[1, 2, 3, 0]), "[1, 2, 3, 0]"),
    ("empty box", box(2, bbox=[1, 2, 1e-30, 4]), "1e-30"),
    ("empty box", box(2, bbox=[40, 2, 0.5, 4]), "no area"),
    ("outside the image", box(2, bbox=[1, 2, 41, 4]), "in 40 x 30 pixels"),
    ("outside the image", box(2, bbox=[-1.01, 2, 3, 4]), "-1.01"),
    ("outside the image", box(2, bbox=[1e308, 2, 1e308, 4]), "1e+308"),
]


@pytest.mark.parametrize("kind, bad, named", BAD_BOXES)
def test_bad_annotations(make, kind, bad, named):
    paths = make(annotations=[box(1), bad, box(3, bbox=(5, 5, 5, 5))])
    with pytest.raises(UserError) as caught:
        load_coco(*paths, report=quiet)
    assert (
        kind in str(caught.value) and named in str(caught.value) and "\n" not in str(caught.value)
    )
    lines = []
    data = load_coco(*paths, skip_bad=True, report=lines.append)
    assert data.boxes_ltrb.tolist() == [[1, 2, 11, 22], [5, 5, 10, 10]]
    assert (
        len(lines) == 2 and "left out: 1 x " in lines[0] and kind in lines[0] and named in lines[0]
    )


def test_slightly_outside_is_clipped(make):
    data = load_coco(
        *make(annotations=[box(1, bbox=(-1, -0.01, 42, 30.02)), box(2, bbox=(39, 29, 1, 2))]),
        report=quiet,
    )
    assert data.boxes_ltrb.tolist() == [[0, 0, 40, 30], [39, 29, 40, 30]]


def test_all_problems_are_counted(make):
    lines = []
    paths = make(
        [image(1), image(8), image(9)],
        [
            box(1, 1),
            box(2, 9),
            box(2, 1),
            box(3, 1, bbox=(0, 0, 0, 1)),
            box(4, 1, bbox=(0, 0, 0, 2)),
        ],
    )
    message = refused(paths, report=lines.append)
    assert "annotation 2 of image 1 ('1.jpg')" in message
    assert message.endswith(
        "(in all: 1 x duplicate annotation id, 2 x empty box, 2 x image file missing)"
    )
    assert [line.split(": ", 1)[1] for line in lines[:2]] == [
        "1 x duplicate annotation id; the first: annotation 2 of image 1 ('1.jpg'): an earlier "
        "annotation has its id",
        "2 x empty box; the first: annotation 3 of image 1 ('1.jpg'): box [0, 0, 0, 1]",
    ]
    assert len(lines) == 3 and "2 x image file missing; the first: image 8 ('8.jpg')" in lines[2]
    lines.clear()
    data = load_coco(*paths, skip_bad=True, report=lines.append)
    assert data.num_images == 1 and len(data.boxes_ltrb) == 1
    assert any("1 x annotation of an image left out" in line for line in lines)


def test_nothing_left(make):
    assert "no image with a box" in refused(make(annotations=[]))
    assert load_coco(*make(annotations=[]), require_boxes=False, report=quiet).boxes_ltrb.shape == (
        0,
        4,
    )
    assert "no image with a box once bad" in refused(
        make(annotations=[box(bbox=(0, 0, 0, 0))]), skip_bad=True
    )
    assert "holds no image once bad" in refused(
        make([image(9)]), skip_bad=True, require_boxes=False
    )


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", "not an image"),
        (b"GIF89a" + bytes(20), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        ("truncated", "does not decode"),
        ("folder", "not an image"),
        ("pipe", "not an image"),
    ],
)
def test_bad_image_files(make, content, kind):
    from PIL import Image

    paths = make([image(1), image(2)])
    victim = paths[1] / "2.jpg"
    noise = np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(victim)
    intact = victim.read_bytes()
    victim.unlink()
    if content == "folder":
        victim.mkdir()
    elif content == "pipe":
        os.mkfifo(str(victim))
    else:
        victim.write_bytes(intact[: -1 - len(intact) // 20] if content == "truncated" else content)
    message = refused(paths)
    assert kind in message and "image 2 ('2.jpg')" in message
    if (
        content == "truncated"
    ):  # what a GPU decodes without a message, so that it is found at this level too
        assert kind in refused(paths, check_images="header")
        assert load_coco(*paths, check_images="exists", report=quiet).num_images == 2
    assert load_coco(*paths, skip_bad=True, report=quiet).file_names == ("1.jpg",)


def test_odd_images_are_good(make):
    from PIL import Image

    paths = make(
        [image(1, "g.jpg"), image(2, "c.jpg"), image(3, "sub dir/ü.png"), image(4, "p.bmp")]
    )
    (paths[1] / "sub dir").mkdir()
    for name, mode in [
        ("g.jpg", "L"),
        ("c.jpg", "CMYK"),
        ("sub dir/ü.png", "RGBA"),
        ("p.bmp", "P"),
    ]:
        # converted, since Pillow 10 saves a new "P" image, whose palette is empty, as a BMP that
        # nothing reads
        Image.new("RGB", (40, 30)).convert(mode).save(paths[1] / name)
    assert load_coco(*paths, report=quiet).num_images == 4


# ---- fuzzed files: never any exception but UserError ----

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
    st.integers(-2, 45),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([1, 2, 7, "1.jpg", 2**63, 10**400, "\ud800", "../x", -0.0, 1e308]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
BOXES = st.one_of(
    st.lists(st.one_of(st.floats(-5, 45), st.integers(-1, 41), SCALARS), min_size=4, max_size=4),
    VALUES,
)


def entries(**keys):
    """Objects with these keys, most of them as they should be."""
    return st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {},
                optional={key: st.one_of(good, good, good, VALUES) for key, good in keys.items()},
            ),
            st.fixed_dictionaries(keys),
            VALUES,
        ),
        max_size=5,
    )


FILES = st.fixed_dictionaries(
    {
        "images": st.one_of(
            entries(
                id=st.integers(1, 3),
                file_name=st.sampled_from(["1.jpg", "2.jpg", "3.jpg"]),
                width=st.just(40),
                height=st.just(30),
            ),
            VALUES,
        ),
        "annotations": st.one_of(
            entries(
                id=st.integers(1, 9),
                image_id=st.integers(1, 3),
                bbox=BOXES,
                category_id=st.integers(6, 7),
                iscrowd=st.integers(0, 1),
            ),
            VALUES,
        ),
        "categories": st.one_of(
            st.just(CATEGORIES), st.just(CATEGORIES), entries(id=st.just(7), name=st.text()), VALUES
        ),
    }
)


@settings(max_examples=200, **COMMON)
@given(FILES, st.booleans(), st.booleans())
def test_fuzzed_files(make, content, skip_bad, require_boxes):
    paths = make()
    paths[0].write_text(json.dumps(content))
    lines = []
    try:
        data = load_coco(
            *paths,
            skip_bad=skip_bad,
            require_boxes=require_boxes,
            check_images="header",
            report=lines.append,
        )
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        str(error).encode()
        return
    finally:
        assert all(len(line.splitlines()) == 1 for line in lines)
    assert data.num_images and (len(data.boxes_ltrb) or not require_boxes)
    left_top, right_bottom = data.boxes_ltrb[:, :2], data.boxes_ltrb[:, 2:]
    assert (left_top >= 0).all() and (left_top < right_bottom).all()
    assert (right_bottom <= data.sizes[data.box_image]).all()
    assert ((1 <= data.box_classes) & (data.box_classes < data.num_classes)).all()
    float32_xywh(data.boxes_ltrb, data.sizes[data.box_image])


@settings(max_examples=200, **COMMON)
@given(
    st.one_of(
        st.binary(max_size=60), st.text(alphabet='{}[]",:01eEN-\\u \n', max_size=60).map(str.encode)
    )
)
def test_fuzzed_bytes(make, content):
    paths = make()
    paths[0].write_bytes(content)
    refused(paths)


# ---- cache ----


def test_cache(make, tmp_path):
    kept, first, second = tmp_path / "deep" / "cache", [], []
    paths = make(
        [image(1), image(2)],
        [box(1), box(2, 2, bbox=(0, 0, 40.5, 3)), box(3, 2, 3, bbox=(0, 0, 0, 3))],
    )
    options = dict(cache_dir=kept, skip_bad=True)
    before = load_coco(*paths, report=first.append, **options)
    (kept_file,) = kept.iterdir()

    # The same time stamps, but nothing that could be read: the result is the kept one.
    stamp, size = paths[0].stat().st_mtime_ns, paths[0].stat().st_size
    paths[0].write_bytes(b"x" * size)
    os.utime(str(paths[0]), ns=(stamp, stamp))
    after = load_coco(*paths, report=second.append, **options)
    assert first == second and len(first) == 2
    for name in ("image_ids", "sizes", "boxes_ltrb", "box_classes", "box_crowd", "box_image"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
        assert getattr(before, name).dtype == getattr(after, name).dtype
    for name in ("path", "image_folder", "file_names", "category_ids", "category_names"):
        assert getattr(before, name) == getattr(after, name)

    intact = kept_file.read_bytes()
    paths = make([image(1)])
    os.utime(str(paths[0]), ns=(stamp, stamp))
    fresh = load_coco(*paths, report=quiet, **options)
    assert fresh.num_images == 1, "another size of the file is another data set"
    for broken in (
        b"",
        intact[:100],
        intact[:-30],
        b"\x80\x04N.",
        intact.replace(b"ltrb", b"rtlb"),
        bytes(b ^ (k % 211 == 210) for k, b in enumerate(intact)),
    ):
        for file in kept.iterdir():
            file.write_bytes(broken)
        assert load_coco(*paths, report=quiet, **options).num_images == 1


def test_bad_data_sets_are_not_kept(make, tmp_path):
    kept = tmp_path / "cache"
    refused(make(annotations=[box(bbox=(0, 0, 0, 0))]), cache_dir=kept)
    load_coco(*make([image(1), image(9)]), skip_bad=True, cache_dir=kept, report=quiet)
    assert not kept.exists(), "image files may be repaired without a trace in any time stamp"
    (tmp_path / "blocked").write_text("")
    lines = []
    assert load_coco(*make(), cache_dir=tmp_path / "blocked", report=lines.append).num_images == 1
    assert "not kept" in lines[-1]


def test_fingerprint(make, tmp_path):
    file, folder = make()
    first = dataset_fingerprint(file, folder, {"a": 1})
    assert first == dataset_fingerprint(str(file), str(folder), {"a": 1})
    assert first != dataset_fingerprint(file, folder, {"a": 2})
    stamp = folder.stat().st_mtime_ns
    os.utime(str(folder), ns=(stamp, stamp + 1))
    assert first != dataset_fingerprint(file, folder, {"a": 1})
    os.utime(str(folder), ns=(stamp, stamp))
    assert first == dataset_fingerprint(file, folder, {"a": 1})
    stamp = file.stat().st_mtime_ns
    os.utime(str(file), ns=(stamp, stamp + 1))
    assert first != dataset_fingerprint(file, folder, {"a": 1})


# ---- real files ----


@needs_real_data
@pytest.mark.parametrize(
    "name, split, images, empty, boxes, crowds",
    [
        ("coco_full", "train2017", 48, 1, 373, 4),
        ("coco300", "train2017", 1000, 3, 8934, 15),
        ("coco300", "val2017", 200, 0, 2048, 0),
    ],
)
def test_real_files(name, split, images, empty, boxes, crowds):
    from pycocotools.coco import COCO

    path = SHARED / name / "annotations" / f"instances_{split}.json"
    data = load_coco(path, SHARED / name / split, report=quiet)
    assert (data.num_images, data.num_classes, len(data.boxes_ltrb)) == (images, 81, boxes)
    assert images - len(data.images_with_boxes) == empty and data.box_crowd.sum() == crowds
    coco = COCO(str(path))
    for index in range(0, images, 17):
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=int(data.image_ids[index])))
        mine = data.box_image == index
        want = np.array([entry["bbox"] for entry in theirs]).reshape(-1, 4)
        want[:, 2:] += want[:, :2]
        np.testing.assert_array_equal(data.boxes_ltrb[mine], want)
        mine = [data.category_ids[label - 1] for label in data.box_classes[mine]]
        assert mine == [entry["category_id"] for entry in theirs]


# ---- DALI ----


def read_with_dali(file, folder, count, batch=50, crop=False):
    """[(id, labels, ltrb ratios)] of `count` images as readers.coco gives them (and
    random_bbox_crop)."""
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None, seed=1)
    def graph():
        _, boxes, labels, ids = fn.readers.coco(
            file_root=str(folder),
            annotations_file=str(file),
            ltrb=True,
            ratio=True,
            image_ids=True,
            size_threshold=0.0,
        )
        if crop:
            _, _, boxes, labels = fn.random_bbox_crop(
                boxes,
                labels,
                aspect_ratio=[0.5, 2.0],
                thresholds=[0, 0.1, 0.3, 0.5, 0.7, 0.9],
                scaling=[0.3, 1.0],
                bbox_layout="xyXY",
                allow_no_crop=True,
                num_attempts=1,
            )
        return ids, labels, boxes

    pipeline = graph()
    pipeline.build()
    rows = []
    while len(rows) < count:
        outputs = pipeline.run()
        rows += [
            (
                int(np.array(outputs[0][k])[0]),
                np.array(outputs[1][k]).ravel(),
                np.array(outputs[2][k]),
            )
            for k in range(batch)
        ]
    return rows[:count]


def border_data(tmp_path, n=200):
    """Images of odd sizes whose boxes touch the right and bottom border, or nearly; names need
    escapes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    images, boxes = [], []
    for index in range(n):
        width, height = (int(side) for side in rng.integers(1, 5000, size=2))
        name = f'ü"{index} \\ €.jpg'
        (folder / name).write_bytes(b"never decoded")
        images.append(image(10**12 - index, name, width, height))
        for number in range(index % 12):
            x, y = (
                float(side * part)
                for side, part in zip((width, height), rng.uniform(0, 0.99, size=2))
            )
            if number % 3 == 0:
                x, y = 1e-5 * number, 0.0
            boxes.append(
                box(
                    len(boxes),
                    10**12 - index,
                    (11, 3, 7)[number % 3],
                    (
                        x,
                        y,
                        width - x + 1e-3 * (number % 2),
                        (height - y) * (1 if number % 4 else 1e-4),
                    ),
                    iscrowd=number % 2,
                )
            )
    file = tmp_path / "border.json"
    file.write_text(
        json.dumps(
            dict(
                images=images,
                annotations=boxes,
                categories=[dict(id=11, name="x"), dict(id=3, name='"y\\'), dict(id=7, name="ü")],
            )
        )
    )
    return load_coco(file, folder, check_images="exists", report=quiet), folder


def test_dali_reads_what_was_checked(tmp_path):
    data, folder = border_data(tmp_path)
    target = tmp_path / "dali.json"
    write_dali_annotations(data, range(data.num_images), target)
    rows = read_with_dali(target, folder, data.num_images)
    assert [row[0] for row in rows] == list(range(data.num_images)), (
        "ids are positions, in their order"
    )
    for index, labels, ratios in rows:
        mine = data.box_image == index
        assert labels.tolist() == data.box_classes[mine].tolist()
        assert len(ratios) == mine.sum() and ratios.dtype == np.float32
        assert (ratios >= 0).all() and (ratios <= 1).all()
        assert (ratios[:, 2:] > ratios[:, :2]).all() if len(ratios) else index % 12 == 0
        np.testing.assert_allclose(
            ratios.reshape(-1, 4),
            data.boxes_ltrb[mine] / np.tile(data.sizes[index], 2),
            rtol=0,
            atol=2e-7,
        )
    # random_bbox_crop aborts on boxes outside [0, 1], be it by the last bit.
    rows = read_with_dali(target, folder, 2 * data.num_images, crop=True)
    without = set(range(data.num_images)) - set(data.images_with_boxes.tolist())
    assert without and all(len(labels) == len(ratios) for _, labels, ratios in rows)
    assert all((len(labels) == 0) == (index in without) for index, labels, _ in rows)


def test_dali_file_holds_the_images_asked_for(make, tmp_path):
    data = load_coco(
        *make([image(3), image(1), image(2)], [box(1, 1), box(2, 2, 3, iscrowd=1), box(3, 3)]),
        report=quiet,
    )
    write_dali_annotations(data, [2, 0, 2], tmp_path / "d.json")
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["images"] == [
        dict(id=0, file_name="3.jpg", width=40, height=30),
        dict(id=2, file_name="2.jpg", width=40, height=30),
    ]
    assert [
        (a["image_id"], a["category_id"], a["bbox"], a["iscrowd"]) for a in content["annotations"]
    ] == [(0, 1, [1, 2, 10, 20], 0), (2, 2, [1, 2, 10, 20], 0)]
    assert content["categories"] == [dict(id=1, name="cat"), dict(id=2, name="dog")]
    with pytest.raises(UserError, match="cannot be written"):
        write_dali_annotations(data, [0], tmp_path / "none" / "d.json")


def test_dali_file_is_complete_in_any_number_of_pieces(make, tmp_path, monkeypatch):
    names = ['a "quoted" 100 %d.jpg', "b\u00fc.jpg", "c.jpg", "d.jpg", "e.jpg"]
    paths = make(
        [image(key, name) for key, name in enumerate(names)],
        [box(key, key % 4, bbox=(0.1 + key / 7, 2, 10, 20)) for key in range(11)],
    )
    for name in names:
        (paths[1] / name).touch()
    data = load_coco(*paths, check_images="exists", report=quiet)
    contents = []
    for entries in (1, 4, 4096):
        monkeypatch.setattr(dali_annotations, "ENTRIES", entries)
        write_dali_annotations(data, range(5), tmp_path / f"{entries}.json")
        contents.append(json.loads((tmp_path / f"{entries}.json").read_text()))
    assert contents[0] == contents[1] == contents[2]
    assert [one["file_name"] for one in contents[0]["images"]] == names and len(
        contents[0]["annotations"]
    ) == 11
    written = np.float32([one["bbox"] for one in contents[0]["annotations"]])
    np.testing.assert_array_equal(
        written, float32_xywh(data.boxes_ltrb, data.sizes[data.box_image])
    )


def test_float32_boxes_stay_inside():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 10**5, size=(20000, 2))
    corner = rng.uniform(0, 0.999, size=(20000, 2)) * sizes
    boxes = float32_xywh(np.concatenate([corner, sizes], axis=1), sizes)
    assert boxes.dtype == np.float32
    side = sizes.astype(np.float32)
    assert (((boxes[:, :2] + boxes[:, 2:]) / side) <= 1).all()
    assert ((boxes[:, :2] / side + boxes[:, 2:] / side) <= 1).all()
    # The test bites: rounding alone leaves the image.
    plain = np.concatenate([corner, sizes - corner], axis=1).astype(np.float32)
    assert ((plain[:, :2] / side + plain[:, 2:] / side) > 1).any()
