"""Messages: one line each, whatever a file is called."""

from __future__ import annotations

import pickle

from ray.exceptions import RayTaskError

from rdistill.core.errors import (
    MAX_LINE_CHARS,
    UserError,
    cause_of,
    causes_of,
    error_line,
    message_line,
    one_line,
    printable,
)


def test_control_characters_are_escaped() -> None:
    assert printable("a\nb\x1b[31m \udc80 \u202e.py") == r"a\nb\x1b[31m \udc80 \u202e.py"
    assert printable("ü 中\u00a0µ") == "ü 中\u00a0µ"
    assert str(UserError("a\nb: no such file", "second")) == "a\\nb: no such file\nsecond"


def test_the_middle_of_a_long_line_is_left_out() -> None:
    line = printable("head " + "x" * 5000 + " tail")
    assert line.startswith("head x") and line.endswith("x tail") and len(line) == MAX_LINE_CHARS + len(" ... ")


def test_an_error_crosses_a_process_border() -> None:
    assert pickle.loads(pickle.dumps(UserError("a\nb", "c"))).problems == ("a\\nb", "c")


def test_any_error_is_one_line() -> None:
    assert one_line(" a\n\tb  c ") == "a b c" and one_line(["x"]) == "['x']" and one_line("a b c", 3) == "a b"
    assert one_line("\x1b[96mstep 1/3\x1b[0m \x1b[1;31mfails\x1b[0m") == "step 1/3 fails"
    assert error_line(ValueError("a\n  b")) == "ValueError: a b" and error_line(AssertionError()) == "AssertionError"
    assert error_line(ValueError("x" * 500)) == "ValueError: " + "x" * 300
    assert error_line(UserError("a.py: no such file", "b.py: no such file")) == "a.py: no such file b.py: no such file"
    assert message_line(OSError("no\nroom")) == "no room" and message_line(EOFError()) == "EOFError"
    assert message_line(OSError("x" * 500)) == "x" * 200


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
