"""`rdistill export --int8 --qat`: a student that is trained on with 8-bit rounding, where quantising loses too much."""

from __future__ import annotations

import copy
from pathlib import Path

from rdistill.config.load import LoadedConfig
from rdistill.config.schedules import stretch_schedules
from rdistill.core.errors import UserError
from rdistill.handover import fake_quant as _fake_quant  # noqa: F401  registers the hook
from rdistill.handover.inference import Predictor, load_predictor
from rdistill.handover.reduce import FineTune, FineTuned
from rdistill.schemas.run import RunMetrics
from rdistill.training.hooks import RunListener
from rdistill.training.run import RunOptions, train_run

RATE = 0.1  # share of the config's learning rate: the student is trained already


def rounding_run(run: LoadedConfig, checkpoint: str | Path, iterations: int) -> LoadedConfig:
    """The run that trains a student on with rounding: under the config's teachers, or on labels where it has none.

    It starts from the checkpoint, at a tenth of the learning rate, with its schedules stretched to its length, and is
    validated once, at its end: validation images choose no iteration.

    Args:
        run: the student's, loaded with its teachers.
        checkpoint: the student's.
        iterations: of training.

    Raises:
        UserError: the config trains by epochs, or its schedules do not fit into so few iterations.
    """
    cfg = copy.deepcopy(run.cfg)
    if problems := stretch_schedules(cfg, iterations):
        raise UserError(*(problem.replace("--iters", "--qat", 1) for problem in problems))
    cfg.train_cfg.val_interval = iterations
    if cfg.train_cfg.get("val_begin", 1) > 1:
        cfg.train_cfg.val_begin = iterations
    cfg.load_from = str(checkpoint)
    cfg.optim_wrapper.optimizer.lr = RATE * cfg.optim_wrapper.optimizer.lr
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="FakeQuantHook")]
    return LoadedConfig.of(cfg)


def train_rounded(
    run: LoadedConfig, checkpoint: str | Path, iterations: int, work_dir: Path, listener: RunListener, *, trust: bool
) -> RunMetrics:
    """Trains it; ``student.pth`` in the work dir has the weights.

    Args:
        run, checkpoint, iterations: as for :func:`rounding_run`.
        work_dir: a folder that is empty or not there.
        listener: is notified of progress.
        trust: whether checkpoints may run code.

    Returns:
        What the run's ``metrics.json`` holds: the scores are those of the student that rounds.
    """
    options = RunOptions(
        seed=int((run.cfg.get("randomness") or {}).get("seed") or 0), resume=False, trust_checkpoint=trust
    )
    return train_run(rounding_run(run, checkpoint, iterations), work_dir, options, listener)


def fine_tuner(
    run: LoadedConfig, checkpoint: str | Path, iterations: int, listener: RunListener, *, trust: bool
) -> FineTune:
    """What :func:`rdistill.handover.reduce.export_reduced` calls where INT8 loses too much.

    Arguments are those of :func:`train_rounded`.
    """
    rounding_run(run, checkpoint, iterations)  # its mistakes show before anything is exported

    def fine_tune(folder: Path) -> tuple[Predictor, FineTuned]:
        metrics = train_rounded(run, checkpoint, iterations, folder, listener, trust=trust)
        predictor = load_predictor(run.cfg, folder / "student.pth", trust_checkpoint=trust)
        teachers = 0 if run.distill is None else len(run.distill.teachers)
        return predictor, FineTuned(iterations, teachers, lost_before=0.0, rounding=metrics["mIoU"])

    return fine_tune
