"""The diagnosis of a configuration: figures from its confirmation runs that say why it gains or not, in sentences too.

The figures come from :mod:`rdistill.training.diagnosis` at validations, from the logged losses and from the scores.
docs/why.md explains each figure and its limits. This module has pure functions of records and needs neither torch nor
Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rdistill.schemas.run import Diagnosis, ValidationFigures
from rdistill.schemas.why import LossFigures, OverTraining, Reason, TeacherFigures, Why, WhyFigures
from rdistill.sweeps.study.records import CONFIRMED, TrialRecord

# Limits beyond which a sentence warns.
LITTLE_TO_LEARN = 25.0  # percent of the student's errors on which the teacher is right; it warns below this
TOO_SMALL, TOO_LARGE = 0.05, 20.0  # norm of the distillation's gradient, divided by that of the task's gradient
SAME_WAY, AGAINST = 0.2, -0.1  # cosine of the two gradients
TOO_SURE = 5.0  # the teacher's confidence minus its accuracy, in percent
ALL_BUT_HARD = 0.05  # entropy of the teacher's outputs at a loss's temperature, as a fraction of the largest possible
HARDLY_BETTER = 1.0  # mIoU of the teacher minus that of the student alone
STILL_RISING = 0.5  # gain of mIoU in the last quarter of a training
# Fractions of a loss's first value: change over the training, last value, and change since the middle of the training.
FLAT, EXPLODED, STILL = 0.05, 3.0, 0.02


@dataclass(frozen=True)
class Sentence:
    """A sentence about one figure."""

    about: str
    text: str
    warning: bool  # whether the figure may explain that there is no gain

    def as_json(self) -> Reason:
        return {"about": self.about, "text": self.text, "warning": self.warning}


def why(
    records: Iterable[TrialRecord], baseline: float | None, teachers: Sequence[float | None] = ()
) -> dict[str, Why]:
    """The diagnosis of each confirmed configuration that has one: its ``figures`` and ``sentences``.

    Args:
        records: all records of a sweep; only finished confirmation runs under the teacher are used.
        baseline: mean mIoU of the confirmed baseline, in percent.
        teachers: mIoU of each teacher, in percent, if there are several.
    """
    by_configuration: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.phase == CONFIRMED and not record.is_baseline and record.status == "finished":
            by_configuration.setdefault(record.of, []).append(record)
    reasons: dict[str, Why] = {}
    for name, runs in by_configuration.items():
        if any(entries_of(run) for run in runs):
            figures = figures_of(runs, baseline, teachers)
            reasons[name] = {"figures": figures, "sentences": [sentence.as_json() for sentence in sentences(figures)]}
    return reasons


def entries_of(run: TrialRecord) -> list[Diagnosis]:
    """The diagnoses at the validations of a run, in order, without those that failed."""
    entries = [entry.get("diagnosis") for entry in run.history]
    return [entry for entry in entries if isinstance(entry, dict) and "problem" not in entry]


# --- figures --------------------------------------------------------------------------------------------------------


def figures_of(
    runs: Sequence[TrialRecord], baseline: float | None, teachers: Sequence[float | None] = ()
) -> WhyFigures:
    """Means over the runs of a configuration.

    Returns:
        The figures of the last validation, named as by :func:`rdistill.training.diagnosis.on_validation`;
        ``gradient_ratio`` and ``gradient_cosine`` with ``first``, ``last`` and ``mean`` over the training; ``losses``:
        name -> ``first``, ``middle`` and ``last`` raw value, ``state``, ``ratio`` and ``cosine``; ``taus``;
        ``teacher_lead`` (mIoU of the teacher minus that of the baseline) and ``late_rise`` (gain of mIoU in the last
        quarter of training). With several teachers, ``teachers`` has the figures of each, and the figures outside of it
        are those of the first.
    """
    last = [entries[-1] for run in runs if (entries := entries_of(run))]
    listed = [entry.get("teachers") or [] for entry in last]
    scores = dict(enumerate(teachers))
    return {
        **_teacher_figures(last, _mean(run.teacher_mIoU for run in runs), baseline),
        "teachers": [
            _teacher_figures([each[index] for each in listed if index < len(each)], scores.get(index), baseline)
            for index in range(max(map(len, listed), default=0))
        ],
        "gradient_ratio": _over_training([[entry.get("gradient_ratio") for entry in entries_of(run)] for run in runs]),
        "gradient_cosine": _over_training(
            [[entry.get("gradient_cosine") for entry in entries_of(run)] for run in runs]
        ),
        "losses": _losses(runs),
        "taus": _taus(runs),
        "taught_by": _taught_by(runs),
        "late_rise": _mean(_late_rise(run) for run in runs),
    }


def _teacher_figures(
    entries: Sequence[ValidationFigures], score: float | None, baseline: float | None
) -> TeacherFigures:
    """The figures about one teacher, as means over the runs' last validations.

    Args:
        entries: the last diagnosis of each run.
        score: the teacher's mIoU, in percent.
        baseline: the baseline's mean mIoU, in percent.
    """
    temperatures = dict.fromkeys(tau for entry in entries for tau in entry.get("teacher_entropy") or {})
    return {
        "agreement": _mean(entry.get("agreement") for entry in entries),
        "student_error": _mean(entry.get("student_error") for entry in entries),
        "teacher_error": _mean(entry.get("teacher_error") for entry in entries),
        "errors_repeated": _mean(entry.get("errors_repeated") for entry in entries),
        "errors_to_learn": _mean(entry.get("errors_to_learn") for entry in entries),
        "teacher_confidence": _mean(entry.get("teacher_confidence") for entry in entries),
        "teacher_calibration_error": _mean(entry.get("teacher_calibration_error") for entry in entries),
        "teacher_entropy": {
            tau: _mean((entry.get("teacher_entropy") or {}).get(tau) for entry in entries) for tau in temperatures
        },
        "teacher_lead": None if score is None or baseline is None else score - baseline,
    }


def _over_training(curves: Sequence[Sequence[float | None]]) -> OverTraining:
    """First, last and mean value of a figure, as means over runs; ``curves``: its values at each run's validations."""
    return {
        "first": _mean(curve[0] for curve in curves if curve),
        "last": _mean(curve[-1] for curve in curves if curve),
        "mean": _mean(value for curve in curves for value in curve),
    }


def _losses(runs: Sequence[TrialRecord]) -> dict[str, LossFigures]:
    names = dict.fromkeys(
        key.removeprefix("raw/") for run in runs for entry in run.losses[:3] for key in entry if key.startswith("raw/")
    )
    losses: dict[str, LossFigures] = {}
    for name in names:
        parts = [part for run in runs if (part := _begin_middle_end(run, f"raw/{name}")) is not None]
        if not parts:
            continue
        first, middle, last = (fmean(part[index] for part in parts) for index in range(3))
        last_entries = [entries[-1] for run in runs if (entries := entries_of(run))]
        terms = [term for entry in last_entries if (term := (entry.get("terms") or {}).get(name))]
        losses[name] = {
            "first": _finite(first),
            "middle": _finite(middle),
            "last": _finite(last),
            "state": state_of(first, middle, last),
            "ratio": _mean(term.get("ratio") for term in terms),
            "cosine": _mean(term.get("cosine") for term in terms),
        }
    return losses


def state_of(first: float, middle: float, last: float) -> str:
    """The course of a loss over training.

    It is 'explodes', 'flat' (it never changes), 'saturated' (it does not change after the middle) or 'moves'.
    """
    if not math.isfinite(last) or abs(last) > EXPLODED * max(abs(first), 1e-12):
        return "explodes"
    if abs(last - first) <= FLAT * abs(first):
        return "flat"
    return "saturated" if abs(last - middle) <= STILL * abs(first) else "moves"


def _begin_middle_end(run: TrialRecord, key: str) -> tuple[float, float, float] | None:
    """A logged value at the beginning, in the middle and at the end, each as the mean over a tenth of the training."""
    values = [float(entry[key]) for entry in run.losses if entry.get(key) is not None]
    if len(values) < 3:
        return None
    size = max(1, len(values) // 10)
    half = len(values) // 2
    return fmean(values[:size]), fmean(values[half : half + size]), fmean(values[-size:])


def _taus(runs: Sequence[TrialRecord]) -> dict[str, float]:
    """Loss -> temperature, for losses that have one."""
    temperatures = {}
    for key, value in (runs[0].effective if runs else {}).items():
        if key.startswith("distill.losses.") and key.endswith(".tau") and isinstance(value, (int, float)):
            temperatures[key.split(".")[2]] = float(value)
    return temperatures


def _taught_by(runs: Sequence[TrialRecord]) -> dict[str, int]:
    """Loss -> index of its teacher, for losses with a temperature and a single teacher."""
    effective = runs[0].effective if runs else {}
    teachers = {name: effective.get(f"distill.losses.{name}.teacher", 0) for name in _taus(runs)}
    return {name: teacher for name, teacher in teachers.items() if isinstance(teacher, int)}


def _late_rise(run: TrialRecord) -> float | None:
    """Best mIoU in the last quarter of the validations minus the best before it; None with fewer than four."""
    scores = [float(entry["mIoU"]) for entry in run.history if entry.get("mIoU") is not None]
    if len(scores) < 4:
        return None
    late = max(1, len(scores) // 4)
    return max(scores[-late:]) - max(scores[:-late])


# --- in words -------------------------------------------------------------------------------------------------------


def sentences(figures: WhyFigures) -> list[Sentence]:
    """A sentence about each figure that is known."""
    several = figures["teachers"]
    teachers = dict(enumerate(several)) if several else {None: figures}
    possible = [
        *(_agreement(each, number) for number, each in teachers.items()),
        *(_errors(each, number) for number, each in teachers.items()),
        _size(figures["gradient_ratio"]),
        _direction(figures["gradient_cosine"]),
        *(_loss(name, loss) for name, loss in figures["losses"].items()),
        *(_confidence(each, number) for number, each in teachers.items()),
        *(
            _temperature(name, figures["taus"][name], several[teacher] if several else figures)
            for name, teacher in figures["taught_by"].items()
        ),
        *(_lead(each["teacher_lead"], number) for number, each in teachers.items()),
        _plateau(figures["late_rise"]),
    ]
    return [sentence for sentence in possible if sentence is not None]


def _numbered(about: str, number: int | None) -> str:
    """Appends the index of one of several teachers, which starts at 0 as in the config; None for a single teacher."""
    return about if number is None else f"{about} {number}"


def _agreement(figures: TeacherFigures, number: int | None) -> Sentence | None:
    if figures["agreement"] is None:
        return None
    text = f"give {figures['agreement']:.1f} % of the pixels the same class."
    return Sentence(_numbered("agreement", number), f"Student and {_numbered('teacher', number)} {text}", False)


def _errors(figures: TeacherFigures, number: int | None) -> Sentence | None:
    repeated, left = figures["errors_repeated"], figures["errors_to_learn"]
    if repeated is None or left is None:
        return None
    teacher = _numbered("teacher", number)
    text = (
        f"The student repeats {repeated:.0f} % of the errors of {teacher}; that is right on {left:.0f} % of the "
        f"student's"
        if number is not None
        else f"The student repeats {repeated:.0f} % of the teacher's errors; the teacher is right on {left:.0f} % of "
        f"the student's"
    )
    little = left < LITTLE_TO_LEARN
    warning = ": it can show the student little" if little else ""
    return Sentence(_numbered("errors", number), f"{text}{warning}.", little)


def _size(ratio: OverTraining) -> Sentence | None:
    if ratio["mean"] is None or ratio["first"] is None or ratio["last"] is None:
        return None
    text = (
        f"The gradient of the distillation is {ratio['mean']:.2g} times that of the task "
        f"({ratio['first']:.2g} at the first validation, {ratio['last']:.2g} at the last)"
    )
    if ratio["mean"] < TOO_SMALL:
        return Sentence("gradient size", f"{text}: too small to steer; raise the losses' weights.", True)
    if ratio["mean"] > TOO_LARGE:
        return Sentence("gradient size", f"{text}: the task has no say; lower the losses' weights.", True)
    return Sentence("gradient size", f"{text}.", False)


def _direction(cosine: OverTraining) -> Sentence | None:
    mean = cosine["mean"]
    if mean is None or cosine["first"] is None or cosine["last"] is None:
        return None
    cosines = f"(cosine {mean:.2f}; {cosine['first']:.2f} at the first validation, {cosine['last']:.2f} at the last)"
    if mean < AGAINST:
        return Sentence(
            "gradient direction",
            f"The gradient of the distillation points against that of the task {cosines}: the two undo each other.",
            True,
        )
    if mean < SAME_WAY:
        return Sentence(
            "gradient direction",
            f"The gradient of the distillation points across that of the task {cosines}: it pulls elsewhere.",
            False,
        )
    return Sentence(
        "gradient direction", f"The gradient of the distillation points the way of that of the task {cosines}.", False
    )


def _loss(name: str, loss: LossFigures) -> Sentence:
    values = f"from {_number(loss['first'])} to {_number(loss['last'])}"
    by_state = {
        "explodes": (f"The loss {name} explodes, {values}: lower its weight or the learning rate.", True),
        "flat": (f"The loss {name} never moves, {values}: the student cannot or need not follow it.", True),
        "saturated": (f"The loss {name} goes {values} and stands still since the middle of training.", False),
        "moves": (f"The loss {name} goes {values}, and still moves at the end.", False),
    }
    text, warning = by_state[loss["state"]]
    return Sentence(f"loss {name}", text, warning)


def _confidence(figures: TeacherFigures, number: int | None) -> Sentence | None:
    sure, wrong, off = figures["teacher_confidence"], figures["teacher_error"], figures["teacher_calibration_error"]
    if sure is None or wrong is None or off is None:
        return None
    right = 100 - wrong
    text = (
        f"{_the_teacher(number)} is {sure:.1f} % sure on average and right on {right:.1f} % of the pixels "
        f"(calibration error {off:.1f} %)"
    )
    over = sure - right > TOO_SURE
    return Sentence(_numbered("confidence", number), f"{text}{': too sure of itself' if over else ''}.", over)


def _the_teacher(number: int | None) -> str:
    return "The teacher" if number is None else f"Teacher {number}"


def _temperature(name: str, tau: float, teacher: TeacherFigures) -> Sentence | None:
    entropy = teacher["teacher_entropy"]
    own = entropy.get(f"{tau:g}")
    if own is None:
        return None
    higher = [(float(key), value) for key, value in entropy.items() if value is not None and float(key) > tau]
    text = f"At {name}'s temperature {tau:g} the teacher's outputs have {own:.0%} of the largest possible entropy"
    if own < ALL_BUT_HARD:
        text += ": all but hard labels"
        if softer := next(((key, value) for key, value in sorted(higher) if value >= ALL_BUT_HARD), None):
            text += f"; a temperature of {softer[0]:g} shows more ({softer[1]:.0%})"
    return Sentence(f"temperature {name}", f"{text}.", own < ALL_BUT_HARD)


def _lead(lead: float | None, number: int | None) -> Sentence | None:
    if lead is None:
        return None
    if lead < HARDLY_BETTER:
        against = f"at {lead:+.2f} mIoU against the student alone: hardly better, there is little to gain."
        text = f"{_the_teacher(number)} is {against}"
        return Sentence(_numbered("teacher's lead", number), text, True)
    return Sentence(
        _numbered("teacher's lead", number),
        f"{_the_teacher(number)} is {lead:.2f} mIoU above the student alone.",
        False,
    )


def _plateau(rise: float | None) -> Sentence | None:
    if rise is None:
        return None
    if rise > STILL_RISING:
        text = f"The score still rose by {rise:.2f} in the last quarter of training: it is not done; train longer."
        return Sentence("plateau", text, True)
    return Sentence("plateau", f"The score stood still in the last quarter of training ({rise:+.2f}).", False)


def _number(value: float | None) -> str:
    return "a value that is not finite" if value is None else f"{value:.3g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return fmean(numbers) if numbers else None
