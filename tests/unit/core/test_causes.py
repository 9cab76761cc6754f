"""The walk through an exception and what it came from."""

from __future__ import annotations

from rdistill.core.causes import causes_of


def test_every_cause_comes_once_and_the_error_itself_first() -> None:
    first, second, third = ValueError("first"), OSError("second"), KeyError("third")
    second.__cause__ = first
    third.__context__ = second
    first.__context__ = third  # in a circle
    assert causes_of(third, also_context=True) == [third, second, first]
    assert causes_of(third) == [third]  # raised while the second was handled, not from it
