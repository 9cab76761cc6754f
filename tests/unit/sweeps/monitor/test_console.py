"""What a sweep shows while it runs: a table on a terminal, lines where it is piped."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from rdistill.schemas.trial import TrialEntry
from rdistill.sweeps.monitor import console
from rdistill.sweeps.monitor.console import LINES_OF_A_SWEEP, ROWS_SHOWN, SweepConsole
from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.study.records import PROGRESS, TRIALS, TrialRecord

WEIGHT, PAIR = "distill.losses.logits.weight", "distill.losses.hidden.pair"


def on_terminal() -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system="standard")


def piped() -> Console:
    return Console(file=io.StringIO(), width=80, highlight=False, soft_wrap=True)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(shown: SweepConsole) -> list[str]:
    """The live table as plain lines."""
    console = Console(file=io.StringIO(), width=80)
    console.print(shown.draw())
    return text(console).splitlines()


def seen(name: str, phase: str = "search") -> TrialInfo:
    number = int(name[1:]) if name[1:].isdigit() else 0
    return TrialInfo(name, phase, {WEIGHT: 1.5 + number, PAIR: [0, number % 3]} if number else {})


def play(shown: SweepConsole, trials: int, iterations: int = 300) -> None:
    """A baseline of 50, then trials of 50.5 and up: even ones stopped at a third, the last still running."""
    baseline = seen("baseline", "baseline")
    shown.trial_started(baseline)
    shown.trial_validated(baseline, {"iter": iterations, "mIoU": 49.0, "best_mIoU": 50.0})
    shown.trial_ended(baseline, {"iter": iterations, "best_mIoU": 50.0}, False)
    for number in range(1, trials + 1):
        trial, best = seen(f"t{number:04d}"), 50.0 + number / 2
        shown.trial_started(trial)
        shown.trial_validated(trial, {"iter": iterations // 3, "mIoU": best - 1, "best_mIoU": best})
        if number < trials:
            reached = iterations if number % 2 else iterations // 3
            shown.trial_ended(trial, {"iter": reached, "best_mIoU": best}, False)


@pytest.fixture
def shown(tmp_path: Path) -> SweepConsole:
    shown = SweepConsole(piped(), tmp_path, 300, "coef")
    shown.expect("baseline", 1)
    shown.expect("search", 4)
    return shown


def test_the_table_has_a_line_a_trial(shown: SweepConsole) -> None:
    play(shown, 4)
    lines = drawn(shown)
    assert lines[0] == "coef  baseline 1/1  search 3/4  1 running  3 done  1 stopped  0 failed"
    heads = lines[1].split()
    assert heads == ["trial", "phase", "pair", "weight", "iteration", "mIoU", "best", "gain", "status"]
    rows = [line.split() for line in lines[3:8]]
    assert rows[0] == ["t0004", "search", "[0,", "1]", "5.5", "100/300", "51.00", "52.00", "+2.00", "running"]
    assert rows[2] == ["t0002", "search", "[0,", "2]", "3.5", "100/300", "50.00", "51.00", "+1.00", "stopped"]
    assert rows[4] == ["baseline", "baseline", "300/300", "49.00", "50.00", "done"]
    assert lines[8].startswith("best t0004 52.00 (+2.00)")
    assert len(lines) == 9 and max(map(len, lines)) <= 80


def test_of_many_trials_it_shows_the_running_and_the_best(shown: SweepConsole) -> None:
    shown.expect("search", 200)
    play(shown, 60)
    lines = drawn(shown)
    names = [line.split()[0] for line in lines[3:-2]]
    assert len(names) <= ROWS_SHOWN and max(map(len, lines)) <= 80
    assert names[0] == "t0060" and "baseline" in names and "t0059" in names and "t0001" not in names
    hidden = 61 - len(names)
    words = lines[-2].removeprefix("not shown: ").split(", ")
    assert sum(int(word.split()[0]) for word in words) == hidden


def test_values_that_do_not_fit_are_named(shown: SweepConsole) -> None:
    values = {f"distill.losses.logits.key{number}": number for number in range(5)}
    shown.trial_started(TrialInfo("t0001", "search", values))
    lines = drawn(shown)
    assert "not shown: the values of key2, key3, key4" in lines and max(map(len, lines)) <= 80


def test_between_validations_a_trial_says_how_far_it_is(shown: SweepConsole, tmp_path: Path) -> None:
    shown.trial_started(seen("t0001"))
    folder = tmp_path / TRIALS / "t0001"
    folder.mkdir(parents=True)
    (folder / PROGRESS).write_text("70")
    assert " 70/300 " in drawn(shown)[3]


def test_phases_may_come_later(shown: SweepConsole) -> None:
    play(shown, 4)
    assert shown.total == 5
    shown.expect("confirm", 6)
    shown.trial_started(seen("t0004s1", "confirm"))
    assert shown.total == 11 and "confirm 0/6" in drawn(shown)[0]


def test_eta_counts_what_is_left(shown: SweepConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    assert shown.eta() == "unknown"
    trial = seen("t0001")
    shown.trial_started(trial)
    for second in range(1, 4):
        clock[0] = float(second)
        shown.trial_validated(trial, {"iter": 100 * second, "mIoU": 50.0, "best_mIoU": 50.0})
        shown.eta()
    assert shown.rate() == pytest.approx(100.0)
    shown.trial_ended(trial, {"iter": 300, "best_mIoU": 50.0}, False)
    assert shown.eta() == "0:00:12"  # four more of 300


def test_a_resumed_sweep_counts_what_an_earlier_start_has_done(
    shown: SweepConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune does not report a trial again that has ended: neither the counts nor the time left may miss it."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    scores: list[TrialEntry] = [{"iter": 150, "mIoU": 52.0}, {"iter": 300, "mIoU": 51.0}]
    ended = [
        TrialRecord("baseline", {}, 0, status="finished", history=scores),
        TrialRecord("t0001", {WEIGHT: 2.5}, 0, status="finished", history=scores),
        TrialRecord("t0002", {WEIGHT: 3.5}, 0, status="failed", reason="out of memory"),
    ]
    shown.resume_from([*ended, TrialRecord("t0003", {WEIGHT: 4.5}, 0, history=scores[:1])])
    assert drawn(shown)[0] == "coef  baseline 1/1  search 2/4  0 running  2 done  0 stopped  1 failed"
    assert shown.eta() == "unknown"
    trial = seen("t0003")
    shown.trial_started(trial)
    assert drawn(shown)[0] == "coef  baseline 1/1  search 2/4  1 running  2 done  0 stopped  1 failed"
    shown.eta()
    clock[0] = 1.0
    shown.trial_validated(trial, {"iter": 200, "mIoU": 50.0, "best_mIoU": 52.0})
    assert shown.eta() == "0:00:08"  # 50 iterations in a second; left: 100 of this trial, and one trial of 300
    assert text(shown.console) == ""  # what has ended had its line then


def test_eta_of_a_cohort_whose_runs_advance_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a confirmation are never stopped, though the search's were, and none has ended at the first line.

    Six at a time, 10 iterations of each in a second: 12 runs of 300 take 60 seconds, and then two of 450 take 45.
    """
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    shown = SweepConsole(piped(), tmp_path, 300, "coef")
    shown.expect("baseline", 1)
    shown.expect("search", 30)
    play(shown, 20)  # half of them were stopped at 100, and ten of the search never start, for example without budget
    clock[0] = 1000.0
    shown.expect("confirm", 12)
    runs = [TrialInfo(f"t0001-s{seed}", "confirm", {}, seed=seed, of="t0001") for seed in range(1, 13)]
    shown.trial_ended(seen("t0020"), {"iter": 100, "best_mIoU": 60.0}, False)
    for first, begins in ((0, 1000), (6, 1030)):
        together = runs[first : first + 6]
        clock[0] = float(begins)
        for run in together:
            shown.trial_started(run)
        for second in (3, 15):
            clock[0] = float(begins + second)
            for run in together:
                folder = tmp_path / TRIALS / run.id
                folder.mkdir(parents=True, exist_ok=True)
                (folder / PROGRESS).write_text(str(10 * second))
            assert shown.eta() == f"0:00:{60 - (begins - 1000) - second:02d}"
        clock[0] = float(begins + 30)
        for run in together:
            shown.trial_ended(run, {"iter": 300, "best_mIoU": 70.0}, False)
    shown.expect("equal-cost", 2)
    for seed in (1, 2):
        shown.trial_started(
            TrialInfo(f"b-as-t0001-s{seed}", "equal-cost", {}, seed=seed, of="baseline", iterations=450)
        )
    assert shown.eta() == "unknown"
    clock[0] += 9
    for seed in (1, 2):
        run = TrialInfo(f"b-as-t0001-s{seed}", "equal-cost", {}, seed=seed, of="baseline", iterations=450)
        shown.trial_validated(run, {"iter": 90, "mIoU": 60.0, "best_mIoU": 60.0})
    assert shown.eta() == "0:00:36"


def test_no_gain_over_a_run_that_never_left_one_class(shown: SweepConsole, tmp_path: Path) -> None:
    """As in the leaderboard: neither over such a baseline nor of such a trial, once its record says so."""

    def entry(score: float, disc: float) -> TrialEntry:
        return {"iter": 300, "seconds": 1.0, "mIoU": score, "IoU": {"background": 97.0, "disc": disc}}

    trials = (
        TrialRecord("baseline", {}, 0, phase="baseline", history=[entry(48.5, 0.0)]),
        TrialRecord("t0001", {}, 0, history=[entry(96.14, 95.0)]),
        TrialRecord("t0002", {}, 0, history=[entry(48.6, 0.2)]),
    )
    for record in trials:
        record.save(tmp_path / TRIALS / record.id)
        trial = TrialInfo(record.id, record.phase, {})
        shown.trial_started(trial)
        score = record.best["mIoU"]
        shown.trial_validated(trial, {"iter": 300, "mIoU": score, "best_mIoU": score})
        shown.trial_ended(trial, {"iter": 300, "best_mIoU": score}, False)
    assert [shown.gain(shown.rows[record.id]) for record in trials] == [None, None, None]
    assert "gain" not in text(shown.console) and "best t0001 96.14  " in drawn(shown)[-1]
    healthy = TrialRecord("b0001", {}, 0, phase="baseline", history=[entry(90.0, 83.0)])
    healthy.save(tmp_path / TRIALS / "b0001")
    shown.trial_ended(TrialInfo("b0001", "baseline", {}), {"iter": 300, "best_mIoU": 90.0}, False)
    gains = [shown.gain(shown.rows[name]) for name in ("t0001", "t0002")]
    assert gains == [pytest.approx(6.14), None]


def test_no_student_alone_is_the_best(shown: SweepConsole) -> None:
    """Those of the confirmation neither, whatever their seed and length."""
    play(shown, 2)
    for name, phase in (("baseline-s1", "confirm"), ("baseline-as-t0002-s1", "equal-cost")):
        longest = TrialInfo(name, phase, {}, seed=1, of="baseline")
        shown.trial_started(longest)
        shown.trial_validated(longest, {"iter": 300, "mIoU": 90.0, "best_mIoU": 90.0})
    assert drawn(shown)[-1].startswith("best t0002 51.00")


def test_a_silent_minute_has_its_line(shown: SweepConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [console.time.monotonic()]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    short, long = seen("t0001"), seen("t0002")
    with shown:
        for trial in (short, long):
            shown.trial_started(trial)
        clock[0] += 50
        shown.trial_validated(short, {"iter": 100, "mIoU": 49.0, "best_mIoU": 50.0})
        shown.trial_ended(short, {"iter": 100, "best_mIoU": 50.0}, False)
        for _ in range(2):
            clock[0] += 50
            shown.trial_validated(long, {"iter": 200, "mIoU": 51.0, "best_mIoU": 51.0})
    trial_ended, so_far = text(shown.console).splitlines()
    assert trial_ended.startswith("t0001     mIoU 50.00  stopped at 100  (1/5, ")
    assert so_far.startswith("so far    1/5 over, 1 running  best t0002 51.00  ")
    # 300 iterations in 150 seconds; left: three trials of a hundred, and the rest of the one that was not stopped.
    assert so_far.endswith(" trial-iter/s  0:02:30 so far  eta 0:03:20")


def test_piped_a_line_tells_of_each_end(shown: SweepConsole, tmp_path: Path) -> None:
    with shown:
        play(shown, 4)
        TrialRecord("t0004", {}, 0, status="failed", reason="iteration 7: loss is not finite").save(
            tmp_path / TRIALS / "t0004"
        )
        shown.trial_ended(seen("t0004"), {}, True)
    lines = text(shown.console).splitlines()
    assert [line.split()[0] for line in lines] == ["baseline", "t0001", "t0002", "t0003", "t0004"]
    assert lines[2].startswith("t0002     mIoU 51.00  gain +1.00  stopped at 100  (3/5, eta ")
    assert lines[4].startswith("t0004     failed: iteration 7: loss is not finite  (5/5, ")
    assert "\x1b" not in text(shown.console)


def test_no_gain_over_a_baseline_that_has_trained_less(shown: SweepConsole) -> None:
    """Else every trial that is quicker than the baseline would shine."""
    baseline, trial = seen("baseline", "baseline"), seen("t0001")
    for each, reached in ((baseline, 100), (trial, 200)):
        shown.trial_started(each)
        shown.trial_validated(each, {"iter": reached, "mIoU": 50.0, "best_mIoU": 50.0})
    assert shown.gain(shown.rows["t0001"]) is None
    shown.trial_validated(baseline, {"iter": 200, "mIoU": 48.0, "best_mIoU": 50.0})
    assert shown.gain(shown.rows["t0001"]) == 0.0


def test_piped_a_large_sweep_says_little(shown: SweepConsole) -> None:
    shown.expect("search", 1000)
    baseline = seen("baseline", "baseline")
    shown.trial_ended(baseline, {"iter": 300, "best_mIoU": 90.0}, False)
    for number in range(1, 1001):
        shown.trial_ended(seen(f"t{number:04d}"), {"iter": 300, "best_mIoU": 80.0 - number / 100}, False)
    lines = text(shown.console).splitlines()
    assert LINES_OF_A_SWEEP / 2 < len(lines) <= LINES_OF_A_SWEEP + 3
    assert lines[-1].startswith("t1000 ")


def test_on_a_terminal_the_table_goes_and_failures_stay(tmp_path: Path) -> None:
    shown = SweepConsole(on_terminal(), tmp_path, 300)
    with shown:
        shown.trial_started(seen("t0001"))
        TrialRecord("t0001", {}, 0, status="failed", reason="out of memory").save(tmp_path / TRIALS / "t0001")
        (tmp_path / TRIALS / "t0001" / "error.txt").write_text("Traceback")
        shown.trial_ended(seen("t0001"), {}, True)
    lines = text(shown.console).replace("\n", "")
    assert f"t0001     failed: out of memory; see {tmp_path}/trials/t0001/error.txt" in lines and "\x1b[" in text(
        shown.console
    )


def test_trials_that_are_lost_together_share_a_line(tmp_path: Path) -> None:
    with SweepConsole(piped(), tmp_path, 300) as shown:
        for number in range(1, 6):
            shown.trial_lost(seen(f"t{number:04d}"), "full")
        shown.trial_lost(seen("t0006"), "why")
    assert text(shown.console).splitlines() == [
        "warning   t0001, t0002, t0003 and 2 more were lost, and start again from their last checkpoints (full)",
        "warning   t0006 was lost, and starts again from its last checkpoint (why)",
    ]


def test_a_lost_trial_is_said_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nothing else may happen for long."""
    monkeypatch.setattr(console, "LOST_TOGETHER_S", 0.01)
    shown, expected = SweepConsole(piped(), tmp_path, 300), ""
    for number in (1, 2):
        shown.trial_lost(seen(f"t000{number}"), "why")
        expected += f"warning   t000{number} was lost, and starts again from its last checkpoint (why)\n"
        deadline = time.monotonic() + 60
        while text(shown.console) != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text(shown.console) == expected
