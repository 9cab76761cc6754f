"""The sweep file: it is read from YAML as plain data, and checked before anything starts."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, create_model, field_serializer

from rdistill.config.tracking import parse_tracking
from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.validation import MAX_SEED, Number, Section, Whole, Word, mistakes, short
from rdistill.core.yaml_data import not_plain, read_yaml
from rdistill.distributed.shares import MIN_SHARE, share_problems
from rdistill.registration.user_modules import import_user_modules
from rdistill.schemas.mappings import ConfigValues
from rdistill.sweeps.study.named import SchedulerSection, SearcherSection, name_problems

MAX_TRIALS = 10_000  # trials of a search and points of a grid: Optuna lists all of them before the first trial
MAX_VALUES = 1_000  # values of a dimension: each is tried on the config before the first trial
MAX_DIMENSIONS = 100
MAX_HEADROOM_SEEDS = 32
LARGEST_BOUND = 1e30  # samplers square the distance between two bounds
LARGEST_WHOLE = 2**53  # Optuna computes with floats, in which integers are exact up to here
AUTO = "auto"
A_SEARCHER, A_SCHEDULER = "the name of a searcher", "the name of a scheduler"
FIRST_LOOK, LAST_LOOK = 4, 16  # seeds at the first and at the last look of a confirmation with `seeds: auto`
MAX_SEEDS = 64  # seeds of a confirmation with `seeds: auto`: the thresholds of each look have to be simulated

Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Bound = Annotated[Number, Field(ge=-LARGEST_BOUND, le=LARGEST_BOUND)]
WholeBound = Annotated[Whole, Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
Trials = Annotated[Whole, Field(ge=1, le=MAX_TRIALS)]
IndexPair = tuple[Annotated[Whole, Field(ge=0)], Annotated[Whole, Field(ge=0)]]  # (student index, teacher index)


class _Dimension(Section):
    """The values that a config key may have.

    ``when`` maps other keys of the space to those of their values with which this key applies; it is left out of all
    other trials. A key below another key of the space, such as a loss's weight below the loss, needs no ``when``: it
    is left out of the trials whose choice does not accept it.
    """

    when: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={})


class Uniform(_Dimension):
    """A real number between two bounds; with ``step``, the lower bound plus a multiple of it."""

    type: Literal["uniform"]
    low: Bound
    high: Bound
    step: Annotated[Number, Field(gt=0, le=LARGEST_BOUND)] | None = None


class LogUniform(_Dimension):
    """A positive real number between two bounds, whose logarithm is uniformly distributed."""

    type: Literal["loguniform"]
    low: Bound
    high: Bound


class Integer(_Dimension):
    """An integer between two bounds, both included; with ``step``, the lower bound plus a multiple of it."""

    type: Literal["int"]
    low: WholeBound
    high: WholeBound
    step: Annotated[Whole, Field(ge=1, le=LARGEST_WHOLE)] = 1
    log: bool = False  # whether its logarithm is uniformly distributed


class Choice(_Dimension):
    """One of a list of values."""

    type: Literal["choice"]
    values: list[Any] = Field(min_length=1, max_length=MAX_VALUES)


class Pairs(_Dimension):
    """A feature pair of one loss: (student index, teacher index).

    The pairs are those of a list, all combinations ('all'), or those with the same or else the nearest stride ('auto').
    Pairs that cannot be compared are left out before the sweep starts.
    """

    type: Literal["pairs"]
    pairs: Literal["all", "auto"] | Annotated[list[IndexPair], Field(min_length=1, max_length=MAX_VALUES)] = Field(
        "all", description="'all', 'auto', or a list of pairs of indices such as [[0, 0], [1, 1]]"
    )


FROM = "from"
DEFAULTS, BEST_BASELINE = "defaults", "baseline"
Start = Annotated[
    Literal["defaults", "baseline"] | ConfigValues,
    Field(description="defaults, baseline, or a mapping of config keys to values"),
]
Objective = Literal["mIoU", "params", "flops", "latency"]
Dimension = Annotated[
    Uniform | LogUniform | Integer | Choice | Pairs,
    Field(discriminator="type", description="a kind of search dimension"),
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


if TYPE_CHECKING:
    _WithFrom = SearcherSection
else:  # `from` is a keyword of Python and cannot be written as a field; an alias would change the key in the record
    _WithFrom = create_model(
        "_WithFrom", __base__=SearcherSection, **{FROM: (Annotated[list[str], BeforeValidator(_as_list)], [])}
    )


class Search(_WithFrom):
    """How configurations are chosen. With the same seed, the same configurations are chosen again.

    ``from`` lists the work dirs of finished sweeps over the same keys: the searcher learns from their trials and does
    not try them again.
    """

    type: str = Field(default="auto", description=A_SEARCHER)  # a name in rdistill.searchers
    num_trials: Trials | None = None  # number of trials without the baseline; default for a grid: all of its points
    seed: Seed = 0
    # Configurations that are tried first: config key -> value, `defaults` (the config's own values), or `baseline` (the
    # best values of the baselines' search).
    start: Annotated[list[Start], Field(max_length=MAX_VALUES)] = Field(default=[])
    from_differs: bool = False  # whether sweeps in `from` may have another teacher, other data or another schedule
    storage: str | None = None  # an Optuna storage for tools that watch the search, such as sqlite:///search.db

    @property
    def earlier(self) -> list[str]:
        """Work dirs of the sweeps that ``from`` names."""
        return list(getattr(self, FROM))


class Scheduler(SchedulerSection):
    """Which trials end early. The configured baseline never does."""

    type: str = Field(default="fifo", description=A_SCHEDULER)  # a name in rdistill.schedulers


class TrialResources(Section):
    """The resources of one trial."""

    workers: Whole = Field(default=1, ge=1)  # a trial with two or more workers trains in a Ray Train worker group
    cpus_per_worker: Number = Field(default=1, ge=MIN_SHARE)
    gpus_per_worker: Annotated[Number, Field(ge=0)] | None = None  # default: 1 if the cluster has GPUs
    max_concurrent: Annotated[Whole, Field(ge=1)] | None = None  # trials at a time; default: as many as fit


class CohortSpec(Section):
    """How many trials share a worker (or a worker group), its batches and its teacher."""

    # auto: trials are divided equally among cohorts, as far as they fit the memory
    size: Annotated[Literal["auto", "off"], Word] | Annotated[Whole, Field(ge=1)] = "auto"


class BaselineSpec(SearcherSection):
    """How the baselines, students alone that the distilled students are compared with, are tuned and trained."""

    # A space like `space`, over keys of the student's own config.
    search: dict[str, Dimension] = Field(default={}, max_length=MAX_DIMENSIONS)
    type: str = Field(default="auto", description=A_SEARCHER)
    num_trials: Trials | None = None  # number of searched baselines; default: as many as the search has trials
    seed: Seed | None = None  # seed of the baselines' search; default: that of `search`
    # The baseline in the confirmation: the student alone with as many iterations as a distilled student, with as many
    # seconds, or both.
    cost: Annotated[Literal["iterations", "seconds", "both"], Word] = "both"
    # How seconds are counted: `real` as measured, with shared teacher, shared data and stored outputs, or `alone` as if
    # each trial had trained alone.
    seconds: Annotated[Literal["real", "alone"], Word] = "real"


def _none_for_auto(value: Any) -> Any:
    if value is None:
        raise ValueError("must be 'auto' or a list of whole numbers")
    return None if value == AUTO else value


class ConfirmSpec(Section):
    """Which configurations train again after the search, on seeds that had no part in it."""

    top: Trials = 3  # number of the best configurations; the best baseline trains again in any case
    # Training seeds, at least two, since one gives no interval. None, written `auto`: seeds are added until every
    # question is answered or cannot be.
    seeds: Annotated[list[Seed] | None, BeforeValidator(_none_for_auto)] = Field(
        min_length=2, max_length=MAX_VALUES, description="'auto', or a list of whole numbers from 0 such as [1, 2, 3]"
    )
    min: Annotated[Whole, Field(ge=2, le=MAX_SEEDS)] | None = None  # `auto`: seeds at the first look; default 4
    max: Annotated[Whole, Field(ge=2, le=MAX_SEEDS)] | None = None  # `auto`: seeds at the last look; default 16
    margin: Annotated[Number, Field(ge=0, le=100)] | None = None  # `auto`: mIoU that "better" must exceed; default 0
    hours: Annotated[Number, Field(gt=0, le=10_000)] | None = None  # limit for all seeds, planned by the measured step
    # The model that is scored and that the verdict is about: the student in PyTorch, or its exported ONNX file.
    of: Annotated[Literal["pytorch", "onnx", "fp16", "int8"], Word] = "pytorch"

    @field_serializer("seeds")
    def _auto_for_none(self, seeds: list[int] | None) -> list[int] | str:
        return AUTO if seeds is None else seeds

    @property
    def first(self) -> int:
        """Number of seeds at the first look at the results."""
        return len(self.seeds) if self.seeds is not None else FIRST_LOOK if self.min is None else self.min

    @property
    def last(self) -> int:
        """Number of seeds at the last look, the largest number there can be."""
        return len(self.seeds) if self.seeds is not None else LAST_LOOK if self.max is None else self.max

    def fresh_seeds(self, searched: int) -> list[int]:
        """The seeds in order; with `auto` they are 1, 2, 3, ... without the search's seed ``searched``."""
        if self.seeds is not None:
            return list(self.seeds)
        return [seed for seed in range(1, self.last + 2) if seed != searched][: self.last]


class HeadroomSpec(Section):
    """The short trainings before the search that measure how much there is to gain."""

    # Iterations of a short training; default: a quarter of a trial's.
    iters: Annotated[Whole, Field(ge=20, le=LARGEST_WHOLE)] | None = None
    # Training seeds, at least two, to estimate how much a difference varies; default: the sweep's seed and the next.
    seeds: Annotated[list[Seed], Field(min_length=2, max_length=MAX_HEADROOM_SEEDS)] | None = None


class BudgetSpec(Section):
    """A limit for a whole sweep, in one of three units; the search ends in time for the confirmation."""

    hours: Annotated[Number, Field(gt=0, le=LARGEST_BOUND)] | None = None  # wall time from the sweep's start
    gpu_hours: Annotated[Number, Field(gt=0, le=LARGEST_BOUND)] | None = None  # the sum over all GPUs of the sweep
    trials: Trials | None = None  # number of all trainings: the search, its baselines and the confirmation


class SweepSpec(Section):
    """A study: a base config, a search space, and how to search it."""

    config: str  # a config with a `distill` section; relative to the current folder or one above the sweep file
    set: ConfigValues = Field(default={})  # config overrides for all trials, such as another loss; new keys as '+key'
    space: dict[str, Dimension] = Field(min_length=1, max_length=MAX_DIMENSIONS)  # config key -> its possible values
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    trial: TrialResources = TrialResources()
    cohort: CohortSpec = CohortSpec()
    baseline: BaselineSpec = BaselineSpec()
    confirm: ConfirmSpec | None = None
    budget: BudgetSpec | None = None
    # auto: measured if it costs at most a tenth of the sweep; `on` or a mapping: measured in any case
    headroom: Annotated[Literal["auto", "on", "off"], Word] | HeadroomSpec = Field(
        "auto", description="auto, on, off, or a mapping with the keys iters, seeds"
    )
    objectives: list[Objective] = Field(default=["mIoU"])  # the searcher maximises mIoU and minimises the others
    seed: Seed = 0  # seed of every trial of the search, so that weights, data order and augmentation are equal
    # Modules that register names used in this file; every process of the sweep imports them.
    custom_imports: Annotated[list[str], BeforeValidator(_as_list)] = Field(default=[])
    tracking: Any = None  # wandb, tensorboard, mlflow, or a mapping of them; see rdistill.config.tracking

    def num_trials(self, features: tuple[int, int]) -> int:
        """Number of trials in the search, without baselines; ``features`` as for :func:`choices`."""
        wanted = self.search.num_trials
        if self.budget is not None and self.budget.trials is not None:
            wanted = min(wanted or MAX_TRIALS, self._affordable_trials(self.budget.trials))
        elif self.budget is not None and wanted is None and not self.search.visits_a_grid:
            wanted = MAX_TRIALS  # an upper bound, until the measured step says how many trials fit the budget
        return _num_trials(wanted, self.space, features)

    def _affordable_trials(self, trainings: int) -> int:
        """Number of trials in the search if the whole sweep has this many trainings; may be 0 or negative."""
        left = trainings - 1 - (self.num_confirming * self.confirm.last if self.confirm else 0)
        if not self.baseline.search:
            return left
        return left // 2 if self.baseline.num_trials is None else left - self.baseline.num_trials

    def num_baselines(self, features: tuple[int, int]) -> int:
        """Number of baselines: the configured one and the searched ones."""
        baseline = self.baseline
        if not baseline.search:
            return 1
        if baseline.visits_a_grid:
            return 1 + (baseline.num_trials or grid_size(baseline.search, features))
        return 1 + _num_trials(baseline.num_trials or self.num_trials(features), baseline.search, features)

    def num_students(self, features: tuple[int, int]) -> int:
        """The largest possible number of trainings, confirmation included."""
        confirming = self.num_confirming * self.confirm.last if self.confirm else 0
        return self.num_trials(features) + self.num_baselines(features) + confirming

    @property
    def num_confirming(self) -> int:
        """Number of trainings for each seed of the confirmation."""
        assert self.confirm is not None
        arms = 1 + self.confirm.top
        return arms if self.baseline.cost == "iterations" else arms + self.confirm.top

    @property
    def keys_of_baselines_alone(self) -> list[str]:
        """Keys that are searched for the baselines, and not for the students under a teacher."""

        def overlap(first: str, second: str) -> bool:
            """Whether two keys are equal, or one is a section with the other."""
            first, second = f"{first.lstrip('+')}.", f"{second.lstrip('+')}."
            return first.startswith(second) or second.startswith(first)

        return [key for key in self.baseline.search if not any(overlap(key, own) for own in self.space)]

    def problems(self) -> list[str]:
        """Problems that the checks of single fields cannot find, a line each."""
        sections = {"set": self.set, "space": self.space, "baseline.search": self.baseline.search}
        problems = [
            f"{where}: {key!r} is no key; keys are written as a.b.c"
            for where, section in sections.items()
            for key in section
            if not key.isprintable() or not key.strip("+. ")
        ]
        problems += not_plain(self.set, "set")
        problems += _space_problems("space", self.space, "search", self.search.visits_a_grid)
        problems += _space_problems("baseline.search", self.baseline.search, "baseline", self.baseline.visits_a_grid)
        problems += _budget_problems(self)
        if not self.search.visits_a_grid and self.search.num_trials is None and self.budget is None:
            problems.append(f"search.num_trials: is required for {self.search.type} search")
        for key in self.baseline.search:
            if key.lstrip("+").split(".")[0] == "distill":
                problems.append(f"baseline.search.{key}: a baseline trains without distillation; vary its other keys")
        problems += share_problems(self.trial.cpus_per_worker, self.trial.gpus_per_worker, "trial.")
        if not self.baseline.search and self.baseline.num_trials is not None:
            problems.append("baseline.num_trials: has no baseline.search to choose from; add one, or leave it out")
        problems += _start_problems(self)
        problems += _when_problems("space", self.space) + _when_problems("baseline.search", self.baseline.search)
        problems += _confirm_problems(self.confirm)
        seeds = (self.confirm.seeds if self.confirm else None) or []
        if self.seed in seeds:
            problems.append(
                f"confirm.seeds: {self.seed} is the seed of the search, whose winners it favours; take others than it"
            )
        if len(set(seeds)) < len(seeds):
            problems.append(f"confirm.seeds: must differ from each other, got {seeds}")
        if isinstance(self.headroom, HeadroomSpec) and self.headroom.seeds is not None:
            seeds = self.headroom.seeds
            if len(set(seeds)) < len(seeds):
                problems.append(f"headroom.seeds: must differ from each other, got {seeds}")
        if "mIoU" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            problems.append(f"objectives: must be mIoU and what else counts, each once, got {self.objectives}")
        try:
            parse_tracking(self.tracking)
        except UserError as error:
            problems += error.problems
        return problems


def _num_trials(wanted: int | None, space: Mapping[str, Dimension], features: tuple[int, int]) -> int:
    """The wanted number of trials, but not more than there are points in a space without ranges."""
    if any(count(dimension, features) is None for dimension in space.values()):
        assert wanted is not None, "without a number of trials only a grid is searched"
        return wanted
    points = grid_size(space, features)
    return points if wanted is None else min(wanted, points)


def grid_size(space: Mapping[str, Dimension], features: tuple[int, int]) -> int:
    """Number of points of a grid; ``features`` as for :func:`choices`."""
    return math.prod(count(dimension, features) or 1 for dimension in space.values())


def _budget_problems(spec: SweepSpec) -> list[str]:
    if spec.budget is None:
        return []
    ways = {name: value for name, value in spec.budget.model_dump().items() if value is not None}
    if len(ways) != 1:
        return [f"budget: must have one of hours, gpu_hours and trials, got {', '.join(ways) or 'none'}"]
    if spec.budget.trials is not None and (left := spec._affordable_trials(spec.budget.trials)) < 1:
        needed = spec.budget.trials + 1 - left
        return [
            f"budget.trials: {spec.budget.trials} leave no trial beside the baselines and the confirmation; raise it "
            f"to {needed} or more"
        ]
    alone = spec.baseline
    if spec.budget.trials is None and alone.search and not alone.visits_a_grid and alone.num_trials is None:
        return ["baseline.num_trials: is required with a budget of hours: what is left of it is the search's"]
    return []


def _start_problems(spec: SweepSpec) -> list[str]:
    problems = []
    for index, start in enumerate(spec.search.start):
        where = f"search.start[{index}]"
        if isinstance(start, dict):
            unknown = [key for key in start if key not in spec.space]
            problems += [f"{where}: {key} is no key of the space{did_you_mean(key, spec.space)}" for key in unknown]
            problems += not_plain(start, where)
        elif start == BEST_BASELINE and not set(spec.baseline.search) & set(spec.space):
            problems.append(f"{where}: baseline needs a baseline.search with a key of the space, and there is none")
    if spec.search.from_differs and not spec.search.earlier:
        problems.append("search.from_differs: there is no search.from that could differ; leave it out")
    if spec.search.start and spec.search.visits_a_grid:
        problems.append("search.start: a grid tries every point, in an order of its own; leave it out")
    return problems


def _when_problems(where: str, space: Mapping[str, Dimension]) -> list[str]:
    problems = []
    for key, dimension in space.items():
        for name, values in dimension.when.items():
            place, parent = f"{where}.{key}.when", space.get(name)
            if not isinstance(parent, (Choice, Pairs)) or name == key:
                got = "is no other key of the space" if parent is None or name == key else f"is of type {parent.type}"
                problems.append(f"{place}: {name} {got}; name a key of type choice or pairs")
            elif isinstance(parent, Choice):
                absent = [value for value in values if value not in parent.values]
                problems += [f"{place}: {short(value)} is no value of {name}" for value in absent]
            if parent is not None and key in parent.when:
                problems.append(f"{place}: {name} has a meaning only with some values of {key} itself")
    return problems


def _confirm_problems(confirm: ConfirmSpec | None) -> list[str]:
    if confirm is None:
        return []
    if confirm.seeds is not None:
        unused = [key for key in ("min", "max", "margin") if getattr(confirm, key) is not None]
        return [f"confirm.{key}: does nothing with a list of seeds; use seeds: auto, or leave it out" for key in unused]
    if confirm.first > confirm.last:
        return [f"confirm.min: must not be above max, got {confirm.first} and {confirm.last}; lower it or raise max"]
    return []


def _space_problems(where: str, space: Mapping[str, Dimension], section: str, grid: bool) -> list[str]:
    """Problems with a space, a line each.

    Args:
        where: the section with the space.
        space: the space.
        section: the section that names the space's searcher.
        grid: whether that searcher tries every point of a grid.
    """
    problems = []
    for key, dimension in space.items():
        if isinstance(dimension, Choice):
            problems += not_plain(dimension.values, f"{where}.{key}.values")
        if isinstance(dimension, (Choice, Pairs)) and not problems:
            problems += _repeated(f"{where}.{key}", dimension)
        if isinstance(dimension, (Uniform, LogUniform, Integer)) and dimension.low >= dimension.high:
            problems.append(f"{where}.{key}.low must be below high, got {dimension.low:g} and {dimension.high:g}")
        problems += _step_problems(f"{where}.{key}", dimension)
        if _is_log(dimension) and (low := getattr(dimension, "low", 1)) <= 0:
            fix = "raise it or use uniform" if dimension.type == "loguniform" else "raise it or leave log out"
            problems.append(f"{where}.{key}.low must be > 0 on a log scale, got {low:g}; {fix}")
        if grid and count(dimension, (1, 1)) is None:
            problems.append(
                f"{where}.{key}: a grid needs values, got {dimension.type}; use choice, or another {section}.type"
            )
        if isinstance(dimension, Pairs) and not key.endswith(".pair"):
            problems.append(f"{where}.{key}: type pairs is for a loss's `pair`, such as distill.losses.NAME.pair")
    return problems


def _is_log(dimension: Any) -> bool:
    return isinstance(dimension, LogUniform) or (isinstance(dimension, Integer) and dimension.log)


def _step_problems(where: str, dimension: Any) -> list[str]:
    if not isinstance(dimension, (Uniform, Integer)) or dimension.step in (None, 1) or dimension.low >= dimension.high:
        return []
    if _is_log(dimension):
        return [f"{where}.step: is for an even scale, got {dimension.step} with log: true; leave one of them out"]
    steps = (dimension.high - dimension.low) / dimension.step
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        most = dimension.low + dimension.step * max(1, math.floor(steps))
        return [
            f"{where}.high: must be low plus a multiple of step, got {dimension.high:g} from {dimension.low:g} in "
            f"steps of {dimension.step:g}; {most:g} is one"
        ]
    return []


def _repeated(where: str, dimension: Choice | Pairs) -> list[str]:
    """Problems with values that are listed twice, a line each."""
    if isinstance(dimension, Pairs) and isinstance(dimension.pairs, str):
        return []
    values = choices(dimension, (0, 0))
    times = Counter(json.dumps(value, sort_keys=True) for value in values)
    return [f"{where}: {short(json.loads(text))} is listed {n} times; keep one" for text, n in times.items() if n > 1]


def read_sweep(path: Path) -> SweepSpec:
    """Reads and checks a sweep file.

    Raises:
        UserError: every problem of the file, one line each.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the sweep file in it")
    if not path.exists():
        siblings = [str(p) for p in (*path.parent.glob("*.yaml"), *path.parent.glob("*.yml"))]
        near = difflib.get_close_matches(str(path), siblings, n=1)
        raise UserError(f"{path}: no such sweep file" + (f"; did you mean {near[0]}?" if near else ""))
    return parse_sweep(read_yaml(path), str(path))


def parse_sweep(content: Any, where: str) -> SweepSpec:
    """Checks the content of a sweep file; ``where`` is its name in messages.

    Raises:
        UserError: every problem, one line each.
    """
    if not isinstance(content, Mapping):
        got = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{where}: must be a mapping with the keys config and space, got {got}")
    try:
        import_user_modules(content.get("custom_imports"))
        unregistered = name_problems(content, SweepSpec)
    except UserError as error:
        raise UserError(*(f"{where}: {problem}" for problem in error.problems)) from None
    try:
        spec = SweepSpec.model_validate(content)
    except ValidationError as error:
        lines = [*mistakes(error, SweepSpec, content), *unregistered]
        raise UserError(*(f"{where}: {line}" for line in lines)) from None
    if problems := [*unregistered, *spec.problems()]:
        raise UserError(*(f"{where}: {problem}" for problem in problems))
    return spec


def count(dimension: Any, features: tuple[int, int]) -> int | None:
    """The number of values that :func:`choices` returns, without listing them; None for a range without steps."""
    if isinstance(dimension, Integer):
        return (dimension.high - dimension.low) // dimension.step + 1
    if isinstance(dimension, (Uniform, LogUniform)):
        step = getattr(dimension, "step", None)
        return None if step is None else round((dimension.high - dimension.low) / step) + 1
    if isinstance(dimension, Pairs) and isinstance(dimension.pairs, str):
        return features[0] * features[1]
    return len(choices(dimension, features))


def choices(dimension: Any, features: tuple[int, int]) -> list[Any]:
    """Every value of a discrete dimension.

    Args:
        dimension: a dimension of the space.
        features: (number of student features, number of teacher features), for ``pairs: all``; ``auto`` is the same as
            ``all`` until :func:`rdistill.sweeps.study.space.fix_pairs` knows the shapes.
    """
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if isinstance(dimension, Integer):
        return list(range(dimension.low, dimension.high + 1, dimension.step))
    if isinstance(dimension, Uniform) and dimension.step is not None:
        steps = round((dimension.high - dimension.low) / dimension.step)
        return [min(dimension.high, dimension.low + dimension.step * index) for index in range(steps + 1)]
    if isinstance(dimension, Pairs):
        if not isinstance(dimension.pairs, str):
            return [list(pair) for pair in dimension.pairs]
        return [list(pair) for pair in itertools.product(range(features[0]), range(features[1]))]
    raise TypeError(f"{dimension.type} has no list of values")
