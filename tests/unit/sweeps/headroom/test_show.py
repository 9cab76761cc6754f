"""What the headroom command prints."""

from __future__ import annotations

import io

from rich.console import Console

from rdistill.sweeps.headroom.answer import answer
from rdistill.sweeps.headroom.show import show_headroom

Scores = dict[str, dict[int, float]]


def scores(alone: float, longer: float, half: float, hard: float, distilled: float, spread: float = 0.1) -> Scores:
    """Two seeds of each; a difference on one seed varies by about ``spread``."""
    signs = {"alone": 1, "longer": -1, "half": 1, "hard": -1, "distilled": 1}
    means = {"alone": alone, "longer": longer, "half": half, "hard": hard, "distilled": distilled}
    return {arm: {0: mean + signs[arm] * spread / 4, 1: mean - signs[arm] * spread / 4} for arm, mean in means.items()}


def test_it_fits_a_screen() -> None:
    found = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {"half": [1]}, 60.0, 500)
    seconds = {"iterations": 1000, "seconds_alone": 100.0, "seconds_distilled": 200.0}
    plan = {**seconds, "sweep_hours": 2.5, "of": "this sweep"}
    failed = [{"arm": "hard", "seed": 1, "reason": "no memory"}]
    console = Console(file=io.StringIO(), width=80)
    show_headroom(console, {"iterations": 500, **found, "plan": plan, "failed": failed})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(text.splitlines()) <= 24
    rows = [line.split() for line in text.splitlines()]
    assert ["alone,", "twice", "as", "long", "1,000", "2", "53.00", "0.04", "+3.00", "over", "alone"] in rows
    assert "1 of 2 one class" in text
    assert "1,000 iterations take 2 min alone, 3 min under the teacher; this sweep takes 2.5 h here at most" in text
    assert "failed    hard on seed 1: no memory" in text
