"""The searcher and the scheduler that Ray Tune gets: which trials run, in what order, and which end early."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from mmengine.config import Config
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from rdistill._compat.ray import is_at_its_end
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.registration.user_modules import blaming_user_code
from rdistill.schedulers import SCHEDULERS
from rdistill.schemas.mappings import ConfigValues, Params, TuneResult
from rdistill.schemas.trial import TrialConfig
from rdistill.searchers import SEARCHERS
from rdistill.searchers.registry import SearchSize
from rdistill.sweeps.search.budget import Clock
from rdistill.sweeps.search.study_search import StudySearch
from rdistill.sweeps.study.earlier import earlier_trials, scores_of
from rdistill.sweeps.study.records import BASELINE, ENDED_STATUSES, PREFIX, SEARCHED, TrialRecord, trial
from rdistill.sweeps.study.search_space import Evaluated, quiet_optuna
from rdistill.sweeps.study.space import (
    build_sampler,
    decode,
    encoded_values,
    feature_counts,
    search_space,
    why_impossible,
)
from rdistill.sweeps.study.spec import BaselineSpec, Dimension, Search, SweepSpec
from rdistill.sweeps.study.starts import configured_start, encode_start, start_points

SCORE = "best_mIoU"  # a trial's best mIoU so far: the metric of searcher and scheduler
MODES = {"mIoU": "max", "params": "min", "flops": "min", "latency": "min"}  # objective -> Tune's mode


@dataclass
class Arm:
    """One of the two searches of a sweep: over distilled students, or over students alone."""

    phase: str  # the phase of its trials
    prefix: str  # the ids of its trials begin with it
    space: Mapping[str, Dimension]
    searcher: Searcher
    trials: int  # the number of trials in all
    suggested: int = 0
    # A configuration to try as soon as the baselines' search is over. The best baseline's values then replace its
    # values of the same keys. None: there is no such configuration.
    inherits: Mapping[str, Any] | None = None


class Arms(Searcher):
    """Suggests the fixed trials first, then the trials of the arms' searchers in turn.

    If an arm starts with the result of the baselines' search, all baselines are suggested before that arm's trials.

    Args:
        fixed: trials that no searcher suggests and that no searcher learns from.
        arms: the searches; each searcher learns from its own trials alone.
        seed: the training seed of the trials that the arms suggest.
        again: (index of the arm, trial) of each trial that an earlier start of the sweep left unfinished.
        clock: ends the search in time.
    """

    # Tune restores this object from a pickle; those of older versions lack these attributes.
    again: Sequence[tuple[int, TrialConfig]] = ()
    taken_up = 0
    scores_alone: Mapping[str, float] = {}
    values_alone: Mapping[str, ConfigValues] = {}
    clock: Clock | None = None

    def __init__(
        self,
        fixed: Sequence[TrialConfig],
        arms: Sequence[Arm],
        seed: int,
        again: Sequence[tuple[int, TrialConfig]] = (),
        clock: Clock | None = None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.given, self.arms, self.seed, self.again = list(fixed), list(arms), seed, list(again)
        self.clock = clock
        self.begun = 0  # number of fixed trials that were suggested
        self.taken_up = 0  # number of trials of `again` that were suggested
        self.turn = 0
        self.arm_of: dict[str, int] = {}  # Tune's id of a trial -> index of its arm
        self.values_alone: dict[str, ConfigValues] = {}  # Tune's id of a baseline that was suggested -> its values
        self.scores_alone: dict[str, float] = {}  # Tune's id of a baseline that has ended -> its score

    def suggest(self, trial_id: str) -> TrialConfig | None:
        if self.begun < len(self.given):
            self.begun += 1
            config = self.given[self.begun - 1]
            return self._started(trial_id, config)
        if self.taken_up < len(self.again):
            index, config = self.again[self.taken_up]
            self.taken_up += 1
            arm = self.arms[index]
            arm.searcher.continue_trial(trial_id, encoded_values(config["values"], arm.space))  # type: ignore[attr-defined]
            self.arm_of[trial_id] = index
            return self._started(trial_id, config)
        if self.clock is not None and not self.clock.fits_another():
            return Searcher.FINISHED
        self._inherit()
        for index in self._order():
            arm = self.arms[index]
            if arm.inherits is not None and arm.suggested >= arm.trials - 1:
                return None  # the arm's last trial waits for the result of the baselines, some of which still run
            if arm.suggested < arm.trials:
                suggestion = self._suggest_from(index, arm, trial_id)
                if suggestion != Searcher.FINISHED:
                    return suggestion
        return Searcher.FINISHED

    def _order(self) -> list[int]:
        """Indices of the arms, in the order in which they may suggest a trial."""
        first = self.turn % len(self.arms) if self.arms else 0
        self.turn += 1
        order = [(first + step) % len(self.arms) for step in range(len(self.arms))]
        if any(arm.inherits is not None for arm in self.arms):
            order.sort(key=lambda index: self.arms[index].phase != BASELINE)
        return order

    def _inherit(self) -> None:
        """Once the baselines' search is over, passes its best values to the arms that wait for them."""
        baselines = [arm for arm in self.arms if arm.phase == BASELINE]
        if any(arm.suggested < arm.trials for arm in baselines) or len(self.scores_alone) < len(self.values_alone):
            return
        for arm in self.arms:
            if arm.inherits is not None:
                scored = {name: score for name, score in self.scores_alone.items() if not math.isnan(score)}
                best = self.values_alone[max(scored, key=lambda name: scored[name])] if scored else {}
                shared = encoded_values({key: value for key, value in best.items() if key in arm.space}, arm.space)
                arm.searcher.try_next({**arm.inherits, **shared})  # type: ignore[attr-defined]
                arm.inherits = None

    def _suggest_from(self, index: int, arm: Arm, trial_id: str) -> Any:
        """The next trial of an arm; None or ``Searcher.FINISHED`` as from Tune's ``Searcher.suggest``."""
        values = arm.searcher.suggest(trial_id)
        if values == Searcher.FINISHED:
            arm.trials = arm.suggested  # every point of a small space was tried
        if values is None or values == Searcher.FINISHED:
            return values
        arm.suggested += 1
        self.arm_of[trial_id] = index
        config = trial(f"{arm.prefix}{arm.suggested:04d}", arm.phase, self.seed, decode(values, arm.space))
        return self._started(trial_id, config)

    def _started(self, trial_id: str, config: TrialConfig) -> TrialConfig:
        """Takes note that a trial starts, and returns its config."""
        if self.clock is not None:
            self.clock.begins(trial_id)
        if config["phase"] == BASELINE and self.arms:
            self.values_alone = {**self.values_alone, trial_id: config["values"]}
        return config

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        if self.clock is not None:
            self.clock.validated(trial_id, int(result.get("iter", 0)))
        if trial_id in self.arm_of:
            self.arms[self.arm_of[trial_id]].searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        if self.clock is not None:
            self.clock.ends(trial_id)
        if trial_id in self.values_alone:
            score = math.nan if error or not result else float(result.get(SCORE, math.nan))
            self.scores_alone = {**self.scores_alone, trial_id: score}
        if trial_id in self.arm_of:
            self.arms[self.arm_of[trial_id]].searcher.on_trial_complete(trial_id, result, error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: ConfigValues, **spec: Any) -> bool:
        return True  # each arm's searcher got its space when it was built

    def save(self, checkpoint_path: str) -> None:
        """Saves the state of all searchers in one file, since Tune moves only that file to its place."""
        state = {
            "begun": self.begun,
            "taken_up": self.taken_up,
            "turn": self.turn,
            "arm_of": self.arm_of,
            "alone": (self.values_alone, self.scores_alone),
            "suggested": [arm.suggested for arm in self.arms],
            "clock": self.clock,
            "inherits": [arm.inherits for arm in self.arms],
            "searchers": [_dump_searcher(arm.searcher) for arm in self.arms],
        }
        write_whole(Path(checkpoint_path), pickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            state = pickle.load(file)
        self.begun, self.turn, self.arm_of = state["begun"], state["turn"], state["arm_of"]
        self.taken_up, self.clock = state.get("taken_up", 0), state.get("clock")
        self.values_alone, self.scores_alone = state.get("alone", ({}, {}))
        nothing = [None] * len(self.arms)
        states = zip(self.arms, state["suggested"], state.get("inherits", nothing), state["searchers"], strict=True)
        for arm, suggested, inherits, saved in states:
            arm.suggested, arm.inherits = suggested, inherits
            _load_searcher(arm.searcher, saved)


def _dump_searcher(searcher: Searcher) -> bytes:
    """The content of the file that the searcher's ``save`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "searcher")
        searcher.save(path)
        with open(path, "rb") as file:
            return file.read()


def _load_searcher(searcher: Searcher, saved: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "searcher")
        write_whole(Path(path), saved)
        searcher.restore(path)


def build_searcher(
    spec: SweepSpec,
    base: LoadedConfig,
    at_once: int,
    begun: Sequence[TrialRecord] = (),
    clock: Clock | None = None,
) -> ConcurrencyLimiter:
    """The searcher of a sweep: the configured baseline first, then the searches of students alone and distilled ones.

    Args:
        spec: the sweep, with its feature pairs chosen.
        base: the distilled student's config.
        at_once: number of trials that run at a time.
        begun: records of the trials of earlier starts, if the sweep was extended: those that ended are not trained
            again, and the others continue.
        clock: ends the search in time, if the sweep has a budget of hours.

    Raises:
        UserError: a start is outside the search space, or a user's searcher failed.
    """
    features = feature_counts(base.distillation)
    search, alone = spec.search, spec.baseline
    trials = spec.num_trials(features)
    options: Params = {"at_once": at_once, "begun": begun}
    arms = [_arm(SEARCHED, search, spec.space, spec, base, seed=search.seed, trials=trials, **options)]
    if alone.search:
        seed = search.seed if alone.seed is None else alone.seed
        trials, student = spec.num_baselines(features) - 1, base.without_distillation()
        arms.append(_arm(BASELINE, alone, alone.search, spec, student, seed=seed, trials=trials, **options))
    unfinished = [record for record in begun if record.status not in ENDED_STATUSES and record.id != BASELINE]
    again = [
        (index, trial(record.id, record.phase, record.seed, record.values))
        for record in unfinished
        for index, arm in enumerate(arms)
        if arm.phase == record.phase
    ]
    ended = {record.id: record for record in begun if record.phase == BASELINE and record.status in ENDED_STATUSES}
    fixed = [] if BASELINE in ended else [trial(BASELINE, BASELINE, spec.seed, {})]
    searcher = Arms(fixed, arms, spec.seed, again, clock)
    searcher.values_alone = {record.id: record.values for record in ended.values()}
    searcher.scores_alone = {record.id: float(record.best.get("mIoU", math.nan)) for record in ended.values()}
    # A searcher such as TPE learns from the trials that have ended when it suggests. With batches, its suggestions do
    # not depend on which trial ended first.
    learns = any(SEARCHERS[section.type].learns for section in (search, alone) if section is search or alone.search)
    return ConcurrencyLimiter(searcher, max_concurrent=at_once, batch=learns)


def list_searcher(trials: Sequence[TrialConfig], at_once: int) -> ConcurrencyLimiter:
    """A searcher that suggests the given trials in their order."""
    return ConcurrencyLimiter(Arms(trials, [], 0), max_concurrent=at_once)


def _arm(
    phase: str,
    section: Search | BaselineSpec,
    dimensions: Mapping[str, Dimension],
    spec: SweepSpec,
    run: LoadedConfig,
    *,
    seed: int,
    trials: int,
    at_once: int,
    begun: Sequence[TrialRecord],
) -> Arm:
    """The search of one phase.

    Args:
        phase: ``SEARCHED`` for distilled students, ``BASELINE`` for students alone.
        section: the section of the sweep file that describes the search.
        dimensions: the search space in the sweep file.
        spec: the sweep.
        run: the config that the trials change.
        seed: the seed of the sampler.
        trials: the number of trials in all.
        at_once: number of trials that run at a time.
        begun: the same as for :func:`build_searcher`.
    """
    # Baselines are chosen by mIoU alone: the comparison needs the best student alone, whatever its size.
    objectives = ["mIoU"] if phase == BASELINE else spec.objectives
    space = search_space(dimensions, run)
    starts: list[Params | None] = []
    evaluated: list[Evaluated] = []
    inherits: Params | None = None
    if isinstance(section, Search):
        starts = start_points(spec, run, space)
        evaluated, _ = earlier_trials(section.earlier, space, objectives)
        if None in starts:
            inherits, _ = encode_start(configured_start(spec, run), space, "", "")
    own = [record for record in begun if record.phase == phase and record.id != BASELINE]
    metrics = [SCORE if name == "mIoU" else name for name in objectives]
    size = SearchSize(trials, len(metrics), at_once, bool(space.conditions))
    searcher = StudySearch(
        space,
        build_sampler(section.type, seed, space.distributions, section.params, size),
        metrics,
        [MODES[name] for name in objectives],
        [start for start in starts if start is not None],
        evaluated,
        partial(why_impossible, run=run, dimensions=dimensions),
    )
    for record in own:
        if record.status in ENDED_STATUSES:
            searcher.add_ended(encoded_values(record.values, dimensions), scores_of(record, objectives), record.id)
    return Arm(phase, PREFIX[phase], dimensions, searcher, trials, len(own), inherits)


class SparingAsha(ASHAScheduler):
    """ASHA in sweeps of older versions, before :class:`EachPhase` did this; Tune unpickles it when they are resumed."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        if trial.config["id"] == BASELINE:
            return TrialScheduler.CONTINUE
        action = str(super().on_trial_result(tune_controller, trial, result))
        # A trial still has to write its student after its last validation, and then it ends by itself.
        return TrialScheduler.CONTINUE if is_at_its_end(self, result) else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: TuneResult) -> None:
        if trial.config["id"] != BASELINE:
            super().on_trial_complete(tune_controller, trial, result)


class EachPhase(FIFOScheduler):
    """Runs one scheduler for each phase, so that students alone and distilled students are not compared.

    No scheduler sees the configured baseline: it is never stopped, and no other trial is compared with it. A trial
    that has reached its last iteration is not stopped either.

    Args:
        schedulers: phase -> scheduler.
        iterations: number of iterations (or epochs) of a trial.
    """

    # Pickles of older versions lack this attribute; in those, SparingAsha knows the number of iterations.
    iterations: float = math.inf

    def __init__(self, schedulers: Mapping[str, TrialScheduler], iterations: float = math.inf) -> None:
        super().__init__()
        self.schedulers, self.iterations = dict(schedulers), iterations

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return all([scheduler.set_search_properties(metric, mode, **spec) for scheduler in self.schedulers.values()])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._scheduler_of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._scheduler_of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        if _is_spared(trial):
            return TrialScheduler.CONTINUE
        action = str(self._scheduler_of(trial).on_trial_result(tune_controller, trial, result))
        # A trial still has to write its student after its last validation, and then it ends by itself. No trial can
        # pause either, though MedianStoppingRule pauses trials while others are pending.
        stops = action == TrialScheduler.STOP and result["iter"] < self.iterations
        return action if stops else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: TuneResult) -> None:
        if not _is_spared(trial):
            self._scheduler_of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._scheduler_of(trial).on_trial_remove(tune_controller, trial)

    def _scheduler_of(self, trial: Any) -> TrialScheduler:
        return self.schedulers[trial.config["phase"]]


def _is_spared(trial: Any) -> bool:
    return bool(trial.config["id"] == BASELINE)


def build_scheduler(spec: SweepSpec, base: Config, iterations: int) -> TrialScheduler:
    """The scheduler that the sweep file names; ``iterations`` (or epochs) is the length of a trial."""
    chosen = spec.scheduler
    info, interval = SCHEDULERS[chosen.type], int(base.train_cfg.get("val_interval", 1))
    if not info.stops:
        return info.build(chosen.params, iterations=iterations, val_interval=interval)
    phases = (SEARCHED, BASELINE)
    built = {phase: info.build(chosen.params, iterations=iterations, val_interval=interval) for phase in phases}
    return EachPhase(built, iterations)


MIN_ROUNDS = 4  # a search with `auto` runs in at least this many rounds, unless workers would be idle


def max_concurrent_trials(spec: SweepSpec, trials: int, processes: int) -> int | None:
    """The largest number of trials that a search runs at a time; None for as many as there is room for.

    A cohort could have room for all trials of a short search, and then the searcher could not learn from any of them.
    """
    searches = [spec.search.type] + ([spec.baseline.type] if spec.baseline.search else [])
    if spec.trial.max_concurrent is not None or "auto" not in searches:
        return None
    return max(processes, -(-trials // MIN_ROUNDS))


def require_buildable(spec: SweepSpec, base: LoadedConfig, path: str) -> None:
    """Builds the searcher and the scheduler once, so that their errors are found before the sweep starts.

    Raises:
        UserError: one of them cannot be built; the message names the section of the sweep file.
    """
    problems = []
    try:
        with quiet_optuna(optuna.logging.WARNING):
            arms = build_searcher(spec, base, at_once=1).searcher.arms
            for section, arm in zip((spec.search, spec.baseline), arms, strict=False):
                with blaming_user_code(f"searcher {section.type!r}"):
                    arm.searcher.suggest("the first")
    except UserError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
    try:
        built = build_scheduler(spec, base.cfg, iterations_of(base.cfg))
        if not built.set_search_properties(SCORE, "max"):
            raise UserError(
                f"scheduler {spec.scheduler.type!r}: has a metric or mode of its own; leave both to the sweep"
            )
    except UserError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)


def require_starts(spec: SweepSpec, base: LoadedConfig, begun: bool) -> list[str]:
    """Checks the configurations that a search starts with, once the feature pairs are chosen.

    Returns:
        Lines for the user about the earlier sweeps it learns from; none if the sweep has ``begun`` before.

    Raises:
        UserError: a start has a feature pair that cannot be compared.
    """
    space = search_space(spec.space, base)
    start_points(spec, base, space)
    return [] if begun else earlier_trials(spec.search.earlier, space, spec.objectives)[1]


def iterations_of(cfg: Config) -> int:
    """How many iterations (or epochs) a config trains."""
    return int(cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs"))
