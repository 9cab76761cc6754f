"""What finished sweeps have found, and that their scores say something about this one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.core.files import to_json
from rdistill.sweeps.study.earlier import earlier_trials, require_comparable
from rdistill.sweeps.study.records import STUDY, TRIALS, TrialRecord
from rdistill.sweeps.study.space import search_space
from rdistill.sweeps.study.spec import SweepSpec

WEIGHT, PAIR = "distill.losses.logits.weight", "distill.losses.hidden.pair"
SPACE: dict[str, Any] = {
    WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0},
    PAIR: {"type": "pairs", "pairs": [[0, 0], [1, 1]]},
}


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> LoadedConfig:
    return LoadedConfig.of(tiny.load("distill"))


def sweep(space: Mapping[str, Any] = SPACE) -> SweepSpec:
    return SweepSpec.model_validate({"config": "a.py", "space": space, "search": {"type": "random", "num_trials": 9}})


@pytest.fixture
def finished(base: LoadedConfig, tmp_path: Path) -> Path:
    """A work dir with three trials that have ended, one of them outside the space of `SPACE`."""
    (tmp_path / STUDY).write_text(to_json(study_of(base), default=str))
    for number, (weight, score, status) in enumerate(
        [(7.0, 60.0, "finished"), (0.1, 50.0, "finished"), (9.0, 1.0, "failed")]
    ):
        record = TrialRecord(f"t000{number}", {WEIGHT: weight, PAIR: [0, 0]}, 0, status=status)
        record.history.append({"iter": 2, "seconds": 1.0, "mIoU": score})  # type: ignore[typeddict-item]
        record.save(tmp_path / TRIALS / record.id)
    return tmp_path


def study_of(base: LoadedConfig, space: Mapping[str, Any] = SPACE) -> dict[str, Any]:
    sweep_keys = sweep(space).model_dump()
    return json.loads(to_json({"sweep": sweep_keys, "config": config_dict(base.cfg).to_dict()}, default=str))


def test_trials_of_a_finished_sweep(base: LoadedConfig, finished: Path) -> None:
    require_comparable([str(finished)], study_of(base), False)
    space = search_space(sweep().space, base)
    trials, (note,) = earlier_trials([str(finished)], space, ["mIoU"])
    assert [(trial.params, trial.values, trial.id) for trial in trials] == [
        ({WEIGHT: 7.0, PAIR: "[0, 0]"}, (60.0,), f"{finished.name}/t0000")
    ]
    assert note == f"from      {finished}: 1 trial known already; 1 more outside the space"


def test_what_is_swept_may_differ_in_the_config(base: LoadedConfig, finished: Path) -> None:
    require_comparable([str(finished)], study_of(base.with_overrides({WEIGHT: 20.0})), False)


def test_another_schedule_is_refused_unless_it_may_differ(base: LoadedConfig, finished: Path) -> None:
    longer = study_of(base.with_overrides({"train_cfg.max_iters": 99}))
    with pytest.raises(UserError) as error:
        require_comparable([str(finished)], longer, False)
    assert list(error.value.problems) == [
        f"search.from: {finished}: train_cfg.max_iters was 6, is 99; leave this other study out, or set "
        "search.from_differs: true"
    ]
    require_comparable([str(finished)], longer, True)


def test_other_keys_or_no_sweep_at_all(base: LoadedConfig, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has swept other keys: {PAIR} only there; leave it out"):
        require_comparable([str(finished)], study_of(base, {WEIGHT: SPACE[WEIGHT]}), True)
    with pytest.raises(UserError, match="holds no sweep; name the work dir of one that has finished"):
        require_comparable([str(tmp_path / "nothing")], study_of(base), True)
    assert not (tmp_path / "nothing").exists()
