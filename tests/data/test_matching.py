"""Matching in NumPy against the reference's numbers and against DALI's box_encoder, ties
included."""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from ssd.config import load_recipe
from ssd.data.bridge import to_numpy
from ssd.data.graphs import encode_boxes
from ssd.data.targets import dense_targets
from ssd.model import matching
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.matching import FirstClaimMatcher, Matcher
from tests.data.small_sets import REFERENCE, reference_matcher
from tests.reference import vectors

SETTINGS = load_recipe("ssd-resnet34-coco").default_boxes
# Values of matching.SEARCH with which a matcher always or never searches pairs within reach.
PAIRS, ALL = -(10**12), 10**12


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE, allow_pickle=False)


def test_matching_is_the_references(reference):
    samples = vectors.ground_truth(int(reference["seed"]))
    matcher = reference_matcher(reference["default_boxes_ltrb"])
    found = [matcher(boxes, classes) for boxes, classes in samples]
    assert [len(one.positions) for one in found] == reference["match_pos_count"].tolist()
    np.testing.assert_array_equal(
        np.concatenate([one.positions for one in found]), reference["match_pos_index"]
    )
    np.testing.assert_array_equal(
        np.concatenate([one.classes for one in found]), reference["match_pos_label"]
    )
    np.testing.assert_allclose(
        np.concatenate([one.offsets for one in found]),
        reference["match_pos_offsets"],
        rtol=0,
        atol=1e-4,
    )
    assert all((one.offsets.dtype, one.classes.dtype) == (np.float32, np.int32) for one in found)


def random_boxes(random, count):
    """Anywhere, or on a coarse grid, where equal overlaps and equal boxes are common; float32 ltrb
    in [0, 1]."""
    if random.rand() < 0.5:
        low = random.uniform(0, 0.9, (count, 2))
        return np.concatenate(
            [low, low + random.uniform(0.02, 1, (count, 2)) * (1 - low)], 1
        ).astype(np.float32)
    low = random.randint(0, 6, (count, 2))
    return np.concatenate([low, low + 1 + random.randint(0, 6 - low)], 1).astype(np.float32) / 6


def test_it_is_that_of_dali(reference):
    random = np.random.RandomState(1)
    samples = [
        (boxes, random.randint(1, 81, len(boxes)).astype(np.int32))
        for boxes in (random_boxes(random, 1 + number % 20) for number in range(120))
    ]
    default_boxes = reference["default_boxes_ltrb"]
    pipeline = Pipeline(
        batch_size=len(samples), num_threads=2, device_id=None, prefetch_queue_depth=1
    )
    with pipeline:
        boxes = fn.external_source(source=lambda: [boxes for boxes, _ in samples])
        labels = fn.external_source(source=lambda: [labels for _, labels in samples])
        pipeline.set_outputs(*encode_boxes(boxes, labels, reference_matcher(default_boxes), 300))
    pipeline.build()
    offsets, classes = [to_numpy(output) for output in pipeline.run()]
    matcher = reference_matcher(default_boxes)
    ours = dense_targets([matcher(*sample) for sample in samples], len(default_boxes))
    np.testing.assert_array_equal(ours[1].asnumpy(), classes)
    np.testing.assert_allclose(ours[0].asnumpy(), offsets, rtol=0, atol=2e-4)
    assert ours[0].dtype == np.float32 and ours[1].dtype == np.int32 and (classes > 0).sum() > 2000


@pytest.mark.parametrize("block", [1, 3])
def test_blocks_change_nothing(reference, monkeypatch, block):
    random = np.random.RandomState(2)
    samples = [(random_boxes(random, 7), np.arange(1, 8)) for _ in range(10)]
    matcher = reference_matcher(reference["default_boxes_ltrb"])
    unblocked = [matcher(*sample) for sample in samples]
    monkeypatch.setattr(matching, "BLOCK", block)
    for sample, expected in zip(samples, unblocked):
        for one, other in zip(matcher(*sample), expected):
            np.testing.assert_array_equal(one, other)


def test_equal_overlaps():
    anchors = np.float32(
        [
            [0, 0, 0.5, 0.5],
            [0.5, 0, 1, 0.5],
            [0, 0.5, 0.5, 1],
            [0.5, 0.5, 1, 1],
            [0.02, 0, 0.5, 0.5],
        ]
    )
    matcher = Matcher(anchors, SETTINGS, [(5, 1)])
    for boxes, labels, expected in [
        # Inside all of it: the first of the four equal default boxes.
        ([[0, 0, 1, 1]], [7], [7, 0, 0, 0, 0]),
        # Two identical boxes claim box 0, which goes to the later one; box 4 takes the first.
        ([[0, 0, 0.5, 0.5]] * 2, [7, 8], [8, 0, 0, 0, 7]),
        ([[0.5, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]], [5, 8, 7], [7, 5, 0, 0, 8]),
    ]:
        found = matcher(np.float32(boxes), np.int32(labels))
        classes = np.zeros(5, int)
        classes[found.positions] = found.classes
        assert classes.tolist() == expected


def matcher_of(kind, **changes):
    config = load_recipe("ssd-resnet50-coco").with_values(**changes)
    sizes = sizes_of(config)
    return kind(cxcywh_to_ltrb(default_boxes(sizes)), config.default_boxes, sizes.grid)


@pytest.mark.parametrize("kind", [Matcher, FirstClaimMatcher])
@pytest.mark.parametrize("size", [300, "217x450"])
def test_pairs_within_reach_are_enough(kind, size, monkeypatch):
    """The same matches as from all pairs: ties, equal boxes, and those that no default box fits,
    included."""
    matcher, random = matcher_of(kind, image_size=size), np.random.RandomState(4)
    sets = [random_boxes(random, 1 + number % 30) for number in range(40)]
    tiny = random.uniform(0, 0.99, (20, 2))
    sets += [
        np.concatenate([tiny, tiny + random.uniform(1e-5, 0.01, (20, 2))], 1).astype(np.float32)
    ]
    for boxes in sets:
        found = []
        for search in (PAIRS, ALL):
            monkeypatch.setattr(matching, "SEARCH", search)
            found.append(matcher(boxes, 1 + np.arange(len(boxes))))
        for pairs, everything in zip(*found):
            np.testing.assert_array_equal(pairs, everything)


@pytest.fixture
def compared(monkeypatch):
    """Numbers of pairs that the matchers built by the test have compared."""
    sizes, iou = [], matching._iou

    def counted(*arguments):
        result = iou(*arguments)
        sizes.append(result.size)
        return result

    monkeypatch.setattr(matching, "_iou", counted)
    return sizes


def test_many_objects_and_many_default_boxes(compared, monkeypatch):
    """The comparisons grow with the objects, not with objects times default boxes; the matches are
    the same."""
    random = np.random.RandomState(2)
    matcher, found = matcher_of(Matcher, image_size=1000), {}
    low = random.uniform(0, 0.7, (200, 2))
    boxes = np.concatenate([low, low + random.uniform(0.05, 0.3, (200, 2))], 1).astype(np.float32)
    for pairs in (matching.SEARCH, ALL):
        monkeypatch.setattr(matching, "SEARCH", pairs)
        compared.clear()
        found[pairs] = matcher(boxes, np.arange(200)), sum(compared)
    (few, some), (many, every) = found.values()
    for one, other in zip(few, many):
        np.testing.assert_array_equal(one, other)
    assert every == 200 * matcher.boxes and some < every / 20


def test_default_boxes_that_are_no_grid(compared, monkeypatch):
    """All pairs are compared if default boxes are not arranged in rows and columns."""
    sizes = sizes_of(load_recipe("ssd-resnet50-coco"))
    boxes = cxcywh_to_ltrb(default_boxes(sizes))
    boxes[777] += np.float32(0.001)
    monkeypatch.setattr(matching, "SEARCH", PAIRS)
    Matcher(boxes, SETTINGS, sizes.grid)(boxes[:3].copy(), np.arange(1, 4))
    assert sum(compared) == 3 * len(boxes)
