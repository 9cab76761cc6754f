"""What Ray Tune is given, without a cluster: arms in turn, lists of runs, who is stopped early; and what survives."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config
from ray import cloudpickle
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher, SearchGenerator
from sweep_space import SPACE, study

from rdistill.config.load import LoadedConfig
from rdistill.sweeps.search.searchers import SCORE, Arm, Arms, EachPhase, SparingAsha, build_searcher, list_searcher
from rdistill.sweeps.study.records import BASELINE, trial
from rdistill.sweeps.study.spec import BaselineSpec, SweepSpec


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Config:
    return tiny.load("distill")


class Noting(Searcher):
    """Suggests 1, 2, 3 and then no more; notes what it is told."""

    def __init__(self) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.told: list[tuple[str, str]] = []

    def suggest(self, trial_id: str) -> Any:
        self.told.append(("suggest", trial_id))
        number = sum(what == "suggest" for what, _ in self.told)
        return {"k": number} if number <= 3 else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append(("result", trial_id))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append(("complete", trial_id))


NUMBERS = study({"k": {"type": "int", "low": 1, "high": 9}}).space


def test_the_given_come_first_and_then_each_arm_in_turn() -> None:
    """No searcher hears of another's trials, nor of those given."""
    searched, alone = Noting(), Noting()
    arms = [Arm("search", "t", NUMBERS, searched, 2), Arm("baseline", "b", NUMBERS, alone, 3)]
    searcher = Arms([trial(BASELINE, "baseline", 4, {})], arms, seed=4)
    suggested = [searcher.suggest(name) for name in "abcdefg"]
    assert suggested == [
        {"id": BASELINE, "phase": "baseline", "of": "", "seed": 4, "values": {}},
        {"id": "t0001", "phase": "search", "of": "", "seed": 4, "values": {"k": 1}},
        {"id": "b0001", "phase": "baseline", "of": "", "seed": 4, "values": {"k": 1}},
        {"id": "t0002", "phase": "search", "of": "", "seed": 4, "values": {"k": 2}},
        {"id": "b0002", "phase": "baseline", "of": "", "seed": 4, "values": {"k": 2}},
        {"id": "b0003", "phase": "baseline", "of": "", "seed": 4, "values": {"k": 3}},
        Searcher.FINISHED,
    ]
    for name in "abc":
        searcher.on_trial_result(name, {SCORE: 1.0})
        searcher.on_trial_complete(name, {SCORE: 1.0})
    assert searched.told == [("suggest", "b"), ("suggest", "d"), ("result", "b"), ("complete", "b")]
    assert alone.told == [("suggest", name) for name in "cef"] + [("result", "c"), ("complete", "c")]
    assert (searcher.metric, searcher.mode) == (SCORE, "max")


def test_a_list_of_trials() -> None:
    runs = [trial(f"t0003-s{seed}", "confirm", seed, {"k": 1}, of="t0003") for seed in (1, 2)]
    searcher = list_searcher(runs, at_once=5)
    assert [searcher.suggest(name) for name in "abc"] == [*runs, Searcher.FINISHED]


@pytest.mark.parametrize("objectives", [["mIoU"], ["mIoU", "params"]])
def test_search_state_survives(base: Config, tmp_path: Path, objectives: list[str]) -> None:
    """As Tune saves and restores it around a killed driver: the next suggestion is the one that would have come."""
    rate = {"optim_wrapper.optimizer.lr": {"type": "loguniform", "low": 0.01, "high": 0.1}}
    spec = study(kind="optuna").model_copy(
        update={"baseline": BaselineSpec.model_validate({"search": rate, "seed": 3}), "objectives": objectives}
    )
    original, restored = (build_searcher(spec, LoadedConfig.of(base), 4) for _ in range(2))
    assert [original.suggest(name)["id"] for name in "abcd"] == [BASELINE, "t0001", "b0001", "t0002"]
    for name in "abcd":
        original.on_trial_complete(name, {SCORE: 50.0, "params": 7.0})
    SearchGenerator(original).save_to_dir(str(tmp_path), "one")
    expected = [original.suggest(name) for name in "efgh"]
    SearchGenerator(restored).restore_from_dir(str(tmp_path))
    assert [restored.suggest(name) for name in "efgh"] == expected
    assert [suggestion["id"] for suggestion in expected] == ["b0002", "t0003", "b0003", "t0004"]
    assert 0.01 <= expected[0]["values"]["optim_wrapper.optimizer.lr"] <= 0.1


def test_the_same_seed_suggests_the_same_baselines(base: Config) -> None:
    """Whatever is searched beside them."""
    rate = {"optim_wrapper.optimizer.lr": {"type": "loguniform", "low": 0.01, "high": 0.1}}
    baseline = BaselineSpec.model_validate({"search": rate, "seed": 3})

    def baselines(spec: SweepSpec) -> list[Any]:
        searcher = build_searcher(spec.model_copy(update={"baseline": baseline}), LoadedConfig.of(base), 9)
        suggested = [searcher.suggest(name) for name in "abcdefg"]
        return [suggestion["values"] for suggestion in suggested if suggestion["id"].startswith("b0")]

    assert baselines(study(seed=1)) == baselines(study({"distill.losses.logits.weight": SPACE["distill.task_weight"]}))


def asha(**options: Any) -> SparingAsha:
    scheduler = SparingAsha(time_attr="iter", **{"max_t": 9, "grace_period": 1, "reduction_factor": 3, **options})
    scheduler.set_search_properties(SCORE, "max")
    return scheduler


def report(scheduler: SparingAsha, name: str, iteration: int, score: float) -> str:
    trial = SimpleNamespace(trial_id=name, config={"id": name})
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"iter": iteration, SCORE: score})


def test_the_worst_is_stopped_but_never_the_baseline() -> None:
    scheduler = asha()
    assert [report(scheduler, name, 1, score) for name, score in (("t1", 50.0), ("t2", 60.0))] == [
        TrialScheduler.CONTINUE
    ] * 2
    assert report(scheduler, "t3", 1, 1.0) == TrialScheduler.STOP
    for iteration in (1, 3, 9):
        assert report(scheduler, BASELINE, iteration, 0.0) == TrialScheduler.CONTINUE


def test_the_baseline_is_not_held_against_the_others() -> None:
    scheduler = asha()
    trial = SimpleNamespace(trial_id=BASELINE, config={"id": BASELINE})
    assert report(scheduler, BASELINE, 1, 100.0) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, trial, {"iter": 9, SCORE: 100.0})
    assert report(scheduler, "t1", 1, 1.0) == TrialScheduler.CONTINUE


def test_at_its_last_validation_a_trial_is_left_to_finish() -> None:
    """Also a bad one: its training is done, and its student is still to be written."""
    scheduler = asha(max_t=3)
    scores = {"t1": 50.0, "t2": 60.0, "t3": 40.0}
    for name in scores:
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=name, config={"id": name}))
    assert all(report(scheduler, name, 3, score) == TrialScheduler.CONTINUE for name, score in scores.items())


def test_students_alone_do_not_race_against_distilled_ones() -> None:
    both = EachPhase({"search": asha(), "baseline": asha()})
    decided = {}
    for name, score in (("t1", 80.0), ("b1", 50.0), ("t2", 81.0), ("b2", 51.0), ("b3", 1.0), ("t3", 70.0)):
        phase = "baseline" if name[0] == "b" else "search"
        trial = SimpleNamespace(trial_id=name, config={"id": name, "phase": phase})
        both.on_trial_add(None, trial)
        decided[name] = both.on_trial_result(None, trial, {"iter": 1, SCORE: score})
    assert [name for name, decision in decided.items() if decision == TrialScheduler.STOP] == ["b3", "t3"]
    assert pickle.loads(pickle.dumps(both)).schedulers.keys() == both.schedulers.keys()


class TuneTrial:
    """What schedulers look at of Tune's trial."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"id": name, "phase": "baseline" if name == BASELINE else "search"}
        self.status = "RUNNING"


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_any_scheduler_spares_the_baseline_and_who_is_at_the_end(rule: str) -> None:
    """Neither is shown to it; and a trial that should pause, as the median rule asks for at first, goes on."""
    plain = ASHAScheduler(time_attr="iter", max_t=9, grace_period=1, reduction_factor=3)
    median = MedianStoppingRule(time_attr="iter", grace_period=1, min_samples_required=2)
    both = EachPhase({"search": plain if rule == "asha" else median, "baseline": FIFOScheduler()}, iterations=9)
    both.set_search_properties(SCORE, "max")
    trials = {name: TuneTrial(name) for name in (BASELINE, "t1", "t2", "t3", "t4")}
    waiting = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    for tune_trial in trials.values():
        both.on_trial_add(waiting, tune_trial)

    def report(name: str, iteration: int, score: float) -> str:
        return both.on_trial_result(waiting, trials[name], {"iter": iteration, SCORE: score})

    first = [report(name, 1, score) for name, score in (("baseline", 99.0), ("t1", 50.0), ("t2", 60.0))]
    assert first == [TrialScheduler.CONTINUE] * 3
    assert report("t3", 1, 40.0) == TrialScheduler.STOP
    assert report("baseline", 2, 0.0) == report("t4", 9, 1.0) == TrialScheduler.CONTINUE
    both.on_trial_complete(waiting, trials["baseline"], {"iter": 9, SCORE: 0.0})
    assert cloudpickle.loads(cloudpickle.dumps(both)).iterations == 9  # Tune saves it so


def test_what_tune_saves_can_be_pickled() -> None:
    scheduler = pickle.loads(pickle.dumps(asha()))
    assert report(scheduler, BASELINE, 1, 0.0) == TrialScheduler.CONTINUE
