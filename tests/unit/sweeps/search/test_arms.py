"""The searches of a sweep together: who begins with what another has come to, who waits, and what a resume takes up."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from ray.tune.search import Searcher

from rdistill.sweeps.search.budget import Clock
from rdistill.sweeps.search.searchers import SCORE, Arm, Arms, max_concurrent_trials
from rdistill.sweeps.search.study_search import StudySearch
from rdistill.sweeps.study.records import BASELINE, trial
from rdistill.sweeps.study.search_space import SearchSpace
from rdistill.sweeps.study.spec import SweepSpec

RANGE = {"type": "uniform", "low": 0.0, "high": 1.0}
SPEC = SweepSpec.model_validate({"config": "a.py", "space": {"rate": RANGE, "w": RANGE}, "search": {"num_trials": 9}})


def arm(phase: str, trials: int, keys: tuple[str, ...], **more: Any) -> Arm:
    space = SearchSpace({key: FloatDistribution(0.0, 1.0) for key in keys})
    searcher = StudySearch(space, optuna.samplers.RandomSampler(seed=0), [SCORE], ["max"])
    prefix = "b" if phase == BASELINE else "t"
    return Arm(phase, prefix, {key: SPEC.space[key] for key in keys}, searcher, trials, **more)


def both(trials: int, **more: Any) -> Arms:
    arms = [arm("search", trials, ("rate", "w"), inherits={"rate": 0.5, "w": 0.25}), arm(BASELINE, 2, ("rate",))]
    return Arms([trial(BASELINE, BASELINE, 0, {})], arms, 0, **more)


def test_a_search_that_begins_with_the_best_baseline_lets_the_baselines_go_first() -> None:
    searcher = both(3)
    suggested = [searcher.suggest(name) for name in "abc"]
    assert [config["id"] for config in suggested] == [BASELINE, "b0001", "b0002"]
    assert searcher.suggest("d")["id"] == "t0001", "who would wait may try something else"
    for name, score in zip("abcd", (50.0, 70.0, 60.0, 10.0), strict=True):
        searcher.on_trial_complete(name, {SCORE: score})
    assert searcher.suggest("e") == trial("t0002", "search", 0, {"rate": suggested[1]["values"]["rate"], "w": 0.25})
    assert searcher.suggest("f")["values"]["w"] != 0.25


def test_the_last_trial_waits_for_what_it_is_to_begin_with() -> None:
    searcher = both(1)
    for name in "abc":
        searcher.suggest(name)
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("a", {SCORE: 90.0})
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("c", {SCORE: 80.0})
    # The one as configured was the best: its rate is the config's.
    assert searcher.suggest("d") == trial("t0001", "search", 0, {"rate": 0.5, "w": 0.25})
    assert searcher.suggest("e") == Searcher.FINISHED


def test_what_an_earlier_start_left_is_taken_up_before_anything_new() -> None:
    left = trial("t0002", "search", 0, {"w": 0.125})
    searching = arm("search", 4, ("w",), suggested=2)
    searcher = Arms([], [searching], 0, [(0, left)])
    assert searcher.suggest("a") == left
    assert searcher.suggest("b")["id"] == "t0003"
    searcher.on_trial_complete("a", {SCORE: 33.0})
    assert searching.searcher.study.best_trial.params == {"w": 0.125}  # type: ignore[attr-defined]


def test_a_budget_that_is_used_up_ends_all_searches_but_not_the_baseline() -> None:
    searcher = both(3, clock=Clock(10.0, 5, 0, 1.0, used_s=6.0))
    assert searcher.suggest("a")["id"] == BASELINE
    assert searcher.suggest("b") == Searcher.FINISHED


def test_how_many_run_at_a_time() -> None:
    """A quarter, so that they learn from each other, but no worker waits for it."""
    assert [max_concurrent_trials(SPEC, trials, 2) for trials in (4, 8, 24)] == [2, 2, 6]
    assert max_concurrent_trials(SPEC, 24, 16) == 16
    plain = SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"type": "optuna"})})
    assert max_concurrent_trials(plain, 24, 2) is None
    chosen = SPEC.model_copy(update={"trial": SPEC.trial.model_copy(update={"max_concurrent": 9})})
    assert max_concurrent_trials(chosen, 24, 2) is None
