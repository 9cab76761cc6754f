"""Which trials there are, in what order, and which end early: what Ray Tune is given for it."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from mmengine.config import Config
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from rdistill._compat.ray import is_at_its_end
from rdistill.config.distill_spec import DistillSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.registration.user_modules import blaming_user_code
from rdistill.schedulers import SCHEDULERS
from rdistill.schemas.mappings import ConfigValues, TuneResult
from rdistill.schemas.trial import TrialConfig
from rdistill.searchers import SEARCHERS
from rdistill.searchers.registry import SearchSize
from rdistill.sweeps.study.records import BASELINE, PREFIX, SEARCHED, trial
from rdistill.sweeps.study.space import decode, distributions, feature_counts, sampler
from rdistill.sweeps.study.spec import BaselineSpec, Dimension, Search, SweepSpec

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


class Arms(Searcher):
    """Suggests some given trials first, then in turn what each arm's searcher suggests, numbered in that order.

    Args:
        fixed: trials that no searcher suggests, nor learns from.
        arms: each learns from its own trials alone.
        seed: of training, of what the arms suggest.
    """

    def __init__(self, fixed: Sequence[TrialConfig], arms: Sequence[Arm], seed: int) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.given, self.arms, self.seed = list(fixed), list(arms), seed
        self.begun = 0  # fixed trials that have begun
        self.turn = 0
        self.arm_of: dict[str, int] = {}  # Tune's id of a trial -> index of its arm

    def suggest(self, trial_id: str) -> TrialConfig | None:
        if self.begun < len(self.given):
            self.begun += 1
            return self.given[self.begun - 1]
        for _ in self.arms:
            index = self.turn % len(self.arms)
            self.turn += 1
            arm = self.arms[index]
            if arm.suggested < arm.trials:
                return self._ask(index, arm, trial_id)
        return Searcher.FINISHED

    def _ask(self, index: int, arm: Arm, trial_id: str) -> Any:
        values = arm.searcher.suggest(trial_id)
        if values is None or values == Searcher.FINISHED:
            return values
        arm.suggested += 1
        self.arm_of[trial_id] = index
        return trial(f"{arm.prefix}{arm.suggested:04d}", arm.phase, self.seed, decode(values, arm.space))

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        if trial_id in self.arm_of:
            self.arms[self.arm_of[trial_id]].searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        if trial_id in self.arm_of:
            self.arms[self.arm_of[trial_id]].searcher.on_trial_complete(trial_id, result, error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: ConfigValues, **spec: Any) -> bool:
        return True  # each searcher is given its space when it is built

    def save(self, checkpoint_path: str) -> None:
        """Everything in one file: Tune moves that one to its place."""
        state = {
            "begun": self.begun,
            "turn": self.turn,
            "arm_of": self.arm_of,
            "suggested": [arm.suggested for arm in self.arms],
            "searchers": [_saved(arm.searcher) for arm in self.arms],
        }
        write_whole(Path(checkpoint_path), pickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            state = pickle.load(file)
        self.begun, self.turn, self.arm_of = state["begun"], state["turn"], state["arm_of"]
        for arm, suggested, saved in zip(self.arms, state["suggested"], state["searchers"], strict=True):
            arm.suggested = suggested
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


def of_search(spec: SweepSpec, distill: DistillSpec, at_once: int) -> ConcurrencyLimiter:
    """The baseline as configured, then the searches of the students alone and of the distilled ones, in turn."""
    features = feature_counts(distill)
    search, alone = spec.search, spec.baseline
    size = SearchSize(spec.num_trials(features), len(spec.objectives), at_once)
    arms = [_arm(SEARCHED, search, spec.space, search.seed, size, spec.objectives, distill)]
    if alone.search:
        seed = search.seed if alone.seed is None else alone.seed
        size = SearchSize(spec.num_baselines(features) - 1, 1, at_once)
        # A student alone is judged by its score: it has to be the best there is, whatever its size.
        arms.append(_arm(BASELINE, alone, alone.search, seed, size, ["mIoU"], distill))
    searcher = Arms([trial(BASELINE, BASELINE, spec.seed, {})], arms, spec.seed)
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
    seed: int,
    size: SearchSize,
    objectives: Sequence[str],
    distill: DistillSpec,
) -> Arm:
    space = distributions(dimensions, distill)
    metrics = [SCORE if name == "mIoU" else name for name in objectives]
    modes = [MODES[name] for name in objectives]
    single = len(metrics) == 1
    searcher = OptunaSearch(
        space=space,
        metric=metrics[0] if single else metrics,
        mode=modes[0] if single else modes,
        sampler=sampler(section.type, seed, space, section.params, size),
    )
    return Arm(phase, PREFIX[phase], dimensions, searcher, size.num_trials)


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


def require_buildable(spec: SweepSpec, base: LoadedConfig, path: str) -> None:
    """Builds what chooses and what stops the trials once, so that what fails there fails before time is spent.

    Raises:
        UserError: naming the section of the sweep file.
    """
    distill = base.distillation
    problems = []
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        arms = of_search(spec, distill, at_once=1).searcher.arms
        for section, arm in zip((spec.search, spec.baseline), arms, strict=False):
            with blaming_user_code(f"searcher {section.type!r}"):
                arm.searcher.suggest("the first")
    except UserError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
    finally:
        optuna.logging.set_verbosity(verbosity)
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


def iterations_of(cfg: Config) -> int:
    """How many iterations (or epochs) a config trains."""
    return int(cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs"))
