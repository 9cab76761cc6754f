"""Which class of the student each class of a teacher is, by their names or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rdistill.core.errors import UserError, did_you_mean

FEWEST = 2  # classes of the student that a map must lead to: of one alone every pixel has the probability 1
LISTED = 8  # classes named in one line


def student_classes(
    wanted: Mapping[str | int, str | int | None], teacher: Sequence[str], student: Sequence[str]
) -> tuple[int | None, ...]:
    """For each class of a teacher the number of the student's class; None where it has none.

    Args:
        wanted: what a config says; a class by its name or its number, from 0. Classes that it leaves out have none.
        teacher: names of the teacher's classes, in order; empty where they are not known, so that numbers count.
        student: names of the student's classes, in order.

    Raises:
        UserError: a class that there is not, one that is named twice, or a map that leads to fewer than two classes.
    """
    problems: list[str] = []
    numbers: dict[int, int | None] = {}
    if not student:
        raise UserError("classes: the student's classes have no names; set metainfo.classes of the training data")
    for key, value in wanted.items():
        number = _number(key, teacher, "teacher", problems)
        target = None if value is None else _number(value, student, "student", problems)
        if number is not None and number in numbers:
            problems.append(f"classes: names the teacher's class {number} ({key!r}) twice")
        if number is not None:
            numbers[number] = target
    reached = {target for target in numbers.values() if target is not None}
    if not problems and len(reached) < FEWEST:
        what = "names nobody" if not reached else f"leads to {student[min(reached)]!r} alone"
        problems.append(f"classes: {what}: it must lead to two of the student's classes or more, {_listed(student)}")
    if problems:
        raise UserError(*problems)
    return tuple(numbers.get(number) for number in range(len(teacher) or max(numbers) + 1))


def describe_classes(to: Sequence[int | None], teacher: Sequence[str], student: Sequence[str]) -> str:
    """``student class <- teacher class + teacher class``, and what of either side has no part."""
    names = [teacher[number] if number < len(teacher) else str(number) for number in range(len(to))]
    sources = {
        name: [names[number] for number, target in enumerate(to) if target == index]
        for index, name in enumerate(student)
    }
    parts = [f"{name} <- {' + '.join(those)}" for name, those in sources.items() if those]
    absent = [name for name, those in sources.items() if not those]
    left_out = [name for name, target in zip(names, to, strict=True) if target is None]
    if absent:
        parts.append(f"not the teacher's: {_listed(absent)}")
    if left_out:
        parts.append(f"of the teacher's left out: {_listed(left_out)}")
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
        problems.append(f"classes: the {side} has no class {key!r}{did_you_mean(key, names) or f'; {_listed(names)}'}")
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
