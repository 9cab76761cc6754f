"""What a sweep says before it begins, and what it refuses; whole sweeps are in tests/e2e/test_sweep.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny

from rdistill.config.shortcuts import Shortcuts
from rdistill.config.tracking import Tracking, Wandb
from rdistill.core.errors import UserError
from rdistill.sweeps.run import _load, _plan_line, _tracking, study_name
from rdistill.sweeps.study.spec import SweepSpec

WEIGHT = "distill.losses.logits.weight"
SPACE = {WEIGHT: {"type": "uniform", "low": 1, "high": 9}}
SWEEP: dict[str, Any] = {"config": "distill.py", "space": SPACE, "search": {"num_trials": 4}}


@pytest.mark.parametrize(
    ("confirm", "baselines", "line"),
    [
        (None, 1, "4 trials and the baseline"),
        ({"top": 2, "seeds": [1, 2, 3]}, 3, "4 trials and 3 baselines, then the best 2 on 3 seeds more"),
        ({"top": 1, "seeds": "auto", "min": 3, "max": 12}, 1,
         "4 trials and the baseline, then the best 1 on 3 to 12 seeds more"),
    ],
)  # fmt: skip
def test_what_a_sweep_is_going_to_do(confirm: Any, baselines: int, line: str) -> None:
    spec = SweepSpec.model_validate({**SWEEP, **({"confirm": confirm} if confirm else {})})
    assert _plan_line(spec, 4, baselines) == line
    assert _plan_line(spec, 1, baselines) == line.replace("4 trials", "1 trial")


def test_a_study_is_called_as_its_work_dir() -> None:
    for where in ("s3://bucket/sweeps/coef", Path("/work_dirs/coef"), "coef/"):
        assert study_name(SimpleNamespace(where=where)) == "coef"  # type: ignore[arg-type]


def test_which_trackers() -> None:
    """The flag's, else the sweep file's, else the config's own; one that is empty is a choice too."""
    spec = SweepSpec.model_validate({**SWEEP, "tracking": "tensorboard"})
    base: Any = SimpleNamespace(cfg={"tracking": {"wandb": {"mode": "offline"}}})
    assert _tracking("mlflow", spec, base).names == ["mlflow"]
    assert _tracking(None, spec, base).names == ["tensorboard"]
    assert _tracking(None, SweepSpec.model_validate(SWEEP), base) == Tracking(wandb=Wandb(mode="offline"))
    assert _tracking([], spec, base).names == []


def test_what_is_no_sweep(tiny: Tiny) -> None:
    small = Shortcuts(data_root=str(tiny.data_root), size="32")
    with pytest.raises(UserError, match=r"^sweep: config: no such file gone\.py$"):
        _load({**SWEEP, "config": "gone.py"}, {}, small)
    alone = str(tiny.folder / "student.py")
    with pytest.raises(UserError, match=r"student\.py has no `distill` section, so there is nothing to sweep$"):
        _load({**SWEEP, "config": alone}, {}, small)
    with pytest.raises(UserError, match=r"^sweep: space\.distill\.losses\.logits\.wieght"):
        whole = str(tiny.folder / "distill.py")
        _load({**SWEEP, "config": whole, "space": {"distill.losses.logits.wieght": SPACE[WEIGHT]}}, {}, small)
