"""Which trials there are, in what order, and which end early: what Ray Tune is given for it."""

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
from rdistill.sweeps.study.records import BASELINE, OVER, PREFIX, SEARCHED, TrialRecord, trial
from rdistill.sweeps.study.search_space import Evaluated, quiet_optuna
from rdistill.sweeps.study.space import (
    decode,
    encoded_values,
    feature_counts,
    is_possible,
    sampler,
    search_space,
)
from rdistill.sweeps.study.spec import BaselineSpec, Dimension, Search, SweepSpec
from rdistill.sweeps.study.starts import as_configured, encoded, start_points

SCORE = "best_mIoU"  # a trial's best so far: what the searcher and the scheduler look at
MODES = {"mIoU": "max", "params": "min", "flops": "min", "latency": "min"}  # objective -> direction


@dataclass
class Arm:
    """One of the searches of a sweep: over the distilled students, or over the students alone."""

    phase: str  # the phase of its trials
    prefix: str  # their ids begin with it
    space: Mapping[str, Dimension]
    searcher: Searcher
    trials: int  # that it has in all
    suggested: int = 0
    # What is tried as soon as the baseline's search is over: its best values of these keys, and these of the others.
    inherits: Mapping[str, Any] | None = None


class Arms(Searcher):
    """Suggests some given trials first, then in turn what each arm's searcher suggests, numbered in that order.

    Where an arm begins with what the baseline's search comes to, that search goes first.

    Args:
        fixed: trials that no searcher suggests, nor learns from.
        arms: each learns from its own trials alone.
        seed: of training, of what the arms suggest.
        again: trials that an earlier start of the sweep left unfinished, by the index of their arm.
        clock: says when no trial more is suggested.
    """

    # Sweeps that were begun before there were any have none.
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
        self.begun = 0  # fixed trials that have begun
        self.taken_up = 0  # how many `again` has given
        self.turn = 0
        self.arm_of: dict[str, int] = {}  # Tune's id of a trial -> index of its arm
        self.values_alone: dict[str, ConfigValues] = {}  # Tune's id of a baseline that has begun -> its values
        self.scores_alone: dict[str, float] = {}  # those that are over

    def suggest(self, trial_id: str) -> TrialConfig | None:
        if self.begun < len(self.given):
            self.begun += 1
            config = self.given[self.begun - 1]
            return self._noted(trial_id, config)
        if self.taken_up < len(self.again):
            index, config = self.again[self.taken_up]
            self.taken_up += 1
            arm = self.arms[index]
            arm.searcher.take(trial_id, encoded_values(config["values"], arm.space))  # type: ignore[attr-defined]
            self.arm_of[trial_id] = index
            return self._noted(trial_id, config)
        if self.clock is not None and not self.clock.fits_another():
            return Searcher.FINISHED
        self._inherit()
        for index in self._order():
            arm = self.arms[index]
            if arm.inherits is not None and arm.suggested >= arm.trials - 1:
                return None  # the last one waits for what the baselines, of which some run, come to
            if arm.suggested < arm.trials:
                suggestion = self._ask(index, arm, trial_id)
                if suggestion != Searcher.FINISHED:
                    return suggestion
        return Searcher.FINISHED

    def _order(self) -> list[int]:
        """The arms, in the order in which they may suggest."""
        first = self.turn % len(self.arms) if self.arms else 0
        self.turn += 1
        order = [(first + step) % len(self.arms) for step in range(len(self.arms))]
        if any(arm.inherits is not None for arm in self.arms):
            order.sort(key=lambda index: self.arms[index].phase != BASELINE)
        return order

    def _inherit(self) -> None:
        """Gives the arms that wait for it what the baseline's search has come to, once it is over."""
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

    def _ask(self, index: int, arm: Arm, trial_id: str) -> Any:
        values = arm.searcher.suggest(trial_id)
        if values == Searcher.FINISHED:
            arm.trials = arm.suggested  # nothing is left of a small space
        if values is None or values == Searcher.FINISHED:
            return values
        arm.suggested += 1
        self.arm_of[trial_id] = index
        config = trial(f"{arm.prefix}{arm.suggested:04d}", arm.phase, self.seed, decode(values, arm.space))
        return self._noted(trial_id, config)

    def _noted(self, trial_id: str, config: TrialConfig) -> TrialConfig:
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
        return True  # each searcher is given its space when it is built

    def save(self, checkpoint_path: str) -> None:
        """Everything in one file: Tune moves that one to its place."""
        state = {
            "begun": self.begun,
            "taken_up": self.taken_up,
            "turn": self.turn,
            "arm_of": self.arm_of,
            "alone": (self.values_alone, self.scores_alone),
            "suggested": [arm.suggested for arm in self.arms],
            "clock": self.clock,
            "inherits": [arm.inherits for arm in self.arms],
            "searchers": [_saved(arm.searcher) for arm in self.arms],
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
            _restore(arm.searcher, saved)


def _saved(searcher: Searcher) -> bytes:
    """What a searcher writes into the file that Tune gives it."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "searcher")
        searcher.save(path)
        with open(path, "rb") as file:
            return file.read()


def _restore(searcher: Searcher, saved: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "searcher")
        write_whole(Path(path), saved)
        searcher.restore(path)


def of_search(
    spec: SweepSpec,
    base: LoadedConfig,
    at_once: int,
    begun: Sequence[TrialRecord] = (),
    clock: Clock | None = None,
) -> ConcurrencyLimiter:
    """The baseline as configured, then the searches of the students alone and of the distilled ones, in turn.

    Args:
        spec: the sweep, with its pairs settled.
        base: the distilled student's config.
        at_once: trials that run at a time.
        begun: trials of earlier starts of a sweep that has grown since: nothing of theirs is trained again.
        clock: ends the searches in time, where the sweep has a budget of hours.

    Raises:
        UserError: a start that the space does not hold, or a searcher of the user's that fails.
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
    unfinished = [record for record in begun if record.status not in OVER and record.id != BASELINE]
    again = [
        (index, trial(record.id, record.phase, record.seed, record.values))
        for record in unfinished
        for index, arm in enumerate(arms)
        if arm.phase == record.phase
    ]
    over = {record.id: record for record in begun if record.phase == BASELINE and record.status in OVER}
    fixed = [] if BASELINE in over else [trial(BASELINE, BASELINE, spec.seed, {})]
    searcher = Arms(fixed, arms, spec.seed, again, clock)
    searcher.values_alone = {record.id: record.values for record in over.values()}
    searcher.scores_alone = {record.id: float(record.best.get("mIoU", math.nan)) for record in over.values()}
    # TPE learns from what is finished when it suggests: in batches, that does not depend on who was faster.
    learns = any(SEARCHERS[section.type].learns for section in (search, alone) if section is search or alone.search)
    return ConcurrencyLimiter(searcher, max_concurrent=at_once, batch=learns)


def of_list(trials: Sequence[TrialConfig], at_once: int) -> ConcurrencyLimiter:
    """These trials, one after the other."""
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
    """The search of the distilled students, or of those alone; ``run`` is the config that it changes."""
    # A student alone is judged by its score: it has to be the best there is, whatever its size.
    objectives = ["mIoU"] if phase == BASELINE else spec.objectives
    space = search_space(dimensions, run)
    starts: list[Params | None] = []
    evaluated: list[Evaluated] = []
    inherits: Params | None = None
    if isinstance(section, Search):
        starts = start_points(spec, run, space)
        evaluated, _ = earlier_trials(section.earlier, space, objectives)
        if None in starts:
            inherits, _ = encoded(as_configured(spec, run), space, "", "")
    own = [record for record in begun if record.phase == phase and record.id != BASELINE]
    metrics = [SCORE if name == "mIoU" else name for name in objectives]
    size = SearchSize(trials, len(metrics), at_once, bool(space.conditions))
    searcher = StudySearch(
        space,
        sampler(section.type, seed, space.distributions, section.params, size),
        metrics,
        [MODES[name] for name in objectives],
        [start for start in starts if start is not None],
        evaluated,
        partial(is_possible, run=run, dimensions=dimensions),
    )
    for record in own:
        if record.status in OVER:
            searcher.remember(encoded_values(record.values, dimensions), scores_of(record, objectives), record.id)
    return Arm(phase, PREFIX[phase], dimensions, searcher, trials, len(own), inherits)


class SparingAsha(ASHAScheduler):
    """ASHA of sweeps that were begun before :class:`EachPhase` spared trials, as Tune restores it of their files."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        if trial.config["id"] == BASELINE:
            return TrialScheduler.CONTINUE
        action = str(super().on_trial_result(tune_controller, trial, result))
        # A trial still has its student to write after its last validation; then it ends by itself.
        return TrialScheduler.CONTINUE if is_at_its_end(self, result) else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: TuneResult) -> None:
        if trial.config["id"] != BASELINE:
            super().on_trial_complete(tune_controller, trial, result)


class EachPhase(FIFOScheduler):
    """A scheduler of its own for each phase: students alone do not race against distilled ones.

    The baseline as configured is never shown to them: it is not stopped, nor held against the others. Who comes to the
    end is left to finish.

    Args:
        schedulers: phase -> scheduler.
        iterations: of a trial (or its epochs).
    """

    iterations: float = math.inf  # sweeps begun before it was kept: there SparingAsha knows it

    def __init__(self, schedulers: Mapping[str, TrialScheduler], iterations: float = math.inf) -> None:
        super().__init__()
        self.schedulers, self.iterations = dict(schedulers), iterations

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return all([scheduler.set_search_properties(metric, mode, **spec) for scheduler in self.schedulers.values()])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        if _is_spared(trial):
            return TrialScheduler.CONTINUE
        action = str(self._of(trial).on_trial_result(tune_controller, trial, result))
        # A trial still has its student to write after its last validation; then it ends by itself. And none can pause:
        # MedianStoppingRule pauses them where others wait for their turn.
        stops = action == TrialScheduler.STOP and result["iter"] < self.iterations
        return action if stops else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: TuneResult) -> None:
        if not _is_spared(trial):
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if not _is_spared(trial):
            self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Any) -> TrialScheduler:
        return self.schedulers[trial.config["phase"]]


def _is_spared(trial: Any) -> bool:
    return bool(trial.config["id"] == BASELINE)


def scheduler(spec: SweepSpec, base: Config, iterations: int) -> TrialScheduler:
    """Who stops the worse trials of a search early, if anybody does."""
    chosen = spec.scheduler
    info, interval = SCHEDULERS[chosen.type], int(base.train_cfg.get("val_interval", 1))
    if not info.stops:
        return info.build(chosen.params, iterations=iterations, val_interval=interval)
    phases = (SEARCHED, BASELINE)
    built = {phase: info.build(chosen.params, iterations=iterations, val_interval=interval) for phase in phases}
    return EachPhase(built, iterations)


ROUNDS = 4  # a search of `auto` learns in no fewer, where no worker would wait for it


def most_at_once(spec: SweepSpec, trials: int, processes: int) -> int | None:
    """How many trials a search runs at a time at most; None: as many as there is room for.

    A cohort has room for all trials of a short search, which would then learn nothing from each other.
    """
    searches = [spec.search.type] + ([spec.baseline.type] if spec.baseline.search else [])
    if spec.trial.max_concurrent is not None or "auto" not in searches:
        return None
    return max(processes, -(-trials // ROUNDS))


def require_buildable(spec: SweepSpec, base: LoadedConfig, path: str) -> None:
    """Builds what chooses and what stops the trials once, so that what fails there fails before time is spent.

    Raises:
        UserError: naming the section of the sweep file.
    """
    problems = []
    try:
        with quiet_optuna(optuna.logging.WARNING):
            arms = of_search(spec, base, at_once=1).searcher.arms
            for section, arm in zip((spec.search, spec.baseline), arms, strict=False):
                with blaming_user_code(f"searcher {section.type!r}"):
                    arm.searcher.suggest("the first")
    except UserError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
    try:
        built = scheduler(spec, base.cfg, iterations_of(base.cfg))
        if not built.set_search_properties(SCORE, "max"):
            raise UserError(
                f"scheduler {spec.scheduler.type!r}: has a metric or mode of its own; leave both to the sweep"
            )
    except UserError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)


def require_starts(spec: SweepSpec, base: LoadedConfig, begun: bool) -> list[str]:
    """Looks at what a search begins with once its pairs are settled.

    Returns:
        Lines for the user; of a sweep that has ``begun`` already, only where it must be looked at again.

    Raises:
        UserError: a start with a pair that cannot be compared.
    """
    space = search_space(spec.space, base)
    start_points(spec, base, space)
    return [] if begun else earlier_trials(spec.search.earlier, space, spec.objectives)[1]


def iterations_of(cfg: Config) -> int:
    """How many iterations (or epochs) a config trains."""
    return int(cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs"))
