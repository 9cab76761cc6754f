"""Exports the confirmed students and scores the files on the validation images, and at the end on the test split.

With ``confirm: {of: int8}`` (or ``fp16``, ``onnx``) the verdict is about exported files: the student of each confirmed
run is exported as by `rdistill export`, and the file itself is scored by onnxruntime, with the counts of each image.
The results are in the run's record, so that a resume does not repeat them.
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
from rdistill.sweeps.findings.confirm import PRECISIONS, counts_name
from rdistill.sweeps.findings.test_split import ScoringCalls, confirmed_runs
from rdistill.sweeps.proof.counts import save_counts, stack_counts
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.sweeps.trial.trial import Study, reason_of
from rdistill.training.ray_train import Resources

Counted = tuple["np.ndarray | None", list[str]]  # images x classes x classes, and the images' names
SPLITS = ("val", "test")


def student_file(form: str) -> str:
    """The name of the exported student in a trial's folder; ``form`` is ``confirm.of`` of the sweep file."""
    return f"student.{form}.onnx"


def best_file(form: str) -> str:
    """The name of the winner's exported file in the sweep's folder."""
    return f"best.{form}.onnx"


def score_exported(
    study: Study, resources: Resources, work_dir: Path, form: str, cohorts: Sequence[Any] = (), *, split: str = "val"
) -> int:
    """Exports each confirmed student and scores its file, unless that was done before.

    If a student cannot be exported, its record gets the reason and no score; it is left out of the pairs.

    Args:
        study, resources, work_dir, cohorts: the same as for
            :func:`rdistill.sweeps.findings.test_split.score_on_test`.
        form: the form of the file: ``onnx``, ``fp16`` or ``int8``.
        split: ``val`` or ``test``.

    Returns:
        The number of files that were scored now.

    Raises:
        RunError: the machine failed, not the student; `--resume` goes on with the runs that have no score.
    """
    unscored = [run for run in confirmed_runs(work_dir) if _is_unscored(run.exported, split)]
    calls, failures = ScoringCalls(study, resources, cohorts), []
    started = [(run, calls.start(export_and_score, run.id, form, split, run.exported)) for run in unscored]
    for run, scored in started:
        folder = work_dir / TRIALS / run.id
        try:
            run.exported, counted = ray.get(scored)
        except Exception as error:  # whatever ended the task
            cause = cause_of(error)
            if not isinstance(cause, (ExportError, UserError)):
                failures.append(f"{run.id}: its {form} file was not scored: {reason_of(cause)}")
                continue
            run.exported = {"precision": PRECISIONS[form], "problem": reason_of(cause)}
        else:
            for name, (counts, images) in counted.items():
                if counts is not None:
                    save_counts(folder, counts_name(form, name), counts, images)
        run.save(folder)
    if failures:
        raise RunError(f"{failures[0]}; --resume goes on from here")
    return len(unscored)


def _is_unscored(exported: ExportedStudent | None, split: str) -> bool:
    return exported is None or ("problem" not in exported and split not in exported)


def export_and_score(
    study: Study, trial_id: str, form: str, split: str, earlier: ExportedStudent | None
) -> tuple[ExportedStudent, dict[str, Counted]]:
    """Writes a student's file into its trial's folder, unless it is there, and scores it. On any node.

    A file that was lost is written again. It is another file: what the lost one scored before is scored again too.

    Args:
        study: of the sweep.
        trial_id: of a run that has finished.
        form, split: the same as for :func:`score_exported`.
        earlier: what its record says of the file.

    Returns:
        What its record is to say, and by split what was counted now.
    """
    from rdistill.handover.inference import load_predictor
    from rdistill.handover.onnx_file import OnnxSegmentor, open_file, write_record
    from rdistill.handover.reduce import write_onnx
    from rdistill.training.evaluation import counts_images
    from rdistill.training.run import evaluate_model

    import_custom_modules(study.base.cfg)  # a task outside of cohorts has loaded no config before
    written = student_file(form)
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
            quantization = write_onnx(predictor, cfg, file, PRECISIONS[form])
            size = file.stat().st_size / 1e6
            record = {"precision": PRECISIONS[form], "file": written, "megabytes": size, "quantization": quantization}
            write_record(file, _made_of(join(here.where, "trial.py"), join(here.where, "student.pth"), form))
            here.push()
        model, counted = OnnxSegmentor(open_file(file), predictor.model), {}
        for name in splits:
            by_image: list[tuple[str, np.ndarray]] | None = [] if counts_images(cfg, name) else None
            scores: Scores = evaluate_model(model, cfg, split=name, by_image=by_image)
            record[name] = scores  # type: ignore[literal-required]
            counted[name] = stack_counts(by_image)
    return record, counted


def hand_over_file(work_dir: Path, best: TrialRecord, form: str) -> str:
    """Copies the winner's exported file next to ``best.pth``; returns its name, or an empty text if there is none."""
    from rdistill.handover.onnx_file import write_record

    source = work_dir / TRIALS / best.id / student_file(form)
    if not best.exported or "problem" in best.exported or not source.is_file():
        return ""
    target = work_dir / best_file(form)
    with written_whole(target) as partial:
        shutil.copyfile(source, partial)
    write_record(target, _made_of(work_dir / "best.py", work_dir / "best.pth", form))
    return target.name


def _made_of(config: str | Path, checkpoint: str | Path, form: str) -> ExportRecord:
    """The record about an exported file, which `rdistill eval` reads."""
    return {
        "config": str(config), "checkpoint": str(checkpoint), "overrides": {}, "shortcuts": {},
        "precision": PRECISIONS[form],
    }  # fmt: skip
