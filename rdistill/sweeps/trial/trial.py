"""Trains one trial of a sweep and writes its record."""

from __future__ import annotations

import copy
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import ActorUnavailableError, OutOfMemoryError

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
from rdistill.sweeps.trial.faults import STORAGE, cause_of, raise_if_given_up
from rdistill.sweeps.trial.step_profile import StepProfile
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.lockstep import Lane
from rdistill.training.ray_train import Resources, train_in_group
from rdistill.training.run import RunOptions, train_run
from rdistill.training.teacher_plan import without_auto

LOSSES_KEPT = 200  # entries of a trial's loss history
PROGRESS_EVERY_S = 1.0  # seconds that pass at least between two writes of a trial's iteration
Train = Callable[[LoadedConfig, Path, RunOptions, RunListener], RunMetrics]  # the type of `train_run`


@dataclass(frozen=True)
class Study:
    """What all trials of a sweep share. Each trial's process gets it once."""

    base: LoadedConfig  # the config of the distilled student
    spec: SweepSpec
    work_dir: str  # absolute path or URI
    teacher_metrics: list[Scores]  # the scores of each teacher
    trust_checkpoint: bool
    step: StepProfile | None = None  # memory and seconds of one student's step; None until it is measured
    teacher_lines: tuple[str, ...] = ()  # lines for the user that say how the teachers' outputs are computed
    notes: tuple[str, ...] = ()  # notes for the user about the data
    images: Mapping[str, int] = field(default_factory=dict)  # kind -> number, see rdistill.data.unlabeled.count_images
    data_line: str = ""  # a line for the user about the images of each kind; empty if all of them have masks
    grown: int = 0  # how often the search was extended; see rdistill.sweeps.study.growth
    free_bytes: int = 0  # free memory of a GPU before anything is on it; 0 without GPUs


def trial_config(study: Study, record: TrialRecord) -> LoadedConfig:
    """The config of one trial: the base config with the trial's values and seed; without distillation for a baseline.

    If the record has a number of iterations of its own, the schedules are stretched to it, as ``--iters`` does, and the
    number of validations stays the same.
    """
    import_user_modules(study.spec.custom_imports)  # a baseline's config has no `distill` section that names them
    base = study.base.without_distillation() if record.is_baseline else study.base
    run = without_auto(base.with_overrides(record.values))
    if record.phase == CONFIRMED:
        run = run.with_diagnosis()  # this adds figures at validations and does not change the training
    run = run.with_section("randomness", {**(run.cfg.get("randomness") or {}), "seed": record.seed})
    return run if record.iterations is None else _with_length(run, record.iterations)


def _with_length(run: LoadedConfig, iterations: int) -> LoadedConfig:
    """The config stretched to another number of iterations, with the same number of validations."""
    cfg = copy.deepcopy(run.cfg)
    before, interval = cfg.train_cfg.max_iters, cfg.train_cfg.get("val_interval", 1)
    if problems := stretch_schedules(cfg, iterations):
        raise UserError(*problems)
    # A run with more validations would have a better best score by chance alone.
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
    """Trains one trial, from its last checkpoint if it has one, and keeps its record up to date.

    Args:
        study: what all trials share.
        trial: the trial's config from Tune: ``id``, which names its folder, ``phase``, ``of``, ``seed`` and ``values``,
            as in :class:`rdistill.sweeps.study.records.TrialRecord`.
        report: called with ``mIoU``, ``best_mIoU`` and ``iter`` after each validation; it does not return if Tune stops
            the trial.
        lane: the trial's lane in a cohort.
        train: replaces :func:`rdistill.training.run.train_run` in a trial with one worker.

    Raises:
        Any error of the training, after it is recorded.
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
    record = load_or_create_record(here, trial)
    if record.status == "finished":
        # The trial finished after Tune last saved its own state, and then the driver died.
        report(last_report(record))
        return
    raise_if_given_up(record)
    record.status, record.reason, record.cause = "running", "", ""
    (folder / ERROR).unlink(missing_ok=True)  # an earlier attempt may have written it
    record.attempts += 1
    record.teacher_mIoU = study.teacher_metrics[0].get("mIoU")
    record.save(folder)
    here.push()
    workers = study.spec.trial.workers
    try:
        run = trial_config(study, record)
        write_whole(folder / "trial.py", checked_source(run.cfg))
        record.objectives = record.objectives or _complexity_objectives(study, run)
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
    if not recorder.validations:
        # An earlier attempt was killed after its last checkpoint: nothing was left to train, but Tune needs a score.
        recorder.add_last_validation(metrics)
        report(last_report(record))
    record.status = "finished"
    recorder.record_cost()
    record.save(folder)
    here.push()


def run_trial_on_other_ranks(study: Study, trial: TrialConfig, lane: Lane) -> None:
    """A trial's training on the ranks other than 0 of a worker group: they train too, but write no record."""
    record = TrialRecord(**trial)
    folder = join(study.work_dir, TRIALS, record.id)
    train_run(trial_config(study, record), folder, _options(study, record, lane), Silent())


def _options(study: Study, record: TrialRecord, lane: Lane | None) -> RunOptions:
    """The run options, which are the same for every worker of a trial."""
    return RunOptions(
        seed=record.seed,
        resume=True,
        trust_checkpoint=study.trust_checkpoint,
        teacher_metrics=study.teacher_metrics,
        swept={**_baseline_values(study, record), **record.values},
        lane=lane,
        check=False,  # the sweep has checked everything before its first trial
        by_image=record.searched and SCHEDULERS[study.spec.scheduler.type].by_image,
    )


def _baseline_values(study: Study, record: TrialRecord) -> ConfigValues:
    """For a baseline: the configured values of all keys of the baselines' search; empty for a distilled student.

    With them a table shows the values in each row, and a searched baseline with the configured values can be
    recognised.
    """
    if not record.is_baseline:
        return {}
    values = configured_values(study.spec.baseline.search, study.base)
    return {key: value for key, value in values.items() if value is not None}


def load_or_create_record(here: WorkDir, trial: TrialConfig) -> TrialRecord:
    """The trial's record, or a new one if the folder holds none or that of another trial; then the folder is emptied.

    A folder can hold another trial of the same name when the driver died before Tune first saved its state.
    """
    fresh, record = TrialRecord(**trial), load_record(here.folder)
    if record is not None and (record.values, record.seed, record.iterations) == (
        fresh.values, fresh.seed, fresh.iterations,
    ):  # fmt: skip
        return record
    here.remove()
    return fresh


def _complexity_objectives(study: Study, run: LoadedConfig) -> dict[str, float]:
    """The student's figures for the sweep's objectives other than mIoU."""
    if study.spec.objectives == ["mIoU"]:
        return {}
    from rdistill.sweeps.trial.complexity import COMPLEXITY, complexity_of

    with open_work_dir(join(study.work_dir, COMPLEXITY), "*.json") as kept:
        complexity = complexity_of(run.cfg, study.spec.objectives, kept.folder)
        kept.push()
    return complexity


def last_report(record: TrialRecord) -> TuneResult:
    """The report to Tune about a trial's last validation."""
    last = record.history[-1]
    return {"iter": last["iter"], "mIoU": last["mIoU"], "best_mIoU": record.best["mIoU"], **record.objectives}


def _reporting_to_tune(record: TrialRecord) -> Any:
    """Ray Train's callback that passes a group's reports on to Tune, with the best mIoU so far added."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class ReportToTune(TuneReportCallback):
        best = record.best.get("mIoU", float("-inf"))  # a resumed run starts with its best so far

        def after_report(self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Any) -> None:
            self.best = max(self.best, metrics[0]["mIoU"])
            super().after_report(run_context, [{**metrics[0], "best_mIoU": self.best, **record.objectives}], checkpoint)

    return ReportToTune()


def reason_of(error: BaseException) -> str:
    """An error in one line, short enough for a table.

    The text of Ray's own errors is a whole traceback, of which the last line says what happened.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, (UserError, RunError)):
        return " ".join(lines)
    cause = getattr(error, "cause", error)  # Ray wraps a task's error in an error of its own
    if isinstance(cause, OutOfMemoryError):
        return killed_for_memory(cause)
    if isinstance(cause, ActorUnavailableError):
        which = "its process" if cause is error else "a process that it shares with other trials"
        return f"{which} did not answer Ray"
    return f"{type(error).__name__}: {lines[-1]}"[:300]


class _Recorder(Silent):
    """A run listener that keeps a trial's record up to date and reports validations.

    Args:
        record: the trial's record.
        here: the trial's folder.
        report: called after each validation; None where Ray Train reports to Tune itself.
        lane: the trial's lane in a cohort.
    """

    def __init__(
        self,
        record: TrialRecord,
        here: WorkDir,
        report: Callable[[dict[str, float]], None] | None,
        lane: Lane | None,
    ) -> None:
        self.record, self.here, self.folder, self.report, self.lane = record, here, here.folder, report, lane
        self.clock: Clock | None = None
        # Seconds up to the last validation, from the clock of another process.
        self.measured: dict[str, float] | None = None
        self._cost_before = dict(record.cost)  # the cost of earlier attempts
        self.validations = 0  # validations in this attempt

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        earlier = [entry for entry in self.record.history if entry["iter"] <= first_iteration]
        self.record.history = earlier  # iterations after the checkpoint are trained again
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
            # Nine significant digits identify every float32.
            kept.append({"iter": iteration, **{name: float(f"{value:.9g}") for name, value in values.items()}})
        if time.monotonic() >= self._next_progress:  # the console reads it, since Tune passes on validations alone
            self._next_progress = time.monotonic() + PROGRESS_EVERY_S
            write_whole(self.folder / PROGRESS, str(iteration))

    def validated(self, iteration: int, metrics: Scores) -> None:
        seconds = round(time.monotonic() - self._since, 2)
        images = metrics.get("by_image")  # only the scheduler gets them, since they would make the record large
        scores: Scores = {**metrics}
        scores.pop("by_image", None)
        if (measured := scores.pop("cost", None)) is not None:
            self.measured = measured
        self.record.history.append({"iter": iteration, "seconds": seconds, **scores})
        self.validations += 1
        self.record_cost()
        self.record.save(self.folder)
        self.here.push()
        if self.report is not None:
            self.report(last_report(self.record) | ({} if images is None else {"by_image": images}))

    def add_last_validation(self, metrics: RunMetrics) -> None:
        """Adds the run's last validation to the record, if the process was killed before it could be recorded."""
        history = self.record.history
        last = metrics.get("last")
        if last and (not history or history[-1]["iter"] < metrics["iter"]):
            seconds = history[-1]["seconds"] if history else 0.0
            history.append({"iter": metrics["iter"], "seconds": seconds, **last})

    def record_cost(self) -> None:
        """Updates the trial's cost in its record, if there is a clock for it."""
        clock = self.lane if self.lane is not None else self.clock
        measured = clock.seconds() if clock is not None else self.measured
        if measured is not None:
            spent = measured.items()
            self.record.cost = {name: round(self._cost_before.get(name, 0.0) + value, 4) for name, value in spent}
