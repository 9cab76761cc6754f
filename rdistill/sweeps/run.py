"""Runs a sweep from its file to its results: the search with its baselines, then the confirmation of the best."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import LoadedConfig, Shortcuts, find_beside, load_run
from rdistill.config.tracking import Tracking, import_wandb, parse_tracking, require_trackers, viewing_hints
from rdistill.core.errors import UserError
from rdistill.core.files import lock_folder, to_json, write_json
from rdistill.core.logs import driver_log
from rdistill.core.storage import WorkDir, open_work_dir
from rdistill.core.words import counted
from rdistill.distributed.cluster import connected, require_resources, visible_wait
from rdistill.schemas.summary import Summary
from rdistill.schemas.trial import StudyRecord
from rdistill.sweeps.confirmation import confirm
from rdistill.sweeps.findings.conclude import SweepFailedError, conclude
from rdistill.sweeps.findings.confirm import SELECTION, exported_kind, load_selection
from rdistill.sweeps.findings.equal_cost import EQUAL_COST_FILE
from rdistill.sweeps.findings.images import draw_pictures
from rdistill.sweeps.findings.looks import LOOKS_FILE
from rdistill.sweeps.findings.summary import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    SUMMARY,
    SweepFacts,
    read_summary,
    summary_refreshed,
    write_summary,
)
from rdistill.sweeps.findings.test_split import TEACHER_FILE, teacher_on_test
from rdistill.sweeps.headroom.cost import TYPICAL_COHORT, confirmation_time
from rdistill.sweeps.headroom.measure import HEADROOM
from rdistill.sweeps.headroom.run import FOLDER as HEADROOM_FOLDER
from rdistill.sweeps.headroom.run import fleet_of, measure_headroom_first
from rdistill.sweeps.headroom.show import show_headroom
from rdistill.sweeps.monitor.console import SweepConsole
from rdistill.sweeps.monitor.events import listening
from rdistill.sweeps.monitor.study_storage import NAME as STORAGE_NAME
from rdistill.sweeps.monitor.study_storage import StudyStorage, require_storage
from rdistill.sweeps.monitor.trackers import BackgroundTracker, trackers
from rdistill.sweeps.prepare import NOT_THE_STUDY, prepare_study, repair, require_same_study, select_again
from rdistill.sweeps.proof.counts import counts_file
from rdistill.sweeps.search.budget import Clock, plan_budget
from rdistill.sweeps.search.searchers import (
    build_scheduler,
    build_searcher,
    iterations_of,
    max_concurrent_trials,
    require_buildable,
    require_starts,
)
from rdistill.sweeps.search.tune import Phase, Team
from rdistill.sweeps.study.earlier import require_comparable
from rdistill.sweeps.study.records import (
    BASELINE,
    ENDED_STATUSES,
    RECORD,
    SEARCHED,
    STUDY,
    TRIALS,
    TrialRecord,
    load_records,
)
from rdistill.sweeps.study.space import check_space, feature_counts, search_space
from rdistill.sweeps.study.spec import SweepSpec, parse_sweep, read_sweep
from rdistill.sweeps.trial.faults import require_kept, storage_errors_explained
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources

HOLDS_A_SWEEP = "{}: holds a sweep already; pass --resume to continue it, or another --work-dir"


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep that are not in its file."""

    address: str | None = None  # address of a Ray cluster; see rdistill.distributed.cluster.connected
    resume: bool = False  # continue the sweep in the work dir
    track: Any = None  # trackers, instead of those in the file; see rdistill.config.tracking.parse_tracking
    trust_checkpoint: bool = False  # the same as for one run


def run_sweep(
    sweep: str | Path | Mapping[str, Any],
    work_dir: str | Path,
    options: SweepOptions,
    *,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    console: Console | None = None,
) -> list[TrialRecord]:
    """Runs a sweep file to its end.

    Args:
        sweep: a sweep file, or its content; see :class:`rdistill.sweeps.study.spec.SweepSpec`.
        work_dir: a folder or a URI (see :mod:`rdistill.core.storage`). The sweep writes ``results.csv``,
            ``summary.json``, ``best.py`` and ``best.pth`` to it, and a folder for each trial under ``trials/``.
        options: options that are not in the file.
        overrides: config keys that are set for all trials, over the file's own ``set``.
        shortcuts: the same as for one run.
        console: prints progress and the leaderboard; None prints nothing.

    Returns:
        All trials, best first.

    Raises:
        UserError: a mistake in the file, the config or the resources, found before the first trial.
        StorageError: the work dir is full or does not answer; ``resume`` goes on from there.
    """
    counts = f"{TRIALS}/*/{counts_file('*')}"  # the counts of all splits, of PyTorch models and of exported files
    files = (STUDY, SELECTION, EQUAL_COST_FILE, LOOKS_FILE, SUMMARY, TEACHER_FILE, f"{TRIALS}/*/{RECORD}", counts)
    with open_work_dir(work_dir, *files) as here:
        loaded = _load(sweep, overrides or {}, shortcuts)
        return _run_sweep_at(here, *loaded, options, console or Console(quiet=True))


def _run_sweep_at(
    here: WorkDir, sweep_file: Path, spec: SweepSpec, base: LoadedConfig, options: SweepOptions, console: Console
) -> list[TrialRecord]:
    work_dir, start = here.folder, time.monotonic()
    if here.holds_something() and not options.resume:
        raise UserError(HOLDS_A_SWEEP.format(here.where))
    tracking = _tracking(options.track, spec, base)
    # A tracked sweep is the same study as one that is not tracked: its trials only draw images for the trackers.
    base = base.with_section("tracking", None)
    record = _study_record(spec, base)
    if tracking.names and tracking.images:
        base = base.with_section("tracking", dict(images=tracking.images))
    with ExitStack() as stack:
        stack.enter_context(lock_folder(work_dir, "run or sweep"))
        begun = _check_study(here, spec, record, options, console)
        import_wandb(work_dir)  # Ray Tune imports wandb in any case, used or not
        dashboard = spec.trial.workers > 1
        stack.enter_context(connected(options.address, here.where, dashboard=dashboard, notify=console.print))
        resources = Resources(spec.trial.workers, spec.trial.cpus_per_worker, spec.trial.gpus_per_worker)
        processes = require_resources(resources.per_worker(), f"{sweep_file}: one trial", resources.workers)
        with visible_wait(resources.per_worker(), "the check before the first trial", console.print):
            study, left_out = prepare_study(
                Study(base, spec, str(here.where), [], options.trust_checkpoint, grown=record["grown"]), resources
            )
        notes = require_starts(study.spec, study.base, begun)
        study, clock, budget_line = _in_budget(study, resources, processes, work_dir, start, f"{sweep_file}")
        notes += [budget_line] if budget_line else []
        team = Team(here, study, resources, processes, console.print)
        _print_study(console, f"{sweep_file} -> {here.where}", team, left_out, notes)
        work_dir.mkdir(parents=True, exist_ok=True)
        if begun and record["grown"]:
            select_again(work_dir, record["grown"])
        write_json(work_dir / STUDY, record)
        here.push()
        _headroom(here, study, resources, processes, console)
        shown = SweepConsole(console, work_dir, iterations_of(base.cfg), sweep_file.stem)
        tracked = [*trackers(tracking, sweep_file.stem, work_dir, shown.warned), *_storage(here, study, shown)]
        trials, baselines = _trial_counts(study)
        at_once = min(processes, trials + baselines)
        length, scores = iterations_of(base.cfg), study.teacher_metrics
        facts = SweepFacts(study.spec, trials, baselines, length, scores, at_once, images=study.images)
        try:
            status, summary = run_phases(team, facts, shown, tracked, options.resume, clock)
            if status == FINISHED and (reason := draw_pictures(team.study, resources, work_dir)):
                console.print(f"pictures  none for the report: {reason}", markup=False)
        finally:
            here.push()
    return _conclude(here, status, summary, tracking, console)


def _study_record(spec: SweepSpec, base: LoadedConfig) -> StudyRecord:
    """The study as it is written to the work dir, to be compared when the sweep is resumed."""
    sweep_keys = spec.model_dump(exclude=set(NOT_THE_STUDY))
    content = {"sweep": sweep_keys, "config": config_dict(base.cfg).to_dict()}
    # It goes through JSON, so that it equals a record that is read back from JSON.
    record: StudyRecord = json.loads(to_json(content, default=str))
    return record


def _check_study(here: WorkDir, spec: SweepSpec, record: StudyRecord, options: SweepOptions, console: Console) -> bool:
    """Checks that the work dir is empty or holds the same study, and sets ``record["grown"]``.

    Returns:
        Whether the sweep was begun before.
    """
    work_dir = here.folder
    if here.holds_something():
        if not options.resume:  # checked a second time, since another sweep may have written before the lock was taken
            raise UserError(HOLDS_A_SWEEP.format(here.where))
        repair(work_dir, lambda line: console.print(line, markup=False))
    begun = (work_dir / STUDY).is_file()
    record["grown"] = require_same_study(work_dir, record, here.where)
    if spec.search.storage is not None:
        require_storage(spec.search.storage, study_name(here), may_exist=begun)
    if not begun:  # a resumed search keeps the earlier trials that it started with
        require_comparable(spec.search.earlier, record, spec.search.from_differs)
    return begun


def _print_study(console: Console, title: str, team: Team, left_out: Sequence[str], notes: Sequence[str]) -> None:
    """Prints what the sweep is going to do, and what is known about its teachers."""
    study = team.study
    console.print(f"{title}: {_plan_line(study.spec, *_trial_counts(study))}")
    for line in (*study.notes, *_time_to_confirm(study, team.resources, team.processes)):
        _print_plain(console, f"note      {line}")
    for line in [*(f"left out  {line}" for line in left_out), *notes]:
        _print_plain(console, line)
    if study.data_line:
        _print_plain(console, f"data      {study.data_line}")
    for index, scores in enumerate(study.teacher_metrics):
        name = "teacher" if len(study.teacher_metrics) == 1 else f"teacher {index}"
        console.print(f"{name:<9} " + (f"mIoU {scores['mIoU']:.2f}" if scores else "follows the student"))
    for line in study.teacher_lines:
        _print_plain(console, f"teacher   {line}")


def _print_plain(console: Console, line: str) -> None:
    """Prints a line as it is: rich adds no colours, and does not wrap it."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _conclude(here: WorkDir, status: str, summary: Summary, tracking: Tracking, console: Console) -> list[TrialRecord]:
    """Prints the leaderboard and the verdict, and returns all trials, best first.

    Raises:
        KeyboardInterrupt: the sweep was interrupted.
        SweepFailedError: no trial of a complete sweep has a score.
    """
    try:
        order = conclude(here, summary, console)
    except SweepFailedError:
        if status == INTERRUPTED:  # no trial has a score yet
            raise KeyboardInterrupt from None
        raise
    finally:
        here.push()
    for line in viewing_hints(tracking, here.folder):
        console.print(line)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return order


def study_name(here: WorkDir) -> str:
    """The name of a sweep's study in an Optuna storage: the name of its work dir."""
    return Path(str(here.where)).name


def _storage(here: WorkDir, study: Study, shown: SweepConsole) -> list[BackgroundTracker]:
    """A listener that keeps the study in the Optuna storage that the sweep file names; none if it names none."""
    spec, url = study.spec, study.spec.search.storage
    if url is None:
        return []
    distributions = search_space(spec.space, study.base).distributions
    make = partial(StudyStorage, url, study_name(here), spec, distributions, here.folder)
    return [BackgroundTracker(STORAGE_NAME, make, here.folder, shown.warned)]


def _in_budget(
    study: Study, resources: Resources, processes: int, work_dir: Path, start: float, where: str
) -> tuple[Study, Clock | None, str]:
    """Limits the number of trials to what the budget may hold.

    Returns:
        The study with that number of trials, the clock that ends its search in time, and a line for the user.
    """
    spec, features = study.spec, feature_counts(study.base.distillation)
    earlier = float((read_summary(work_dir).get("cost") or {}).get("wall_seconds") or 0.0)
    gpus = processes * resources.total().get("GPU", 0)
    cohort = 1 if spec.cohort.size == "off" else TYPICAL_COHORT
    iterations = iterations_of(study.base.cfg)
    try:
        clock, max_trials, line = plan_budget(
            spec, study.step, iterations=iterations, features=features, gpus=gpus, at_once=processes, cohort=cohort,
            used_s=earlier + time.monotonic() - start,
        )  # fmt: skip
    except UserError as error:
        raise UserError(*(f"{where}: {problem}" for problem in error.problems)) from None
    if clock is None:
        return study, None, ""
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"num_trials": max_trials})})
    return dataclasses.replace(study, spec=spec), clock, line


def _headroom(here: WorkDir, study: Study, resources: Resources, slots: int, console: Console) -> None:
    """Measures and prints how much there is to gain before hours are spent, unless the search has begun."""
    begun = bool(load_records(here.folder))
    headroom = measure_headroom_first(study, resources, slots, partial(_print_plain, console), begun=begun)
    if headroom is not None and not begun:
        show_headroom(console, headroom)
    here.pull(f"{HEADROOM_FOLDER}/{HEADROOM}")  # the summary reads this file


def _time_to_confirm(study: Study, resources: Resources, slots: int) -> list[str]:
    """What the confirmation will take, in a line. Raises UserError where that is more than the sweep file allows."""
    iterations = study.base.cfg.train_cfg.get("max_iters")
    if study.spec.confirm is None or study.step is None or iterations is None:
        return []
    fleet = fleet_of(study, resources, slots)
    return [f"confirm: {confirmation_time(study.spec, int(iterations), fleet.step, fleet.at_once)}"]


def _load(
    sweep: str | Path | Mapping[str, Any], overrides: Mapping[str, Any], shortcuts: Shortcuts | None
) -> tuple[Path, SweepSpec, LoadedConfig]:
    """Loads and checks a sweep file. Returns its path (or its name in messages), its content and its base config."""
    sweep_file = Path("sweep") if isinstance(sweep, Mapping) else Path(sweep)
    spec = parse_sweep(sweep, "sweep") if isinstance(sweep, Mapping) else read_sweep(sweep_file)
    config_file = find_beside(spec.config, sweep_file)
    if config_file is None:
        raise UserError(f"{sweep_file}: config: no such file {spec.config}")
    base = load_run(config_file, {**spec.set, **overrides}, shortcuts)
    if base.distill is None:
        raise UserError(f"{sweep_file}: config: {spec.config} has no `distill` section, so there is nothing to sweep")
    check_space(spec, base, str(sweep_file))
    require_buildable(spec, base, str(sweep_file))
    return sweep_file, spec, base.with_modules(spec.custom_imports)


def _tracking(track: Any, spec: SweepSpec, base: LoadedConfig) -> Tracking:
    """The trackers of the sweep: those of the command, else of the sweep file, else of the config."""
    own = base.cfg.get("tracking")
    tracking = parse_tracking(next((setting for setting in (track, spec.tracking, own) if setting is not None), None))
    require_trackers(tracking)
    return tracking


def run_phases(
    team: Team, facts: SweepFacts, shown: SweepConsole, tracked: Sequence[Any], resume: bool, clock: Clock | None = None
) -> tuple[str, Summary]:
    """Runs all phases, one after the other. Returns the sweep's status and the summary that was written at the end."""
    work_dir = team.here.folder
    status = FAILED
    try:
        with ExitStack() as stack:
            for context in (driver_log(work_dir), shown, *tracked, listening(shown, *tracked)):
                stack.enter_context(context)
            per_worker = team.resources.per_worker()
            stack.enter_context(visible_wait(per_worker, "a trial", team.notify))
            stack.enter_context(storage_errors_explained(work_dir))
            stack.enter_context(summary_refreshed(facts, work_dir))
            shown.resume_from(load_records(work_dir))
            shown.expect(BASELINE, facts.baselines)
            shown.expect(SEARCHED, facts.trials)
            # Tune saves its state and returns on Ctrl-C; a phase then returns False.
            complete = _search(team, resume, clock) and confirm(team, shown, resume)
        status = FINISHED if complete else INTERRUPTED
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        team.end()
        require_kept(work_dir)
        facts.teacher_test = teacher_on_test(work_dir)
        summary = write_summary(facts, work_dir, status)
    return status, summary


def _search(team: Team, resume: bool, clock: Clock | None = None) -> bool:
    """Runs the baselines and the search. Returns whether all of their trials came to an end."""
    study = team.study
    if load_selection(team.here.folder) is not None:
        return True  # the search is over: the configurations to confirm were selected from it
    spec, base = study.spec, study.base
    # Tune cannot add trials to a run that has ended: an extended search is a new run that gets the earlier trials.
    begun = [record for record in load_records(team.here.folder) if record.searched] if study.grown else []
    complete = team.run(
        Phase(
            f"tune-grown-{study.grown}" if study.grown else "tune",
            sum(_trial_counts(study)) - len([record for record in begun if record.status in ENDED_STATUSES]),
            lambda at_once: build_searcher(spec, base, at_once, begun, clock),
            build_scheduler(spec, base.cfg, iterations_of(base.cfg)),
            max_concurrent=max_concurrent_trials(spec, sum(_trial_counts(study)), team.processes),
        ),
        resume,
    )
    searched = sum(record.phase == SEARCHED for record in load_records(team.here.folder))
    if complete and clock is not None and searched < _trial_counts(study)[0]:
        after = counted(searched, "trial")
        team.notify(f"budget    the search ends after {after}: another would not leave the time that is needed")
    return complete


def _trial_counts(study: Study) -> tuple[int, int]:
    """(number of trials in the search, number of baselines)."""
    features = feature_counts(study.base.distillation)
    return study.spec.num_trials(features), study.spec.num_baselines(features)


def _plan_line(spec: SweepSpec, trials: int, baselines: int) -> str:
    """A line about what a sweep is going to do."""
    alone = "the baseline" if baselines == 1 else counted(baselines, "baseline")
    confirmation = ""
    if spec.confirm is not None:
        first, last = spec.confirm.first, spec.confirm.last
        seeds = f"{last}" if spec.confirm.seeds is not None else f"{first} to {last}"
        files = f", as {called}" if (called := exported_kind(spec.confirm.of)) else ""
        confirmation = f", then the best {spec.confirm.top} on {seeds} seeds more{files}"
    return f"{counted(trials, 'trial')} and {alone}{confirmation}"
