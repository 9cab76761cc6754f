"""The declaration of a scheduler, and the registry of all schedulers."""

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
# Arguments that rdistill passes to a scheduler, if its function takes them; see `register`.
NOT_PARAMETERS = ("iterations", "val_interval")
TAKEN = ("type",)  # keys of the sweep file's section: no parameter may have one of these names


@dataclass(frozen=True)
class SchedulerInfo:
    """The declaration of a scheduler; :func:`register` explains the fields."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    stops: bool = True
    by_image: bool = False

    def build(self, params: Mapping[str, Any], *, iterations: int, val_interval: int) -> TrialScheduler:
        """Builds the scheduler for Ray Tune.

        Args:
            params: values of declared parameters in the sweep file.
            iterations: number of iterations (or epochs) of a trial.
            val_interval: iterations (or epochs) between two validations; a trial reports at each validation.

        Raises:
            UserError: the function failed, or did not return a scheduler that can be used.
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

    The function is ``scheduler(*, PARAMETERS) -> ray.tune.schedulers.TrialScheduler``. It is called once for the
    distilled students and once for the baselines, which are not compared with each other. At each validation a trial
    reports ``best_mIoU`` (its best so far, which is the metric that Tune passes to the scheduler, to be maximised),
    ``mIoU`` and ``iter``, the time attribute to use. The function may have the keyword-only arguments ``iterations``
    (of a trial) and ``val_interval``; every other keyword-only argument is a parameter, which
    ``scheduler: {type: NAME, ...}`` may set.

    The scheduler never sees the configured baseline, and it cannot stop a trial after its last validation, since that
    trial still has to write its student. It may stop trials, but it cannot pause or change them.

    Args:
        name: the name in ``scheduler.type`` of a sweep file.
        params: name of a parameter -> its allowed values; a parameter that is not listed accepts values of the type of
            its default.
        stops: whether it may stop a trial at all.
        by_image: whether a trial's reports also have ``by_image``, the score of each validation image, in order.

    Raises:
        UserError: the name is taken, or the declaration does not fit the function.
    """

    def decorate(function: Function) -> Function:
        where = f"scheduler {name!r} of {function.__module__}"
        parameters = declared([function], params, NOT_PARAMETERS, where=where, taken=TAKEN)
        SCHEDULERS.add(name, SchedulerInfo(name, function, parameters, stops, by_image), function)
        return function

    return decorate
