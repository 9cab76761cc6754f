"""The confirmed students' counts on each validation image, and their scores on the test split, once, at the end."""

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
from rdistill.sweeps.proof.counts import gathered, load_counts, save_counts
from rdistill.sweeps.study.records import TRIALS, TrialRecord, load_records
from rdistill.sweeps.trial.trial import Study, reason_of
from rdistill.training.ray_train import Resources

RETRIES = 3  # a call is tried again in a cohort that dies, as often as Ray tries a task
TEACHER = "test.json"  # the teacher's scores on the test split


def has_test_split(cfg: Config) -> bool:
    """Whether a config's test data is other data than its validation data."""
    test, val = cfg.get("test_dataloader"), cfg.get("val_dataloader")
    return test is not None and cfg.get("test_evaluator") is not None and test.dataset != val.dataset


def require_test_split(cfg: Config) -> None:
    """Builds the test data, to find out before the first trial whether it is there.

    Raises:
        UserError: it is not.
    """
    from mmengine.runner import Runner

    with blaming("test_dataloader"):
        Runner.build_dataloader(cfg.test_dataloader.to_dict(), seed=0)


def score_on_test(study: Study, resources: Resources, work_dir: Path, cohorts: Sequence[Any] = ()) -> None:
    """Scores each confirmed student, and the first teacher, on the test split; those that are not yet.

    Args:
        study: of the sweep.
        resources: of one trial.
        work_dir: the sweep's folder on this machine, with the trials' records.
        cohorts: actors that are there already, and have the cluster's CPUs.
    """
    calls = Calls(study, resources, cohorts)
    waiting = [run for run in confirmed_runs(work_dir) if run.test is None]
    teacher = study.base.distillation.teachers[0]
    if not teacher.follows_student and not (work_dir / TEACHER).is_file():
        write_json(work_dir / TEACHER, ray.get(calls.start(_score_teacher)))
    for run, scored in [(run, calls.start(_score_student, run.id, "test")) for run in waiting]:
        run.test, counts, images = ray.get(scored)
        folder = work_dir / TRIALS / run.id
        if counts is not None:
            save_counts(folder, "test", counts, images)
        run.save(folder)


def count_on_validation(study: Study, resources: Resources, work_dir: Path, cohorts: Sequence[Any] = ()) -> str:
    """Keeps each confirmed student's confusion counts of every validation image; of those that have none yet.

    Arguments are those of :func:`score_on_test`.

    Returns:
        Why a student has none, on one line; empty where all have. No sweep fails of it.
    """
    waiting = [run for run in confirmed_runs(work_dir) if load_counts(work_dir / TRIALS / run.id, "val") is None]
    reason, calls = "", Calls(study, resources, cohorts)
    for run, scored in [(run, calls.start(_score_student, run.id, "val")) for run in waiting]:
        try:
            _, counts, images = ray.get(scored)
        except Exception as error:  # whatever it is: the seeds' interval is known without
            reason = reason or f"{run.id}: {reason_of(cause_of(error))}"
            continue
        if counts is None:
            reason = reason or "val_evaluator has no IoUMetric, which counts each image's pixels"
        else:
            save_counts(work_dir / TRIALS / run.id, "val", counts, images)
    return reason


def confirmed_runs(work_dir: Path) -> list[TrialRecord]:
    """The runs of the confirmation that have finished, those of equal cost included."""
    return [run for run in load_records(work_dir) if not run.searched and run.status == "finished"]


class Calls:
    """Where students are scored: in the cohorts by turns, or else in tasks, as many at a time as the cluster holds."""

    def __init__(self, study: Study, resources: Resources, cohorts: Sequence[Any]) -> None:
        self._study, self._cohorts = study, itertools.cycle(cohorts) if cohorts else None
        need = resources.per_worker()
        self._options = dict(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A reference to what the function of the study returns."""
        if self._cohorts is not None:
            cohort = next(self._cohorts)  # one that dies is started again
            return cohort.call.options(max_task_retries=RETRIES).remote(function, *arguments)
        return ray.remote(function).options(**self._options).remote(self._study, *arguments)


def teacher_on_test(work_dir: Path) -> Scores | None:
    """What the teacher scored on the test split, once it has been."""
    file = work_dir / TEACHER
    return read_json(file) if file.is_file() else None


def _score_student(study: Study, trial_id: str, split: str) -> tuple[Scores, np.ndarray | None, list[str]]:
    """Scores, each image's confusion counts (None where nothing counts them) and the images' names.

    On any node, also with the work dir at a URI.
    """
    from rdistill.training.evaluation import counts_images
    from rdistill.training.run import evaluate_checkpoint

    import_custom_modules(study.base.cfg)  # a task outside of cohorts has loaded no config before
    with open_work_dir(join(study.work_dir, TRIALS, trial_id), "trial.py", "student.pth") as here:
        cfg = Config.fromfile(str(here.folder / "trial.py"))
        by_image: list[tuple[str, np.ndarray]] | None = [] if counts_images(cfg, split) else None
        scores = evaluate_checkpoint(cfg, here.folder / "student.pth", split=split, by_image=by_image)
    return scores, *gathered(by_image)


def _score_teacher(study: Study) -> Scores:
    """By the student's config with the teacher's model in it: the same images, scored alike."""
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
