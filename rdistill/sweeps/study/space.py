"""Converts the sweep file's search space to Optuna's form, and Optuna's suggestions to config overrides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rdistill.config.distill_spec import DistillSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.models.shapes import Shape, pair_problem, sensible_pairs
from rdistill.schemas.mappings import ConfigValues, Params
from rdistill.searchers import SEARCHERS
from rdistill.searchers.registry import SearchSize
from rdistill.sweeps.study.search_space import SearchSpace
from rdistill.sweeps.study.spec import (
    MAX_TRIALS,
    Choice,
    Dimension,
    Integer,
    LogUniform,
    Pairs,
    SweepSpec,
    Uniform,
    choices,
    grid_size,
)


def distributions(dimensions: Mapping[str, Dimension], distill: DistillSpec) -> dict[str, BaseDistribution]:
    """Optuna's form of a space. Choices become JSON texts, since Optuna's categories must be scalars."""
    features = feature_counts(distill)
    space: dict[str, BaseDistribution] = {}
    for key, dimension in dimensions.items():
        if isinstance(dimension, Uniform):
            space[key] = FloatDistribution(dimension.low, dimension.high, step=dimension.step)
        elif isinstance(dimension, LogUniform):
            space[key] = FloatDistribution(dimension.low, dimension.high, log=True)
        elif isinstance(dimension, Integer):
            space[key] = IntDistribution(dimension.low, dimension.high, step=dimension.step, log=dimension.log)
        else:
            space[key] = CategoricalDistribution([encode(value) for value in choices(dimension, features)])
    return space


def search_space(
    dimensions: Mapping[str, Dimension], run: LoadedConfig, distill: DistillSpec | None = None
) -> SearchSpace:
    """A space in Optuna's form, with the conditions of each key.

    Args:
        dimensions: config key -> dimension of the sweep file.
        run: the config that they change: the distilled student's, or that of the student alone.
        distill: the section whose features the pairs are indices of; the config's own by default.

    Raises:
        UserError: a key applies with none of the values of the choice above it, or its conditions form a cycle.
    """
    distill = distill or run.distill or DistillSpec.model_construct()
    conditions: dict[str, dict[str, frozenset[str]]] = {}
    problems = []
    for key, dimension in dimensions.items():
        own = {parent: frozenset(map(encode, values)) for parent, values in dimension.when.items()}
        for parent, above in dimensions.items():
            if key.lstrip("+").startswith(f"{parent.lstrip('+')}.") and isinstance(above, Choice):
                accepting = [value for value in above.values if _accepts(run, parent, value, key, dimension, distill)]
                if not accepting:
                    problems.append(f"{key}: none of the values of {parent} takes it; leave it out")
                values = frozenset(map(encode, accepting))
                own[parent] = own.get(parent, values) & values
        if own:
            conditions[key] = own
    space = SearchSpace(distributions(dimensions, distill), conditions)
    if space.cycle():
        problems.append(f"{space.cycle()}: has a meaning only with some values of itself; mend its `when`")
    if problems:
        raise UserError(*problems)
    return space


def _accepts(run: LoadedConfig, parent: str, value: Any, key: str, dimension: Dimension, distill: DistillSpec) -> bool:
    """Whether a key can be set together with a value of the choice above it.

    For example, a loss that is left out has no weight, and not every loss has a ``tau``.
    """
    if not isinstance(value, Mapping):
        return False
    try:
        for end in islice(extremes(dimension, distill), 2):
            run.with_overrides({parent: value, key: end})
    except UserError:
        return False
    return True


def prerequisites(key: str, dimensions: Mapping[str, Dimension], space: SearchSpace) -> ConfigValues:
    """Values of other keys with which all conditions of a key hold, so that the key can be tried by itself."""
    params: Params = {}
    for child in reversed(space.in_order()):
        if child in (key, *params):
            for parent, values in space.conditions.get(child, {}).items():
                parent_choices = space.distributions[parent].choices  # type: ignore[attr-defined]
                params.setdefault(parent, next(value for value in parent_choices if value in values))
    return decode({name: params[name] for name in dimensions if name in params}, dimensions)


def why_impossible(params: Mapping[str, Any], run: LoadedConfig, dimensions: Mapping[str, Dimension]) -> str | None:
    """Why a config does not accept a whole configuration, which is in Optuna's form; None if it does."""
    try:
        run.with_overrides(decode(params, dimensions))
    except UserError as error:
        return error.problems[0]
    return None


def feature_counts(distill: DistillSpec) -> tuple[int, int]:
    """(number of student features, number of teacher features) in a ``distill`` section."""
    return len(distill.features.student), len(distill.features.teacher)


def fix_pairs(
    spec: SweepSpec,
    distill: DistillSpec,
    student: Sequence[Shape | str],
    teachers: Mapping[int, Sequence[Shape | str]],
    height_width: tuple[int, int],
) -> tuple[SweepSpec, list[str]]:
    """Replaces every dimension of type ``pairs`` by the list of those pairs that can be compared.

    Args:
        spec: the sweep.
        distill: the ``distill`` section of its base config.
        student, teachers: shapes by feature index, see :func:`rdistill.checks.layers.listed_shapes`.
        height_width: size of the training images, in pixels.

    Returns:
        The sweep with these lists, and a line for each pair that was left out.

    Raises:
        UserError: no pair is left.
    """
    space, left_out, problems = dict(spec.space), [], []
    for key, dimension in spec.space.items():
        if not isinstance(dimension, Pairs):
            continue
        teacher_shapes = teachers[_teacher_of(key, distill)]
        candidates = choices(dimension, (len(student), len(teacher_shapes)))
        reasons = {(s, t): pair_problem(student[s], teacher_shapes[t]) for s, t in candidates}
        lines = [f"space.{key}: [{s}, {t}]: {why}" for (s, t), why in reasons.items() if why is not None]
        kept = [pair for pair, why in reasons.items() if why is None]
        if dimension.pairs == "auto":
            kept = sensible_pairs(student, teacher_shapes, height_width)
        if not kept:
            why = "no strides within a factor of 2" if len(lines) < len(reasons) else "none of them can be compared"
            problems += [f"space.{key}: no pair is left of {len(candidates)}: {why}", *lines[:3]]
        left_out += lines
        space[key] = dimension.model_copy(update={"pairs": kept})
    if problems:
        raise UserError(*problems)
    return spec.model_copy(update={"space": space}), left_out


def _teacher_of(key: str, distill: DistillSpec) -> int:
    """The index of the teacher whose features the pairs of ``distill.losses.NAME.pair`` refer to."""
    loss = distill.losses.get(key.split(".")[-2])
    return loss.teacher if loss is not None and isinstance(loss.teacher, int) else 0


def decode(suggested: Mapping[str, Any], space: Mapping[str, Dimension]) -> ConfigValues:
    """Converts parameters in Optuna's form to config values."""
    return {
        key: json.loads(value) if isinstance(space[key], (Choice, Pairs)) else value for key, value in suggested.items()
    }


def encoded_values(values: Mapping[str, Any], space: Mapping[str, Dimension]) -> Params:
    """Converts config values to parameters in Optuna's form: the reverse of :func:`decode`."""
    return {key: encode(value) if isinstance(space[key], (Choice, Pairs)) else value for key, value in values.items()}


def build_sampler(
    kind: str,
    seed: int,
    space: Mapping[str, BaseDistribution],
    params: Mapping[str, Any] | None = None,
    size: SearchSize | None = None,
) -> optuna.samplers.BaseSampler:
    """Builds the Optuna sampler of a searcher by its name; see :meth:`rdistill.searchers.SearcherInfo.build`."""
    return SEARCHERS[kind].build(space, seed, params or {}, size or SearchSize(MAX_TRIALS))


def check_space(spec: SweepSpec, base: LoadedConfig, path: str) -> None:
    """Tries every choice and both ends of every range on the base config.

    Raises:
        UserError: the message names each key and value that the config does not accept.
    """
    distill = base.distillation
    if problems := _grid_problems(spec, feature_counts(distill)):
        raise UserError(
            *(f"{path}: {problem}" for problem in problems)
        )  # raised here, before a huge grid's values are listed
    chosen = spec.baseline.cost if "cost" in spec.baseline.model_fields_set else "iterations"
    if chosen != "iterations" and base.cfg.train_cfg.get("max_iters") is None:
        problems.append(
            f"{path}: baseline.cost: {chosen} needs a config that trains by iterations, got one of epochs, which "
            "cannot be stretched to seconds; use iterations"
        )
    for where, run, space in (
        ("space", base, spec.space),
        ("baseline.search", base.without_distillation(), spec.baseline.search),
    ):
        try:
            conditional = search_space(space, run, distill)
        except UserError as error:
            problems += [f"{path}: {where}.{problem}" for problem in error.problems]
            continue
        for key, dimension in space.items():
            others = prerequisites(key, space, conditional)
            for value in extremes(dimension, distill):
                try:
                    run.with_overrides({**others, key: value})
                except UserError as error:
                    problems += [f"{path}: {where}.{key}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _grid_problems(spec: SweepSpec, features: tuple[int, int]) -> list[str]:
    """Problems with the sizes of the grids that are searched, a line each."""
    problems = []
    for where, search, space in (
        ("search", spec.search, spec.space),
        ("baseline", spec.baseline, spec.baseline.search),
    ):
        if not search.visits_a_grid or not space:
            continue
        points = grid_size(space, features)
        if points > MAX_TRIALS:
            problems.append(
                f"{where}.type: the grid has {points:,} points, and at most {MAX_TRIALS:,} can be listed; "
                f"take fewer values, or {where}.type random"
            )
        elif search.num_trials is not None and search.num_trials > points:
            problems.append(
                f"{where}.num_trials: is {search.num_trials}, but the grid has {points} points; "
                "lower it, or leave it out"
            )
    return problems


def extremes(dimension: Any, distill: DistillSpec) -> Iterator[Any]:
    """Both ends of a range, or every choice."""
    if isinstance(dimension, (Uniform, LogUniform, Integer)):
        yield from (dimension.low, dimension.high)
    else:
        yield from choices(dimension, feature_counts(distill))


def encode(value: Any) -> str:
    """A value of a choice in Optuna's form, a JSON text."""
    return json.dumps(value)
