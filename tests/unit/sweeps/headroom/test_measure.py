"""What a headroom keeps between two starts, and how it tells times apart; it trains in tests/e2e/test_headroom.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.core.files import read_json, write_json
from rdistill.sweeps.headroom.measure import HEADROOM, REQUEST, Request, _Clock, finished_headroom, require_same
from rdistill.training.hooks import Silent

BASE = {"model": {"type": "EncoderDecoder"}, "train_cfg": {"max_iters": 400}}


def test_the_answer_of_an_earlier_start(tmp_path: Path) -> None:
    assert finished_headroom(tmp_path) is None
    write_json(tmp_path / HEADROOM, {"iterations": 40})
    assert finished_headroom(tmp_path) == {"iterations": 40}


def test_a_resume_is_of_the_same_config_length_and_seeds(tmp_path: Path) -> None:
    folder, request = tmp_path / "headroom", Request(40, (0, 1))
    for _ in range(2):
        require_same(folder, BASE, request, folder)
    written = read_json(folder / REQUEST)
    assert (written["iterations"], written["seeds"], written["config"]) == (40, [0, 1], BASE)
    other = {**BASE, "train_cfg": {"max_iters": 500}}
    with pytest.raises(UserError) as caught:
        require_same(folder, other, Request(50, (0, 1)), "work_dirs/h")
    fix = "; set it back, or use another --work-dir for this other headroom"
    assert list(caught.value.problems) == [
        f"work_dirs/h: --resume: config.train_cfg.max_iters was 400, is 500{fix}",
        f"work_dirs/h: --resume: iterations was 40, is 50{fix}",
    ]
    assert read_json(folder / REQUEST) == written


class Lane:
    """Its seconds are set by hand."""

    now: dict[str, float]

    def seconds(self) -> dict[str, float]:
        return dict(self.now)


def test_the_seconds_of_a_start_a_step_and_a_validation() -> None:
    """By hand: started after 3 s; steps of 1 s and 2 s, a validation of 0.5 s, a last step of 3 s."""
    lane: Any = Lane()
    clock = _Clock(lane, Silent())
    facts: Any = {}

    def at(own: float, teacher: float, data: float) -> None:
        lane.now = {"own_seconds": own, "teacher_alone_seconds": teacher, "data_alone_seconds": data}

    at(3.0, 0.5, 0.25)
    clock.training_started(first_iteration=10, last_iteration=13, facts=facts)
    for iteration, own in ((11, 4.0), (12, 6.0)):
        at(own, 1.5, 0.5)
        clock.stepped(iteration, {})
    at(6.5, 1.5, 0.5)
    clock.validated(12, {})
    at(9.5, 2.0, 1.0)
    clock.stepped(13, {})
    assert clock.rates() == {"start": 3.0, "step": 2.0, "validation": 0.5, "teacher": 0.5, "data": 0.25}


def test_a_validation_with_steps_in_it_does_not_count() -> None:
    lane: Any = Lane()
    clock = _Clock(lane, Silent())
    facts: Any = {}
    lane.now = {"own_seconds": 1.0}
    clock.training_started(first_iteration=0, last_iteration=4, facts=facts)
    lane.now = {"own_seconds": 2.0}
    clock.stepped(1, {})
    lane.now = {"own_seconds": 9.0}
    clock.validated(2, {})
    assert clock.rates() == {"start": 1.0, "step": 1.0, "teacher": 0.0, "data": 0.0}
