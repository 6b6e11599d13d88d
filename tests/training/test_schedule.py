"""Learning rates compared with those that published runs logged."""

import pytest

from ssd import sections
from ssd.config import load_recipe
from ssd.training.schedule import SCHEDULES, WARMUPS, build_schedule

TRAINING = load_recipe("ssd-resnet34-coco").training
COCO = 117266


def schedule(global_batch, **values):
    config = load_recipe("ssd-resnet34-coco").with_values(**values)
    return build_schedule(config.training, global_batch, COCO)


@pytest.mark.parametrize(
    "global_batch, base, logged", [(128, 0.00285, 0.0114), (256, 0.003157, 0.025256)]
)
def test_the_peak_rate_equals_that_of_submissions(global_batch, base, logged):
    assert schedule(global_batch, base_lr=base).peak == pytest.approx(logged, rel=1e-9)


def test_warmup_is_linear_from_zero():
    rates = schedule(456, base_lr=0.003157, warmup_epochs=3)
    assert rates.warmup_steps == int(3 * 117266 / 456) == 771
    assert rates(1, 0) == 0
    assert rates(2, 385) == pytest.approx(rates.peak * 385 / 771)
    assert rates(3, 770) == pytest.approx(rates.peak * 770 / 771)
    assert rates(3, 771) == rates.peak == pytest.approx(0.003157 * 456 / 32)


def test_warmup_factor_lifts_the_start():
    rates = schedule(32, warmup_epochs=1, warmup_factor=2)
    assert rates(1, 0) == pytest.approx(rates.peak * 0.75)


def test_boundary_44_lowers_epoch_45():
    rates = schedule(32, warmup_epochs=0)
    step = 10**6
    assert rates(44, step) == pytest.approx(2.5e-3)
    assert rates(45, step) == pytest.approx(2.5e-4)
    assert rates(55, step) == pytest.approx(2.5e-4)
    assert rates(56, step) == pytest.approx(2.5e-5)


def test_no_warmup_starts_at_the_peak():
    assert schedule(32, warmup_epochs=0)(1, 0) == pytest.approx(2.5e-3)


def test_a_constant_rate_after_the_warmup():
    rates = schedule(32, warmup_epochs=1, schedule="constant")
    assert (
        rates(1, 0) == 0
        and rates(1, 3664) == rates(65, 10**6) == rates.peak
        and rates.decay_epochs == ()
    )


def test_every_choice_is_in_its_table():
    assert tuple(SCHEDULES) == sections.SCHEDULES and tuple(WARMUPS) == sections.WARMUPS
