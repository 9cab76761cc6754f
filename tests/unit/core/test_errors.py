"""Messages: one line each, whatever a file is called."""

from __future__ import annotations

import pickle

from rdistill.core.errors import LONGEST, UserError, printable


def test_control_characters_are_escaped() -> None:
    assert printable("a\nb\x1b[31m \udc80 \u202e.py") == r"a\nb\x1b[31m \udc80 \u202e.py"
    assert printable("ü 中\u00a0µ") == "ü 中\u00a0µ"
    assert str(UserError("a\nb: no such file", "second")) == "a\\nb: no such file\nsecond"


def test_the_middle_of_a_long_line_is_left_out() -> None:
    line = printable("head " + "x" * 5000 + " tail")
    assert line.startswith("head x") and line.endswith("x tail") and len(line) == LONGEST + len(" ... ")


def test_an_error_crosses_a_process_border() -> None:
    assert pickle.loads(pickle.dumps(UserError("a\nb", "c"))).problems == ("a\\nb", "c")
