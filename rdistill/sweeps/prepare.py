"""Checks before the first trial of a sweep: a resumed sweep is the same study, and everything in it can run."""

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
from rdistill.sweeps.cohort.fleet import slot_choices
from rdistill.sweeps.findings.confirm import SELECTION, load_selection
from rdistill.sweeps.findings.equal_cost import EQUAL_COST_FILE
from rdistill.sweeps.findings.looks import CLAIMS, LOOKS_FILE, load_looks
from rdistill.sweeps.findings.summary import SUMMARY
from rdistill.sweeps.findings.test_split import TEACHER_FILE, has_test_split, require_test_split
from rdistill.sweeps.study.growth import GROWN, accept_growth
from rdistill.sweeps.study.records import STUDY, load_records
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources

NOT_THE_STUDY = ("tracking", "headroom")  # keys that a resume may change, since they do not change any trial


def require_same_study(work_dir: Path, study: StudyRecord, where: str | Path) -> int:
    """Checks that a resumed sweep is the recorded study; it may have a new confirmation, or have been extended.

    Args:
        work_dir: the folder with the recorded study.
        study: the study as it is now.
        where: the work dir in the user's words, for messages.

    Returns:
        How often the search was extended, this time included; see :mod:`rdistill.sweeps.study.growth`.

    Raises:
        UserError: it is another study; the message lists the changes.
    """
    file = work_dir / STUDY
    if not file.is_file():
        return 0
    begun = read_json(file, "whether this is the same study cannot be seen; remove it to go on with what is asked now")
    # The recorded keys are validated again, so that keys of newer versions get their defaults.
    recorded = without_idle_parameters(begun["sweep"])
    sweep = SweepSpec.model_validate(recorded).model_dump(mode="json", exclude=set(NOT_THE_STUDY))
    times = begun.pop(GROWN, 0)
    wanted = study["sweep"]
    sweep["search"]["storage"] = wanted["search"]["storage"]  # a storage to watch the search does not change it
    sweep, has_grown = accept_growth(sweep, wanted)
    if sweep["confirm"] is None:  # a confirmation may be added afterwards, with its way of comparing at equal cost
        how = {name: sweep["baseline"][name] for name in ("cost", "seconds")}
        wanted = {**wanted, "confirm": None, "baseline": {**wanted["baseline"], **how}}
    changed = list(differences({**begun, "sweep": sweep}, {**study, "sweep": wanted}, into_lists=True).values())
    if changed:
        raise UserError(
            *refusals(f"{where}: --resume", changed, "set it back, or use another --work-dir for this other study")
        )
    if not has_grown:  # otherwise the configurations to confirm are selected again, and their looks start anew
        _require_looks_left(work_dir, SweepSpec.model_validate(study["sweep"]), where)
    return int(times) + has_grown


def _require_looks_left(work_dir: Path, spec: SweepSpec, where: str | Path) -> None:
    """Raises UserError if a confirmation gets more seeds after its last look while a question is still undecided."""
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
    """Discards the selection for the confirmation if the search was extended since the selection was made.

    Args:
        work_dir: the sweep's folder.
        times: how often the search was extended, from :func:`require_same_study`.

    Files are emptied and not removed, because a file that is removed here would come back from a work dir at a URI.
    """
    recorded = read_json(work_dir / STUDY)
    if recorded.get(GROWN, 0) == times:
        return
    empty: dict[str, dict[str, list[int]]] = {SELECTION: {}, EQUAL_COST_FILE: {}, LOOKS_FILE: {"looks": []}}
    for name, content in empty.items():
        if (work_dir / name).is_file():
            write_json(work_dir / name, content)


def without_idle_parameters(sweep: SweepFile) -> SweepFile:
    """A recorded sweep without the parameters of ASHA that older versions recorded for the scheduler fifo as well."""
    scheduler = sweep.get("scheduler")
    if not isinstance(scheduler, dict) or scheduler.get("type") != "fifo":
        return sweep
    return {**sweep, "scheduler": {key: scheduler[key] for key in scheduler if key not in SCHEDULERS["asha"].params}}


def repair(work_dir: Path, notify: Callable[[str], None]) -> None:
    """Moves damaged files aside that a resumed sweep writes again; ``notify`` prints a line about each.

    Raises:
        DamagedFileError: a trial's record is damaged.
    """
    from rdistill.sweeps.trial.step_profile import STEP
    from rdistill.training.teacher_plan import RECORD as PLAN

    consequences = {
        SUMMARY: "it is put together again, but without the time of earlier starts",
        SELECTION: "the same trials are chosen again from the search",
        EQUAL_COST_FILE: "the same runs are measured again",
        TEACHER_FILE: "the teacher is scored again",
        STEP: "a step is measured again",
        PLAN: "what suits the teacher is decided again",
    }
    for name, consequence in consequences.items():
        set_aside_if_damaged(work_dir / name, consequence, lambda line: notify(f"damaged   {line}"))
    load_records(work_dir)


def prepare_study(study: Study, resources: Resources) -> tuple[Study, list[str]]:
    """Checks the study on a node where trials will run, chooses the feature pairs and scores the teachers.

    Returns:
        The study that the trials get, and a line for each pair that was left out.
    """
    need, slots = resources.per_worker(), slot_choices(resources)
    # The cache of teacher outputs has to outlive this process, so it is not in a Ray worker's own temporary folder.
    cache_parent = Path(tempfile.gettempdir()) if is_uri(study.work_dir) else Path(study.work_dir).parent
    if is_single_node() and not need.get("GPU"):  # torch is loaded in this process already, which saves seconds
        with _threads_of_worker(need["CPU"]):
            prepared, left_out = _prepare_here(study, slots, cache_parent)
        return _with_step(prepared, resources), left_out
    task = ray.remote(_prepare_here).options(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), max_retries=0)
    try:
        prepared, left_out = ray.get(task.remote(study, slots, cache_parent))
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        raise (UserError(*cause.problems) if isinstance(cause, UserError) else cause) from None
    except ray.exceptions.OutOfMemoryError as error:
        raise RunError(f"before the first trial: {killed_for_memory(error)}; lower --batch-size or --size") from None
    return _with_step(prepared, resources), left_out


def _with_step(study: Study, resources: Resources) -> Study:
    """The study with a measured step; trials of several workers measure it in a worker group of their own."""
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
def _threads_of_worker(cpus: float) -> Iterator[None]:
    """A context in which torch has as many threads as in a Ray worker with this number of CPUs."""
    import torch

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, int(cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare_here(study: Study, slots: list[int], cache_parent: Path) -> tuple[Study, list[str]]:
    """:func:`prepare_study` in this process, except for the step of trials with several workers."""
    import torch

    from rdistill.checks.run import Report, build_or_report
    from rdistill.config.load import import_custom_modules
    from rdistill.data.unlabeled import count_images, describe_images
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
    distiller = build_or_report(base, report, seed=study.spec.seed, trust_checkpoint=trust)
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
        plan = choose_plan(distiller, base, here.folder)  # chosen once, so that all trials compute the teacher alike
        base = with_plan(base, plan, cache_parent / CACHE_FOLDER)
        step = load_step(here.folder / STEP, slots)
        stored = look_into_store(base, distiller)
        if stored is not None:
            lines.append(stored.line)
        if step is None and spec.trial.workers == 1:  # several workers measure it in `_with_step`
            forecast = None if stored is None else StoreForecast(stored.stores, stored.computed)
            remembered = expected_known(base)
            step = measure_step(distiller, cfg, slots=slots, forecast=forecast, remembered=remembered)  # it trains
            step.save(here.folder / STEP)
        here.push()
    prepared = dataclasses.replace(
        study,
        base=base,
        spec=spec,
        teacher_lines=(*plan.lines, *lines),
        notes=tuple(notes),
        images=count_images(base),
        data_line=describe_images(base),
        teacher_metrics=scores,
        step=step,
        free_bytes=free,
    )
    return prepared, left_out
