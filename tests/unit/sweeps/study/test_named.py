"""Sections of a sweep file that name a searcher or a scheduler: checked by its declaration, in a line each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.schedulers import SCHEDULERS
from rdistill.searchers import SEARCHERS
from rdistill.sweeps.prepare import without_idle_parameters
from rdistill.sweeps.study.spec import SweepSpec, parse_sweep

MODULE = """
import optuna, rdistill
from rdistill.searchers import Choice, Whole

@rdistill.searchers.register("Qmc", params={"kind": Choice(values=("sobol", "halton"))}, learns=False)
def qmc(space, *, seed, kind="sobol", scramble=True, needed):
    return optuna.samplers.QMCSampler(qmc_type=kind, seed=seed)

@rdistill.searchers.register("Points", grid=True, learns=False)
def points(space, *, seed):
    ...

@rdistill.schedulers.register("Median", params={"least": Whole(at_least=1)})
def median(*, val_interval, least=3):
    ...
"""
SPACE = {"k": {"type": "uniform", "low": 1, "high": 2}}


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module where Python finds it; what it registers is gone after the test."""
    (tmp_path / "of_user.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("\n\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_user", raising=False)
    for registry in (SEARCHERS, SCHEDULERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_sources", dict(registry._sources))


def sweep(**sections: Any) -> SweepSpec:
    content = {"custom_imports": ["of_user"], "config": "a.py", "space": SPACE, "search": {"num_trials": 2}, **sections}
    return parse_sweep(content, "s.yaml")


def test_parameters_with_their_defaults() -> None:
    search = {"type": "Qmc", "num_trials": 2, "needed": 7, "kind": "halton"}
    spec = sweep(custom_imports="of_user", search=search, scheduler={"type": "Median"}, baseline={"type": "Points"})
    assert spec.custom_imports == ["of_user"]
    assert spec.search.params == {"kind": "halton", "scramble": True, "needed": 7}
    assert (spec.scheduler.params, spec.baseline.params) == ({"least": 3}, {})
    assert spec.baseline.visits_a_grid and not spec.search.visits_a_grid
    assert SweepSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (dict(search={"type": "Qmc", "num_trials": 2}), "search.needed: is required with type Qmc: any value"),
        (
            dict(search={"type": "Qmc", "num_trials": 2, "needed": 1, "kind": "niederreiter"}),
            "search.kind: must be 'sobol' or 'halton', got 'niederreiter'",
        ),
        (
            dict(search={"type": "Qmc", "num_trials": 2, "needed": 1, "scrambel": True}),
            "unknown key search.scrambel; did you mean 'scramble'?",
        ),
        (
            dict(search={"type": "random", "num_trials": 2, "kind": "sobol"}),
            "search.kind: does nothing with type random; use type Qmc, or leave it out",
        ),
        (dict(scheduler={"type": "Median", "least": 0}), "scheduler.least: must be a whole number >= 1, got 0"),
        (
            dict(scheduler={"type": "Median", "reduction_factor": 3}),
            "scheduler.reduction_factor: does nothing with type Median; use type asha, or leave it out",
        ),
        (
            dict(scheduler={"type": "Media"}),
            "must be 'fifo', 'asha', 'paired' or 'Median', got 'Media'; did you mean 'Median'?",
        ),
        (
            dict(scheduler={"type": "xyz"}),
            "scheduler.type: must be 'fifo', 'asha', 'paired' or 'Median', got 'xyz'; one of your own must be in a "
            "module that custom_imports names, or of an installed package",
        ),
        (dict(scheduler={"type": 3}), "scheduler.type: must be the name of a scheduler, got 3"),
        (dict(scheduler=3), "scheduler: must be a mapping with the keys type, got 3"),
        (
            dict(search={"type": "Points"}),
            "space.k: a grid needs values, got uniform; use choice, or another search.type",
        ),
        (dict(baseline={"type": "Points", "left": 1}), "unknown key baseline.left; known: type, search, num_trials, "),
        (
            dict(custom_imports=["broken"]),
            "custom_imports: Failed to import broken: ZeroDivisionError: division by zero (broken.py, line 3)",
        ),
        (dict(custom_imports={"imports": ["of_user"]}), "custom_imports: must be a list of texts, got {'imports'"),
    ],
)
def test_mistakes(sections: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep(**sections)
    assert [problem for problem in caught.value.problems if line in problem], caught.value.problems
    assert len(caught.value.problems) == 1


def test_what_is_wrong_with_names_is_said_beside_other_mistakes() -> None:
    with pytest.raises(UserError) as caught:
        sweep(search={"type": "qmcc", "num_trials": 0}, scheduler={"type": "asha", "reduction_factor": 1})
    assert [problem.split(": ")[1] for problem in caught.value.problems] == [
        "search.num_trials", "search.type", "scheduler.reduction_factor",
    ]  # fmt: skip


def test_what_is_recorded_of_a_sweep_is_as_it_was() -> None:
    """A sweep that was begun before schedulers could be registered goes on."""
    spec = sweep(scheduler={"type": "asha", "reduction_factor": 2.0})
    assert spec.model_dump(mode="json")["scheduler"] == {"type": "asha", "grace_period": None, "reduction_factor": 2.0}
    assert spec.model_dump(mode="json")["search"] == {
        "type": "auto", "num_trials": 2, "seed": 0, "start": [], "from": [], "from_differs": False, "storage": None,
    }  # fmt: skip
    recorded = {"scheduler": {"type": "fifo", "grace_period": None, "reduction_factor": 3.0}}
    assert without_idle_parameters(recorded) == {"scheduler": {"type": "fifo"}}
