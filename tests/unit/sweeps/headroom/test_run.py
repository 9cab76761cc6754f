"""What a headroom refuses before anything is trained."""

from __future__ import annotations

import pytest
from conftest import Tiny

from rdistill.core.errors import UserError
from rdistill.sweeps.headroom.run import require_teacher, run_headroom


def test_what_cannot_be_measured_is_said(tiny_without_teacher: Tiny, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = tiny_without_teacher.load("student")
    with pytest.raises(UserError, match="has no `distill` section"):
        require_teacher(plain)
    plain.distill = dict(teachers=[dict(ema_decay=0.99)], losses=dict(a=dict(type="KL")))
    with pytest.raises(UserError, match="one here follows the student"):
        require_teacher(plain)
    plain.distill = dict(teachers=[dict(config="teacher.py", checkpoint="a.pth")], losses=dict(a=dict(type="KL")))
    folder = tmp_path_factory.mktemp("headroom") / "run"
    with pytest.raises(UserError) as caught:
        run_headroom(plain, folder, iterations=5, seeds=[1, 1])
    assert caught.value.problems == (
        "--iters: must be at least 20, got 5",
        "--seeds: must differ from each other, got 1, 1",
    )
    with pytest.raises(UserError, match="--seeds: needs at least 2, by which the spread is known, got 1"):
        run_headroom(plain, folder, seeds=[1])
    assert not folder.exists()
    plain.train_cfg.pop("max_iters")
    with pytest.raises(UserError, match="the config trains by epochs"):
        run_headroom(plain, folder)
