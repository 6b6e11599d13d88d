"""The loaders: the images of a step, on any number of ranks, from any first step; evaluation."""

import numpy as np
import pytest

from ssd.data.dali_annotations import write_dali_annotations
from ssd.data.graphs import training_pipeline
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.data.samples import steps_per_epoch
from ssd.data.show import denormalise
from tests.data.small_sets import (
    MATCHER,
    assert_same,
    grey_dataset,
    settings,
    stream,
    thirteen_photos,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return thirteen_photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_each_epoch(tmp_path, size):
    dataset = grey_dataset(tmp_path, 11, without_box=(4,))
    loaders = [
        TrainingLoader(settings(batch_size=1), dataset, None, rank=rank, size=size, seed=5)
        for rank in range(size)
    ]
    epochs = []
    for _ in range(3):
        found = [int(next(loader).indices[0]) for _ in range(10 // size) for loader in loaders]
        assert len(found) == len(set(found)) == 10 // size * size and set(found) < set(
            range(11)
        ) - {4} | {11}
        epochs.append(found)
    assert epochs[0] != sorted(epochs[0]) and epochs[0] != epochs[1] != epochs[2]


def test_the_seed_decides(photos):
    first, other = stream(photos, 5, seed=7), stream(photos, 5, seed=8)
    assert [step for step, _ in first] == list(range(5))
    for (_, ours), (_, different) in zip(first, other):
        assert not any(np.array_equal(one, another) for one, another in zip(ours, different))


@pytest.mark.parametrize(
    "values", [{}, dict(data_threads=1), dict(data_threads=4), dict(prefetch=1), dict(prefetch=4)]
)
def test_threads_and_prefetch_change_nothing(photos, values):
    assert_same(stream(photos, 5, seed=7, values=values), stream(photos, 5, seed=7))


@pytest.mark.parametrize("augment", [True, False])
def test_any_step_can_be_the_first(photos, augment):
    full = stream(photos, 8, seed=7, values=dict(augment=augment))
    for first in (1, 2, 3, 5):
        assert_same(
            stream(photos, 8 - first, seed=7, first_step=first, values=dict(augment=augment)),
            full[first:],
        )
    [(step, late)] = stream(photos, 1, seed=7, first_step=10**9)
    assert step == 10**9 and not np.array_equal(late[0], full[0][1][0])


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_ranks_changes_nothing(photos, size):
    shares = [
        stream(photos, 5, batch_size=4 // size, rank=rank, size=size, seed=7, first_step=1)
        for rank in range(size)
    ]
    together = [
        (steps[0][0], [np.concatenate(parts) for parts in zip(*[arrays for _, arrays in steps])])
        for steps in zip(*shares)
    ]
    assert_same(together, stream(photos, 5, seed=7, first_step=1))


def test_the_image_cache_has_its_own_stream(photos, monkeypatch):
    # Its graph, on the CPU: DALI takes the cache's settings there and ignores them.
    monkeypatch.setattr("ssd.data.graphs.make_pixels", lambda device: True)
    monkeypatch.setattr(
        "ssd.data.pipeline.training_pipeline",
        lambda *positional, **named: training_pipeline(*positional, **{**named, "device": "cpu"}),
    )
    written = []
    monkeypatch.setattr(
        "ssd.data.pipeline.write_dali_annotations",
        lambda dataset, indices, path: (
            written.append(indices),
            write_dali_annotations(dataset, indices, path),
        ),
    )
    cache = dict(device="gpu", values=dict(decode="cache", cache_size=100))
    streams = [
        stream(photos, 6, batch_size=2, rank=rank, size=2, seed=7, **cache) for rank in (0, 1)
    ]
    assert_same(stream(photos, 6, batch_size=2, rank=0, size=2, seed=7, **cache), streams[0])
    held = [set(np.concatenate([arrays[3] for _, arrays in steps])) for steps in streams]
    assert (
        held[0] | held[1] == set(range(13)) and not held[0] & held[1]
    )  # each rank keeps its share
    assert [len(images) for images in written] == [6, 7, 6] and set(written[0]) == held[
        0
    ]  # and writes that alone
    resumed = stream(photos, 3, batch_size=2, size=2, seed=7, first_step=3, **cache)
    assert [step for step, _ in resumed] == [3, 4, 5]
    assert not np.array_equal(resumed[0][1][0], streams[0][0][1][0])
    assert not np.array_equal(resumed[0][1][0], streams[0][3][1][0])
    for decode, exact in (("cache", False), ("gpu", True)):
        config = settings(decode=decode, cache_size=100)
        assert TrainingLoader(config, photos, None, device="gpu").exact is exact


def test_targets_belong_to_the_boxes(photos):
    """On a CPU, offsets and classes do not go through DALI: they must be those of the batch's own
    boxes."""
    loader = TrainingLoader(settings(), photos, MATCHER, seed=3, raw_boxes=True)
    for batch in (next(loader) for _ in range(6)):
        for boxes, labels, offsets, classes in zip(
            batch.boxes, batch.labels, batch.offsets.asnumpy(), batch.classes.asnumpy()
        ):
            found = MATCHER(boxes, labels.ravel())
            assert np.flatnonzero(classes).tolist() == found.positions.tolist() and len(
                found.positions
            )
            np.testing.assert_array_equal(classes[found.positions], found.classes)
            np.testing.assert_array_equal(offsets[found.positions], found.offsets)
            assert not np.delete(offsets, found.positions, 0).any()


def test_steps_per_epoch():
    assert [steps_per_epoch(images, 5) for images in (3, 5, 9, 10)] == [1, 1, 1, 2]
    assert steps_per_epoch(117266, 456) == 257


@pytest.mark.parametrize("images", [1, 5, 17])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_image_is_evaluated_exactly_once(tmp_path, size, batch, images):
    dataset = grey_dataset(tmp_path, images, without_box=(0, 2))
    config = settings(eval_batch_size=batch)
    found = []
    for rank in range(size):
        loader = EvaluationLoader(config, dataset, rank=rank, size=size)
        passes = []
        for number in range(3):
            if number == 2 and len(loader) > 1:
                next(iter(loader))  # a pass left early changes nothing
            passes.append([])
            for pixels, indices in loader:
                assert pixels.shape == (batch, 3, 32, 32) and 1 <= len(indices) <= batch
                levels = denormalise(pixels.asnumpy(), config)[: len(indices), 16, 16, 0]
                np.testing.assert_array_equal(levels, 10 * indices)
                passes[-1] += indices.tolist()
        assert passes[0] == passes[1] == passes[2] == list(range(rank, images, size))
        found += passes[0]
        loader.close()
    assert sorted(found) == list(range(images))


def test_the_next_batch_is_ready_before_it_is_asked_for(photos):
    loader = TrainingLoader(settings(), photos, MATCHER)
    next(loader)
    ahead = loader._next.result(60)
    assert ahead.step == 1
    assert next(loader) is ahead
    loader.close()
