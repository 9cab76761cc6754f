"""A sweep from its file to its table: the search with its baselines, then the confirmation of the best."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.config import Config
from ray.tune.schedulers import FIFOScheduler
from rich.console import Console

from rdistill.cluster import connected, require_resources
from rdistill.config import Shortcuts, distill_spec, find_beside, load_config
from rdistill.errors import UserError
from rdistill.logs import LOGS, driver_log
from rdistill.model_card import hand_over_sweep
from rdistill.student_files import write_json
from rdistill.sweep.confirm import load_selection, save_selection, select
from rdistill.sweep.cost import COST, sweep_cost
from rdistill.sweep.events import watched_by
from rdistill.sweep.live import SweepConsole
from rdistill.sweep.phase import Phase, Team
from rdistill.sweep.pictures import draw_pictures
from rdistill.sweep.prepare import STUDY, prepare, require_same_study
from rdistill.sweep.results import (
    BASELINE,
    CONFIRMED,
    SEARCHED,
    TRIALS,
    TrialRecord,
    gain,
    load_records,
    ranked,
    twins,
    write_table,
)
from rdistill.sweep.search import of_list, of_search, scheduler
from rdistill.sweep.space import check_space, feature_counts
from rdistill.sweep.spec import SweepSpec, parse_sweep, read_sweep
from rdistill.sweep.table import print_leaderboard
from rdistill.sweep.trackers import trackers
from rdistill.sweep.trial import Study
from rdistill.tracking import Tracking, parse_tracking, require_trackers, where_to_look
from rdistill.train_group import Resources


def run_sweep(
    sweep: str | Path | Mapping[str, Any],
    work_dir: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    address: str | None = None,
    resume: bool = False,
    track: Any = None,
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
        track: which trackers report it, over the file's own; see :func:`rdistill.tracking.parse_tracking`.
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
    tracking = _tracking(track, spec, base)
    # As JSON has it, to be compared with what is read back.
    asked = json.loads(
        json.dumps({"sweep": spec.model_dump(exclude={"tracking"}), "config": base._cfg_dict.to_dict()}, default=str)
    )
    require_same_study(work_dir, asked)
    if tracking.names and tracking.images:
        base.tracking = dict(images=tracking.images)
    with connected(address, work_dir, dashboard=spec.trial.workers > 1):
        resources = Resources(spec.trial.workers, spec.trial.cpus_per_worker, spec.trial.gpus_per_worker)
        processes = require_resources(resources.total(), f"{sweep_file}: one trial")
        study, left_out = prepare(Study(base, spec, str(work_dir), [], trust_checkpoint), resources)
        team = Team(study, resources, processes, console.print)
        trials, baselines = _counts(study)
        console.print(f"{sweep_file} -> {work_dir}: {_plan(study.spec, trials, baselines)}")
        for line in left_out:
            console.print(f"left out  {line}", markup=False)
        for index, scores in enumerate(study.teacher_metrics):
            name = "teacher" if len(study.teacher_metrics) == 1 else f"teacher {index}"
            console.print(f"{name:<9} " + (f"mIoU {scores['mIoU']:.2f}" if scores else "follows the student"))
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(work_dir / STUDY, asked)
        shown = SweepConsole(console, work_dir, iterations_of(base), sweep_file.stem)
        tracked = trackers(tracking, sweep_file.stem, work_dir, shown.warned)
        with ExitStack() as stack:
            stack.enter_context(driver_log(work_dir))
            stack.enter_context(shown)
            for tracker in tracked:
                stack.enter_context(tracker)
            stack.enter_context(watched_by(shown, *tracked))
            shown.expect(BASELINE, baselines)
            shown.expect(SEARCHED, trials)
            complete = _search(team, resume) and _confirm(team, shown, resume)
        if complete and (reason := draw_pictures(study, resources)):
            console.print(f"pictures  none for the report: {reason}", markup=False)
    order = _conclude(work_dir, console)
    for line in where_to_look(tracking, work_dir):
        console.print(line)
    if not complete:  # Tune ends by itself on Ctrl-C, and keeps what it needs to go on
        raise KeyboardInterrupt
    return order


def _tracking(track: Any, spec: SweepSpec, base: Config) -> Tracking:
    """Which trackers the sweep reports to. It does so itself: its trials only draw images for them.

    Takes the section out of the config: whether a sweep is tracked does not make it another study.
    """
    own = base.pop("tracking", None)
    tracking = parse_tracking(next((asked for asked in (track, spec.tracking, own) if asked is not None), None))
    require_trackers(tracking)
    return tracking


def _search(team: Team, resume: bool) -> bool:
    """The baselines and the search. Returns whether all of their trials came to an end."""
    study = team.study
    if load_selection(Path(study.work_dir)) is not None:
        return True  # it is over, and what is confirmed was chosen by it
    spec, distill = study.spec, distill_spec(study.base)
    assert distill is not None
    return team.run(
        Phase(
            "tune",
            sum(_counts(study)),
            lambda at_once: of_search(spec, distill, at_once),
            scheduler(spec, study.base, iterations_of(study.base)),
        ),
        resume,
    )


def _confirm(team: Team, shown: SweepConsole, resume: bool) -> bool:
    """The confirmation, if the sweep has one. Returns whether all of its trials came to an end."""
    spec, work_dir = team.study.spec, Path(team.study.work_dir)
    if spec.confirm is None:
        return True
    selection = load_selection(work_dir)
    if selection is None:
        selection = select(load_records(work_dir), spec.confirm, spec.objectives)
        if not selection.configurations:
            return True  # nothing was scored: the sweep has failed, and says so
        save_selection(work_dir, selection)
    runs = selection.runs(work_dir)
    shown.expect(CONFIRMED, len(runs))
    phase = Phase("tune-confirm", len(runs), lambda at_once: of_list(runs, at_once), FIFOScheduler())
    return team.run(phase, resume)


class SweepFailedError(RuntimeError):
    """No trial of a sweep came to a score."""


def _conclude(work_dir: Path, console: Console) -> list[TrialRecord]:
    """Writes the table and the winner, and prints the leaderboard."""
    records = load_records(work_dir)
    table = write_table(work_dir, records)
    order = ranked(records)
    if cost := sweep_cost(records):
        write_json(work_dir / COST, cost)
    print_leaderboard(console, order, {record.id: gain(record, records) for record in records})
    for first, second in twins(records):
        console.print(f"warning: {first} and {second} have different values and the same losses: a value has no effect")
    if not order or not order[0].best:
        reasons = next((record.reason for record in records if record.reason), "none was scored")
        raise SweepFailedError(f"no trial has a score: {reasons}")
    _write_best(work_dir, order[0])
    console.print(f"best      {order[0].id}: {work_dir}/best.pth with {work_dir}/best.py")
    console.print(f"all       {table}; each trial in {work_dir}/{TRIALS}/ID, again with `rdistill train .../trial.py`")
    if cost:
        console.print(
            f"cohorts   saved {cost['saved']:.0%} of the trials' time alone, by one teacher for many; {work_dir}/{COST}"
        )
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
    hand_over_sweep(work_dir, folder)


def _counts(study: Study) -> tuple[int, int]:
    """Trials of the search, and baselines."""
    distill = distill_spec(study.base)
    assert distill is not None
    features = feature_counts(distill)
    return study.spec.num_trials(features), study.spec.num_baselines(features)


def _plan(spec: SweepSpec, trials: int, baselines: int) -> str:
    """What a sweep is going to do, in a line."""
    alone = "the baseline" if baselines == 1 else f"{baselines} baselines"
    again = f", then the best {spec.confirm.top} on {len(spec.confirm.seeds)} seeds more" if spec.confirm else ""
    return f"{trials} trials and {alone}{again}"


def iterations_of(cfg: Config) -> int:
    """How many iterations (or epochs) a config trains."""
    return int(cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs"))
