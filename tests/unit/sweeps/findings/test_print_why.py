"""Why a configuration gains, or does not, as the console has it."""

from __future__ import annotations

import io

from diagnosed_runs import run
from rich.console import Console

from rdistill.sweeps.findings.print_why import print_why
from rdistill.sweeps.findings.why import why


def test_the_console_names_what_may_be_why() -> None:
    console = Console(file=io.StringIO(), width=200)
    print_why(console, {"why": why([run(gradient_ratio=0.01), run("t0002-s1")], 55.0)})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2 and "too small to steer" in lines[0]
    assert lines[1] == "why       t0002: Student and teacher give 91.0 % of the pixels the same class."
