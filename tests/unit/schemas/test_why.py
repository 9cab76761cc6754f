"""Why a configuration gains, or does not: every figure and sentence has the type that mypy knows it by."""

from __future__ import annotations

from diagnosed_runs import FIGURES, run
from typed_files import unlike

from rdistill.schemas.why import Why
from rdistill.sweeps.findings.why import why


def test_of_one_teacher_and_of_several_also_where_a_figure_is_of_nothing() -> None:
    runs = [[run()], [run(teachers=[FIGURES, FIGURES, {}])], [run(gradient_ratio=None, gradient_cosine=None)]]
    for each in runs:
        assert unlike(why(each, 55.0)["t0001"], Why) == []
    assert unlike(why([run()], None)["t0001"], Why) == []  # no baseline was scored
