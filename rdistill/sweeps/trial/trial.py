"""One trial of a sweep: what runs in its process, and what it writes down."""

from __future__ import annotations

import copy
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError

from rdistill.config.load import LoadedConfig
from rdistill.config.render import checked_source
from rdistill.config.schedules import stretch_schedules
from rdistill.core.errors import RunError, UserError
from rdistill.core.files import write_whole
from rdistill.core.redaction import redacted
from rdistill.core.storage import WorkDir, join, open_work_dir
from rdistill.distributed.cluster import killed_for_memory
from rdistill.registration.user_modules import import_user_modules
from rdistill.schedulers import SCHEDULERS
from rdistill.schemas.mappings import ConfigValues, TuneResult
from rdistill.schemas.run import Clock, RunFacts, RunMetrics, Scores
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.study.records import CONFIRMED, ERROR, PROGRESS, TRIALS, TrialRecord, load_record
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.study.starts import configured_values
from rdistill.sweeps.trial.faults import STORAGE, cause_of, give_up_again
from rdistill.sweeps.trial.step_profile import StepProfile
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.lockstep import Lane
from rdistill.training.ray_train import Resources, train_in_group
from rdistill.training.run import RunOptions, train_run
from rdistill.training.teacher_plan import without_auto

LOSSES_KEPT = 200  # entries of a trial's loss history
PROGRESS_EVERY_S = 1.0  # seconds between two writes of how far a trial is, at least
Train = Callable[[LoadedConfig, Path, RunOptions, RunListener], RunMetrics]  # rdistill.training.run.train_run


@dataclass(frozen=True)
class Study:
    """What all trials of a sweep share. Goes to each trial's process once."""

    base: LoadedConfig  # the distilled student's
    spec: SweepSpec
    work_dir: str  # absolute
    teacher_metrics: list[Scores]  # the scores of each teacher
    trust_checkpoint: bool
    step: StepProfile | None = None  # what one student takes; known once it was measured
    teacher_lines: tuple[str, ...] = ()  # how teachers are computed, for the user
    notes: tuple[str, ...] = ()  # worth knowing of the data, for the user
    grown: int = 0  # how often its search was given more to do
    free_bytes: int = 0  # a GPU's free memory before anything is on it; 0 without GPUs


def trial_config(study: Study, record: TrialRecord) -> LoadedConfig:
    """The config of one trial: the base, without distillation for a baseline, with the trial's values and seed.

    A trial of another length has its schedules stretched to it, as ``--iters`` does, and as many validations.
    """
    import_user_modules(study.spec.custom_imports)  # a baseline's config has no `distill` section that names them
    base = study.base.without_distillation() if record.is_baseline else study.base
    run = without_auto(base.with_overrides(record.values))
    if record.phase == CONFIRMED:
        run = run.with_diagnosis()  # the training is the same
    run = run.with_section("randomness", {**(run.cfg.get("randomness") or {}), "seed": record.seed})
    return run if record.iterations is None else _of_length(run, record.iterations)


def _of_length(run: LoadedConfig, iterations: int) -> LoadedConfig:
    """A config that trains a number of iterations, with its schedules stretched to them and as many validations."""
    cfg = copy.deepcopy(run.cfg)
    before, interval = cfg.train_cfg.max_iters, cfg.train_cfg.get("val_interval", 1)
    if problems := stretch_schedules(cfg, iterations):
        raise UserError(*problems)
    # The best of more validations would be better by chance alone.
    cfg.train_cfg.val_interval = math.ceil(iterations / math.ceil(before / interval))
    if cfg.train_cfg.get("val_begin", 1) > 1:
        cfg.train_cfg.val_begin = max(1, round(cfg.train_cfg.val_begin * iterations / before))
    return LoadedConfig.of(cfg)


def run_trial(
    study: Study,
    trial: TrialConfig,
    report: Callable[[dict[str, float]], None],
    lane: Lane | None = None,
    train: Train | None = None,
) -> None:
    """Trains one trial from where its folder says it is, and records it there.

    Args:
        study: what all trials share.
        trial: what it is, as Tune has it in its config: ``id``, which names its folder, ``phase``, ``of``, ``seed``
            and ``values``, as in :class:`rdistill.sweeps.study.records.TrialRecord`.
        report: is given ``mIoU``, ``best_mIoU`` and ``iter`` after each validation; may not return.
        lane: the trial's side in a cohort.
        train: in place of :func:`rdistill.training.run.train_run`, of a trial with one worker.

    Raises:
        Whatever training raises, after it is recorded.
    """
    with open_work_dir(join(study.work_dir, TRIALS, trial["id"]), "*") as here:
        _run_trial_at(here, study, trial, report, lane, train)


def _run_trial_at(
    here: WorkDir,
    study: Study,
    trial: TrialConfig,
    report: Callable[[dict[str, float]], None],
    lane: Lane | None,
    train: Train | None,
) -> None:
    folder = here.folder
    record = begun(here, trial)
    if record.status == "finished":
        # It ended after Tune last saved its own state, and then the driver died.
        report(score(record))
        return
    give_up_again(record)
    record.status, record.reason, record.cause = "running", "", ""
    (folder / ERROR).unlink(missing_ok=True)  # an earlier attempt's
    record.attempts += 1
    record.teacher_mIoU = study.teacher_metrics[0].get("mIoU")
    record.save(folder)
    here.push()
    workers = study.spec.trial.workers
    try:
        run = trial_config(study, record)
        write_whole(folder / "trial.py", checked_source(run.cfg))
        record.objectives = record.objectives or _complexity(study, run)
        recorder = _Recorder(record, here, report if workers == 1 or lane is not None else None, lane)
        options = _options(study, record, lane)
        if workers == 1 or lane is not None:
            metrics = (train or train_run)(run, folder, options, recorder)
        else:
            each = study.spec.trial
            resources = Resources(workers, each.cpus_per_worker, each.gpus_per_worker)
            callbacks = [_reporting_to_tune(record)]
            metrics = train_in_group(
                run, here.where, resources, options=options, listener=recorder, callbacks=callbacks
            )
    except (Exception, MemoryError) as error:
        record.status, record.reason, record.cause = "failed", reason_of(error), cause_of(error, folder)
        record.save(folder)
        if record.cause != STORAGE:
            write_whole(folder / ERROR, redacted("".join(traceback.format_exception(error))))
            here.push()
        raise
    here.push()
    if not recorder.validations:  # killed after its last checkpoint: nothing was left to train, but Tune wants a score
        recorder.catch_up(metrics)
        report(score(record))
    record.status = "finished"
    recorder.count()
    record.save(folder)
    here.push()


def support_trial(study: Study, trial: TrialConfig, lane: Lane) -> None:
    """What every worker of a group but the first does of a trial: its part of the training, and nothing on disk."""
    record = TrialRecord(**trial)
    folder = join(study.work_dir, TRIALS, record.id)
    train_run(trial_config(study, record), folder, _options(study, record, lane), Silent())


def _options(study: Study, record: TrialRecord, lane: Lane | None) -> RunOptions:
    """For every worker of a trial."""
    return RunOptions(
        seed=record.seed,
        resume=True,
        trust_checkpoint=study.trust_checkpoint,
        teacher_metrics=study.teacher_metrics,
        swept={**_values_of_a_baseline(study, record), **record.values},
        lane=lane,
        check=False,  # the sweep has, before its first trial
        by_image=record.searched and SCHEDULERS[study.spec.scheduler.type].by_image,
    )


def _values_of_a_baseline(study: Study, record: TrialRecord) -> ConfigValues:
    """What the student alone has at the keys of its search, also where no search set them.

    So a table shows them in each row, and a searched baseline that is the configured one again is seen to be that.
    """
    if not record.is_baseline:
        return {}
    values = configured_values(study.spec.baseline.search, study.base)
    return {key: value for key, value in values.items() if value is not None}


def begun(here: WorkDir, trial: TrialConfig) -> TrialRecord:
    """The record of the trial as far as it has come. What another trial of its name left is removed.

    Such leftovers are there when the driver died before Tune first saved its state.
    """
    fresh, record = TrialRecord(**trial), load_record(here.folder)
    if record is not None and (record.values, record.seed, record.iterations) == (
        fresh.values, fresh.seed, fresh.iterations,
    ):  # fmt: skip
        return record
    here.remove()
    return fresh


def _complexity(study: Study, run: LoadedConfig) -> dict[str, float]:
    """What the sweep's objectives besides mIoU say of the student."""
    if study.spec.objectives == ["mIoU"]:
        return {}
    from rdistill.sweeps.trial.complexity import COMPLEXITY, complexity_of

    with open_work_dir(join(study.work_dir, COMPLEXITY), "*.json") as kept:
        complexity = complexity_of(run.cfg, study.spec.objectives, kept.folder)
        kept.push()
    return complexity


def score(record: TrialRecord) -> TuneResult:
    """What Tune gets of a trial's last validation."""
    last = record.history[-1]
    return {"iter": last["iter"], "mIoU": last["mIoU"], "best_mIoU": record.best["mIoU"], **record.objectives}


def _reporting_to_tune(record: TrialRecord) -> Any:
    """Ray Train's own callback that passes a group's reports on to Tune, with the best so far added."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class ReportToTune(TuneReportCallback):
        best = record.best.get("mIoU", float("-inf"))  # so far, in a run that is resumed

        def after_report(self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Any) -> None:
            self.best = max(self.best, metrics[0]["mIoU"])
            super().after_report(run_context, [{**metrics[0], "best_mIoU": self.best, **record.objectives}], checkpoint)

    return ReportToTune()


def reason_of(error: BaseException) -> str:
    """An error as a reader of a table wants it. Ray's own errors end with what happened, after a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, (UserError, RunError)):
        return " ".join(lines)
    cause = getattr(error, "cause", error)  # Ray wraps an error of a task in its own
    if isinstance(cause, OutOfMemoryError):
        return killed_for_memory(cause)
    return f"{type(error).__name__}: {lines[-1]}"[:300]


class _Recorder(Silent):
    """Writes a trial's record as it goes, and reports it."""

    def __init__(
        self,
        record: TrialRecord,
        here: WorkDir,
        report: Callable[[dict[str, float]], None] | None,
        lane: Lane | None,
    ) -> None:
        self.record, self.here, self.folder, self.report, self.lane = record, here, here.folder, report, lane
        self.clock: Clock | None = None
        self.measured: dict[str, float] | None = None  # seconds up to the last validation, of a clock elsewhere
        self._cost_before = dict(record.cost)  # what earlier attempts took
        self.validations = 0  # only those of this attempt

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        earlier = [entry for entry in self.record.history if entry["iter"] <= first_iteration]
        self.record.history = earlier  # what came after the checkpoint is trained again
        self.record.losses = [entry for entry in self.record.losses if entry["iter"] <= first_iteration]
        self.record.effective = dict(facts["effective"])
        self.clock = facts.get("clock")
        self._since = time.monotonic() - (earlier[-1]["seconds"] if earlier else 0.0)
        self._keep_every = max(1, last_iteration // LOSSES_KEPT)
        self._next_progress = 0.0
        self.record.save(self.folder)

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        kept = self.record.losses
        if not kept or iteration - kept[-1]["iter"] >= self._keep_every:
            # Nine digits distinguish every float32 from the next.
            kept.append({"iter": iteration, **{name: float(f"{value:.9g}") for name, value in values.items()}})
        if time.monotonic() >= self._next_progress:  # the console reads it: Tune passes on validations alone
            self._next_progress = time.monotonic() + PROGRESS_EVERY_S
            write_whole(self.folder / PROGRESS, str(iteration))

    def validated(self, iteration: int, metrics: Scores) -> None:
        seconds = round(time.monotonic() - self._since, 2)
        images = metrics.get("by_image")  # only the scheduler gets them: the record would grow
        scores: Scores = {**metrics}
        scores.pop("by_image", None)
        if (measured := scores.pop("cost", None)) is not None:
            self.measured = measured
        self.record.history.append({"iter": iteration, "seconds": seconds, **scores})
        self.validations += 1
        self.count()
        self.record.save(self.folder)
        self.here.push()
        if self.report is not None:
            self.report(score(self.record) | ({} if images is None else {"by_image": images}))

    def catch_up(self, metrics: RunMetrics) -> None:
        """Adds the last validation, as the run remembers it, where a kill came before it was recorded."""
        history = self.record.history
        last = metrics.get("last")
        if last and (not history or history[-1]["iter"] < metrics["iter"]):
            seconds = history[-1]["seconds"] if history else 0.0
            history.append({"iter": metrics["iter"], "seconds": seconds, **last})

    def count(self) -> None:
        """Writes down what the trial has cost, where it can be counted here."""
        clock = self.lane if self.lane is not None else self.clock
        measured = clock.seconds() if clock is not None else self.measured
        if measured is not None:
            spent = measured.items()
            self.record.cost = {name: round(self._cost_before.get(name, 0.0) + value, 4) for name, value in spent}
