"""The cost and the environment of a sweep, and the commands that repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rdistill.report.load import Sweep, mapping, miou, number
from rdistill.report.standing import command_of
from rdistill.report.text import MISSING, Cell, Column, Table, duration, show
from rdistill.sweeps.study.records import TRIALS, TrialRecord, ranked

HOUR = 3600.0  # seconds
LABELS = {  # keys of summary.json's `cost`
    "wall_seconds": "wall-clock",
    "trial_seconds": "trial-hours, each trial's own clock",
    "processes": "trials or cohorts at a time",
    "iterations": "iterations trained",
    "iterations_saved_by_stopping": "iterations spared by early stopping",
    "share_saved_by_stopping": "share saved by early stopping",
    "share_saved_by_cohorts": "share saved by cohorts",
}


def cost(sweep: Sweep) -> Table:
    """The table of time and savings; figures that are not in the files are marked as missing."""
    recorded = mapping(sweep.summary.get("cost"))
    rows = [
        (LABELS.get(key, key.replace("_", " ")), _quantity(key, value))
        for key, value in recorded.items()
        if not isinstance(value, (dict, list))
    ]
    every = [*sweep.records, *sweep.confirming]
    seconds = [
        value for record in every if record.history and (value := number(record.history[-1].get("seconds"))) is not None
    ]
    if not any("trial-hours" in name or "trial hours" in name for name, _ in rows):
        rows.append(
            ("trial-hours, each trial's own clock", f"{sum(seconds) / HOUR:.2f}" if seconds else "not recorded")
        )
    if not any("wall" in name for name, _ in rows):
        rows.append(("wall-clock, by the files' times", _wall_clock(sweep)))
    if not any("stopp" in name for name, _ in rows):
        rows.append(("share saved by early stopping", _saved_by_stopping(sweep)))
    if not any("cohort" in name for name, _ in rows):
        rows.append(("share saved by cohorts", _saved_by_cohorts(every)))
    return Table(
        "What it took",
        [Column("what"), Column("how much", True, rank=0)],
        [[Cell(name), Cell(value)] for name, value in rows],
    )


def environment(sweep: Sweep) -> Table:
    """The table of versions, machine, seeds and data."""
    rows = list(_flat(mapping(sweep.summary.get("environment"))))
    if not rows:
        rows = [("versions and hardware", "not recorded" + (" until the sweep ends" if sweep.running else ""))]
    spec, config = sweep.spec, sweep.config
    search, scheduler = mapping(spec.get("search")), mapping(spec.get("scheduler"))
    confirm = mapping(spec.get("confirm"))
    loader = mapping(config.get("train_dataloader"))
    rows += [
        ("seed of every searched trial", show(spec.get("seed"))),
        ("seeds of the confirmation", show(confirm.get("seeds")) if confirm else "no confirmation asked for"),
        ("search", f"{show(search.get('type'))}, seed {show(search.get('seed'))}"),
        ("scheduler", show(scheduler.get("type"))),
        ("iterations of a trial", show(sweep.iterations)),
        ("images a step", show(loader.get("batch_size"))),
        ("training data", data_of(config, "train")),
        *_without_masks(config),
        ("validation data", data_of(config)),
        ("teacher's weights", ", ".join(teacher_files(config)) or MISSING),
    ]
    return Table(
        "Environment, seeds and data",
        [Column("what"), Column("value", rank=0)],
        [[Cell(name), Cell(value)] for name, value in rows],
    )


def train_command(config: Path, work_dir: str) -> str:
    """The command that repeats a run."""
    return shlex.join(["rdistill", "train", str(config), "--work-dir", work_dir])


def data_of(config: Mapping[str, Any], split: str = "val") -> str:
    """The type, folder and list of a split's dataset."""
    dataset = mapping(mapping(config.get(f"{split}_dataloader")).get("dataset"))
    parts = [str(dataset[key]) for key in ("type", "data_root", "ann_file") if dataset.get(key)]
    return " ".join(parts) or MISSING


def _without_masks(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The row about the folder of images without masks and how many are in each batch; no row if there is none."""
    section = mapping(mapping(config.get("distill")).get("unlabeled"))
    if not section:
        return []
    many = f"{section['per_batch']} images" if section.get("per_batch") else f"share {show(section.get('share'))}"
    return [("folder of images without masks", f"{section.get('img_dir')}, {many} of each batch")]


def teacher_files(config: Mapping[str, Any]) -> list[str]:
    teachers = mapping(config.get("distill")).get("teachers")
    files = [mapping(teacher).get("checkpoint") for teacher in teachers] if isinstance(teachers, list) else []
    return [str(file) for file in files if file]


def commands(sweep: Sweep) -> list[tuple[str, str]]:
    """(description, command) of each command that repeats the sweep or one of its winners."""
    folder = sweep.folder
    command = command_of(sweep)
    lines = [
        (
            "the whole sweep",
            command or f"rdistill sweep SWEEP.yaml --work-dir {shlex.quote(f'{folder}-again')}",
        )
    ]
    confirmed = sweep.confirmed.get("configurations", [])
    winners = [str(mapping(arm).get("id")) for arm in confirmed] or [
        record.id for record in ranked(sweep.trials)[:3] if miou(record) is not None
    ]
    if sweep.baseline is not None:
        winners.append(sweep.baseline.id)
    for name in winners:
        file = folder / TRIALS / name / "trial.py"
        lines.append((f"trial {name}", train_command(file, f"{folder}-{name}-again")))
    if (folder / "best.pth").is_file():
        lines.append(
            ("score the winner", shlex.join(["rdistill", "eval", str(folder / "best.py"), str(folder / "best.pth")]))
        )
    return lines


def _wall_clock(sweep: Sweep) -> str:
    start = sweep.folder / "study.json"
    ends = [file.stat().st_mtime for file in (sweep.folder / TRIALS).glob("*/trial.json")] if start.is_file() else []
    return (
        duration(max(ends) - start.stat().st_mtime) if ends and max(ends) >= start.stat().st_mtime else "not recorded"
    )


def _saved_by_stopping(sweep: Sweep) -> str:
    """The fraction of the planned iterations that early stopping has saved."""
    ended = [record for record in sweep.trials if record.status in ("finished", "stopped")]
    if not sweep.iterations or not ended:
        return "not recorded"
    planned = sweep.iterations * len(ended)
    spared = sum(
        sweep.iterations - int(record.history[-1].get("iter") or 0)
        for record in ended
        if record.status == "stopped" and record.history
    )
    return f"{spared / planned:.0%} of the iterations" if spared else "nothing: no trial was stopped"


def _saved_by_cohorts(records: Iterable[TrialRecord]) -> str:
    """The fraction of the trials' seconds alone that cohorts have saved."""
    spent = alone = 0.0
    for record in records:
        cost = mapping(getattr(record, "cost", None))
        own = number(cost.get("own_seconds")) or 0.0
        for kind in ("teacher", "data"):
            spent += number(cost.get(f"{kind}_seconds")) or 0.0
            alone += number(cost.get(f"{kind}_alone_seconds")) or 0.0
        spent, alone = spent + own, alone + own
    return f"{1 - spent / alone:.0%} of the time" if alone > 0 else "not recorded"


def _quantity(key: str, value: Any) -> str:
    quantity = number(value)
    if quantity is None:
        return show(value)
    if "share" in key or "saved" in key:
        return f"{quantity:.0%}" if abs(quantity) <= 1 else show(value)
    return duration(quantity) if "seconds" in key else show(value)


def _flat(values: Mapping[str, Any], where: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{where} {key}".strip().replace("_", " ")
        if key == "memory_bytes" and number(value) is not None:
            yield f"{where} memory", f"{value / 2**30:.1f} GiB"
        elif isinstance(value, Mapping):
            yield from _flat(value, name)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield name, str(len(value))
        else:
            yield name, show(value)
