"""Maps the classes of a teacher to those of the student, by their names or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.words import listed

MIN_CLASSES = 2  # smallest number of the student's classes in a map: with one, every pixel has the probability 1
MAX_LISTED = 8  # classes in a message


def student_classes(
    classes: Mapping[str | int, str | int | None], teacher: Sequence[str], student: Sequence[str]
) -> tuple[int | None, ...]:
    """For each class of a teacher, the number of the student's class, or None.

    Args:
        classes: the ``classes`` of a config; each class is given by its name or its number, from 0. Classes of the
            teacher that are not in it are mapped to None.
        teacher: names of the teacher's classes, in order; empty if they are not known, so that only numbers are valid.
        student: names of the student's classes, in order.

    Raises:
        UserError: a class does not exist or is named twice, or the map leads to fewer than two classes.
    """
    problems: list[str] = []
    numbers: dict[int, int | None] = {}
    if not student:
        raise UserError("classes: the student's classes have no names; set metainfo.classes of the training data")
    for key, value in classes.items():
        number = _number(key, teacher, "teacher", problems)
        target = None if value is None else _number(value, student, "student", problems)
        if number is not None and number in numbers:
            problems.append(f"classes: names the teacher's class {number} ({key!r}) twice")
        if number is not None:
            numbers[number] = target
    reached = {target for target in numbers.values() if target is not None}
    if not problems and len(reached) < MIN_CLASSES:
        result = "names nobody" if not reached else f"leads to {student[min(reached)]!r} alone"
        names_shown = listed(student, MAX_LISTED)
        problems.append(f"classes: {result}: it must lead to two of the student's classes or more, {names_shown}")
    if problems:
        raise UserError(*problems)
    return tuple(numbers.get(number) for number in range(len(teacher) or max(numbers) + 1))


def describe_classes(to: Sequence[int | None], teacher: Sequence[str], student: Sequence[str]) -> str:
    """A class map as text: ``student class <- teacher class + teacher class``, and the classes without a partner."""
    names = [teacher[number] if number < len(teacher) else str(number) for number in range(len(to))]
    sources = {
        name: [names[number] for number, target in enumerate(to) if target == index]
        for index, name in enumerate(student)
    }
    parts = [f"{name} <- {' + '.join(teachers)}" for name, teachers in sources.items() if teachers]
    absent = [name for name, teachers in sources.items() if not teachers]
    left_out = [name for name, target in zip(names, to, strict=True) if target is None]
    if absent:
        parts.append(f"not the teacher's: {listed(absent, MAX_LISTED)}")
    if left_out:
        parts.append(f"of the teacher's left out: {listed(left_out, MAX_LISTED)}")
    return "; ".join(parts)


def _number(key: str | int, names: Sequence[str], side: str, problems: list[str]) -> int | None:
    if isinstance(key, int):
        if key < 0 or (names and key >= len(names)):
            last = f", 0 to {len(names) - 1}" if names else ", from 0"
            problems.append(f"classes: the {side} has no class {key}{last}")
            return None
        return key
    if key in names:
        return list(names).index(key)
    if not names:
        problems.append(f"classes: the names of the {side}'s classes are not known, got {key!r}; use numbers, from 0")
    else:
        problems.append(
            f"classes: the {side} has no class {key!r}{did_you_mean(key, names) or f'; {listed(names, MAX_LISTED)}'}"
        )
    return None
