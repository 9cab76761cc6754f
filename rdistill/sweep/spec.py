"""The sweep file: YAML, read as data and checked before anything starts."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rdistill.errors import UserError, did_you_mean
from rdistill.tracking import parse_tracking


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Uniform(Section):
    """A real number between two bounds."""

    type: Literal["uniform"]
    low: float
    high: float


class LogUniform(Section):
    """A positive real number whose logarithm is uniform between those of two bounds."""

    type: Literal["loguniform"]
    low: float
    high: float


class Integer(Section):
    """A whole number between two bounds, both included."""

    type: Literal["int"]
    low: int
    high: int


class Choice(Section):
    """One of a list of values."""

    type: Literal["choice"]
    values: list[Any] = Field(min_length=1)


class Pairs(Section):
    """A feature pair of one loss: (student index, teacher index).

    Out of a list, of every combination, or of those that make sense ('auto': same stride, or else the nearest).
    What cannot be compared is left out before the sweep starts.
    """

    type: Literal["pairs"]
    pairs: Literal["all", "auto"] | list[tuple[int, int]] = "all"


Objective = Literal["mIoU", "params", "flops", "latency"]
Dimension = Annotated[Uniform | LogUniform | Integer | Choice | Pairs, Field(discriminator="type")]


class Search(Section):
    """How configurations are chosen. The same seed chooses the same ones again."""

    type: Literal["optuna", "random", "grid"] = "optuna"  # optuna: TPE
    num_trials: int | None = Field(default=None, ge=1)  # without the baseline; for a grid: all of it by default
    seed: int = Field(default=0, ge=0)


class Scheduler(Section):
    """Which trials end early. The baseline never does."""

    type: Literal["fifo", "asha"] = "fifo"
    grace_period: int | None = Field(default=None, ge=1)  # iterations before a trial may be stopped
    reduction_factor: float = Field(default=3, gt=1)  # one in so many goes on at each rung


class TrialResources(Section):
    """What one trial takes."""

    workers: int = Field(default=1, ge=1)  # from two up, each trial is a Ray Train run
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float | None = Field(default=None, ge=0)  # default: 1 where the cluster has GPUs
    max_concurrent: int | None = Field(default=None, ge=1)  # trials at a time; default: what the cluster holds


class CohortSpec(Section):
    """How many one-worker trials share a worker, its batches and its teacher."""

    size: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = "auto"  # auto: an equal share that fits the memory


class BaselineSpec(Section):
    """How the student alone, which all are compared with, is given its chance."""

    search: dict[str, Dimension] = {}  # as `space`: what of its config is searched, such as its learning rate
    type: Literal["optuna", "random", "grid"] = "optuna"
    num_trials: int | None = Field(default=None, ge=1)  # beside the one as configured; default: as many as the search
    seed: int | None = Field(default=None, ge=0)  # of its search; default: the search's


class ConfirmSpec(Section):
    """Which configurations train again after the search, on seeds that had no part in it."""

    top: int = Field(default=3, ge=1)  # the best so many, and the best baseline
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=2)  # of training: with one there is no interval


class SweepSpec(Section):
    """A study: one base config, what varies, and who chooses."""

    config: str  # a config with a `distill` section; found from here or from a folder above the sweep file
    set: dict[str, Any] = {}  # config overrides for all trials, such as another loss; new keys as '+key'
    space: dict[str, Dimension] = Field(min_length=1)  # config key -> what it may be
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    trial: TrialResources = TrialResources()
    cohort: CohortSpec = CohortSpec()
    baseline: BaselineSpec = BaselineSpec()
    confirm: ConfirmSpec | None = None
    objectives: list[Objective] = ["mIoU"]  # what the searcher looks at: mIoU up, the others down
    seed: int = Field(default=0, ge=0)  # of every trial of the search: equal weights, data order and augmentation
    tracking: Any = None  # wandb, tensorboard, mlflow, or a mapping of them; see rdistill.tracking

    def num_trials(self, features: tuple[int, int]) -> int:
        """Trials of the search, without baselines; ``features`` as for :func:`choices`."""
        return self.search.num_trials or _grid_size(self.space, features)

    def num_baselines(self, features: tuple[int, int]) -> int:
        """Students alone: the one as configured, and those that are searched."""
        baseline = self.baseline
        if not baseline.search:
            return 1
        if baseline.type == "grid":
            return 1 + (baseline.num_trials or _grid_size(baseline.search, features))
        return 1 + (baseline.num_trials or self.num_trials(features))

    def num_students(self, features: tuple[int, int]) -> int:
        """All that are trained, confirmation included."""
        again = (1 + self.confirm.top) * len(self.confirm.seeds) if self.confirm else 0
        return self.num_trials(features) + self.num_baselines(features) + again

    def problems(self) -> list[str]:
        """What one field alone cannot show."""
        found = _space_problems("space", self.space, "search", self.search.type)
        found += _space_problems("baseline.search", self.baseline.search, "baseline", self.baseline.type)
        if self.search.type != "grid" and self.search.num_trials is None:
            found.append(f"search.num_trials: is required for {self.search.type} search")
        for key in self.baseline.search:
            if key.lstrip("+").split(".")[0] == "distill":
                found.append(f"baseline.search.{key}: a baseline trains without distillation; vary its other keys")
        if not self.baseline.search and self.baseline.num_trials is not None:
            found.append("baseline.num_trials: has no baseline.search to choose from; add one, or leave it out")
        seeds = self.confirm.seeds if self.confirm else []
        if self.seed in seeds:
            found.append(
                f"confirm.seeds: {self.seed} is the seed of the search, whose winners it favours; take others than it"
            )
        if len(set(seeds)) < len(seeds):
            found.append(f"confirm.seeds: must differ from each other, got {seeds}")
        if "mIoU" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            found.append(f"objectives: must be mIoU and what else counts, each once, got {self.objectives}")
        try:
            parse_tracking(self.tracking)
        except UserError as error:
            found += error.problems
        return found


def _grid_size(space: Mapping[str, Dimension], features: tuple[int, int]) -> int:
    return math.prod(len(choices(dimension, features)) for dimension in space.values())


def _space_problems(where: str, space: Mapping[str, Dimension], section: str, search: str) -> list[str]:
    """What is wrong with a space for a type of search, as lines; ``section`` holds that type in the file."""
    found = []
    for key, dimension in space.items():
        if isinstance(dimension, (Uniform, LogUniform, Integer)) and dimension.low >= dimension.high:
            found.append(f"{where}.{key}.low must be below high, got {dimension.low:g} and {dimension.high:g}")
        if isinstance(dimension, LogUniform) and dimension.low <= 0:
            found.append(
                f"{where}.{key}.low must be > 0 on a log scale, got {dimension.low:g}; raise it or use uniform"
            )
        if search == "grid" and isinstance(dimension, (Uniform, LogUniform)):
            found.append(
                f"{where}.{key}: a grid needs values, got {dimension.type}; use choice, or another {section}.type"
            )
        if isinstance(dimension, Pairs) and not key.endswith(".pair"):
            found.append(f"{where}.{key}: type pairs is for a loss's `pair`, such as distill.losses.NAME.pair")
    return found


def read_sweep(path: Path) -> SweepSpec:
    """Reads and checks a sweep file.

    Raises:
        UserError: every problem of the file, one line each.
    """
    if not path.is_file():
        siblings = [str(p) for p in (*path.parent.glob("*.yaml"), *path.parent.glob("*.yml"))]
        near = difflib.get_close_matches(str(path), siblings, n=1)
        raise UserError(f"{path}: no such sweep file" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: is not valid YAML: {getattr(error, 'problem', error)}") from None
    return parse_sweep(content, str(path))


def parse_sweep(content: Any, where: str) -> SweepSpec:
    """Checks what a sweep file holds; ``where`` names it in errors.

    Raises:
        UserError: every problem, one line each.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: must be a mapping with the keys config and space, got {type(content).__name__}")
    try:
        spec = SweepSpec.model_validate(content)
    except ValidationError as error:
        raise UserError(*(f"{where}: {line}" for line in _lines(error))) from None
    if problems := spec.problems():
        raise UserError(*(f"{where}: {problem}" for problem in problems))
    return spec


def choices(dimension: Any, features: tuple[int, int]) -> list[Any]:
    """Every value of a discrete dimension.

    Args:
        dimension: a part of the space.
        features: how many student and teacher features there are, for ``pairs: all``; ``auto`` counts as all until
            :func:`rdistill.sweep.space.fix_pairs` knows the shapes.
    """
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if isinstance(dimension, Integer):
        return list(range(dimension.low, dimension.high + 1))
    if isinstance(dimension, Pairs):
        if not isinstance(dimension.pairs, str):
            return [list(pair) for pair in dimension.pairs]
        return [list(pair) for pair in itertools.product(range(features[0]), range(features[1]))]
    raise TypeError(f"{dimension.type} has no list of values")


def _lines(error: ValidationError) -> list[str]:
    """pydantic's errors as one line each, with the nearest known key for a mistyped one."""
    types: dict[str, type[Section]] = {
        "uniform": Uniform,
        "loguniform": LogUniform,
        "int": Integer,
        "choice": Choice,
        "pairs": Pairs,
    }
    sections: dict[str, type[Section]] = {
        "search": Search,
        "scheduler": Scheduler,
        "trial": TrialResources,
        "cohort": CohortSpec,
        "baseline": BaselineSpec,
        "confirm": ConfirmSpec,
    }
    lines = []
    for item in error.errors():
        # pydantic names the chosen member of a union in the path; the user's file does not.
        parts = [str(part) for part in item["loc"]]
        at = 3 if parts[:2] == ["baseline", "search"] else 2 if parts[0] == "space" else len(parts)
        chosen = parts.pop(at) if len(parts) > at and parts[at] in types else None
        where = ".".join(parts)
        if item["type"] == "extra_forbidden":
            section = sections.get(parts[0], SweepSpec) if len(parts) > 1 else SweepSpec
            known = types[chosen] if chosen else section
            lines.append(f"unknown key {where}{did_you_mean(parts[-1], known.model_fields)}")
        elif item["type"] == "missing":
            lines.append(f"{where}: is required")
        elif item["type"].startswith("union_tag"):
            got = item["input"].get("type") if isinstance(item["input"], Mapping) else item["input"]
            hint = did_you_mean(str(got), types) or f"; known: {', '.join(types)}"
            lines.append(f"{where}.type: must be a kind of search dimension, got {got!r}{hint}")
        else:
            lines.append(f"{where}: {item['msg']}, got {item['input']!r}"[:300])
    return lines
