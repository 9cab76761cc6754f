"""The walk through an exception and what it came from."""

from __future__ import annotations

from ray.exceptions import RayTaskError

from rdistill.core.causes import cause_of, causes_of


def test_every_cause_comes_once_and_the_error_itself_first() -> None:
    first, second, third = ValueError("first"), OSError("second"), KeyError("third")
    second.__cause__ = first
    third.__context__ = second
    first.__context__ = third  # now they form a circle
    assert causes_of(third, also_context=True) == [third, second, first]
    assert causes_of(third) == [third]  # raised while the second was handled, not from it


def test_what_a_task_of_rays_failed_of() -> None:
    """It is caught as its own kind, and what no task failed of stays what it is."""
    own = ValueError("the user's")
    cause = cause_of(RayTaskError("f", "a traceback", own))
    assert isinstance(cause, ValueError) and cause.args == (own,)
    assert cause_of(own) is own
