"""rdistill's own schedulers, declared as any other's are."""

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
    """Every trial comes to its end."""
    return ray_schedulers.FIFOScheduler()


@register(
    "asha",
    params={
        "grace_period": Whole(at_least=1),  # iterations before a trial may be stopped; default: the first validation
        "reduction_factor": Number(at_least=1.1, at_most=1000),  # one in this many goes on at each rung
    },
)
def asha(
    *, iterations: int, val_interval: int, grace_period: int | None = None, reduction_factor: float = 3
) -> TrialScheduler:
    """At growing numbers of iterations the worse trials are stopped."""
    return ray_schedulers.ASHAScheduler(
        time_attr="iter",
        max_t=iterations,
        grace_period=min(grace_period or val_interval, iterations),
        reduction_factor=reduction_factor,
    )


@register(
    "paired",
    params={
        "p_threshold": Number(above=0, at_most=0.5),  # the test is that a trial's images score no lower than the best's
        "least": Whole(at_least=2),  # validations before a trial may be stopped
    },
    by_image=True,
)
def paired(*, iterations: int, p_threshold: float = 0.001, least: int = 3) -> TrialScheduler:
    """A trial ends when its validations, image by image with the best so far, say that it will not catch up."""
    from rdistill.schedulers.paired import PairedScheduler

    return PairedScheduler(iterations, p_threshold, least)
