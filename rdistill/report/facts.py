"""The top of the page: the verdict, and the most important numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rdistill.core.one_class import trained_of, when_trained
from rdistill.core.words import counted
from rdistill.report.load import Sweep, mapping, miou, number, share
from rdistill.report.standing import MUTED, colour_of, decided
from rdistill.report.text import points, signed
from rdistill.schemas.summary import Arm, PairedDifference
from rdistill.sweeps.findings.verdict import search_lead
from rdistill.sweeps.study.records import TrialRecord

_LABELS = {  # decision about a confirmed difference -> its label
    "better": "better by",
    "worse": "worse by",
    "open": "difference, not decided",
    "futile": "difference, not decided",
    None: "nothing to compare",
}


@dataclass(frozen=True)
class Fact:
    """One figure at the top of the page."""

    label: str
    value: str
    note: str = ""
    colour: str = ""  # a name of the theme


def verdict(sweep: Sweep) -> str:
    """The sweep's own verdict after a confirmation; otherwise a sentence about the results so far."""
    own = sweep.summary.get("verdict")
    if sweep.confirmed and isinstance(own, str) and own.strip():
        return own.strip()
    if not sweep.records:
        return "No trial has written a record yet."
    begin = "Searched only, not confirmed: "
    if sweep.summary.get("status") == "interrupted":
        begin = f"Interrupted ({_progress(sweep)}); searched only, not confirmed: "
    if sweep.running:
        begin = f"Still running ({_progress(sweep)}); searched only, not confirmed: "
    reason = next((record.reason for record in sweep.trials if record.reason), "")
    return begin + search_lead(sweep.best, sweep.baseline, sweep.never_trained, reason)


def headline(sweep: Sweep) -> list[Fact]:
    """The most important numbers; those of the confirmation if there was one."""
    best, baseline, teacher = sweep.best, sweep.baseline, sweep.teacher_mIoU
    first = sweep.winner
    facts = []
    if first:
        gap = mapping(first.get("difference"))
        base = sweep.confirmed_baseline
        facts += [
            Fact(_LABELS[decided(gap)], signed(number(gap.get("mean"))), interval(gap), colour_of(gap)),
            *_at_equal_cost(first),
            Fact(f"confirmed, {first.get('id')}", points(number(when_trained(first)["mean"])), spread(first), "best"),
            Fact("confirmed baseline", points(number(when_trained(base)["mean"])), spread(base), "baseline"),
        ]
        score = number(when_trained(first)["mean"])
    else:
        note = f"{best.id}, one seed" if best else "no score yet"
        alone = (
            "one class only"
            if baseline is not None and baseline.id in sweep.never_trained
            else f"{baseline.id}, one seed"
            if baseline
            else "no score yet"
        )
        facts += [
            Fact("difference on one seed", signed(sweep.difference(best, baseline)), "not confirmed", MUTED),
            Fact("best mIoU, searched", points(miou(best)), note, "best"),
            Fact("student alone", points(miou(baseline)), alone, "baseline"),
        ]
        score = miou(best)
    reached = share(first)
    if reached is None and score is not None and teacher:
        reached = score / teacher
    if teacher is not None:
        facts.append(
            Fact("teacher", points(teacher), "" if reached is None else f"{reached:.1%} of it reached", "teacher")
        )
    facts.append(
        Fact("trials", str(len(sweep.records) + len(sweep.confirming)), counts((*sweep.records, *sweep.confirming)))
    )
    return facts


def _at_equal_cost(arm: Arm) -> list[Fact]:
    gap = mapping(mapping(arm.get("equal_cost")).get("difference"))
    return [Fact("at equal cost", signed(number(gap.get("mean"))), interval(gap), colour_of(gap))] if gap else []


def counts(records: Iterable[TrialRecord]) -> str:
    """The number of trials with each status, such as '5 finished, 3 stopped'."""
    by_status: dict[str, int] = {}
    for record in records:
        by_status[record.status] = by_status.get(record.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in by_status.items())


def _progress(sweep: Sweep) -> str:
    done = sum(record.status != "running" for record in sweep.records)
    trials = mapping(sweep.spec.get("search")).get("num_trials")
    if not isinstance(trials, int):
        return f"{counted(done, 'trial')} done"
    alone = mapping(sweep.spec.get("baseline"))
    baselines = 1 + (alone.get("num_trials") or trials if alone.get("search") else 0)
    return f"{done} of {counted(trials + baselines, 'trial')} done"


def interval(gap: PairedDifference) -> str:
    """A difference's 95 % interval; an empty text if it has none."""
    return between(number(gap.get("low")), number(gap.get("high")))


def between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def spread(arm: Arm) -> str:
    sd = number(when_trained(arm)["sd"])
    return f"± {sd:.2f} over {trained_of(arm)} seeds" if sd is not None else ""
