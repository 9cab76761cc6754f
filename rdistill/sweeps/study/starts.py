"""The configurations that a search starts with: written out in the sweep file, or the config's own values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import LoadedConfig
from rdistill.config.overrides import lookup
from rdistill.core.errors import UserError
from rdistill.core.validation import short
from rdistill.losses import LOSSES
from rdistill.schemas.mappings import ConfigValues, Params
from rdistill.sweeps.study.search_space import SearchSpace
from rdistill.sweeps.study.space import decode, encode
from rdistill.sweeps.study.spec import BEST_BASELINE, DEFAULTS, SweepSpec

MISSING = object()  # stands for the value of a key that a config does not have


def start_points(spec: SweepSpec, base: LoadedConfig, space: SearchSpace) -> list[Params | None]:
    """The starts of a sweep in Optuna's form, in order; None stands for the result of the baselines' search.

    Raises:
        UserError: a configuration is outside the space, or the config does not accept it.
    """
    points: list[Params | None] = []
    problems = []
    for index, start in enumerate(spec.search.start):
        where = f"search.start[{index}]"
        if start == BEST_BASELINE:
            points.append(None)
            continue
        values = configured_start(spec, base) if start == DEFAULTS else start
        assert isinstance(values, Mapping)
        fix = "widen the space, or write the configuration out" if start == DEFAULTS else "widen the space, or mend it"
        point, wrong = encode_start(values, space, where if start != DEFAULTS else f"{where}: {DEFAULTS}", fix)
        problems += wrong
        if not wrong and point in points:
            problems.append(f"{where}: is the same configuration as search.start[{points.index(point)}]; keep one")
        points.append(point)
        if not wrong:
            try:
                base.with_overrides(decode(point, spec.space))
            except UserError as error:
                problems += [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return points


def encode_start(values: Mapping[str, Any], space: SearchSpace, where: str, fix: str) -> tuple[Params, list[str]]:
    """Converts a configuration to Optuna's form.

    Args:
        values: config key -> value.
        space: the search space.
        where: the place in the sweep file, for messages.
        fix: advice that ends each message about a value outside the space.

    Returns:
        The configuration, and a line about each problem.
    """
    point: Params = {}
    problems = []
    for key in space.in_order():
        if key not in values:
            continue
        distribution = space.distributions[key]
        value = encode(values[key]) if isinstance(distribution, CategoricalDistribution) else values[key]
        if not is_within(distribution, value):
            problems.append(
                f"{where}: {key} is {short(values[key])}, and the space has {range_text(distribution)}; {fix}"
            )
            continue
        set_above = [parent for parent in space.parents(key) if parent in point]
        if against := [parent for parent in set_above if point[parent] not in space.conditions[key][parent]]:
            parent = against[0]
            problems.append(f"{where}: {key} has no meaning where {parent} is {point[parent]}; leave it out")
            continue
        point[key] = int(value) if isinstance(distribution, IntDistribution) else value
    return point, problems


def is_within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give a value, which is in Optuna's form."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    if isinstance(distribution, IntDistribution) and value != int(value):
        return False
    steps = (value - distribution.low) / (distribution.step or 1)
    return distribution.step is None or distribution.log or abs(steps - round(steps)) < 1e-6


def range_text(distribution: BaseDistribution) -> str:
    """A distribution in words, for messages: ``0.1 to 10`` or its choices."""
    if isinstance(distribution, CategoricalDistribution):
        return short([*distribution.choices]) if len(distribution.choices) > 1 else str(distribution.choices[0])
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}"


def configured_start(spec: SweepSpec, base: LoadedConfig) -> ConfigValues:
    """The config's values at the swept keys; a loss's parameter that it does not set has that loss's default."""
    return configured_values(spec.space, base)


def configured_values(keys: Iterable[str], base: LoadedConfig) -> ConfigValues:
    """A config's values at the given keys; a key that it does not have is left out."""
    values: ConfigValues = {}
    for key in sorted(keys, key=len):  # a loss comes before the keys below it
        if any(_below(key, above) and values[above] is None for above in values):
            continue  # the key is below a loss that the config leaves out
        if (value := _configured(key, base)) is not MISSING:
            values[key] = value
    return values


def _below(key: str, above: str) -> bool:
    return key.lstrip("+").startswith(f"{above.lstrip('+')}.")


def _configured(key: str, base: LoadedConfig) -> Any:
    try:
        return _plain(lookup(config_dict(base.cfg), key.lstrip("+")))
    except KeyError:
        parts = key.lstrip("+").split(".")
    losses = base.distillation.losses
    if parts[:2] == ["distill", "losses"] and len(parts) == 4 and parts[2] in losses:
        loss = losses[parts[2]]
        if parts[3] == "weight":
            return loss.effective_weight
        parameter = LOSSES[loss.type].params.get(parts[3])
        if parameter is not None and not parameter.is_required:
            return parameter.default
    if parts[:2] == ["distill", "losses"] and len(parts) == 3:
        return None  # the config leaves this loss out
    return None if key.startswith("+") else MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
