"""rdistill's own schedulers, declared in the same way as those of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number, Whole
from rdistill.schedulers.registry import register

if TYPE_CHECKING:
    import ray.tune.schedulers as ray_schedulers
    from ray.tune.schedulers import TrialScheduler
else:
    lazily(globals(), ray_schedulers="ray.tune.schedulers")


@register("fifo", stops=False)
def fifo() -> TrialScheduler:
    """No trial is stopped early."""
    return ray_schedulers.FIFOScheduler()


@register(
    "asha",
    params={
        "grace_period": Whole(at_least=1),  # iterations before a trial may be stopped; default: the first validation
        "reduction_factor": Number(at_least=1.1, at_most=1000),  # one trial in this many goes on at each rung
    },
)
def asha(
    *, iterations: int, val_interval: int, grace_period: int | None = None, reduction_factor: float = 3
) -> TrialScheduler:
    """ASHA: the worse trials are stopped at rungs of growing numbers of iterations."""
    return ray_schedulers.ASHAScheduler(
        time_attr="iter",
        max_t=iterations,
        grace_period=min(grace_period or val_interval, iterations),
        reduction_factor=reduction_factor,
    )


@register(
    "paired",
    params={
        "p_threshold": Number(above=0, at_most=0.5),  # the null hypothesis: a trial is no worse than the best
        "least": Whole(at_least=2),  # number of validations before a trial may be stopped
    },
    by_image=True,
)
def paired(*, iterations: int, p_threshold: float = 0.001, least: int = 3) -> TrialScheduler:
    """A trial is stopped if its scores on single images show that it will not catch up with the best trial so far."""
    from rdistill.schedulers.paired import PairedScheduler

    return PairedScheduler(iterations, p_threshold, least)
