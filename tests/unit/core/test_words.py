"""Counts, sizes, times and lists as messages have them."""

from __future__ import annotations

import re

from conftest import REPO

from rdistill.core.words import counted, in_bytes, listed, rough_time, the_first


def test_one_thing_and_several() -> None:
    things = ("trial", "class", "batch", "box", "entry", "key", "feature pair", "more process")
    assert [counted(1, thing) for thing in things] == [f"1 {thing}" for thing in things]
    assert [counted(2, thing) for thing in things] == [
        "2 trials", "2 classes", "2 batches", "2 boxes", "2 entries", "2 keys", "2 feature pairs", "2 more processes",
    ]  # fmt: skip
    assert counted(0, "trial") == "0 trials"
    assert [counted(1.0, "CPU"), counted(0.5, "CPU")] == ["1 CPU", "0.5 CPUs"]
    assert [the_first(1, "batch"), the_first(8, "batch")] == ["the first batch", "the first 8 batches"]


def test_of_a_long_list_the_rest_is_a_number() -> None:
    assert [listed("abc", most) for most in (1, 2, 3, 4)] == ["a and 2 more", "a, b and 1 more", "a, b, c", "a, b, c"]
    assert listed([1.5, None], 9) == "1.5, None" and listed([], 2) == ""


def test_in_bytes() -> None:
    assert [in_bytes(count) for count in (12, 1500, 2.5e9, 3e12)] == ["12 B", "1.5 kB", "2.5 GB", "3 TB"]


def test_a_time_that_is_estimated() -> None:
    times = {45.2: "45 s", 89: "89 s", 90: "2 min", 5399: "90 min", 5400: "1.5 h"}
    assert {seconds: rough_time(seconds) for seconds in times} == times


def test_no_message_makes_a_plural_by_hand() -> None:
    """An ``s`` that hangs on a condition is :func:`counted`, which knows ``es`` and ``ies`` too."""
    by_hand = re.compile(r"""["'](s|es)["'] (if|\*)|["']["'] if [^"']* (== 1|> 1) else ["'](s|es)["']|["']s["'] \*""")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((REPO / "rdistill").rglob("*.py"))}
    found_in = [
        f"{path.relative_to(REPO)}:{number}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if by_hand.search(line) and path.name != "words.py"
    ]
    assert not found_in, "use rdistill.core.words.counted"
