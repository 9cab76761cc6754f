"""The declaration of a searcher, and the registry of all searchers."""

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
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Function = TypeVar("Function", bound=Callable[..., Any])
# Arguments that rdistill passes to a searcher, if its function takes them; see `register`.
NOT_PARAMETERS = ("seed", "num_trials", "num_objectives", "at_once", "conditional")
# Keys of the sections of a sweep file that name a searcher: no parameter may have one of these names.
TAKEN = ("type", "num_trials", "seed", "search", "cost", "seconds", "start", "from", "from_differs",
    "storage",
)  # fmt: skip


@dataclass(frozen=True)
class SearchSize:
    """The size of a search, for searchers that adapt to it."""

    num_trials: int  # number of trials in all
    num_objectives: int = 1
    at_once: int = 1  # number of trials that run at a time
    conditional: bool = False  # whether some keys are left out of some trials


@dataclass(frozen=True)
class SearcherInfo:
    """The declaration of a searcher; :func:`register` explains the fields."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    grid: bool = False
    learns: bool = True

    def build(
        self, space: Mapping[str, BaseDistribution], seed: int, params: Mapping[str, Any], size: SearchSize
    ) -> BaseSampler:
        """Builds the sampler for a space.

        Args:
            space: config key -> Optuna's distribution, in which choices that are lists are JSON texts.
            seed: the seed of the search.
            params: values of declared parameters in the sweep file.
            size: the size of the search.

        Raises:
            UserError: the function failed, or did not return a sampler.
        """
        from optuna.samplers import BaseSampler

        own = vars(size) | {"seed": seed}
        takes = inspect.signature(self.function).parameters
        values = {name: value for name, value in own.items() if name in takes} | dict(params)
        with blaming_user_code(f"searcher {self.name!r}"):
            sampler = self.function(space, **values)
        if not isinstance(sampler, BaseSampler):
            kind = f"{type(sampler).__module__}.{type(sampler).__qualname__}"
            raise UserError(f"searcher {self.name!r}: must return a sampler of Optuna, got {kind}")
        return sampler


SEARCHERS: Registry[SearcherInfo] = Registry("searcher", "rdistill.searchers")


def register(
    name: str, *, params: Mapping[str, Parameter] | None = None, grid: bool = False, learns: bool = True
) -> Callable[[Function], Function]:
    """Declares a searcher; decorates the function that builds its sampler.

    The function is ``searcher(space, *, seed, PARAMETERS) -> optuna.samplers.BaseSampler``, where ``space`` is config
    key -> Optuna's distribution. It must use the seed, so that the same sweep file suggests the same trials. It may
    also have the keyword-only arguments ``num_trials`` (of the search, in all), ``num_objectives``, ``at_once`` (number
    of trials that run at a time) and ``conditional`` (whether some keys are left out of some trials). Every other
    keyword-only argument is a parameter, which ``search: {type: NAME, ...}`` may set.

    Args:
        name: the name in ``search.type`` and ``baseline.type`` of a sweep file.
        params: name of a parameter -> its allowed values; a parameter that is not listed accepts values of the type of
            its default.
        grid: whether it visits every point of the space once. All dimensions must then have a finite number of values,
            and all points are tried if the sweep file has no number of trials.
        learns: whether it uses the scores of earlier trials. It then suggests trials in batches, as many as run at a
            time, so that its suggestions do not depend on which trial of a batch ends first.

    Raises:
        UserError: the name is taken, or the declaration does not fit the function.
    """

    def decorate(function: Function) -> Function:
        where = f"searcher {name!r} of {function.__module__}"
        takes = inspect.signature(function).parameters
        if "seed" not in takes or not takes or next(iter(takes)) in NOT_PARAMETERS:
            raise UserError(f"{where}: must take the space and, by name, a seed, as in `def searcher(space, *, seed)`")
        parameters = declared([function], params, NOT_PARAMETERS, where=where, taken=TAKEN)
        SEARCHERS.add(name, SearcherInfo(name, function, parameters, grid, learns), function)
        return function

    return decorate
