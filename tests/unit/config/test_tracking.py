"""wandb, TensorBoard and MLflow: what is asked for, and what a run leaves in each, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tracked import ALL, WEIGHT

from rdistill.config.tracking import Tracking, parse_tracking, require_trackers, viewing_hints
from rdistill.core.errors import UserError
from rdistill.sweeps.study.spec import parse_sweep


@pytest.mark.parametrize("setting", ["wandb,mlflow", ["wandb", "mlflow"], {"wandb": None, "mlflow": True}])
def test_ways_of_asking(setting: Any) -> None:
    tracking = parse_tracking(setting)
    assert tracking.names == ["wandb", "mlflow"] and tracking.images == 3
    assert parse_tracking(tracking.model_dump(exclude_none=True)) == tracking


def test_nothing_asked_and_switched_off() -> None:
    assert parse_tracking(None) == parse_tracking({"wandb": False}) == Tracking()


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("wandbb", "unknown key tracking.wandbb; did you mean 'wandb'?"),
        ({"wandb": {"porject": "x"}}, "unknown key tracking.wandb.porject; did you mean 'project'?"),
        ({"wandb": {"mode": "on"}}, "tracking.wandb.mode: must be 'online', 'offline' or 'disabled', got 'on'"),
        ({"wandb": {"api_key": "s3"}}, "tracking.wandb.api_key: a secret does not belong"),
        ({"mlflow": {"tracking_uri": "http://me:s3@host"}}, "tracking.mlflow.tracking_uri: has a password in it"),
        (3, "tracking: must name trackers (wandb, tensorboard, mlflow), got 3"),
    ],
)
def test_mistakes(setting: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_tracking(setting)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(problem)
    assert "s3" not in str(caught.value)
    with pytest.raises(UserError, match=r"a\.yaml: "):
        parse_sweep(
            {"config": "c.py", "space": {WEIGHT: {"type": "choice", "values": [1]}}, "tracking": setting}, "a.yaml"
        )


def test_online_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    online = parse_tracking({"wandb": {"mode": "online"}})
    with pytest.raises(UserError, match="online needs a key: set WANDB_API_KEY"):
        require_trackers(online)
    monkeypatch.setenv("WANDB_API_KEY", "local-key")
    require_trackers(online)
    require_trackers(parse_tracking("wandb"))


def test_viewing_hints(tmp_path: Path) -> None:
    lines = viewing_hints(parse_tracking(ALL), tmp_path)
    assert [line.split()[0] for line in lines] == ["wandb", "tracked", "mlflow"]
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in lines[0]
    assert f"sqlite:///{tmp_path}/mlflow.db" in lines[2]
    assert viewing_hints(parse_tracking({"wandb": {"mode": "disabled"}}), tmp_path) == []
