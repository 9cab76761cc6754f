"""Fits the schedules of the learning rate and of the losses' weights to a run of another length."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from mmengine.config import Config

from rdistill.config.walk import kind_of, one_or_more

SHARE_BATCHES = 8  # default number of batches that measure the weight of a loss that is given as a share
ENDLESS = 10**9  # mmengine's value for an `end` that is not set
# These schedulers of mmengine undo their factor in the last iteration of their phase. With a phase of one iteration,
# the learning rate would keep the first factor, such as 1e-6, until the end of the training.
NEED_TWO_ITERATIONS = ("LinearLR", "ConstantLR", "LinearMomentum", "ConstantMomentum", "LinearParamScheduler")
DURATIONS = ("T_max", "total_iters", "total_steps", "step_size")  # keys with a number of iterations, not a position


def stretch_schedules(cfg: Config, iterations: int) -> list[str]:
    """Sets the length of the training in place, and fits the schedules to it; returns the problems.

    Begins and ends keep their order and their share of the training. Each phase keeps at least one iteration, a
    warm-up at least two.
    """
    if iterations < 1:
        return [f"--iters: must be at least 1, got {iterations}"]
    if cfg.train_cfg.get("max_iters") is None:
        return ["--iters: the config trains by epochs; use --set train_cfg.max_epochs=N"]
    before = cfg.train_cfg.max_iters
    schedulers = [
        scheduler for scheduler in one_or_more(cfg.get("param_scheduler")) if scheduler.get("by_epoch") is False
    ]
    phases = [_phase(scheduler) for scheduler in schedulers]
    positions = _new_positions(phases, before, iterations)
    if positions is None:
        minimum = next(n for n in count(iterations + 1) if _new_positions(phases, before, n) is not None)
        return [
            f"--iters: {iterations} are too few for the {len(schedulers)} schedules of param_scheduler, one after the "
            f"other; at least {minimum} are needed, or another param_scheduler"
        ]
    for scheduler, (begin, end, _) in zip(schedulers, phases, strict=True):
        _move(scheduler, begin, end, positions, iterations / before)
    _stretch_weight_schedules(cfg, iterations / before)
    cfg.train_cfg.max_iters = iterations
    return []


def schedule_notes(cfg: Mapping[str, Any]) -> list[str]:
    """Notes about schedules of the learning rate that do not fit the length of the training; one line each.

    Such a config can be trained, but probably not as intended.
    """
    iterations = cfg["train_cfg"].get("max_iters")
    length = iterations if iterations is not None else cfg["train_cfg"].get("max_epochs")
    notes = []
    schedulers = one_or_more(cfg.get("param_scheduler"))
    for index, scheduler in enumerate(schedulers):
        where = f"param_scheduler.{index} ({kind_of(scheduler)})"
        by_epoch = scheduler.get("by_epoch", True)
        if iterations is not None and by_epoch:
            notes.append(
                f"{where} counts epochs (by_epoch=True, mmengine's default), but train_cfg iterations: it changes "
                f"nothing; set by_epoch=False"
            )
        elif by_epoch is (iterations is None) and (scheduler.get("begin") or 0) >= length:
            notes.append(f"{where} begins at {scheduler['begin']}, but training ends at {length}: it changes nothing")
    ends = {
        index: scheduler.get("end") or ENDLESS
        for index, scheduler in enumerate(schedulers)
        if scheduler.get("by_epoch", True) is (iterations is None)
    }
    last = max(ends.values(), default=0)  # an open end is no problem: mmengine does not scale to it
    if length < last < ENDLESS:
        late = ", ".join(f"param_scheduler.{index}.end={length}" for index, end in ends.items() if end > length)
        notes.append(
            f"param_scheduler goes on to {last}, but training ends at {length}: the learning rate does not fall to its "
            f"end; set {late}, or train up to {last} (--iters would move both, and keep one behind the other)"
        )
    return notes


def _phase(scheduler: Mapping[str, Any]) -> tuple[int, int | None, int]:
    """The begin, the end (None: open) and the smallest number of iterations between them."""
    end = scheduler.get("end")
    return (
        scheduler.get("begin") or 0,
        None if end is None or end >= ENDLESS else end,
        2 if kind_of(scheduler) in NEED_TWO_ITERATIONS else 1,
    )


def _new_positions(phases: list[tuple[int, int | None, int]], before: int, after: int) -> dict[int, int] | None:
    """Old position -> new position of all begins and ends; None if they do not all fit.

    A position beyond the end of the training stays beyond it; all others stay within the training.
    """
    marks = sorted({0, *(begin for begin, _, _ in phases), *(end for _, end, _ in phases if end is not None)})
    new: dict[int, int] = {}
    for index, mark in enumerate(marks):  # forward: raise each position above those that must come before it
        lower_bounds = [new[marks[index - 1]] + 1] if index else [0]
        lower_bounds += [new[begin] + need for begin, end, need in phases if end == mark]
        new[mark] = max(round(mark * after / before), *lower_bounds)
    for index in reversed(range(len(marks))):  # backward: lower them to the end of the training
        mark = marks[index]
        upper_bounds = [after] if mark <= before else []
        upper_bounds += [new[marks[index + 1]] - 1] if index + 1 < len(marks) else []
        upper_bounds += [new[end] - need for begin, end, need in phases if begin == mark and end is not None]
        new[mark] = min([new[mark], *upper_bounds])
    return None if new[0] < 0 else new


def _move(scheduler: Any, begin: int, end: int | None, positions: Mapping[int, int], factor: float) -> None:
    """Sets the begin, the end and the durations of one scheduler, in place."""
    if scheduler.get("begin") is not None:
        scheduler["begin"] = positions[begin]
    if end is not None:
        scheduler["end"] = positions[end]
    for key in DURATIONS:
        value = scheduler.get(key)
        if value is None:
            continue
        whole_phase = end is not None and value == end - begin
        scheduler[key] = (
            positions[end] - positions[begin] if whole_phase and end is not None else max(1, round(value * factor))
        )
    if scheduler.get("milestones"):  # milestones count from the begin of the phase
        moved: list[int] = []
        for milestone in scheduler["milestones"]:
            moved.append(max(round(milestone * factor), moved[-1] + 1 if moved else 1))
        scheduler["milestones"] = moved
    if scheduler.get("periods"):
        scheduler["periods"] = [max(1, round(period * factor)) for period in scheduler["periods"]]


def _stretch_weight_schedules(cfg: Config, factor: float) -> None:
    """Stretches the schedules of the losses' weights; values that are no numbers are left for a later check."""
    for loss in ((cfg.get("distill") or {}).get("losses") or {}).values():
        schedule = (loss or {}).get("schedule") or {}
        for key in ("warmup", "stop"):
            if _is_count(schedule.get(key)):
                schedule[key] = max(1, round(schedule[key] * factor))
        weight = (loss or {}).get("weight")
        share = weight.get("share") if isinstance(weight, Mapping) else None
        if isinstance(share, dict) and _is_count(share.get("every")):
            batches = share.get("batches", SHARE_BATCHES)
            share["every"] = max(batches if _is_count(batches) else 1, round(share["every"] * factor))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
