"""What a searcher is: one declaration beside the function that builds its sampler."""

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
# Arguments that a searcher gets by itself, as far as it takes them; see `register`.
NOT_PARAMETERS = ("seed", "num_trials", "num_objectives", "at_once", "conditional")
# Keys of the sections of a sweep file that name a searcher: no parameter may be called like one of them.
TAKEN = ("type", "num_trials", "seed", "search", "cost", "seconds", "start", "from", "from_differs",
    "storage",
)  # fmt: skip


@dataclass(frozen=True)
class SearchSize:
    """How large a search is, for searchers that adapt to it."""

    num_trials: int  # trials of this search, in all
    num_objectives: int = 1
    at_once: int = 1  # trials that run at a time
    conditional: bool = False  # whether some keys are left out of some trials


@dataclass(frozen=True)
class SearcherInfo:
    """What there is to know about a searcher without building it. See :func:`register` for what the fields mean."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    grid: bool = False
    learns: bool = True

    def build(
        self, space: Mapping[str, BaseDistribution], seed: int, params: Mapping[str, Any], size: SearchSize
    ) -> BaseSampler:
        """The sampler for a space.

        Args:
            space: config key -> Optuna's distribution; a list is a JSON text there.
            seed: of the search.
            params: values of the declared parameters, as far as a sweep file has them.
            size: how large the search is.

        Raises:
            UserError: the function failed, or returned no sampler.
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
    key -> Optuna's distribution. It must be seeded: the same sweep file suggests the same trials. By name it also takes
    what it needs of ``num_trials`` (of the search, in all), ``num_objectives``, ``at_once`` (trials that run at a time)
    and ``conditional`` (whether some keys are left out of some trials); every other keyword-only argument is a
    parameter, which ``search: {type: NAME, ...}`` may set.

    Args:
        name: what ``search.type`` and ``baseline.type`` of a sweep file call it.
        params: name -> what the parameter may be; one that is left out takes what has the type of its default.
        grid: whether it visits every point of the space, each once: the dimensions must then have values, and all of
            them are tried where no number of trials is given.
        learns: whether it looks at the scores of earlier trials. It then suggests in batches of as many trials as run
            at a time, so that what it suggests does not depend on which of them was faster.

    Raises:
        UserError: the name is taken, or the declaration is not that of the function.
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
