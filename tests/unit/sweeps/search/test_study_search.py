"""One search: nothing twice, nothing impossible, what is known first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from rdistill.core.errors import UserError
from rdistill.sweeps.search.study_search import StudySearch
from rdistill.sweeps.study.search_space import Evaluated, SearchSpace

SMALL = SearchSpace({"a": IntDistribution(1, 2), "b": CategoricalDistribution(["x", "y", "z"])})
WIDE = SearchSpace({"w": FloatDistribution(0.0, 1.0)})
SCORE = "score"


def search(space: SearchSpace = SMALL, seed: int = 0, sampler: Any = None, **more: Any) -> StudySearch:
    chosen = sampler or optuna.samplers.RandomSampler(seed=seed)
    return StudySearch(space, chosen, [SCORE], ["max"], **more)


def names(count: int) -> list[str]:
    return [f"trial {number}" for number in range(count)]


@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler(seed=1), optuna.samplers.TPESampler(seed=1)])
def test_no_configuration_twice_and_all_of_a_small_space(sampler: optuna.samplers.BaseSampler) -> None:
    searched = search(sampler=sampler)
    suggested = []
    for name in names(6):
        suggested.append(searched.suggest(name))
        searched.on_trial_complete(name, {SCORE: 1.0})
    assert len({tuple(sorted(params.items())) for params in suggested}) == 6
    assert searched.suggest("one more") == Searcher.FINISHED


def test_starts_come_first_then_what_they_leave_open_is_chosen() -> None:
    searched = search(starts=[{"a": 2, "b": "z"}, {"a": 1}, {"a": 2, "b": "z"}])
    first, second, third = (searched.suggest(name) for name in names(3))
    assert first == {"a": 2, "b": "z"} and second["a"] == 1  # type: ignore[index]
    assert third not in (first, second)


def test_what_earlier_sweeps_have_tried_is_known_and_not_tried_again() -> None:
    known = [Evaluated({"a": a, "b": b}, (float(a),), "old/t0001") for a in (1, 2) for b in ("x", "y")]
    searched = search(evaluated=known)
    assert {tuple(searched.suggest(name).values()) for name in names(2)} == {(1, "z"), (2, "z")}  # type: ignore[union-attr]
    assert searched.suggest("no more") == Searcher.FINISHED
    told = searched.study.get_trials(states=[TrialState.COMPLETE])
    assert [(trial.value, trial.user_attrs["from"]) for trial in told] == [(a, "old/t0001") for a in (1, 1, 2, 2)]


def test_impossible_configurations_are_never_suggested() -> None:
    searched = search(why_impossible=lambda params: None if params["a"] == 2 else "a: must be 2")
    assert [searched.suggest(name)["a"] for name in names(3)] == [2, 2, 2]  # type: ignore[index]
    assert searched.suggest("no more") == Searcher.FINISHED
    with pytest.raises(UserError, match="space: none of 100 configurations can be trained; the last: a: is wrong"):
        search(why_impossible=lambda params: "a: is wrong").suggest("any")


def test_how_a_trial_ends_is_what_the_study_has() -> None:
    searched = search(WIDE)
    for name in names(4):
        searched.suggest(name)
    searched.on_trial_complete("trial 0", {SCORE: 3.0})
    searched.on_trial_complete("trial 1", {SCORE: 3.0}, error=True)
    searched.on_trial_complete("trial 2", {SCORE: float("nan")})
    searched.on_trial_complete("nobody's", {SCORE: 9.0})
    states = [trial.state for trial in searched.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert searched.study.best_value == 3.0


def test_a_trial_that_is_taken_up_again_is_learnt_from() -> None:
    searched = search(WIDE)
    searched.continue_trial("again", {"w": 0.25})
    searched.on_trial_complete("again", {SCORE: 7.0})
    searched.add_ended({"w": 0.5}, None, "t0002")
    assert [(trial.params, trial.value) for trial in searched.study.trials] == [({"w": 0.25}, 7.0)]
    assert "[('w', 0.5)]" in searched.tried


def test_its_state_survives(tmp_path: Path) -> None:
    """The next suggestion is the one that would have come."""
    original, restored = (search(WIDE, seed=4, sampler=optuna.samplers.TPESampler(seed=4)) for _ in range(2))
    for name in names(12):
        params = original.suggest(name)
        original.on_trial_complete(name, {SCORE: params["w"]})  # type: ignore[index]
    original.suggest("runs")
    original.save(str(tmp_path / "state"))
    restored.restore(str(tmp_path / "state"))
    assert restored.suggest("next") == original.suggest("next")
    restored.on_trial_complete("runs", {SCORE: 1.0})
    assert len(restored.study.get_trials(states=[TrialState.COMPLETE])) == 13


@pytest.mark.parametrize("name", ["grid", "brute force"])
def test_a_sampler_that_has_tried_everything_ends_no_search(name: str) -> None:
    """Optuna's own samplers of finite spaces stop a study at its last point, for which `tell` raises."""
    points = {"a": [1, 2], "b": ["x", "y", "z"]}
    samplers = {"grid": optuna.samplers.GridSampler(points, seed=0), "brute force": optuna.samplers.BruteForceSampler()}
    tried = search(sampler=samplers[name])
    for trial in names(6):
        assert isinstance(tried.suggest(trial), dict)
        tried.on_trial_complete(trial, {SCORE: 50.0})
    assert [trial.value for trial in tried.study.trials if trial.state == TrialState.COMPLETE] == [50.0] * 6
    assert tried.suggest("more") == Searcher.FINISHED
