"""Measures a training step of trials with several workers, in a worker group like those of the trials."""

from __future__ import annotations

from functools import partial

from rdistill.config.load import LoadedConfig
from rdistill.core.stopping import StopRequest
from rdistill.distill.distiller import build_distiller
from rdistill.store.warm import look_into_store
from rdistill.sweeps.trial.step_profile import StepProfile, StoreForecast, measure_step
from rdistill.sweeps.trial.trial import Study
from rdistill.training.hooks import RunListener
from rdistill.training.ray_train import Resources, work_in_group
from rdistill.training.teacher_plan import expected_known


def measure_step_in_group(study: Study, resources: Resources) -> StepProfile:
    """Like :func:`rdistill.sweeps.trial.step_profile.measure_step`, but with as many workers as a trial has.

    Args:
        study: the study, whose base config has its teacher plan already.
        resources: resources of one trial.

    Raises:
        UserError, RunError: see :func:`rdistill.training.ray_train.work_in_group`.
    """
    work = partial(_measure, study.base, study.spec.seed, study.trust_checkpoint)
    return work_in_group(work, study.base.cfg, study.work_dir, resources)  # type: ignore[no-any-return]


def _measure(
    run: LoadedConfig, seed: int, trust_checkpoint: bool, listener: RunListener, stop: StopRequest
) -> StepProfile:
    """The function that each worker of the group calls."""
    distiller = build_distiller(run, seed=seed, trust_checkpoint=trust_checkpoint)
    stored = look_into_store(run, distiller)
    forecast = None if stored is None else StoreForecast(stored.stores, stored.computed)
    return measure_step(distiller, run.cfg, forecast=forecast, remembered=expected_known(run))
