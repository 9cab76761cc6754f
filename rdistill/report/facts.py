"""What the page says first: the verdict in one sentence, and the few numbers one wants at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdistill.report.load import Sweep, mapping, miou, number, share
from rdistill.report.text import plural, points, signed
from rdistill.sweeps.study.records import TrialRecord


@dataclass(frozen=True)
class Fact:
    """One figure at the top of the page."""

    label: str
    value: str
    note: str = ""
    colour: str = ""  # a name of the theme


def verdict(sweep: Sweep) -> str:
    """The answer in one sentence: the sweep's own where it has ended, or else what is known so far."""
    own = sweep.summary.get("verdict")
    if sweep.confirmed and isinstance(own, str) and own.strip():
        return own.strip()
    if not sweep.records:
        return "No trial has written a record yet."
    begin = (
        f"Still running ({_progress(sweep)}); searched only, not confirmed: "
        if sweep.running
        else "Searched only, not confirmed: "
    )
    best, baseline = sweep.best, sweep.baseline
    if best is None:
        reason = next((record.reason for record in sweep.trials if record.reason), "")
        return begin + "no trial under a teacher has a score" + (f" ({reason})." if reason else " yet.")
    sentence = f"{best.id} is best with {points(miou(best))} mIoU"
    gain = difference(best, baseline)
    if baseline is None or gain is None:
        return f"{begin}{sentence}; the student alone has no score to compare it with."
    side = "above" if gain >= 0 else "below"
    sentence += f", {points(abs(gain))} points {side} the student alone ({points(miou(baseline))})"
    if baseline.one_class_only:
        sentence += ", which never left the state in which everything is one class: that difference says little."
        return begin + sentence
    return f"{begin}{sentence}, each on one seed: a lead, not a result."


def difference(record: TrialRecord | None, baseline: TrialRecord | None) -> float | None:
    """mIoU of a trial minus that of a baseline."""
    score, baseline_score = miou(record), miou(baseline)
    return None if score is None or baseline_score is None else score - baseline_score


def headline(sweep: Sweep) -> list[Fact]:
    """The few numbers one wants first; confirmed ones where there are any."""
    best, baseline, teacher = sweep.best, sweep.baseline, sweep.teacher_mIoU
    first = sweep.winner
    facts = []
    if first:
        gap = mapping(first.get("difference"))
        base = sweep.confirmed_baseline
        facts += [
            Fact("confirmed difference", signed(number(gap.get("mean"))), interval(gap), "best"),
            *_at_equal_cost(first),
            Fact(f"confirmed, {first.get('id')}", points(number(first.get("mean"))), spread(first), "best"),
            Fact("confirmed baseline", points(number(base.get("mean"))), spread(base), "baseline"),
        ]
        score = number(first.get("mean"))
    else:
        note = f"{best.id}, one seed" if best else "no score yet"
        alone = (
            "one class only"
            if baseline is not None and baseline.one_class_only
            else f"{baseline.id}, one seed"
            if baseline
            else "no score yet"
        )
        facts += [
            Fact("difference, searched", signed(difference(best, baseline)), "not confirmed", "best"),
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


def _at_equal_cost(arm: Mapping[str, Any]) -> list[Fact]:
    gap = mapping(mapping(arm.get("equal_cost")).get("difference"))
    return [Fact("at equal cost", signed(number(gap.get("mean"))), interval(gap), "best")] if gap else []


def counts(records: Iterable[TrialRecord]) -> str:
    """How many trials ended how: '5 finished, 3 stopped'."""
    by_status: dict[str, int] = {}
    for record in records:
        by_status[record.status] = by_status.get(record.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in by_status.items())


def _progress(sweep: Sweep) -> str:
    done = sum(record.status != "running" for record in sweep.records)
    trials = mapping(sweep.spec.get("search")).get("num_trials")
    if not isinstance(trials, int):
        return f"{plural(done, 'trial')} done"
    alone = mapping(sweep.spec.get("baseline"))
    baselines = 1 + (alone.get("num_trials") or trials if alone.get("search") else 0)
    return f"{done} of {trials + baselines} trials done"


def interval(gap: Mapping[str, Any]) -> str:
    low, high = number(gap.get("low")), number(gap.get("high"))
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def spread(entry: Mapping[str, Any]) -> str:
    sd = number(entry.get("sd"))
    return f"± {sd:.2f} over {entry.get('n')} seeds" if sd is not None else ""
