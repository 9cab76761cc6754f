"""The test split of a sweep's data, on which the confirmed students are scored once, at the end."""

from __future__ import annotations

from pathlib import Path

import ray
from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import import_custom_modules
from rdistill.core.errors import blaming
from rdistill.core.files import read_json, write_json
from rdistill.core.results import Scores
from rdistill.core.storage import join, open_work_dir
from rdistill.sweeps.study.records import CONFIRMED, TRIALS, load_records
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources

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


def score_on_test(study: Study, resources: Resources, work_dir: Path) -> None:
    """Scores each confirmed student, and the first teacher, on the test split; those that are not yet.

    ``work_dir`` is the sweep's folder on this machine, with the trials' records.
    """
    need = resources.per_worker()
    options = dict(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))
    confirmed = [run for run in load_records(work_dir) if run.phase == CONFIRMED and run.status == "finished"]
    waiting = {
        run.id: ray.remote(_score_student).options(**options).remote(study, run.id)
        for run in confirmed
        if run.test is None
    }
    teacher = study.base.distillation.teachers[0]
    if teacher.checkpoint and not (work_dir / TEACHER).is_file():
        scores = ray.get(ray.remote(_score_teacher).options(**options).remote(study))
        write_json(work_dir / TEACHER, scores)
    for run in confirmed:
        if run.id in waiting:
            run.test = ray.get(waiting[run.id])
            run.save(work_dir / TRIALS / run.id)


def teacher_on_test(work_dir: Path) -> Scores | None:
    """What the teacher scored on the test split, once it has been."""
    file = work_dir / TEACHER
    return read_json(file) if file.is_file() else None


def _score_student(study: Study, trial_id: str) -> Scores:
    """On any node, also with the work dir at a URI."""
    from rdistill.training.run import evaluate_checkpoint

    with open_work_dir(join(study.work_dir, TRIALS, trial_id), "trial.py", "student.pth") as here:
        cfg = Config.fromfile(str(here.folder / "trial.py"))
        return evaluate_checkpoint(cfg, here.folder / "student.pth", split="test")


def _score_teacher(study: Study) -> Scores:
    """By the student's config with the teacher's model in it: the same images, scored alike."""
    from rdistill.training.run import evaluate_checkpoint

    base, teacher = study.base.cfg, study.base.distillation.teachers[0]
    import_custom_modules(base)
    assert teacher.checkpoint is not None  # it does not follow the student
    cfg = Config({**config_dict(base).to_dict(), "model": teacher.model})
    return evaluate_checkpoint(cfg, teacher.checkpoint, split="test", trust_checkpoint=study.trust_checkpoint)
