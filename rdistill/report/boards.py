"""The leaderboards of the search and of the confirmation, as separate tables."""

from __future__ import annotations

from collections.abc import Sequence

from rdistill.core.one_class import trained_of, when_trained
from rdistill.core.words import counted
from rdistill.report.facts import between, interval
from rdistill.report.load import Sweep, iou, is_baseline, mapping, miou, number, share
from rdistill.report.text import MISSING, Cell, Column, Table, cell, condensed, duration, short, signed
from rdistill.schemas.summary import Arm, Confirmed
from rdistill.sweeps.findings.confirm import PYTORCH, exported_kind
from rdistill.sweeps.study.records import TrialRecord, measured_names, notes_of, ranked, twins

CLASSES_SHOWN = 6  # the leaderboard has columns for at most this many classes; a figure shows them in any case


def leaderboard(sweep: Sweep) -> Table:
    """The table of every searched trial and baseline, best first, with one seed each."""
    keys, classes = sweep.keys, sweep.classes if len(sweep.classes) <= CLASSES_SHOWN else []
    extra = sorted({key for record in sweep.baselines for key in record.values if key not in keys})
    twin_of = {second: first for first, second in twins(sweep.records)}
    measured = measured_names(sweep.records)
    columns = [
        Column("trial", rank=0),
        Column("status", rank=4),
        Column("mIoU", True, rank=0),
        Column("gain", True, "difference to the best student alone", rank=0),
        *[
            Column(short(key, [*keys, *extra]), _are_numbers(sweep.records, key), key, rank=1 if key in keys else 2)
            for key in [*keys, *extra]
        ],
        *[Column(f"{name} weight", True, "measured, so that its share comes out", rank=3) for name in measured],
        *[Column(name, True, f"IoU of {name}", rank=3) for name in classes],
        Column("iterations", True, rank=4),
        Column("time", True, rank=5),
    ]
    rows, marks = [], []
    for record in ranked(sweep.records):
        best = record.best
        gap = None if is_baseline(record) else sweep.difference(record, sweep.baseline)
        seconds = number(record.history[-1].get("seconds")) if record.history else None
        values = {**record.values, **{key: record.effective[key] for key in record.values if key in record.effective}}
        rows.append(
            [
                Cell(
                    record.id, record.id, note="; ".join(notes_of(record, twin_of, sweep.never_trained, sweep.folder))
                ),
                Cell(record.status, record.status, record.status),
                cell(miou(record), ".2f"),
                Cell(signed(gap), gap),
                *[cell(values.get(key)) for key in [*keys, *extra]],
                *[cell(number(record.weights.get(name))) for name in measured],
                *[cell(iou(best).get(name), ".2f") for name in classes],
                cell(record.history[-1].get("iter") if record.history else 0),
                Cell(MISSING if seconds is None else duration(seconds), seconds),
            ]
        )
        marks.append(
            "is-best"
            if record is sweep.chosen
            else "is-baseline"
            if record is sweep.baseline
            else "is-alone"
            if is_baseline(record)
            else ""
        )
    return condensed(Table("Searched: the best validation of each trial, one seed each", columns, rows, marks))


def _are_numbers(rows: Sequence[TrialRecord | Arm], key: str) -> bool:
    """Whether all values of a key are numbers; otherwise its column is one of texts."""
    values = [mapping(row.values if isinstance(row, TrialRecord) else row.get("values")) for row in rows]
    return all(number(each[key]) is not None for each in values if key in each)


def confirmed_table(sweep: Sweep) -> Table | None:
    """The table of means over fresh seeds and differences to the baseline; None without a confirmation."""
    confirmed = sweep.confirmed
    if not confirmed:
        return None
    base = sweep.confirmed_baseline
    arms = [*confirmed["configurations"], *([base] if base else [])]
    keys = list(dict.fromkeys(key for arm in arms for key in mapping(arm.get("values"))))
    seeds = confirmed.get("seeds") or []
    files = _files(confirmed)
    columns = [
        Column("configuration", rank=0),
        Column("mean mIoU", True, f"of the exported {files}" if files else "", rank=0),
        *_pytorch_columns(files),
        Column("sd", True, rank=2),
        Column("runs", True, rank=3),
        Column("difference", True, rank=0),
        Column("95 % interval", True, rank=1),
        Column("p", True, "paired, adjusted for several configurations where it was", rank=2),
        Column("of teacher", True, rank=2),
        *[Column(short(key, keys), _are_numbers(arms, key), key, rank=3) for key in keys],
        *[Column(f"seed {seed}", True, rank=4) for seed in seeds],
    ]
    rows, marks = [], []
    for arm in arms:
        gap, values, scores = mapping(arm.get("difference")), mapping(arm.get("values")), mapping(arm.get("scores"))
        p = number(gap.get("p_adjusted")) if gap.get("p_adjusted") is not None else number(gap.get("p"))
        stuck = int(number(arm.get("one_class_runs")) or 0)
        alone, trained = arm is base, when_trained(arm)
        name = str(arm.get("id", MISSING)) + (" (student alone)" if alone else "")
        rows.append(
            [
                Cell(name, name, note=f"{counted(stuck, 'run')} never left one class" if stuck else ""),
                cell(number(trained["mean"]), ".2f"),
                *_pytorch_cells(arm, files),
                cell(number(trained["sd"]), ".2f"),
                cell(trained_of(arm)),
                Cell(signed(number(gap.get("mean"))), number(gap.get("mean"))),
                Cell(interval(gap) or MISSING),
                cell(p, ".3g"),
                cell(share(arm), ".1%"),
                *[cell(values.get(key)) for key in keys],
                *[cell(number(scores.get(str(seed))), ".2f") for seed in seeds],
            ]
        )
        marks.append("is-baseline" if alone else "is-best" if gap.get("above_zero") else "")
    caption = f"Confirmed: fresh seeds {', '.join(map(str, seeds))}, paired with the baseline's"
    caption += f"; scores are of the exported {files}" if files else ""
    return condensed(Table(caption, columns, rows, marks))


def pairwise_table(sweep: Sweep) -> Table | None:
    """The table of differences between every two confirmed configurations; None if a single one was confirmed."""
    rows = []
    for pair in sweep.confirmed.get("pairwise", []):
        low, high = pair["low"], pair["high"]
        better = pair["first"] if low > 0 else pair["second"] if high < 0 else "neither is shown to be"
        rows.append(
            [
                cell(pair["first"]), cell(pair["second"]), Cell(signed(pair["mean"]), pair["mean"]),
                Cell(between(low, high)), cell(pair["p_adjusted"], ".3g"), cell(pair["n"]), cell(pair["images"]),
                cell(better),
            ]
        )  # fmt: skip
    columns = [
        Column("configuration", rank=0), Column("minus", rank=0), Column("difference", True, rank=0),
        Column("interval", True, "all of these intervals hold together with 95 %", rank=1),
        Column("p", True, "adjusted for all of these comparisons", rank=2), Column("pairs", True, rank=3),
        Column("images", True, rank=3), Column("better", rank=1),
    ]  # fmt: skip
    caption = "Between the confirmed configurations, at equal iterations; the intervals hold together with 95 %"
    return condensed(Table(caption, columns, rows)) if rows else None


def _files(confirmed: Confirmed) -> str:
    """``INT8 files`` if exported files were confirmed; otherwise an empty text."""
    return exported_kind(str(confirmed.get("of") or PYTORCH))


def _pytorch_columns(files: str) -> list[Column]:
    if not files:
        return []
    return [
        Column("in PyTorch", True, "mean mIoU of the same runs before their export", rank=1),
        Column("difference in PyTorch", True, "nothing is decided by it", rank=2),
    ]


def _pytorch_cells(arm: Arm, files: str) -> list[Cell]:
    """The cells with the scores in PyTorch of runs whose exported files were confirmed."""
    if not files:
        return []
    own = mapping(arm.get("pytorch"))
    gap = number(mapping(own.get("difference")).get("mean"))
    return [cell(number(own.get("mean")), ".2f"), Cell(signed(gap), gap)]


def test_split_table(sweep: Sweep) -> Table | None:
    """The table of scores on the test split, which are taken once; None if there are none."""
    test = mapping(sweep.summary.get("test"))
    files = _files(sweep.confirmed)
    arms = [mapping(arm) for arm in (*(test.get("configurations") or []), test.get("baseline")) if arm]
    rows = []
    for arm in arms:
        gap, trained = mapping(arm.get("difference")), when_trained(arm)
        rows.append(
            [
                cell(str(arm.get("id"))),
                cell(number(trained["mean"]), ".2f"),
                *_pytorch_cells(arm, files),
                cell(number(trained["sd"]), ".2f"),
                cell(trained_of(arm)),
                Cell(signed(number(gap.get("mean"))), number(gap.get("mean"))),
                Cell(interval(gap) or MISSING),
                cell(share(arm), ".1%"),
            ]
        )
    teacher = number(mapping(test.get("teacher")).get("mIoU"))
    if teacher is not None:
        rows.append([cell("teacher"), cell(teacher, ".2f"), *[cell(None)] * (5 + len(_pytorch_columns(files)))])
    columns = [Column("model"), Column("mean mIoU", True, rank=0), *_pytorch_columns(files)]
    columns += [Column("sd", True, rank=2)]
    columns += [Column("runs", True, rank=3), Column("difference", True, rank=0)]
    columns += [Column("95 % interval", True), Column("of teacher", True, rank=2)]
    return Table("On the test split, scored once at the end", columns, rows) if rows else None
