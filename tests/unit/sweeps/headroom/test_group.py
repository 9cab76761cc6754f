"""What the workers of a headroom's group are given; groups themselves are tests/e2e's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.core.stopping import StopRequest
from rdistill.sweeps.headroom import group
from rdistill.sweeps.headroom.group import NotePrinter, measure_in_group
from rdistill.sweeps.headroom.measure import Request
from rdistill.training.ray_train import Resources


def test_notes_are_lines_for_the_user() -> None:
    lines: list[str] = []
    listener = NotePrinter(lines.append)
    listener.noted("trained   alone-s0")
    listener.training_started(first_iteration=0, last_iteration=2, facts={})
    assert lines == ["trained   alone-s0"]


def test_each_worker_measures_in_the_same_work_dir(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def measure(here: Any, base: Any, request: Any, teachers: Any, **options: Any) -> str:
        calls.append((here.folder, base, request, teachers, options))
        options["listener"].noted("a line")
        return "the answer"

    def in_group(work: Any, cfg: Any, work_dir: Any, resources: Any, *, stop: Any, listener: Any) -> Any:
        assert (cfg, work_dir, resources) == (base, tmp_path, two)
        answers = [work(listener, stop) for _ in range(resources.workers)]
        return answers[0]

    monkeypatch.setattr(group, "measure", measure)
    monkeypatch.setattr(group, "work_in_group", in_group)
    base, two, stop, lines = tiny.load("distill"), Resources(2), StopRequest(), list[str]()
    request, teachers = Request(20, (0, 1)), [{"mIoU": 50.0}]
    answer = measure_in_group(
        tmp_path, base, request, teachers, two, trust_checkpoint=True, stop=stop, notify=lines.append
    )
    assert answer == "the answer" and lines == ["a line"] * 2
    for folder, config, wanted, scores, options in calls:
        assert (folder, config, wanted, scores) == (tmp_path, base, request, teachers)
        assert options["trust_checkpoint"] is True and options["stop"] is stop
