"""Two configs' differences, key by key."""

from __future__ import annotations

import math

from rdistill.core.differences import differences, plain, refusals


def test_each_key_that_differs_is_named() -> None:
    old = {"a": {"b": 1, "same": [1, 2]}, "gone": True}
    new = {"a": {"b": 2, "same": [1, 2]}, "new": "x"}
    assert differences(old, new) == {
        "a.b": "a.b was 1, is 2",
        "gone": "gone was True, is None",
        "new": "new was None, is 'x'",
    }
    assert differences(old, old) == {}


def test_lists_are_compared_whole_or_by_element() -> None:
    old, new = {"a": [{"x": 1}, 2]}, {"a": [{"x": 3}, 2]}
    assert differences(old, new) == {"a": "a was [{'x': 1}, 2], is [{'x': 3}, 2]"}
    assert differences(old, new, into_lists=True) == {"a[0].x": "a[0].x was 1, is 3"}
    assert differences({"a": [1]}, {"a": [1, 2]}, into_lists=True) == {"a": "a was [1], is [1, 2]"}


def test_a_refusal_is_a_line_for_each_difference() -> None:
    assert refusals("a: --resume", ["k was 1, is 2"], "set it back") == ["a: --resume: k was 1, is 2; set it back"]
    assert refusals("a", [], "set it back") == []
    lines = refusals("a", (f"k{number} was 1, is 2" for number in range(30)), "set it back")
    assert len(lines) == 10 and lines[9] == "a: k9 was 1, is 2 (the first of 30 differences); set it back"


def test_what_json_lacks_compares_equal_after_it_was_written() -> None:
    assert plain({"a": (1, math.nan)}) == {"a": [1, None]}
