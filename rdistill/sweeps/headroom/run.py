"""Measures the headroom of a config, or of a sweep before its first trial."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from mmengine.config import Config

from rdistill.checks.run import check_run
from rdistill.config.distill_spec import DistillSpec, distill_spec
from rdistill.config.load import LoadedConfig, import_custom_modules
from rdistill.core.errors import RunError, UserError, cause_of, message_line
from rdistill.core.files import lock_folder, set_aside_if_damaged, write_json
from rdistill.core.stopping import StopRequest
from rdistill.core.storage import StorageError, WorkDir, is_uri, join, open_work_dir
from rdistill.core.words import counted
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher import CACHE_FOLDER
from rdistill.distributed.cluster import connected, is_single_node, joins_a_cluster, killed_for_memory
from rdistill.schemas.headroom import Headroom
from rdistill.schemas.run import Scores
from rdistill.sweeps.cohort.fleet import plan_cohorts, slot_choices
from rdistill.sweeps.headroom.arms import ARMS, MIN_ITERATIONS, arm_config, digest
from rdistill.sweeps.headroom.cost import (
    LONGEST_SHARE,
    MIN_AUTO_ITERATIONS,
    TYPICAL,
    Rates,
    StepSeconds,
    affordable_iterations,
    planned_cost,
    students_in_sweep,
)
from rdistill.sweeps.headroom.group import NotePrinter, measure_in_group
from rdistill.sweeps.headroom.measure import (
    HEADROOM,
    INNER,
    REQUEST,
    Request,
    finished_headroom,
    measure,
    require_same,
)
from rdistill.sweeps.study.space import feature_counts
from rdistill.sweeps.study.spec import HeadroomSpec
from rdistill.sweeps.trial.step_profile import StepProfile
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources, require_divisible_batch
from rdistill.training.run import evaluate_teachers
from rdistill.training.teacher_plan import choose_plan, with_plan

FOLDER = "headroom"  # a folder in a sweep's work dir
SEEDS = (0, 1)
MAX_CONCURRENT = 16  # number of trials that are assumed to train at a time, for the estimate of a sweep's cost
PrintLine = Callable[[str], None]


def run_headroom(
    cfg: Config,
    work_dir: str | Path,
    *,
    iterations: int | None = None,
    seeds: Sequence[int] | None = None,
    resources: Resources | None = None,
    address: str | None = None,
    resume: bool = False,
    trust_checkpoint: bool = False,
    stop: StopRequest | None = None,
    notify: PrintLine = lambda line: None,
) -> Headroom:
    """Measures how much a student can gain from a config's teacher, in this process or in a worker group.

    Args:
        cfg: a config from :func:`rdistill.config.load.load_config`, with a ``distill`` section.
        work_dir: a folder or a URI, to which ``headroom.json`` and a folder for each training are written.
        iterations: iterations of the short trainings; by default a quarter of the config's.
        seeds: seeds of the trainings, at least two; by default 0 and 1.
        resources: resources of the workers; by default one worker, which is this process unless there is a cluster to
            join.
        address: address of a Ray cluster; see :func:`rdistill.distributed.cluster.connected`.
        resume: continue the headroom in the work dir.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        stop: a request to stop; it is checked after each iteration.
        notify: prints a line about the progress.

    Returns:
        The content of ``headroom.json``; see docs/headroom.md.

    Raises:
        UserError: a mistake in the config, the data or the options, found before the first iteration.
        rdistill.core.stopping.Stopped: ``stop`` was set; ``resume`` goes on.
    """
    spec = require_teacher(cfg)
    request = Request(*_check_request(cfg, iterations, SEEDS if seeds is None else seeds))
    resources = resources or Resources()
    require_divisible_batch(cfg, resources)
    for arm in ARMS:
        arm_config(cfg, arm, request.iterations, request.seeds[0])  # raises UserError if the config cannot be shortened
    with open_work_dir(work_dir, *INNER) as here, lock_folder(here.folder, "run or sweep"):
        if here.holds_something() and not resume:
            raise UserError(
                f"{here.where}: holds something already; pass --resume to continue it, or another --work-dir"
            )
        _repair(here.folder, notify)
        require_same(here.folder, digest(cfg), request, here.where)
        if (headroom := finished_headroom(here.folder)) is not None:
            notify(f"note      {here.where}: finished already: nothing is left to do")
            return headroom
        base, teachers = _prepare(cfg, here, trust_checkpoint, notify)
        if resources.workers == 1 and not joins_a_cluster(address):
            headroom = measure(
                here,
                base,
                request,
                teachers,
                trust_checkpoint=trust_checkpoint,
                stop=stop,
                listener=NotePrinter(notify),
            )
        else:
            here.push()  # the workers read it
            with connected(address, here.where, notify=notify):
                headroom = measure_in_group(
                    here.where, base, request, teachers, resources, trust_checkpoint=trust_checkpoint, stop=stop,
                    notify=notify,
                )  # fmt: skip
        trials, top, fresh = TYPICAL
        rates = Rates(**headroom["rates"])
        headroom["plan"] = planned_cost(
            rates,
            _iterations(cfg),
            _val_interval(cfg),
            distilled=trials + top * fresh,
            alone=1 + fresh,
            of=f"a sweep of {counted(trials, 'trial')} that confirms {top} on {counted(fresh, 'seed')}",
        )
        headroom["losses"] = sorted(spec.losses)
        write_json(here.folder / HEADROOM, headroom)
        here.push()
        return headroom


def require_teacher(cfg: Config) -> DistillSpec:
    """The ``distill`` section of a config whose headroom can be measured.

    Raises:
        UserError: the config has no such section, trains by epochs, or its teachers follow the student.
    """
    spec = distill_spec(cfg)
    if spec is None:
        raise UserError(f"{cfg.filename or 'config'}: has no `distill` section, so there is no teacher to compare with")
    if any(teacher.ema_decay is not None for teacher in spec.teachers):
        raise UserError("distill.teachers: headroom compares with teachers of their own; one here follows the student")
    if cfg.train_cfg.get("max_iters") is None:
        raise UserError(
            "train_cfg.max_iters: headroom shortens trainings in iterations, and the config trains by epochs"
        )
    return spec


def _require_scores(teachers: Sequence[Scores]) -> None:
    """Raises UserError if a teacher has no score: it gives features alone, or has other classes than the student."""
    unscored = [index for index, scores in enumerate(teachers) if scores.get("mIoU") is None]
    if unscored:
        raise UserError(
            f"distill.teachers[{unscored[0]}]: headroom compares with the teachers' scores, and this one has none: it "
            f"gives features alone, or tells other classes apart"
        )


def _check_request(cfg: Config, iterations: int | None, seeds: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The iterations of the short trainings and the seeds. Raises UserError for numbers that are not allowed."""
    problems = []
    length = max(MIN_ITERATIONS, int(LONGEST_SHARE * _iterations(cfg))) if iterations is None else iterations
    if length < MIN_ITERATIONS:
        problems.append(f"--iters: must be at least {MIN_ITERATIONS}, got {length}")
    if len(seeds) < 2:
        problems.append(f"--seeds: needs at least 2, by which the spread is known, got {len(seeds)}")
    if len(set(seeds)) < len(seeds):
        problems.append(f"--seeds: must differ from each other, got {', '.join(map(str, seeds))}")
    if problems:
        raise UserError(*problems)
    return length, tuple(seeds)


def _prepare(cfg: Config, here: WorkDir, trust_checkpoint: bool, notify: PrintLine) -> tuple[Config, list[Scores]]:
    """Checks the config and scores its teachers. Returns the config with its teacher plan, and the teachers' scores.

    Raises:
        UserError: the check found problems.
    """
    run = LoadedConfig.of(cfg)
    distiller = build_distiller(run, seed=0, trust_checkpoint=trust_checkpoint)
    report = check_run(run, distiller=distiller, work_dir=here.folder, trials=1, trust_checkpoint=trust_checkpoint)
    report.raise_problems()
    for note in report.notes:
        notify(f"note      {note}")
    teachers = evaluate_teachers(distiller, cfg)
    _require_scores(teachers)
    for index, scores in enumerate(teachers):
        notify(f"teacher{'' if len(teachers) == 1 else f' {index}'}   mIoU {scores['mIoU']:.2f}")
    plan = choose_plan(distiller, run, here.folder)
    for line in plan.lines:
        notify(f"teacher   {line}")
    cache_parent = Path(tempfile.gettempdir()) if is_uri(here.where) else here.folder.parent
    return with_plan(run, plan, cache_parent / CACHE_FOLDER).cfg, teachers


# --- before a sweep -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FleetPlan:
    """How a sweep's trials will be divided among cohorts, as far as its cost depends on it."""

    cohort: int  # students that share a teacher
    at_once: int  # cohorts that work at a time
    step: StepSeconds


def measure_headroom_first(
    study: Study, resources: Resources, slots: int, notify: PrintLine, *, begun: bool = False
) -> Headroom | None:
    """Measures the headroom of a sweep, if its file requests it or it costs little beside the sweep.

    Args:
        study: what its trials share, with feature pairs and teacher plan.
        resources: resources of one trial.
        slots: number of trials that the cluster has room for when each trains alone.
        notify: prints a line for the user, for example the reason why nothing is measured.
        begun: whether the search has begun; then headroom is measured only if the sweep file requests it.

    Returns:
        The content of ``headroom/headroom.json`` in the sweep's work dir; None if nothing was measured.
    """
    setting = study.spec.headroom
    if setting == "off":
        return None
    where = join(study.work_dir, FOLDER)
    with open_work_dir(where, HEADROOM) as here:
        _repair(here.folder, notify)
        if (headroom := finished_headroom(here.folder)) is not None:
            return headroom
    if begun and setting == "auto":
        return None
    try:
        require_teacher(study.base.cfg)
        _require_scores(study.teacher_metrics)
        features = feature_counts(study.base.distillation)
        fleet = fleet_of(study, resources, slots)
        request = _request(study, setting, fleet, sum(students_in_sweep(study.spec, features)), notify)
        if request is None:
            return None
        for arm in ARMS:
            arm_config(study.base.cfg, arm, request.iterations, request.seeds[0])
    except UserError as error:
        if setting != "auto":
            raise
        notify(f"headroom  not measured: {error}")
        return None
    notify(
        f"headroom  {len(ARMS) * len(request.seeds)} trainings of {request.iterations:,} and "
        f"{2 * request.iterations:,} iterations come first (headroom: off leaves them out)"
    )
    headroom = _measure(study, resources, request, notify)
    if headroom is None:
        return None
    distilled, alone = students_in_sweep(study.spec, features)
    headroom["plan"] = planned_cost(
        Rates(**headroom["rates"]),
        _iterations(study.base.cfg),
        _val_interval(study.base.cfg),
        distilled=distilled,
        alone=alone,
        cohort=fleet.cohort,
        at_once=fleet.at_once,
        of="this sweep",
    )
    with open_work_dir(where, HEADROOM) as here:
        write_json(here.folder / HEADROOM, headroom)
        here.push()
    return headroom


def _request(study: Study, setting: Any, fleet: FleetPlan, students: int, notify: PrintLine) -> Request | None:
    """The trainings to run; None, with a line for the user, if nobody requested them and they cost too much."""
    spec = setting if isinstance(setting, HeadroomSpec) else HeadroomSpec()
    seeds = tuple(spec.seeds or (study.spec.seed, study.spec.seed + 1))
    total = _iterations(study.base.cfg)
    if setting != "auto":
        return Request(spec.iters or max(MIN_ITERATIONS, int(LONGEST_SHARE * total)), seeds)
    length = affordable_iterations(total, len(seeds), fleet.step, students, fleet.cohort, fleet.at_once)
    if length is None:
        notify(
            f"headroom  not measured: within a tenth of this sweep's time its trainings would have fewer than "
            f"{max(MIN_AUTO_ITERATIONS, total // 10):,} iterations; headroom: on measures it all the same"
        )
        return None
    return Request(length, seeds)


def fleet_of(study: Study, resources: Resources, slots: int) -> FleetPlan:
    """How a sweep's trials will be divided; arguments as for :func:`measure_headroom_first`."""
    spec, step = study.spec, study.step
    most = spec.trial.max_concurrent or MAX_CONCURRENT
    slots = min(slots, most)
    if spec.cohort.size == "off" or step is None:
        return FleetPlan(
            1, slots, _step_on(step, min(step.seconds)) if step is not None else StepSeconds(0.0, 1.0, 1.0)
        )
    free = study.free_bytes or int(ray.cluster_resources()["memory"]) // slots
    plan = plan_cohorts(spec.cohort.size, min(most, MAX_CONCURRENT), slots, step, free)
    return FleetPlan(plan.size, plan.cohorts, _step_on(step, plan.slots))


def _step_on(step: StepProfile, slots: int) -> StepSeconds:
    return StepSeconds(*step.seconds[slots], step.alone_on(slots))


def _measure(study: Study, resources: Resources, request: Request, notify: PrintLine) -> Headroom | None:
    """Trains where the sweep's trials will; returns None, with a line for the user, if the machine fails to."""
    need, joined = resources.per_worker(), max(slot_choices(resources))
    try:
        if resources.workers > 1:
            return _measure_in_group(study, request, resources, notify)
        if is_single_node() and not need.get("GPU"):
            return _measure_here(study, request, need["CPU"] * joined, notify)
        task = ray.remote(_measure_in_task).options(
            num_cpus=need["CPU"] * joined, num_gpus=need.get("GPU", 0), max_retries=0
        )
        headroom, lines = ray.get(task.remote(study, request))
        for line in lines:
            notify(line)
        return headroom  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        if isinstance(cause, StorageError):
            raise cause from None
        if isinstance(cause, UserError):
            raise UserError(*cause.problems) from None
        notify(f"headroom  not measured: {message_line(cause, 300)}")
    except ray.exceptions.OutOfMemoryError as error:
        notify(f"headroom  not measured: {killed_for_memory(error)}")
    except StorageError:
        raise
    except RunError as error:
        notify(f"headroom  not measured: {error}")
    return None


def _measure_in_group(study: Study, request: Request, resources: Resources, notify: PrintLine) -> Headroom:
    where, base, trust = join(study.work_dir, FOLDER), study.base.cfg, study.trust_checkpoint
    with open_work_dir(where, *INNER) as here:
        require_same(here.folder, digest(base), request, here.where)
        here.push()
    return measure_in_group(
        where, base, request, study.teacher_metrics, resources, trust_checkpoint=trust, notify=notify
    )


def _measure_in_task(study: Study, request: Request) -> tuple[Headroom, list[str]]:
    lines: list[str] = []
    import_custom_modules(study.base.cfg)
    return _measure_here(study, request, None, lines.append), lines


def _measure_here(study: Study, request: Request, cpus: float | None, notify: PrintLine) -> Headroom:
    """Trains in this process, with a thread for each of ``cpus``; None leaves the threads as Ray has set them."""
    import torch

    before = torch.get_num_threads()
    if cpus is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, int(cpus)))
    try:
        with open_work_dir(join(study.work_dir, FOLDER), *INNER) as here:
            require_same(here.folder, digest(study.base.cfg), request, here.where)
            return measure(
                here, study.base.cfg, request, study.teacher_metrics, trust_checkpoint=study.trust_checkpoint,
                listener=NotePrinter(notify),
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _repair(folder: Path, notify: PrintLine) -> None:
    set_aside_if_damaged(folder / HEADROOM, "it is put together again", lambda line: notify(f"damaged   {line}"))
    set_aside_if_damaged(folder / REQUEST, "it is taken to be the same", lambda line: notify(f"damaged   {line}"))


def _iterations(cfg: Config) -> int:
    return int(cfg.train_cfg.max_iters)


def _val_interval(cfg: Config) -> int:
    return int(cfg.train_cfg.get("val_interval") or _iterations(cfg))
