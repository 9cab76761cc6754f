"""Confirmed students as exported files: written, scored on the validation images, and at the end on the test split.

``confirm: {of: int8}`` (or ``fp16``, ``onnx``) makes the verdict one about the files that ship: each confirmed run's
student is exported as `rdistill export` does, and the file itself is scored, by onnxruntime, with the counts of each
image. What is done is in the run's record, and is not done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from mmengine.config import Config

from rdistill.config.load import import_custom_modules
from rdistill.core.errors import RunError, UserError, cause_of
from rdistill.core.files import written_whole
from rdistill.core.storage import join, open_work_dir
from rdistill.handover.export import ExportError
from rdistill.schemas.exported import ExportedStudent, ExportRecord
from rdistill.schemas.run import Scores
from rdistill.sweeps.findings.confirm import PRECISIONS, counts_of
from rdistill.sweeps.findings.test_split import Calls, confirmed_runs
from rdistill.sweeps.proof.counts import gathered, save_counts
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.sweeps.trial.trial import Study, reason_of
from rdistill.training.ray_train import Resources

Counted = tuple["np.ndarray | None", list[str]]  # images x classes x classes, and the images' names
SPLITS = ("val", "test")


def student_file(of: str) -> str:
    """In a trial's folder: its student as the file that ``confirm.of`` names."""
    return f"student.{of}.onnx"


def best_file(of: str) -> str:
    """In the sweep's folder: that of the student which is handed over."""
    return f"best.{of}.onnx"


def score_exported(
    study: Study, resources: Resources, work_dir: Path, of: str, cohorts: Sequence[Any] = (), *, split: str = "val"
) -> int:
    """Exports each confirmed student and scores its file; those that are not yet.

    A student that cannot be exported has its reason written down, and no score; it is left out of the pairs.

    Args:
        study, resources, work_dir, cohorts: as for :func:`rdistill.sweeps.findings.test_split.score_on_test`.
        of: what is confirmed: ``onnx``, ``fp16`` or ``int8``.
        split: ``val`` or ``test``.

    Returns:
        How many files were scored now.

    Raises:
        RunError: the machine failed, not the student; `--resume` goes on with the runs that have no score.
    """
    waiting = [run for run in confirmed_runs(work_dir) if _waits(run.exported, split)]
    calls, failures = Calls(study, resources, cohorts), []
    started = [(run, calls.start(export_and_score, run.id, of, split, run.exported)) for run in waiting]
    for run, scored in started:
        folder = work_dir / TRIALS / run.id
        try:
            run.exported, counted = ray.get(scored)
        except Exception as error:  # whatever ended the task
            cause = cause_of(error)
            if not isinstance(cause, (ExportError, UserError)):
                failures.append(f"{run.id}: its {of} file was not scored: {reason_of(cause)}")
                continue
            run.exported = {"precision": PRECISIONS[of], "problem": reason_of(cause)}
        else:
            for name, (counts, images) in counted.items():
                if counts is not None:
                    save_counts(folder, counts_of(of, name), counts, images)
        run.save(folder)
    if failures:
        raise RunError(f"{failures[0]}; --resume goes on from here")
    return len(waiting)


def _waits(exported: ExportedStudent | None, split: str) -> bool:
    return exported is None or ("problem" not in exported and split not in exported)


def export_and_score(
    study: Study, trial_id: str, of: str, split: str, earlier: ExportedStudent | None
) -> tuple[ExportedStudent, dict[str, Counted]]:
    """Writes a student's file into its trial's folder, unless it is there, and scores it. On any node.

    A file that was lost is written again. It is another file: what the lost one scored before is scored again too.

    Args:
        study: of the sweep.
        trial_id: of a run that has finished.
        of, split: as for :func:`score_exported`.
        earlier: what its record says of the file.

    Returns:
        What its record is to say, and by split what was counted now.
    """
    from rdistill.handover.inference import load_predictor
    from rdistill.handover.onnx_file import OnnxSegmentor, open_file, write_record
    from rdistill.handover.reduce import write_any
    from rdistill.training.evaluation import counts_images
    from rdistill.training.run import evaluate_model

    import_custom_modules(study.base.cfg)  # a task outside of cohorts has loaded no config before
    written = student_file(of)
    with open_work_dir(join(study.work_dir, TRIALS, trial_id), "trial.py", "student.pth", written) as here:
        cfg = Config.fromfile(str(here.folder / "trial.py"))
        predictor = load_predictor(cfg, here.folder / "student.pth")
        file = here.folder / written
        record = ExportedStudent(**(earlier or {}))  # type: ignore[typeddict-item]
        splits = [split]
        if not record or not file.is_file():
            splits = [name for name in SPLITS if name == split or name in record]
            for leftover in here.folder.glob(f".{written}.*"):  # a process that was killed left it
                shutil.rmtree(leftover, ignore_errors=True)
            quantization = write_any(predictor, cfg, file, PRECISIONS[of])
            size = file.stat().st_size / 1e6
            record = {"precision": PRECISIONS[of], "file": written, "megabytes": size, "quantization": quantization}
            write_record(file, _made_of(join(here.where, "trial.py"), join(here.where, "student.pth"), of))
            here.push()
        model, counted = OnnxSegmentor(open_file(file), predictor.model), {}
        for name in splits:
            by_image: list[tuple[str, np.ndarray]] | None = [] if counts_images(cfg, name) else None
            scores: Scores = evaluate_model(model, cfg, split=name, by_image=by_image)
            record[name] = scores  # type: ignore[literal-required]
            counted[name] = gathered(by_image)
    return record, counted


def hand_over_file(work_dir: Path, best: TrialRecord, of: str) -> str:
    """Copies the winner's file beside ``best.pth``; returns its name, or nothing where the winner has none."""
    from rdistill.handover.onnx_file import write_record

    source = work_dir / TRIALS / best.id / student_file(of)
    if not best.exported or "problem" in best.exported or not source.is_file():
        return ""
    target = work_dir / best_file(of)
    with written_whole(target) as partial:
        shutil.copyfile(source, partial)
    write_record(target, _made_of(work_dir / "best.py", work_dir / "best.pth", of))
    return target.name


def _made_of(config: str | Path, checkpoint: str | Path, of: str) -> ExportRecord:
    """What `rdistill eval` reads beside the file."""
    return {
        "config": str(config), "checkpoint": str(checkpoint), "overrides": {}, "shortcuts": {},
        "precision": PRECISIONS[of],
    }  # fmt: skip
