"""What parameters may be: bounds, defaults of the signature, and what is said of a wrong value."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Choice, Number, Parameter, Switch, Text, Whole, declared, problems_of


@pytest.mark.parametrize(
    ("parameter", "good", "bad", "problem"),
    [
        (Number(above=0), 1e-9, 0, "x must be > 0, got 0"),
        (Number(at_least=0, at_most=1), 1, 1.5, "x must be >= 0 and <= 1, got 1.5"),
        (Number(at_least=0, below=1, what="a share"), 0, 1, "x is a share, must be >= 0 and < 1, got 1"),
        (Number(), -3, float("inf"), "x must be a finite number, got inf"),
        (Number(), 2, True, "x must be a finite number, got True"),
        (Whole(at_least=1, at_most=3), 3, 4, "x must be a whole number >= 1 and <= 3, got 4"),
        (Whole(), -1, 1.0, "x must be a whole number, got 1.0"),
        (Switch(), False, 0, "x must be true or false, got 0"),
        (Text(), "a", " ", "x must be a text, got ' '"),
        (Choice(values=("a", "b")), "a", ["a"], "x must be 'a' or 'b', got ['a']"),
    ],
)
def test_kinds(parameter: Parameter, good: Any, bad: Any, problem: str) -> None:
    assert (parameter.problem("x", good), parameter.problem("x", bad)) == ("", problem)


def loss(student: Any, *, mask: Any = None, tau: float = 4.0, grid: int = 8, needed: Any) -> None:
    """Whose parameters are declared."""


def test_defaults_are_the_signature_s() -> None:
    parameters = declared([loss], {"tau": Number(above=0)}, excluded=["mask"])
    assert list(parameters) == ["tau", "grid", "needed"]
    assert parameters["tau"] == Number(4.0, above=0) and parameters["grid"] == Whole(8)
    assert problems_of({"tau": 1, "needed": 0}, parameters, "Mine") == []
    assert problems_of({"gird": 1}, parameters, "Mine") == [
        "gird is not a parameter: Mine takes tau, grid, needed; did you mean 'grid'?",
        "needed is required: any value",
    ]


def test_a_declaration_that_contradicts_the_function() -> None:
    with pytest.raises(UserError) as caught:
        declared([loss], {"tau": Number(1.0), "beta": Number()}, excluded=["mask"])
    assert caught.value.problems == (
        "tau has the default 1.0 in the declaration and 4.0 in the function",
        "beta is declared, but is no keyword-only parameter of the function",
    )
