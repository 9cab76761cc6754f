"""A sweep on Ray Tune: the baseline, then what the searcher suggests, as many at a time as the cluster holds."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from mmengine.config import Config
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from rdistill.cluster import connected, require_resources
from rdistill.config import Shortcuts, distill_spec, find_beside, load_config
from rdistill.errors import UserError
from rdistill.logs import LOGS, driver_log
from rdistill.student_files import write_json
from rdistill.sweep.cohort import Cohort, cohort_size
from rdistill.sweep.events import TuneEvents, watched_by
from rdistill.sweep.live import SweepConsole
from rdistill.sweep.results import (
    BASELINE,
    SEARCHED,
    TRIALS,
    TrialRecord,
    gain,
    load_record,
    load_records,
    ranked,
    twins,
    write_table,
)
from rdistill.sweep.space import check_space, decode, distributions, feature_counts, sampler
from rdistill.sweep.spec import SweepSpec, parse_sweep, read_sweep
from rdistill.sweep.table import print_leaderboard
from rdistill.sweep.thin import Places, follow
from rdistill.sweep.trial import Study, one_line, run_trial
from rdistill.train_group import Resources

STUDY = "study.json"  # what was asked for
OBJECTIVE = "best_mIoU"  # of a trial so far: what the searcher and the scheduler look at
# A trial that only waits for its worker group. Nothing at all is an error, and a hundredth of a CPU could be the one
# that the group then lacks: so one byte of memory.
THIN = {"memory": 64 * 2**20}  # bytes; of a trial whose student is in a cohort: all CPUs are the cohorts'
DRIVER_OF_A_GROUP = {"memory": 1}


def run_sweep(
    sweep: str | Path | Mapping[str, Any],
    work_dir: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    address: str | None = None,
    resume: bool = False,
    trust_checkpoint: bool = False,
    console: Console | None = None,
) -> list[TrialRecord]:
    """Runs a sweep file to its end.

    Args:
        sweep: a file, or what it would hold; see :class:`rdistill.sweep.spec.SweepSpec`.
        work_dir: written to: ``results.csv``, ``best.py``, ``best.pth``, and a folder a trial under ``trials/``.
        overrides: config keys set for all trials, over the file's own ``set``.
        shortcuts: as for one run.
        address: of a Ray cluster; see :func:`rdistill.cluster.connected`.
        resume: continue the sweep in ``work_dir``.
        trust_checkpoint: as for one run.
        console: where progress and the leaderboard go.

    Returns:
        All trials, best first.

    Raises:
        UserError: a mistake in the file, the config or the resources, before the first trial.
    """
    work_dir = Path(work_dir).absolute()
    console = console or Console(quiet=True)
    sweep_file = Path("sweep") if isinstance(sweep, Mapping) else Path(sweep)
    spec = parse_sweep(sweep, "sweep") if isinstance(sweep, Mapping) else read_sweep(sweep_file)
    config_file = find_beside(spec.config, sweep_file)
    if config_file is None:
        raise UserError(f"{sweep_file}: config: no such file {spec.config}")
    base = load_config(config_file, {**spec.set, **(overrides or {})}, shortcuts)
    if base.get("distill") is None:
        raise UserError(f"{sweep_file}: config: {spec.config} has no `distill` section, so there is nothing to sweep")
    check_space(spec, base, str(sweep_file))
    if work_dir.exists() and any(work_dir.iterdir()) and not resume:
        raise UserError(f"{work_dir}: holds a sweep already; pass --resume to continue it, or another --work-dir")
    # As JSON has it, to be compared with what is read back.
    asked = json.loads(json.dumps({"sweep": spec.model_dump(), "config": base._cfg_dict.to_dict()}, default=str))
    _same_study(work_dir, asked)
    with connected(address, work_dir, dashboard=spec.trial.workers > 1):
        resources = Resources(spec.trial.workers, spec.trial.cpus_per_worker, spec.trial.gpus_per_worker)
        at_once = require_resources(resources.total(), f"{sweep_file}: one trial")
        study, left_out = _prepare(Study(base, spec, str(work_dir), [], trust_checkpoint), resources)
        num_trials = _num_trials(study.spec, base)
        cohorts, at_once = _cohorts(study, resources, num_trials + 1, min(at_once, num_trials + 1))
        shared = f" in {len(cohorts)} cohorts that share a teacher" if cohorts else ""
        console.print(f"{sweep_file} -> {work_dir}: {num_trials} trials and the baseline, {at_once} at a time{shared}")
        for line in left_out:
            console.print(f"left out  {line}", markup=False)
        for index, scores in enumerate(study.teacher_metrics):
            name = "teacher" if len(study.teacher_metrics) == 1 else f"teacher {index}"
            console.print(f"{name:<9} " + (f"mIoU {scores['mIoU']:.2f}" if scores else "follows the student"))
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(work_dir / STUDY, asked)
        watching = SweepConsole(console, work_dir, _iterations(base), sweep_file.stem)
        with driver_log(work_dir), watching as shown, watched_by(shown):
            shown.expect(BASELINE, 1)
            shown.expect(SEARCHED, num_trials)
            complete = _tune(study, resources, cohorts, at_once, resume)
    order = _conclude(work_dir, console)
    if not complete:  # Tune ends by itself on Ctrl-C, and keeps what it needs to go on
        raise KeyboardInterrupt
    return order


def _tune(study: Study, resources: Resources, cohorts: list[Any], at_once: int, resume: bool) -> bool:
    """Builds the Tuner (or restores it) and runs it; with cohorts, trials are students of theirs.

    Returns:
        Whether all trials came to an end.
    """
    in_process = resources.workers == 1
    if cohorts:
        needs = tune.PlacementGroupFactory([THIN])
        trainable = tune.with_resources(tune.with_parameters(follow, cohorts=cohorts, places=_places(cohorts)), needs)
    else:
        needs = {kind.lower(): n for kind, n in resources.total().items()} if in_process else DRIVER_OF_A_GROUP
        trainable = tune.with_resources(tune.with_parameters(_trainable, study=study), needs)
    path = Path(study.work_dir, "tune")
    if resume and tune.Tuner.can_restore(str(path)):
        tuner = tune.Tuner.restore(str(path), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="max",
                search_alg=_search(study, at_once),
                scheduler=_scheduler(study),
                num_samples=_num_trials(study.spec, study.base) + 1,
                reuse_actors=in_process,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(name=path.name, storage_path=study.work_dir, verbose=0, callbacks=[TuneEvents()]),
        )
    results = tuner.fit()
    for cohort in cohorts:
        ray.kill(cohort)  # a student that was stopped may be writing its record still
    _settle(Path(study.work_dir), results)
    return all(trial.is_finished() for trial in results._experiment_analysis.trials)


def _same_study(work_dir: Path, study: dict[str, Any]) -> None:
    """Makes sure that a resumed sweep is the one that was begun.

    Raises:
        UserError: naming what has changed.
    """
    file = work_dir / STUDY
    changed = _differences(json.loads(file.read_text()), study) if file.is_file() else []
    if changed:
        raise UserError(
            *(f"{work_dir}: --resume: {what}" for what in changed[:10]),
            f"{work_dir}: is another study's; use another --work-dir, or what it was started with",
        )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted keys in which two configs differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
    return [] if old == new else [f"{where} was {old!r}, is {new!r}"]


def _cohorts(study: Study, resources: Resources, trials: int, processes: int) -> tuple[list[Any], int]:
    """Starts the cohorts of a sweep, if it has any; and how many trials run at a time.

    Args:
        trials: in all, the baseline included.
        processes: that the cluster holds and the trials fill.
    """
    most = study.spec.trial.max_concurrent or trials
    if study.spec.cohort.size == "off" or resources.workers > 1:
        return [], min(processes, most)
    processes = min(processes, most)
    free_bytes = study.free_bytes or int(ray.cluster_resources()["memory"]) // processes
    size = cohort_size(study.spec.cohort.size, min(trials, most), processes, study.weights, free_bytes)
    need = resources.per_worker()
    worker = ray.remote(Cohort).options(
        num_cpus=need["CPU"],
        num_gpus=need.get("GPU", 0),
        max_concurrency=2 * size + 8,  # a thread for each student's events, and for calls that end one
        max_restarts=-1,
    )
    return [worker.remote(study) for _ in range(processes)], min(processes * size, most)


def _places(cohorts: list[Any]) -> Any:
    return ray.remote(Places).options(num_cpus=0).remote(len(cohorts))


def _settle(work_dir: Path, results: tune.ResultGrid) -> None:
    """Ends the records of trials that could not do so themselves: stopped by the scheduler, or their process died."""
    for trial in results._experiment_analysis.trials:
        folder = work_dir / TRIALS / _trial_name(trial)
        record = load_record(folder)
        if record is None or record.status != "running" or not trial.is_finished():
            continue
        error = trial.get_pickled_error() or trial.get_error()
        record.status, record.reason = ("stopped", "") if error is None else ("failed", one_line(error))
        record.save(folder)


def _trainable(config: dict[str, Any], study: Study) -> None:
    """What Tune calls in a trial's process."""
    run_trial(study, config, tune.report)


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("id", trial.trial_id))


class SweepFailedError(RuntimeError):
    """No trial of a sweep came to a score."""


class BaselineFirst(Searcher):
    """Suggests the baseline first, then what another searcher suggests; numbers them in that order.

    Args:
        searcher: is neither asked about the baseline nor told of it.
        spec: the sweep.
    """

    def __init__(self, searcher: Searcher, spec: SweepSpec) -> None:
        super().__init__(metric=searcher.metric, mode=searcher.mode)
        self.spec = spec
        self.searcher = searcher
        self.baseline: str | None = None  # Tune's id of it
        self.suggested = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.baseline is None:
            self.baseline = trial_id
            return self._trial(BASELINE, BASELINE, {})
        values = self.searcher.suggest(trial_id)
        if values is None or values == Searcher.FINISHED:
            return values
        self.suggested += 1
        return self._trial(f"t{self.suggested:04d}", SEARCHED, decode(values, self.spec))

    def _trial(self, trial_id: str, phase: str, values: dict[str, Any]) -> dict[str, Any]:
        return {"id": trial_id, "phase": phase, "of": "", "seed": self.spec.seed, "values": values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id != self.baseline:
            self.searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id != self.baseline:
            self.searcher.on_trial_complete(trial_id, result, error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the space is given to the inner searcher when it is built

    def get_state(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "suggested": self.suggested}

    def set_state(self, state: dict[str, Any]) -> None:
        self.baseline, self.suggested = state["baseline"], state["suggested"]

    def save(self, checkpoint_path: str) -> None:
        self.searcher.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        self.searcher.restore(checkpoint_path)


class SparingAsha(ASHAScheduler):
    """ASHA that never stops the baseline, nor holds the others against it, and lets who comes to the end finish."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.config["id"] == BASELINE:
            return TrialScheduler.CONTINUE
        action = str(super().on_trial_result(tune_controller, trial, result))
        # At its last validation a trial still has its student to write; then it ends by itself.
        return TrialScheduler.CONTINUE if result[self._time_attr] >= self._max_t else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if trial.config["id"] != BASELINE:
            super().on_trial_complete(tune_controller, trial, result)


def _search(study: Study, at_once: int) -> Searcher:
    distill = distill_spec(study.base)
    assert distill is not None
    space = distributions(study.spec, distill)
    inner = OptunaSearch(space=space, metric=OBJECTIVE, mode="max", sampler=sampler(study.spec, space))
    # TPE learns from what is finished when it is asked: in batches, that does not depend on who was faster.
    return ConcurrencyLimiter(
        BaselineFirst(inner, study.spec), max_concurrent=at_once, batch=study.spec.search.type == "optuna"
    )


def _scheduler(study: Study) -> TrialScheduler:
    scheduler = study.spec.scheduler
    if scheduler.type == "fifo":
        return FIFOScheduler()
    iterations = _iterations(study.base)
    grace = scheduler.grace_period or study.base.train_cfg.get("val_interval", 1)
    return SparingAsha(
        time_attr="iter",
        max_t=iterations,
        grace_period=min(grace, iterations),
        reduction_factor=scheduler.reduction_factor,
    )


def _prepare(study: Study, resources: Resources) -> tuple[Study, list[str]]:
    """Checks everything where the trials will run, settles their pairs and measures the teachers, once for all.

    Returns:
        The study that the trials get, and a line for each pair that was left out.
    """
    need = resources.per_worker()
    task = ray.remote(_prepare_here).options(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), max_retries=0)
    try:
        settled, left_out = ray.get(task.remote(study))
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (UserError(*cause.problems) if isinstance(cause, UserError) else cause) from None
    return settled, left_out


def _prepare_here(study: Study) -> tuple[Study, list[str]]:
    import torch

    from rdistill.check import Report, build_reporting
    from rdistill.sweep.check import check_sweep, settle_pairs
    from rdistill.training import evaluate_teachers

    base, trust = study.base, study.trust_checkpoint
    report = Report()
    distiller = build_reporting(base, report, seed=study.spec.seed, trust_checkpoint=trust)
    report.raise_problems()
    assert distiller is not None
    spec, left_out = settle_pairs(base, study.spec, distiller)
    check_sweep(base, spec, distiller, work_dir=study.work_dir, trust_checkpoint=trust).raise_problems()
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    weights = sum(weight.numel() for weight in distiller.parameters())
    scores = evaluate_teachers(distiller, base)
    return dataclasses.replace(study, spec=spec, teacher_metrics=scores, weights=weights, free_bytes=free), left_out


def _conclude(work_dir: Path, console: Console) -> list[TrialRecord]:
    """Writes the table and the winner, and prints the leaderboard."""
    records = load_records(work_dir)
    table = write_table(work_dir, records)
    order = ranked(records)
    print_leaderboard(console, order, {record.id: gain(record, records) for record in records})
    for first, second in twins(records):
        console.print(f"warning: {first} and {second} have different values and the same losses: a value has no effect")
    if not order or not order[0].best:
        reasons = next((record.reason for record in records if record.reason), "none was scored")
        raise SweepFailedError(f"no trial has a score: {reasons}")
    _write_best(work_dir, order[0])
    console.print(f"best      {order[0].id}: {work_dir}/best.pth with {work_dir}/best.py")
    console.print(f"all       {table}; each trial in {work_dir}/{TRIALS}/ID, again with `rdistill train .../trial.py`")
    console.print(f"logs      {work_dir}/{LOGS}: what Ray and its workers had to say")
    return order


def _write_best(work_dir: Path, winner: TrialRecord) -> None:
    folder = work_dir / TRIALS / winner.id
    if not (folder / "student.pth").is_file():  # it was stopped while it led: its best checkpoint is there
        from rdistill.student_files import write_student

        write_student(Config.fromfile(str(folder / "trial.py")), folder)
    for source, target in (("student.pth", "best.pth"), ("student.py", "best.py")):
        partial = work_dir / f".{target}.partial"
        shutil.copyfile(folder / source, partial)
        os.replace(partial, work_dir / target)


def _num_trials(spec: SweepSpec, base: Config) -> int:
    """Without the baseline."""
    distill = distill_spec(base)
    assert distill is not None
    return spec.num_trials(feature_counts(distill))


def _iterations(cfg: Config) -> int:
    return int(cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs"))
