"""What is made sure before the first trial of a sweep: that it is the same study, and that all of it can run."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from rdistill.core.differences import differences, refusals
from rdistill.core.errors import RunError, UserError, cause_of
from rdistill.core.files import read_json, set_aside_if_damaged, write_json
from rdistill.core.storage import is_uri, open_work_dir
from rdistill.distributed.cluster import is_single_node, killed_for_memory
from rdistill.schedulers import SCHEDULERS
from rdistill.schemas.mappings import SweepFile
from rdistill.schemas.trial import StudyRecord
from rdistill.sweeps.cohort.fleet import ways_to_join
from rdistill.sweeps.findings.confirm import SELECTION, load_selection
from rdistill.sweeps.findings.equal_cost import EQUAL_COST_FILE
from rdistill.sweeps.findings.looks import CLAIMS, LOOKS_FILE, load_looks
from rdistill.sweeps.findings.summary import SUMMARY
from rdistill.sweeps.findings.test_split import TEACHER, has_test_split, require_test_split
from rdistill.sweeps.study.growth import GROWN, grown
from rdistill.sweeps.study.records import STUDY, load_records
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources

NOT_THE_STUDY = ("tracking", "headroom")  # keys that may change: no trial is another one by them


def require_same_study(work_dir: Path, study: StudyRecord, where: str | Path) -> int:
    """Makes sure that a resumed sweep is the one that was begun; it may have got a confirmation, or have grown.

    ``where`` is the work dir as the user knows it.

    Returns:
        How often its search has grown, this time included; see :mod:`rdistill.sweeps.study.growth`.

    Raises:
        UserError: naming what has changed.
    """
    file = work_dir / STUDY
    if not file.is_file():
        return 0
    begun = read_json(file, "whether this is the same study cannot be seen; remove it to go on with what is asked now")
    # Validated again, since newer versions have more keys.
    recorded = without_idle_parameters(begun["sweep"])
    sweep = SweepSpec.model_validate(recorded).model_dump(mode="json", exclude=set(NOT_THE_STUDY))
    times = begun.pop(GROWN, 0)
    wanted = study["sweep"]
    sweep["search"]["storage"] = wanted["search"]["storage"]  # who watches a search does not change it
    sweep, has_grown = grown(sweep, wanted)
    if sweep["confirm"] is None:  # what may be added afterwards, and how it compares
        how = {name: sweep["baseline"][name] for name in ("cost", "seconds")}
        wanted = {**wanted, "confirm": None, "baseline": {**wanted["baseline"], **how}}
    changed = list(differences({**begun, "sweep": sweep}, {**study, "sweep": wanted}, into_lists=True).values())
    if changed:
        raise UserError(
            *refusals(f"{where}: --resume", changed, "set it back, or use another --work-dir for this other study")
        )
    if not has_grown:  # else what is confirmed is chosen again
        _require_looks_left(work_dir, SweepSpec.model_validate(study["sweep"]), where)
    return int(times) + has_grown


def _require_looks_left(work_dir: Path, spec: SweepSpec, where: str | Path) -> None:
    """Raises UserError where a confirmation gets more seeds after its last look, and a question was left undecided."""
    selection, looks = load_selection(work_dir), load_looks(work_dir)
    if selection is None or spec.confirm is None or not selection.first or not looks.over:
        return
    planned, undecided = len(selection.seeds), set(looks.settled.values()) - set(CLAIMS)
    if spec.confirm.last > planned and looks.seeds >= planned and undecided:
        changed = f"{where}: --resume: sweep.confirm.max was {planned}, is {spec.confirm.last}"
        raise UserError(
            f"{changed}: the last look, after {planned} seeds, has spent all of the error that the looks may make "
            f"together; use another --work-dir"
        )


def select_again(work_dir: Path, times: int) -> None:
    """Lets what is confirmed be chosen again, where a search has grown since it was chosen.

    Files are emptied, not removed: what is removed here would come back from a work dir at a URI.
    """
    recorded = read_json(work_dir / STUDY)
    if recorded.get(GROWN, 0) == times:
        return
    nothing: dict[str, dict[str, list[int]]] = {SELECTION: {}, EQUAL_COST_FILE: {}, LOOKS_FILE: {"looks": []}}
    for name, content in nothing.items():
        if (work_dir / name).is_file():
            write_json(work_dir / name, content)


def without_idle_parameters(sweep: SweepFile) -> SweepFile:
    """A recorded sweep without the parameters of ASHA, which older versions recorded of a scheduler fifo as well."""
    scheduler = sweep.get("scheduler")
    if not isinstance(scheduler, dict) or scheduler.get("type") != "fifo":
        return sweep
    return {**sweep, "scheduler": {key: scheduler[key] for key in scheduler if key not in SCHEDULERS["asha"].params}}


def repair(work_dir: Path, say: Callable[[str], None]) -> None:
    """Takes away what is damaged and is made again by a resumed sweep; ``say`` is given a line about each.

    Raises:
        DamagedFileError: a trial's record is damaged.
    """
    from rdistill.sweeps.trial.step_profile import STEP
    from rdistill.training.teacher_plan import RECORD as PLAN

    again = {
        SUMMARY: "it is put together again, but without the time of earlier starts",
        SELECTION: "the same trials are chosen again from the search",
        EQUAL_COST_FILE: "the same runs are measured again",
        TEACHER: "the teacher is scored again",
        STEP: "a step is measured again",
        PLAN: "what suits the teacher is decided again",
    }
    for name, what in again.items():
        set_aside_if_damaged(work_dir / name, what, lambda line: say(f"damaged   {line}"))
    load_records(work_dir)


def prepare_study(study: Study, resources: Resources) -> tuple[Study, list[str]]:
    """Checks everything where the trials will run, chooses their pairs and measures the teachers, once for all.

    Returns:
        The study that the trials get, and a line for each pair that was left out.
    """
    need, slots = resources.per_worker(), ways_to_join(resources)
    # Where the teacher's outputs stay. Not a worker's own temporary folder, which ends with it.
    beside = Path(tempfile.gettempdir()) if is_uri(study.work_dir) else Path(study.work_dir).parent
    if is_single_node() and not need.get("GPU"):  # where torch is loaded already: that saves seconds
        with _threads_of(need["CPU"]):
            prepared, left_out = _prepare_here(study, slots, beside)
        return _with_step(prepared, resources), left_out
    task = ray.remote(_prepare_here).options(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), max_retries=0)
    try:
        prepared, left_out = ray.get(task.remote(study, slots, beside))
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        raise (UserError(*cause.problems) if isinstance(cause, UserError) else cause) from None
    except ray.exceptions.OutOfMemoryError as error:
        raise RunError(f"before the first trial: {killed_for_memory(error)}; lower --batch-size or --size") from None
    return _with_step(prepared, resources), left_out


def _with_step(study: Study, resources: Resources) -> Study:
    """The study with what a step takes, where that is for a group of workers to say."""
    from rdistill.sweeps.trial.group_step import measure_step_in_group
    from rdistill.sweeps.trial.step_profile import STEP

    if study.step is not None:
        return study
    step = measure_step_in_group(study, resources)
    with open_work_dir(study.work_dir) as here:
        step.save(here.folder / STEP)
        here.push()
    return dataclasses.replace(study, step=step)


@contextmanager
def _threads_of(cpus: float) -> Iterator[None]:
    """This process has as many threads as Ray gives a worker with that number of CPUs."""
    import torch

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, int(cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare_here(study: Study, slots: list[int], beside: Path) -> tuple[Study, list[str]]:
    import torch

    from rdistill.checks.run import Report, build_reporting
    from rdistill.config.load import import_custom_modules
    from rdistill.distill.teacher import CACHE_FOLDER
    from rdistill.store.warm import look_into_store
    from rdistill.sweeps.check import check_sweep, choose_pairs
    from rdistill.sweeps.trial.step_profile import STEP, StoreForecast, load_step, measure_step
    from rdistill.training.run import check_evaluation, evaluate_teachers
    from rdistill.training.teacher_plan import RECORD as PLAN
    from rdistill.training.teacher_plan import choose_plan, expected_known, with_plan

    base, cfg, trust = study.base, study.base.cfg, study.trust_checkpoint
    import_custom_modules(cfg)
    report = Report()
    distiller = build_reporting(base, report, seed=study.spec.seed, trust_checkpoint=trust)
    report.raise_problems()
    assert distiller is not None
    spec, left_out = choose_pairs(base, study.spec, distiller)
    disk = None if is_uri(study.work_dir) else study.work_dir
    checked = check_sweep(base, spec, distiller, work_dir=disk, trust_checkpoint=trust)
    checked.raise_problems()
    notes = list(checked.notes)
    if spec.confirm is not None and has_test_split(cfg):
        require_test_split(cfg)
        notes += check_evaluation(cfg, "test")
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    scores = evaluate_teachers(distiller, cfg)
    lines: list[str] = []
    with open_work_dir(study.work_dir, PLAN, STEP) as here:
        plan = choose_plan(distiller, base, here.folder)  # once for all trials, which are to be the same alone
        base = with_plan(base, plan, beside / CACHE_FOLDER)
        step = load_step(here.folder / STEP, slots)
        stored = look_into_store(base, distiller)
        if stored is not None:
            lines.append(stored.line)
        if step is None and spec.trial.workers == 1:  # several measure it together, elsewhere
            forecast = None if stored is None else StoreForecast(stored.stores, stored.computed)
            remembered = expected_known(base)
            step = measure_step(distiller, cfg, slots=slots, forecast=forecast, remembered=remembered)  # it trains
            step.save(here.folder / STEP)
        here.push()
    study = dataclasses.replace(study, base=base, teacher_lines=(*plan.lines, *lines), notes=tuple(notes))
    return dataclasses.replace(study, spec=spec, teacher_metrics=scores, step=step, free_bytes=free), left_out
