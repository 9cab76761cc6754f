"""The leaderboard: best first, the difference to the baseline, and what a score says nothing about."""

from __future__ import annotations

import io

from rich.console import Console

from rdistill.sweeps.monitor.leaderboard import cell_text, print_leaderboard, short_key
from rdistill.sweeps.study.records import TrialRecord

TAU, WEIGHT = "distill.losses.logits.tau", "distill.losses.logits.weight"


def record(name: str, values: dict[str, float], ious: dict[str, float], **options: str) -> TrialRecord:
    entry = {"iter": 10, "seconds": 1.0, "mIoU": sum(ious.values()) / len(ious), "IoU": ious}
    return TrialRecord(name, values, 0, history=[entry], **{"status": "finished", **options})


def test_rows_in_the_given_order() -> None:
    out = io.StringIO()
    order = [
        record("t2", {TAU: 4.0, WEIGHT: 0.5}, {"background": 90.0, "disc": 70.0}),
        record("baseline", {}, {"background": 98.0, "disc": 0.0}),
        TrialRecord("t1", {TAU: 1.0}, 0, status="failed", reason="diverged"),
    ]
    print_leaderboard(Console(file=out, width=120), order, {"t2": 31.0, "t1": None})
    lines = out.getvalue().splitlines()
    words = [line.split() for line in lines]
    rows = {row[0]: row[1:] for row in words if row and row[0] in ("t2", "baseline", "t1")}
    assert list(rows) == ["t2", "baseline", "t1"]
    assert rows["t2"] == ["4", "0.5", "80.00", "+31.00", "70.00"]
    assert rows["baseline"] == ["49.00", "0.00", "1", "class"]
    assert rows["t1"] == ["1", "failed", "diverged"]
    assert lines[-1].startswith("1 class   never left one class, or hardly: such a trial says little")


def test_a_measured_weight_stands_beside_its_share() -> None:
    out = io.StringIO()
    best = record("t1", {f"{WEIGHT}.share": 0.5}, {"background": 90.0, "disc": 70.0})
    best.history[0]["weights"] = {"logits": 17.23456}
    print_leaderboard(
        Console(file=out, width=120), [best, record("baseline", {}, {"background": 98.0, "disc": 0.0})], {}
    )
    words = [line.split() for line in out.getvalue().splitlines()]
    assert ["t1", "0.5", "17.23", "80.00", "70.00"] in words and ["baseline", "49.00", "0.00", "1", "class"] in words
    assert ["logits"] in words and ["trial", "share", "weight", "mIoU", "gain", "disc", "note"] in words


def test_a_key_is_as_short_as_tells_it_apart() -> None:
    keys = ["a.b.tau", "a.c.tau", "a.weight"]
    assert [short_key(key, keys) for key in keys] == ["b.tau", "c.tau", "weight"]


def test_values_as_text() -> None:
    loss = {"type": "KL", "tau": 2.0, "weight": {"share": 0.5}}
    assert [cell_text(value) for value in (None, 0.123456, (1, 2), loss, 7)] == [
        "",
        "0.1235",
        "[1, 2]",
        "KL tau=2 share=0.5",
        "7",
    ]
    whole = {"kd": {"type": "CWD", "on": "logits", "weight": {"share": 3.0}}, "hint": {"type": "PKD", "pair": [1, 1]}}
    assert cell_text(whole) == "CWD share=3 + PKD pair=[1, 1]"


def test_scores_are_whole_where_values_are_long() -> None:
    """A console of 80 characters, as a log file has."""
    out = io.StringIO()
    loss = {"type": "CWD", "on": "logits", "weight": {"share": 3.0}}
    chosen = {"distill.losses": {"kd": loss, "level": {**loss, "type": "KL"}}, "optim_wrapper.optimizer.lr": 0.008}
    chosen["model.decode_head.loss_decode.class_weight"] = [1.0, 2.0]
    best = record("t0002", chosen, {"background": 99.0, "optic disc": 71.66})
    best.history[0]["weights"] = {"kd": 1.232, "level": 2.139}
    print_leaderboard(Console(file=out, width=80), [best], {"t0002": 18.11})
    words = out.getvalue().split()
    assert {"t0002", "85.33", "+18.11", "71.66", "CWD", "share=3"} <= set(words)
