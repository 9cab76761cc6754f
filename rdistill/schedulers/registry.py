"""What a scheduler is: one declaration beside the function that builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Parameter, declared
from rdistill.registration.registry import Registry
from rdistill.registration.user_modules import blaming_user_code

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

Function = TypeVar("Function", bound=Callable[..., Any])
# Arguments that a scheduler gets by itself, as far as it takes them; see `register`.
NOT_PARAMETERS = ("iterations", "val_interval")
TAKEN = ("type",)  # keys of the sweep file's section: no parameter may be called like one of them


@dataclass(frozen=True)
class SchedulerInfo:
    """What there is to know about a scheduler without building it. See :func:`register` for what the fields mean."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    stops: bool = True
    by_image: bool = False

    def build(self, params: Mapping[str, Any], *, iterations: int, val_interval: int) -> TrialScheduler:
        """The scheduler of Ray Tune.

        Args:
            params: values of the declared parameters, as far as a sweep file has them.
            iterations: of a trial (or its epochs).
            val_interval: of its validations: a trial reports at each.

        Raises:
            UserError: the function failed, or returned what is no scheduler that ends trials.
        """
        from ray.tune import schedulers

        own = {"iterations": iterations, "val_interval": val_interval}
        takes = inspect.signature(self.function).parameters
        values = {name: value for name, value in own.items() if name in takes} | dict(params)
        where = f"scheduler {self.name!r}"
        with blaming_user_code(where):
            scheduler = self.function(**values)
        if not isinstance(scheduler, schedulers.TrialScheduler):
            kind = f"{type(scheduler).__module__}.{type(scheduler).__qualname__}"
            raise UserError(f"{where}: must return a trial scheduler of Ray Tune, got {kind}")
        pausing = (
            schedulers.HyperBandScheduler, schedulers.PopulationBasedTraining, schedulers.PopulationBasedTrainingReplay,
            schedulers.ResourceChangingScheduler,
        )  # fmt: skip
        if isinstance(scheduler, pausing):
            raise UserError(
                f"{where}: {type(scheduler).__name__} pauses or changes trials, and a trial of a sweep can only be "
                "stopped; take one that stops, such as ASHAScheduler or MedianStoppingRule"
            )
        return scheduler


SCHEDULERS: Registry[SchedulerInfo] = Registry("scheduler", "rdistill.schedulers")


def register(
    name: str,
    *,
    params: Mapping[str, Parameter] | None = None,
    stops: bool = True,
    by_image: bool = False,
) -> Callable[[Function], Function]:
    """Declares a scheduler; decorates the function that builds it.

    The function is ``scheduler(*, PARAMETERS) -> ray.tune.schedulers.TrialScheduler``. It is built once for the
    distilled students and once for the baselines, which do not race against each other. A trial reports at each
    validation ``best_mIoU`` (its best so far; Tune gives it to the scheduler as the metric, to be maximised), ``mIoU``
    and ``iter``, the time attribute to use. By name the function takes what it needs of ``iterations`` (of a trial) and
    ``val_interval``; every other keyword-only argument is a parameter, which ``scheduler: {type: NAME, ...}`` may set.

    The scheduler never sees the baseline as configured, and a trial that has come to its last validation is left to
    write its student. It may stop trials; to pause or to change them is not possible.

    Args:
        name: what ``scheduler.type`` of a sweep file calls it.
        params: name -> what the parameter may be; one that is left out takes what has the type of its default.
        stops: whether it may stop a trial at all.
        by_image: whether a trial's reports have ``by_image`` too, the score of each validation image, in order.

    Raises:
        UserError: the name is taken, or the declaration is not that of the function.
    """

    def decorate(function: Function) -> Function:
        where = f"scheduler {name!r} of {function.__module__}"
        parameters = declared([function], params, NOT_PARAMETERS, where=where, taken=TAKEN)
        SCHEDULERS.add(name, SchedulerInfo(name, function, parameters, stops, by_image), function)
        return function

    return decorate
