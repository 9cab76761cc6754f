"""What pydantic finds, in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from rdistill.core.validation import Number, Section, Whole, Word, describe, mistakes, short


class Red(Section):
    type: Literal["red"]
    depth: Whole = 1


class Blue(Section):
    type: Literal["blue"]
    shade: Number = 1


class Inner(Section):
    count: Whole | None = Field(default=None, ge=1)
    switch: Annotated[Literal["auto", "on", "off"], Word] | Annotated[Whole, Field(ge=1)] = "auto"
    pair: tuple[int, int] | tuple[tuple[int, int], ...] | None = None

    @field_validator("count")
    @classmethod
    def _no_seven(cls, value: int | None) -> int | None:
        if value == 7:
            raise ValueError("seven is taken")
        return value


class Outer(Section):
    name: str
    share: float = Field(default=0.5, gt=0, le=1)
    inner: Inner = Inner()
    colours: dict[str, Annotated[Red | Blue, Field(discriminator="type", description="a colour")]] = Field(default={})
    parts: tuple[Inner, ...] = ()


def lines(content: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    return mistakes(caught.value, Outer, content, "top")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "top.name: is required"),
        ({"name": "a", "shar": 1}, "unknown key top.shar; did you mean 'share'?"),
        ({"name": "a", "zz": 1}, "unknown key top.zz; known: name, share, inner, colours, parts"),
        ({"name": 3}, "top.name: must be text, got 3; put it in quotes"),
        ({"name": "a", "share": 0}, "top.share: must be a number above 0 and of at most 1, got 0"),
        ({"name": "a", "share": float("nan")}, "top.share: must be a finite number, got nan"),
        ({"name": "a", "inner": 3}, "top.inner: must be a mapping with the keys count, switch, pair, got 3"),
        ({"name": "a", "inner": {"count": 0}}, "top.inner.count: must be a whole number of at least 1, got 0"),
        ({"name": "a", "inner": {"count": True}}, "top.inner.count: must be a whole number of at least 1, got True"),
        ({"name": "a", "inner": {"count": 7}}, "top.inner.count: seven is taken, got 7"),
        (
            {"name": "a", "inner": {"switch": "of"}},
            "top.inner.switch: must be 'auto', 'on', 'off' or a whole number of at least 1, got 'of'; "
            "did you mean 'off'?",
        ),
        (
            {"name": "a", "inner": {"pair": [[0, 1], [2]]}},
            "top.inner.pair: must be a list of 2 whole numbers or a list of lists of 2 whole numbers, "
            "got [[0, 1], [2]]",
        ),
        ({"name": "a", "colours": {"x": {"type": "red", "dept": 1}}},
         "unknown key top.colours.x.dept; did you mean 'depth'?"),
        ({"name": "a", "colours": {"red": {"type": "red", "depth": "x"}}},
         "top.colours.red.depth: must be a whole number, got 'x'"),
        ({"name": "a", "colours": {"x": {"type": "bleu"}}},
         "top.colours.x.type: must be a colour, got 'bleu'; did you mean 'blue'?"),
        ({"name": "a", "colours": {"x": 3}},
         "top.colours.x: must be a mapping with a `type` (red, blue) and what that takes, got 3"),
        ({"name": "a", "colours": {1: {"type": "red"}}}, "top.colours.1: a key must be text, got 1; put it in quotes"),
        ({"name": "a", "parts": [{}, {"count": -1}]},
         "top.parts.1.count: must be a whole number of at least 1, got -1"),
        ("x", "top: must be a mapping with the keys name, share, inner, colours, parts, got 'x'"),
    ],
)  # fmt: skip
def test_a_line_for_each_mistake(content: Any, expected: str) -> None:
    assert lines(content) == [expected]


class WordOrSection(Section):
    how: Annotated[Literal["auto", "off"], Word] | Inner = Field("auto", description="auto, off, or a mapping")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"count": 0}, "how.count: must be a whole number of at least 1, got 0"),
        ({"cuont": 1}, "unknown key how.cuont; did you mean 'count'?"),
        ("of", "how: must be auto, off, or a mapping, got 'of'; did you mean 'off'?"),
        ([1], "how: must be auto, off, or a mapping, got [1]"),
    ],
)
def test_a_mapping_in_the_place_of_a_word_is_judged_as_the_section(how: Any, expected: str) -> None:
    content = {"how": how}
    with pytest.raises(ValidationError) as caught:
        WordOrSection.model_validate(content)
    assert mistakes(caught.value, WordOrSection, content) == [expected]


def test_switches_and_numbers() -> None:
    assert Inner(switch=False).switch == "off" and Inner(switch=True).switch == "on" and Inner(switch=3).switch == 3
    assert Inner(count=3.0).count == 3


def test_descriptions() -> None:
    assert describe(list[Annotated[int, Field(ge=0, le=9)]])[0] == "a list of whole numbers from 0 to 9"
    assert describe(bool | None)[0] == "true or false"


def test_short() -> None:
    itself: dict[str, Any] = {}
    itself["a"] = itself
    assert len(short("x" * 9999)) <= 100 and len(short([["x" * 99] * 99] * 99)) <= 120 and len(short(itself)) < 100
    assert short(10**5000) == "a int too long to show"
