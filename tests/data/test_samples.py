"""Order, streams of random numbers, and the threads that read ahead."""

import dataclasses
import threading

import numpy as np
import pytest

from ssd.data import samples
from ssd.data.samples import (
    FIELDS,
    PLAIN_FIELDS,
    SampleFeed,
    SampleMaker,
    epoch_order,
    keyed_random,
    steps_per_epoch,
)
from ssd.errors import UserError
from tests.data.small_sets import grey_dataset, make_dataset, settings


def test_an_order_is_a_permutation_of_its_own_seed_and_epoch():
    indices = np.arange(3, 1003)
    orders = {
        key: tuple(epoch_order(indices, *key))
        for key in [(0, 1), (0, 2), (1, 1), (1, 2), (2**31 - 1, 65)]
    }
    assert all(sorted(order) == indices.tolist() for order in orders.values())
    assert len(set(orders.values())) == len(orders)
    assert tuple(epoch_order(indices, 1, 2)) == orders[1, 2]
    # Neighbouring keys agree at no more positions than by chance: 1 of 1,000 on average.
    assert (
        max(np.equal(orders[0, 1], orders[other]).sum() for other in [(0, 2), (1, 1), (1, 2)]) < 10
    )
    # NumPy's Philox is specified, and sorting is what it is: this order must never change.
    assert epoch_order(np.arange(8), 5, 1).tolist() == [7, 4, 5, 1, 6, 0, 2, 3]


def test_streams_differ():
    keys = [
        (seed, epoch, purpose, position)
        for seed in (0, 1)
        for epoch in (1, 2)
        for purpose in (0, 1)
        for position in (0, 1, 2, 117265)
    ]
    words = np.concatenate([keyed_random(*key).bit_generator.random_raw(1000) for key in keys])
    assert len(np.unique(words)) == len(words)
    np.testing.assert_array_equal(
        keyed_random(1, 2, 1, 3).random(5), keyed_random(1, 2, 1, 3).random(5)
    )


def test_colours_and_flips_cover_their_ranges(tmp_path):
    dataset = grey_dataset(tmp_path, 1)
    config = settings(flip_probability=0.25)
    drawn = [SampleMaker(config, dataset, 4)(1, position, 0) for position in range(1000)]
    for name, centre, spread in (
        ("hue", 0, 18),
        ("saturation", 1, 0.5),
        ("contrast", 1, 0.5),
        ("brightness", 1, 0.125),
    ):
        values = (np.array([sample[name] for sample in drawn]) - centre) / spread
        assert -1 <= values.min() < -0.98 and 0.98 < values.max() <= 1 and abs(values.mean()) < 0.08
        for other in ("flip", "hue", "saturation", "contrast", "brightness"):
            if other != name:
                assert abs(np.corrcoef(values, [sample[other] for sample in drawn])[0, 1]) < 0.12
    assert abs(np.mean([sample["flip"] for sample in drawn]) - 0.25) < 0.06


def test_a_batch_has_the_types_that_dali_takes(tmp_path):
    boxes = [[(4, 3, 20, 24, 2), (1, 1, 2, 2, 3)], [(1, 1, 3, 3, 1)]]
    dataset = make_dataset(tmp_path, [b"whatever this is"] * 2, boxes)
    feed = SampleFeed(settings(batch_size=2), dataset, list(FIELDS), seed=2)
    batch = dict(zip(FIELDS, feed()))
    feed.close()
    assert [bytes(encoded) for encoded in batch["encoded"]] == [b"whatever this is"] * 2
    for name, column in batch.items():
        assert len(column) == 2 and all(part.dtype == FIELDS[name] for part in column), name
    assert sorted(batch["index"].tolist()) == [[0], [1]]
    assert batch["anchor"].shape == batch["shape"].shape == (2, 2) and batch["flip"].shape == batch[
        "hue"
    ].shape == (2,)
    plain = SampleMaker(settings(augment=False), dataset, 0)(1, 0, 0)
    assert set(plain) == set(PLAIN_FIELDS) and plain["labels"].tolist() == [2, 3]
    np.testing.assert_allclose(
        plain["boxes"], [[0.1, 0.1, 0.5, 0.8], [1 / 40, 1 / 30, 2 / 40, 2 / 30]], rtol=1e-6
    )


def test_the_thinnest_boxes_keep_a_side(tmp_path):
    """Boxes smaller than float32's spacing at their position, flipped and cut."""
    thin = 40 - 40 * 2**-26
    dataset = make_dataset(tmp_path, [b"-"], [[(4, 3, 20, 24, 2)]])
    dataset = dataclasses.replace(dataset, boxes_ltrb=np.array([[thin, 2.0, 40.0, 28.0]]))
    make = SampleMaker(settings(), dataset, 0)
    for position in range(200):
        [[left, top, right, bottom]] = make(1, position, 0)["boxes"]
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_steps_take_their_positions_in_the_order(tmp_path):
    dataset = grey_dataset(tmp_path, 12, without_box=(2,))
    feeds = [
        SampleFeed(settings(batch_size=2), dataset, ("index",), rank=rank, size=2, seed=3)
        for rank in (0, 1)
    ]
    indices = np.asarray(dataset.images_with_boxes)
    for step in (0, 1, 2, 3, 7):
        epoch, within = 1 + step // 2, step % 2
        order = epoch_order(indices, 3, epoch)[4 * within : 4 * within + 4]
        for rank, feed in enumerate(feeds):
            found_epoch, positions, images = feed.assignment(step)
            assert found_epoch == epoch and positions.tolist() == [
                4 * within + 2 * rank,
                4 * within + 2 * rank + 1,
            ]
            np.testing.assert_array_equal(images, order[2 * rank : 2 * rank + 2])
    for feed in feeds:
        feed.close()
    assert steps_per_epoch(11, 4) == 2


class Gate:
    """Replaces the sample maker: counts the samples begun, holds each until `open` is set."""

    def __init__(self, *_):
        self.begun, self.open, self.changed = 0, threading.Event(), threading.Condition()
        Gate.last = self

    def __call__(self, epoch, position, index):
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
        assert self.open.wait(60)
        return dict(index=np.array([index]))


def test_no_more_is_read_ahead_than_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SampleMaker", Gate)
    feed = SampleFeed(
        settings(batch_size=3, prefetch=2, data_threads=4), grey_dataset(tmp_path, 12), ("index",)
    )
    gate = Gate.last
    gate.open.set()
    for taken in range(1, 20):
        feed()
        assert 3 * taken <= gate.begun <= 3 * (taken + 2)
    feed.close()
    assert gate.begun <= 3 * (19 + 2)


def test_closing_drops_what_was_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SampleMaker", Gate)
    feed = SampleFeed(
        settings(batch_size=5, prefetch=2, data_threads=1), grey_dataset(tmp_path, 12), ("index",)
    )
    futures = [future for batch in feed._batches for future in batch]
    cancelled = threading.Semaphore(0)
    for future in futures[1:]:
        future.add_done_callback(lambda _: cancelled.release())
    with Gate.last.changed:
        assert Gate.last.changed.wait_for(lambda: Gate.last.begun == 1, 60)
    closing = threading.Thread(target=feed.close)
    closing.start()
    assert all(cancelled.acquire(timeout=60) for _ in futures[1:])
    assert all(future.cancelled() for future in futures[1:])
    assert closing.is_alive()  # waits for the part that was begun
    Gate.last.open.set()
    closing.join(60)
    assert not closing.is_alive() and Gate.last.begun == 5
    feed.close()
    with pytest.raises(IndexError):
        feed()


@pytest.mark.parametrize(
    "kind, words",
    [
        ("gone", "cannot be read: No such file"),
        ("folder", "Is a directory"),
        ("empty", "cannot be decoded: the file is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind, words):
    dataset = grey_dataset(tmp_path, 4)
    path = tmp_path / "image2.png"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    feed = SampleFeed(settings(batch_size=4), dataset, ("encoded",))
    with pytest.raises(UserError, match=words) as caught:
        feed()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    feed.close()
