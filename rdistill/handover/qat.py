"""Continues the training of a student with 8-bit rounding (`rdistill export --int8 --qat`) if INT8 loses too much."""

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

LEARNING_RATE_FACTOR = 0.1  # small, because the student is trained already


def rounding_run(run: LoadedConfig, checkpoint: str | Path, iterations: int) -> LoadedConfig:
    """Returns the run that continues a student's training with rounding, under the config's teachers if it has any.

    The run starts from the checkpoint with a tenth of the learning rate and schedules that are stretched to its length.
    It is validated once, at its end, so that validation images do not choose an iteration.

    Args:
        run: the student's run, loaded with its teachers.
        checkpoint: the student's checkpoint.
        iterations: number of training iterations.

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
    cfg.optim_wrapper.optimizer.lr = LEARNING_RATE_FACTOR * cfg.optim_wrapper.optimizer.lr
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="FakeQuantHook")]
    return LoadedConfig.of(cfg)


def train_rounded(
    run: LoadedConfig, checkpoint: str | Path, iterations: int, work_dir: Path, listener: RunListener, *, trust: bool
) -> RunMetrics:
    """Trains a student with rounding; ``student.pth`` in the work dir then has the weights.

    Args:
        run, checkpoint, iterations: as for :func:`rounding_run`.
        work_dir: an empty or new folder.
        listener: is notified of progress.
        trust: whether checkpoints may run code.

    Returns:
        The content of the run's ``metrics.json``; its scores are those of the student with rounding.
    """
    options = RunOptions(
        seed=int((run.cfg.get("randomness") or {}).get("seed") or 0), resume=False, trust_checkpoint=trust
    )
    return train_run(rounding_run(run, checkpoint, iterations), work_dir, options, listener)


def fine_tuner(
    run: LoadedConfig, checkpoint: str | Path, iterations: int, listener: RunListener, *, trust: bool
) -> FineTune:
    """Returns the function that :func:`rdistill.handover.reduce.export_reduced` calls if INT8 loses too much.

    Arguments are those of :func:`train_rounded`.
    """
    rounding_run(run, checkpoint, iterations)  # raises the user's mistakes before anything is exported

    def fine_tune(folder: Path) -> tuple[Predictor, FineTuned]:
        metrics = train_rounded(run, checkpoint, iterations, folder, listener, trust=trust)
        predictor = load_predictor(run.cfg, folder / "student.pth", trust_checkpoint=trust)
        teachers = 0 if run.distill is None else len(run.distill.teachers)
        return predictor, FineTuned(iterations, teachers, lost_before=0.0, rounding=metrics["mIoU"])

    return fine_tune
