"""Scores the confirmed students: counts on each validation image, and once, at the end, scores on the test split."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import import_custom_modules
from rdistill.core.errors import blaming, cause_of
from rdistill.core.files import read_json, write_json
from rdistill.core.storage import join, open_work_dir
from rdistill.schemas.run import Scores
from rdistill.sweeps.proof.counts import load_counts, save_counts, stack_counts
from rdistill.sweeps.study.records import TRIALS, TrialRecord, load_records
from rdistill.sweeps.trial.trial import Study, reason_of
from rdistill.training.ray_train import Resources

RETRIES = 3  # how often a call is retried after its cohort has died; the same number as Ray's default for tasks
TEACHER_FILE = "test.json"  # a file in the work dir, with the teacher's scores on the test split


def has_test_split(cfg: Config) -> bool:
    """Whether a config's test data is other data than its validation data."""
    test, val = cfg.get("test_dataloader"), cfg.get("val_dataloader")
    return test is not None and cfg.get("test_evaluator") is not None and test.dataset != val.dataset


def require_test_split(cfg: Config) -> None:
    """Builds the test data before the first trial, to check that it exists.

    Raises:
        UserError: it cannot be built.
    """
    from mmengine.runner import Runner

    with blaming("test_dataloader"):
        Runner.build_dataloader(cfg.test_dataloader.to_dict(), seed=0)


def score_on_test(study: Study, resources: Resources, work_dir: Path, cohorts: Sequence[Any] = ()) -> None:
    """Scores each confirmed student and the first teacher on the test split, unless that was done before.

    Args:
        study: the sweep's study.
        resources: resources of one trial.
        work_dir: the sweep's folder on this machine, with the trials' records.
        cohorts: handles of the running cohorts, which hold the cluster's CPUs; empty without cohorts.
    """
    calls = ScoringCalls(study, resources, cohorts)
    unscored = [run for run in confirmed_runs(work_dir) if run.test is None]
    teacher = study.base.distillation.teachers[0]
    if not teacher.follows_student and not (work_dir / TEACHER_FILE).is_file():
        write_json(work_dir / TEACHER_FILE, ray.get(calls.start(_score_teacher)))
    for run, scored in [(run, calls.start(_score_student, run.id, "test")) for run in unscored]:
        run.test, counts, images = ray.get(scored)
        folder = work_dir / TRIALS / run.id
        if counts is not None:
            save_counts(folder, "test", counts, images)
        run.save(folder)


def count_on_validation(study: Study, resources: Resources, work_dir: Path, cohorts: Sequence[Any] = ()) -> str:
    """Saves the confusion counts of every validation image for each confirmed student that has none yet.

    The arguments are those of :func:`score_on_test`. An error does not make the sweep fail.

    Returns:
        The reason in one line if a student has no counts; an empty text if all have.
    """
    uncounted = [run for run in confirmed_runs(work_dir) if load_counts(work_dir / TRIALS / run.id, "val") is None]
    reason, calls = "", ScoringCalls(study, resources, cohorts)
    for run, scored in [(run, calls.start(_score_student, run.id, "val")) for run in uncounted]:
        try:
            _, counts, images = ray.get(scored)
        except Exception as error:  # the interval over seeds needs no counts
            reason = reason or f"{run.id}: {reason_of(cause_of(error))}"
            continue
        if counts is None:
            reason = reason or "val_evaluator has no IoUMetric, which counts each image's pixels"
        else:
            save_counts(work_dir / TRIALS / run.id, "val", counts, images)
    return reason


def confirmed_runs(work_dir: Path) -> list[TrialRecord]:
    """The finished runs of the confirmation, including baselines at equal cost."""
    return [run for run in load_records(work_dir) if not run.searched and run.status == "finished"]


class ScoringCalls:
    """Starts calls that score students: in the cohorts in turn, or without cohorts as Ray tasks."""

    def __init__(self, study: Study, resources: Resources, cohorts: Sequence[Any]) -> None:
        self._study, self._cohorts = study, itertools.cycle(cohorts) if cohorts else None
        need = resources.per_worker()
        self._options = dict(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Starts ``function(study, *arguments)``; returns Ray's reference to its result."""
        if self._cohorts is not None:
            cohort = next(self._cohorts)  # Ray restarts a cohort that dies
            return cohort.call.options(max_task_retries=RETRIES).remote(function, *arguments)
        return ray.remote(function).options(**self._options).remote(self._study, *arguments)


def teacher_on_test(work_dir: Path) -> Scores | None:
    """The teacher's scores on the test split; None before it was scored."""
    file = work_dir / TEACHER_FILE
    return read_json(file) if file.is_file() else None


def _score_student(study: Study, trial_id: str, split: str) -> tuple[Scores, np.ndarray | None, list[str]]:
    """Scores a student on a split. It runs on any node, also with the work dir at a URI.

    Returns:
        The scores, each image's confusion counts (None if the config has no evaluator that counts them), and the
        images' names.
    """
    from rdistill.training.evaluation import counts_images
    from rdistill.training.run import evaluate_checkpoint

    import_custom_modules(study.base.cfg)  # the process of a task outside of cohorts has not imported them
    with open_work_dir(join(study.work_dir, TRIALS, trial_id), "trial.py", "student.pth") as here:
        cfg = Config.fromfile(str(here.folder / "trial.py"))
        by_image: list[tuple[str, np.ndarray]] | None = [] if counts_images(cfg, split) else None
        scores = evaluate_checkpoint(cfg, here.folder / "student.pth", split=split, by_image=by_image)
    return scores, *stack_counts(by_image)


def _score_teacher(study: Study) -> Scores:
    """Scores the teacher on the test split, by the student's config with the teacher's model: it sees the same images.

    The result is empty if the teacher's outputs cannot be scored like the student's.
    """
    from rdistill.distill.teacher import load_teacher_model
    from rdistill.models.segmentor import build_segmentor, why_unscored
    from rdistill.training.run import evaluate_model

    base, teacher = study.base.cfg, study.base.distillation.teachers[0]
    import_custom_modules(base)
    cfg = Config({**config_dict(base).to_dict(), "model": teacher.model})
    model = load_teacher_model(teacher, trust_checkpoint=study.trust_checkpoint)
    if why_unscored(model, build_segmentor(base.model, trust_checkpoint=study.trust_checkpoint)):
        return {}
    return evaluate_model(model, cfg, split="test")
