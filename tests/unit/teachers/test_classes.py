"""Which class of the student each class of a teacher is: what a map says, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.teachers.classes import describe_classes, student_classes

TEACHER = ("road", "sidewalk", "terrain", "sky")
STUDENT = ("ground", "sky", "pole")


def test_by_names_and_by_numbers() -> None:
    by_names = student_classes({"road": "ground", "terrain": "ground", "sky": "sky"}, TEACHER, STUDENT)
    assert by_names == (0, None, 0, 1)
    assert student_classes({0: 0, 2: "ground", "sky": 1, 1: None}, TEACHER, STUDENT) == by_names
    assert student_classes({0: 0, 3: 1}, (), STUDENT) == (0, None, None, 1)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "classes: names nobody: it must lead to two of the student's classes or more, ground, sky, pole"),
        ({"road": None, "sky": None}, "classes: names nobody"),
        ({"road": "sky", "sky": "sky"}, "classes: leads to 'sky' alone: it must"),
        ({"rod": "ground", "sky": "sky"}, "classes: the teacher has no class 'rod'; did you mean 'road'?"),
        ({"road": "x", "sky": "sky"}, "classes: the student has no class 'x'; ground, sky, pole"),
        ({4: 0, "sky": 1}, "classes: the teacher has no class 4, 0 to 3"),
        ({0: -1, "sky": 1}, "classes: the student has no class -1, 0 to 2"),
        ({"road": 0, 0: 1}, "classes: names the teacher's class 0 (0) twice"),
    ],
)
def test_mistakes(wanted: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        student_classes(wanted, TEACHER, STUDENT)
    (line,) = caught.value.problems
    assert line.startswith(message)


def test_names_that_are_not_known() -> None:
    with pytest.raises(UserError, match="the names of the teacher's classes are not known, got 'road'; use numbers"):
        student_classes({"road": 0, 1: 1}, (), STUDENT)
    with pytest.raises(UserError, match=r"the student's classes have no names; set metainfo.classes"):
        student_classes({0: 0, 1: 1}, TEACHER, ())


def test_the_words_for_it() -> None:
    assert describe_classes((0, None, 0, 1), TEACHER, STUDENT) == (
        "ground <- road + terrain; sky <- sky; not the teacher's: pole; of the teacher's left out: sidewalk"
    )
    assert describe_classes((0, 1), (), ("a", "b")) == "a <- 0; b <- 1"
