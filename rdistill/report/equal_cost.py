"""Tables of the confirmed students' cost, and of their differences to a student alone at equal cost."""

from __future__ import annotations

from typing import Any

from rdistill.core.one_class import trained_of, when_trained
from rdistill.core.words import counted
from rdistill.report.facts import between, interval
from rdistill.report.load import Sweep, mapping, number
from rdistill.report.standing import decided
from rdistill.report.text import MISSING, Cell, Column, Table, cell, condensed, signed
from rdistill.schemas.summary import Arm

ALONE = "student alone"


def equal_cost_table(sweep: Sweep) -> Table | None:
    """Each configuration compared with the student alone that trained for as long; None if there is none."""
    rows, marks = [], []
    for arm in sweep.confirmed.get("configurations", []):
        cost = mapping(arm.get("equal_cost"))
        if not cost.get("n"):  # no run has finished yet
            continue
        gap = mapping(cost.get("difference"))
        stuck, alone = cost.get("never_trained") or [], when_trained(cost)
        rows.append(
            [
                Cell(
                    str(arm.get("id", MISSING)),
                    note=f"{counted(len(stuck), 'run')} alone never left one class" if stuck else "",
                ),
                cell(cost.get("iterations")),
                cell(number(when_trained(arm)["mean"]), ".2f"),
                cell(number(alone["mean"]), ".2f"),
                cell(number(alone["sd"]), ".2f"),
                cell(trained_of(cost)),
                Cell(signed(number(gap.get("mean"))), number(gap.get("mean"))),
                Cell(interval(gap) or MISSING),
                cell(number(gap.get("p_adjusted")), ".3g"),
            ]
        )
        marks.append("is-best" if gap.get("above_zero") else "")
    columns = [
        Column("configuration", rank=0),
        Column("iterations alone", True, "of the student alone, in the seconds of a distilled run"),
        Column("mean mIoU", True, rank=0),
        Column("alone, mean mIoU", True),
        Column("sd", True, rank=3),
        Column("runs", True, rank=3),
        Column("difference", True, rank=0),
        Column("95 % interval", True),
        Column("p", True, "paired, adjusted for all comparisons of the study", rank=2),
    ]
    title = "At equal cost: against the student alone, trained for as long as the distilled student"
    return condensed(Table(title, columns, rows, marks)) if rows else None


def seconds_table(sweep: Sweep) -> Table | None:
    """Seconds of a run's training steps, as measured and as if it had trained alone; None if none are known."""
    confirmed = sweep.confirmed
    base = sweep.confirmed_baseline
    rows = []
    for arm in ([base] if base else []) + list(confirmed.get("configurations", [])):
        kind = ALONE if arm is base or arm == base else "distilled"
        rows.append(_seconds(str(arm.get("id")), kind, None, arm))
        if cost := mapping(arm.get("equal_cost")):
            rows.append(_seconds(f"{cost.get('id')} as long as {arm.get('id')}", ALONE, cost.get("iterations"), cost))
    rows = [row for row in rows if row[3].text != MISSING]
    counts = str(confirmed.get("seconds", "real"))
    columns = [
        Column("arm"),
        Column("student"),
        Column("iterations", True),
        Column("real, s", True, "the teacher and the data shared with others, teacher outputs remembered"),
        Column("alone, s", True, "a teacher and the data for itself, every teacher output computed"),
    ]
    title = f"Seconds of a run's training steps, mean over seeds; equal cost goes by the {counts} ones"
    return Table(title, columns, rows) if rows else None


def uncertainty_table(sweep: Sweep) -> Table | None:
    """Every difference with its intervals over seeds and over seeds and images, and the larger source of error."""
    rows = []
    for arm in sweep.confirmed.get("configurations", []):
        for equal, gap in (
            ("iterations", mapping(arm.get("difference"))),
            ("cost", mapping(mapping(arm.get("equal_cost")).get("difference"))),
        ):
            if number(gap.get("low_seeds")) is None:
                continue
            alone = between(number(gap.get("low_seeds")), number(gap.get("high_seeds")))
            rows.append(
                [
                    cell(str(arm.get("id"))), cell(equal),
                    Cell(signed(number(gap.get("mean"))), number(gap.get("mean"))), cell(gap.get("n")),
                    Cell(alone), cell(gap.get("images")), Cell(interval(gap)),
                    cell(str(gap.get("binds") or "seeds")), cell(number(gap.get("sign_flip_p")), ".3g"),
                    cell(decided(gap) or MISSING),
                ]
            )  # fmt: skip
    columns = [
        Column("configuration"), Column("at equal", rank=0), Column("difference", True, rank=0),
        Column("pairs", True, rank=3), Column("95 % over seeds", True), Column("images", True, rank=3),
        Column("95 % over seeds and images", True), Column("wider by", rank=2),
        Column("sign-flip p", True, "exact; from six pairs on", rank=4), Column("answer"),
    ]  # fmt: skip
    return condensed(Table("Two sources of chance: other seeds, and other images", columns, rows)) if rows else None


def looks_note(sweep: Sweep) -> list[str]:
    """A sentence about the looks at the results, if there were several."""
    looks = mapping(sweep.confirmed.get("looks"))
    if not looks:
        return []
    each = [mapping(look) for look in looks.get("each") or []]
    if not each:
        return [f"Seeds are added until the answer is decided, up to {looks.get('most')}; none was looked at yet."]
    seen = ", ".join(str(look.get("seeds")) for look in each)
    state = "It has ended." if looks.get("over") else "It goes on."
    return [
        f"Seeds were added until the answer was decided: looked at after {seen} of up to {looks.get('most')}. {state}"
    ]


def _seconds(name: str, kind: str, iterations: Any, arm: Arm) -> list[Cell]:
    seconds = mapping(arm.get("seconds"))
    shown = cell(iterations) if iterations is not None else cell("as configured")
    return [cell(name), cell(kind), shown, *[cell(number(seconds.get(which)), ".1f") for which in ("real", "alone")]]
