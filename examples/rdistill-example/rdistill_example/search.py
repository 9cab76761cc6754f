"""A searcher and a scheduler: what builds a sampler of Optuna, and a trial scheduler of Ray Tune."""

import warnings

import optuna
from ray.tune.schedulers import MedianStoppingRule

import rdistill
from rdistill.searchers import Choice, Whole


@rdistill.searchers.register("example_qmc", params={"kind": Choice(values=("sobol", "halton"))}, learns=False)
def qmc(space, *, seed: int, kind: str = "sobol", scramble: bool = True) -> optuna.samplers.BaseSampler:
    """Points that fill the space evenly. ``space``: config key -> Optuna's distribution."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna.samplers.QMCSampler(qmc_type=kind, scramble=scramble, seed=seed)


@rdistill.schedulers.register("example_median", params={"least": Whole(at_least=1)})
def median(*, val_interval: int, least: int = 3) -> MedianStoppingRule:
    """Stops a trial whose best is below the median of what at least ``least`` others had by then."""
    return MedianStoppingRule(time_attr="iter", grace_period=val_interval, min_samples_required=least)
