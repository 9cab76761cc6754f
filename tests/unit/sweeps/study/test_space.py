"""From the space to suggestions and back to config values; searcher and scheduler around them, without a cluster."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from conftest import Tiny
from mmengine.config import Config
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import cloudpickle
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher, SearchGenerator

from rdistill.config.distill_spec import DistillSpec, distill_spec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.config.overrides import lookup
from rdistill.core.errors import UserError
from rdistill.sweeps.search.searchers import SCORE, Arm, Arms, EachPhase, SparingAsha, of_list, of_search
from rdistill.sweeps.study.records import BASELINE, trial
from rdistill.sweeps.study.space import check_space, decode, distributions, feature_counts, sampler
from rdistill.sweeps.study.spec import BaselineSpec, SweepSpec

SPACE: dict[str, Any] = {
    "distill.task_weight": {"type": "uniform", "low": 0.25, "high": 1.0},
    "distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 100.0},
    "train_dataloader.batch_size": {"type": "int", "low": 2, "high": 4},
    "distill.losses.hidden.pair": {"type": "pairs", "pairs": "all"},
    "optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.01, 0.1]},
    "model.decode_head.dilations": {"type": "choice", "values": [[1, 2], [1, 3, 6]]},
}


def study(space: Mapping[str, Any] = SPACE, *, seed: int = 0, kind: str = "random") -> SweepSpec:
    search = {"type": kind, "seed": seed, **({} if kind == "grid" else {"num_trials": 9})}
    spec = SweepSpec.model_validate({"config": "a.py", "space": space, "search": search})
    assert spec.problems() == []
    return spec


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Config:
    return tiny.load("distill")


@pytest.fixture(scope="module")
def distill(base: Config) -> DistillSpec:
    spec = distill_spec(base)
    assert spec is not None
    return spec


def suggestions(spec: SweepSpec, space: dict[str, BaseDistribution], count: int) -> list[dict[str, Any]]:
    """What the sampler suggests, told a score after each."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_study = optuna.create_study(direction="maximize", sampler=sampler(spec.search.type, spec.search.seed, space))
    points = []
    for number in range(count):
        trial = optuna_study.ask(space)
        points.append(decode(trial.params, spec.space))
        try:
            optuna_study.tell(trial, float(number % 3))
        except RuntimeError as error:  # how a GridSampler says that it is through, outside of Optuna's own loop
            assert "stop" in str(error) and number == count - 1
    return points


def test_distributions(distill: DistillSpec) -> None:
    space = distributions(study().space, distill)
    assert list(space) == list(SPACE)
    task, weight, batch, pair, rate, dilations = space.values()
    assert task == FloatDistribution(0.25, 1.0) and weight == FloatDistribution(1.0, 100.0, log=True)
    assert batch == IntDistribution(2, 4) and rate == CategoricalDistribution(["0.01", "0.1"])
    assert isinstance(pair, CategoricalDistribution) and len(pair.choices) == 9 == 3 * 3
    assert dilations == CategoricalDistribution(["[1, 2]", "[1, 3, 6]"])
    assert feature_counts(distill) == (3, 3)


def test_suggestions_arrive_in_the_config(base: Config, distill: DistillSpec) -> None:
    """Each value, of the type that the file gave it, as the config then has it."""
    spec = study()
    for values in suggestions(spec, distributions(spec.space, distill), 8):
        assert 0.25 <= values["distill.task_weight"] <= 1.0
        assert 1.0 <= values["distill.losses.logits.weight"] <= 100.0
        assert values["train_dataloader.batch_size"] in (2, 3, 4)
        assert values["distill.losses.hidden.pair"] in [[s, t] for s in range(3) for t in range(3)]
        assert values["optim_wrapper.optimizer.lr"] in (0.01, 0.1)
        assert values["model.decode_head.dilations"] in ([1, 2], [1, 3, 6])
        cfg = with_overrides(base, values)
        assert {key: lookup(cfg._cfg_dict, key) for key in values} == values


@pytest.mark.parametrize("value", [3, 0.5, True, None, "text", [1, [2, "x"]], {"type": "KL", "tau": 2.0}])
def test_choices_of_any_kind_come_back(distill: DistillSpec, value: Any) -> None:
    spec = study({"k": {"type": "choice", "values": [value]}})
    (values,) = suggestions(spec, distributions(spec.space, distill), 1)
    assert values == {"k": value} and type(values["k"]) is type(value)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_the_seed_decides(distill: DistillSpec, kind: str) -> None:
    first, again, third = (
        suggestions(spec, distributions(spec.space, distill), 14)  # TPE starts to model after ten
        for spec in (study(kind=kind, seed=3), study(kind=kind, seed=3), study(kind=kind, seed=4))
    )
    assert first == again and first[0] != third[0]
    weights = [values["distill.losses.logits.weight"] for values in first]
    assert len(set(weights)) == len(weights)


def test_a_grid_visits_every_point_once(distill: DistillSpec) -> None:
    space = {
        "distill.losses.hidden.pair": {"type": "pairs", "pairs": "all"},
        "n": {"type": "int", "low": 1, "high": 2},
        "k": {"type": "choice", "values": ["a", [1, 2]]},
    }
    spec = study(space, kind="grid")
    size = spec.num_trials(feature_counts(distill))
    assert size == 9 * 2 * 2
    visited = suggestions(spec, distributions(spec.space, distill), size)
    points = [([*point[0]], *point[1:]) for point in itertools.product(
        itertools.product(range(3), range(3)), (1, 2), ("a", [1, 2])
    )]  # fmt: skip
    assert sorted(map(str, (tuple(values.values()) for values in visited))) == sorted(map(str, points))


@pytest.mark.parametrize(
    ("key", "dimension", "problem"),
    [
        (
            "distill.losses.logit.weight",
            {"type": "uniform", "low": 1, "high": 2},
            "distill.losses.logit.type: is required",
        ),
        (
            "distill.losses.logits.tua",
            {"type": "uniform", "low": 1, "high": 2},
            "distill.losses.logits.tua is not a parameter",
        ),
        (
            "optim_wrapper.optimizr.lr",
            {"type": "uniform", "low": 1, "high": 2},
            "unknown key optim_wrapper.optimizr; did you mean 'optimizer'?",
        ),
        (
            "distill.losses.hidden.pair",
            {"type": "pairs", "pairs": [[0, 3]]},
            "distill.losses.hidden.pair: teacher feature index 3 is not in distill.features.teacher, which has 3 names",
        ),
        (
            "optim_wrapper.optimizer.lr",
            {"type": "choice", "values": [0.1, "high"]},
            "optim_wrapper.optimizer.lr: must be a number, got 'high'",
        ),
        ("distill.losses.logits.weight", {"type": "uniform", "low": -1, "high": 2}, "distill.losses.logits.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_space_that_the_config_does_not_take(base: Config, key: str, dimension: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check_space(study({key: dimension}), LoadedConfig.of(base), "s.yaml")
    assert all(line.startswith(f"s.yaml: space.{key}: ") for line in caught.value.problems)
    assert problem in caught.value.problems[0]


@pytest.mark.parametrize("key", ["+my-note", "+class", "+2nd"])
def test_a_key_that_a_trials_config_cannot_hold(base: Config, key: str) -> None:
    with pytest.raises(UserError) as caught:
        check_space(study({key: {"type": "choice", "values": [1]}}, kind="grid"), LoadedConfig.of(base), "a.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"a.yaml: space.{key}: {key!r}: a key of a config must be a name of Python's")


def test_all_wrong_dimensions_are_named_and_the_base_stays(base: Config) -> None:
    before = base.pretty_text
    check_space(study(), LoadedConfig.of(base), "s.yaml")
    wrong = {"a.b": {"type": "int", "low": 1, "high": 2}, "train_cfg.c": {"type": "choice", "values": [1]}}
    with pytest.raises(UserError) as caught:
        check_space(study({**wrong, **SPACE}), LoadedConfig.of(base), "s.yaml")
    assert [line.split(": ")[1] for line in caught.value.problems] == ["space.a.b", "space.train_cfg.c"]
    assert base.pretty_text == before


# ---------------------------------------------------------------------------------------------------------
# The baseline among the suggestions


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
    searcher = of_list(runs, at_once=5)
    assert [searcher.suggest(name) for name in "abc"] == [*runs, Searcher.FINISHED]


@pytest.mark.parametrize("objectives", [["mIoU"], ["mIoU", "params"]])
def test_search_state_survives(base: Config, tmp_path: Path, objectives: list[str]) -> None:
    """As Tune saves and restores it around a killed driver: the next suggestion is the one that would have come."""
    rate = {"optim_wrapper.optimizer.lr": {"type": "loguniform", "low": 0.01, "high": 0.1}}
    spec = study(kind="optuna").model_copy(
        update={"baseline": BaselineSpec.model_validate({"search": rate, "seed": 3}), "objectives": objectives}
    )
    original, restored = (of_search(spec, LoadedConfig.of(base), 4) for _ in range(2))
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
        searcher = of_search(spec.model_copy(update={"baseline": baseline}), LoadedConfig.of(base), 9)
        suggested = [searcher.suggest(name) for name in "abcdefg"]
        return [suggestion["values"] for suggestion in suggested if suggestion["id"].startswith("b0")]

    assert baselines(study(seed=1)) == baselines(study({"distill.losses.logits.weight": SPACE["distill.task_weight"]}))


# ---------------------------------------------------------------------------------------------------------
# Who is stopped early


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


@pytest.mark.parametrize(
    ("grid", "num_trials", "problem"),
    [
        (
            {"train_dataloader.batch_size": {"type": "int", "low": 1, "high": 10**9}},
            None,
            "search.type: the grid has 1,000,000,000 points, and at most 10,000 can be listed; take fewer values, or",
        ),
        (
            {key: {"type": "int", "low": 1, "high": 1000} for key in ("train_dataloader.batch_size", "train_cfg.a")},
            5,
            "search.type: the grid has 1,000,000 points, and at most 10,000 can be listed",
        ),
        (
            {"train_dataloader.batch_size": {"type": "int", "low": 1, "high": 3}},
            4,
            "search.num_trials: is 4, but the grid has 3 points; lower it, or leave it out",
        ),
    ],
)
def test_the_size_of_a_grid_is_known_before_it_is_listed(
    base: Config, grid: dict[str, Any], num_trials: int | None, problem: str
) -> None:
    content = {"config": "a.py", "space": grid, "search": {"type": "grid", "num_trials": num_trials}}
    alone = {**content, "space": SPACE, "search": {"num_trials": 1}, "baseline": {**content["search"], "search": grid}}
    for sweep, where in ((content, "search"), (alone, "baseline")):
        with pytest.raises(UserError) as caught:
            check_space(SweepSpec.model_validate(sweep), LoadedConfig.of(base), "s.yaml")
        expected = problem.replace("search.", f"{where}.", 1)
        assert [line.startswith(f"s.yaml: {expected}") for line in caught.value.problems] == [True]


def test_values_that_are_listed_twice() -> None:
    space = {
        "a": {"type": "choice", "values": [1, "1", 1.0, True, {"k": 1, "j": 2}, {"j": 2, "k": 1}]},
        "b.pair": {"type": "pairs", "pairs": [[0, 1], [1, 0], [0, 1]]},
    }
    spec = SweepSpec.model_validate({"config": "a.py", "space": space, "search": {"num_trials": 1}})
    assert spec.problems() == ["space.a: {'j': 2, 'k': 1} is listed 2 times; keep one"]
    spec = SweepSpec.model_validate(
        {"config": "a.py", "space": {"b.pair": space["b.pair"]}, "search": {"type": "grid"}}
    )
    assert spec.problems() == ["space.b.pair: [0, 1] is listed 2 times; keep one"]


def test_optuna_takes_the_largest_bounds_and_seeds() -> None:
    space = {
        "a": {"type": "uniform", "low": -1e30, "high": 1e30},
        "b": {"type": "loguniform", "low": 1e-30, "high": 1e30},
        "c": {"type": "int", "low": -(2**53), "high": 2**53},
    }
    for kind in ("optuna", "random"):
        spec = study(space, kind=kind, seed=2**32 - 1)
        assert len(suggestions(spec, distributions(spec.space, DistillSpec.model_construct()), 15)) == 15
