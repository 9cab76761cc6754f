"""A trial ends when image by image it has fallen behind for good, and not by chance or where it catches up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from rdistill.schedulers.own import paired
from rdistill.schedulers.paired import PairedScheduler, cannot_catch_up

RANDOM = np.random.default_rng(0)
BEST = {iteration: 50.0 + RANDOM.normal(0, 10, 30) for iteration in (2, 4, 6, 8, 10)}


def behind(*deficits: float) -> dict[int, np.ndarray]:
    """Scores below the best's by so much, after 2, 4, ... iterations; each image a little more or less."""
    noise = np.random.default_rng(1).normal(0, 0.5, 30)
    return {2 * number: BEST[2 * number] - deficit + noise for number, deficit in enumerate(deficits, 1)}


def ends(*deficits: float, least: int = 3, p_threshold: float = 0.001) -> bool:
    return cannot_catch_up(behind(*deficits), BEST, 10, p_threshold, least)


def test_a_trial_that_stays_behind_on_every_image_ends() -> None:
    assert ends(3.0, 3.0, 3.0) and ends(3.0, 4.0, 5.0)


def test_not_before_it_had_its_chance_nor_at_its_end() -> None:
    assert not ends(3.0, 3.0) and ends(3.0, 3.0, least=2)
    assert not ends(3.0, 3.0, 3.0, 3.0, 3.0)


def test_one_that_catches_up_goes_on() -> None:
    """From 6 to 3 in two iterations: it would be level after two more, and has four."""
    assert not ends(9.0, 6.0, 3.0)
    assert ends(8.2, 8.1, 8.0)


def test_one_that_leads_or_is_no_worse_by_chance_goes_on() -> None:
    assert not ends(-1.0, -1.0, -1.0) and not ends(0.05, 0.05, 0.05)
    assert not cannot_catch_up(BEST, BEST, 11, 0.001, 3)


def test_too_few_images_prove_nothing() -> None:
    best = {iteration: scores[:5] for iteration, scores in BEST.items()}
    worse = {iteration: best[iteration] - 9.0 for iteration in (2, 4, 6)}
    assert not cannot_catch_up(worse, best, 10, 0.001, 3)


def report(scheduler: PairedScheduler, name: str, iteration: int, scores: np.ndarray) -> str:
    trial = SimpleNamespace(trial_id=name)
    return scheduler.on_trial_result(None, trial, {"iter": iteration, "by_image": scores.tolist()})


def test_the_scheduler_compares_with_the_best_that_has_come_as_far() -> None:
    scheduler = cloudpickle.loads(cloudpickle.dumps(paired(iterations=10)))  # Tune saves it so
    worse, middle = behind(5.0, 5.0, 5.0), behind(1.0, 0.5, 0.0)
    for iteration in (2, 4, 6):
        assert report(scheduler, "best", iteration, BEST[iteration]) == TrialScheduler.CONTINUE
        assert report(scheduler, "middle", iteration, middle[iteration]) == TrialScheduler.CONTINUE
    actions = [report(scheduler, "worse", iteration, worse[iteration]) for iteration in (2, 4, 6)]
    assert actions == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE, TrialScheduler.STOP]
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="x"), {"iter": 2}) == TrialScheduler.CONTINUE
