"""Shows a running sweep on the console: a table of trials that updates in place, or a few plain lines."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rdistill.core.one_class import never_left_one_class
from rdistill.core.words import listed
from rdistill.schemas.run import Scores
from rdistill.schemas.trial import TrialReport
from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.monitor.leaderboard import cell_text, short_key
from rdistill.sweeps.study.records import (
    BASELINE,
    CONFIRMED,
    EQUAL_COST,
    PROGRESS,
    TRIALS,
    TrialRecord,
    error_to_read,
    load_record,
)
from rdistill.training.console import SILENCE_S, as_clock, updates_in_place

BEST_SHOWN = 5  # ended trials in the table, besides the baseline
ROWS_SHOWN = 15  # trials in the table, if the terminal is high enough
LINES_OF_A_SWEEP = 40  # roughly this many trials of a large sweep get a line when they end
RATE_WINDOW_S = 120.0  # the throughput is measured over this many seconds
LOST_TOGETHER_S = 2.0  # trials that are lost within this time, as with their cohort, share a line
LOST_SHOWN = 3  # trials that such a line names
VALUE_WIDTH = 9  # characters of a swept value
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
STYLES = {RUNNING: "cyan", DONE: "green", STOPPED: "yellow", FAILED: "red"}
WHOLE = (CONFIRMED, EQUAL_COST)  # phases whose trials are never stopped early
ENDED = {"finished": DONE, "stopped": STOPPED, "failed": FAILED}  # a record's status -> the row's


@dataclass
class Row:
    """One trial in the table."""

    trial: TrialInfo
    values: Mapping[str, Any]
    iteration: int = 0
    last: float | None = None  # mIoU of the last validation
    best: float | None = None  # best mIoU so far
    status: str = RUNNING
    reason: str = ""
    read_back: bool = False  # whether `values` were read back from the built model
    scores: Scores = field(default_factory=Scores)  # scores of its best validation, from its record

    @property
    def searched(self) -> bool:
        """Whether it is a trial of the search, not a run of the confirmation."""
        return self.trial.phase not in WHOLE


@dataclass
class Stage:
    """The phases that train now, by whose pace the time left is estimated."""

    phases: set[str] = field(default_factory=set)
    began: float | None = None  # time when its first trial started
    before: int = 0  # iterations of all trials by then


class SweepConsole:
    """A sweep listener that shows the trials, their scores and the estimated time to the end.

    Args:
        console: on a terminal, a table updates in place; otherwise a line is printed when a trial ends.
        work_dir: the sweep's folder, from which the progress of running trials is read.
        iterations: iterations of each trial.
        name: name of the sweep.
    """

    def __init__(self, console: Console, work_dir: Path, iterations: int, name: str = "sweep") -> None:
        self.console, self.work_dir, self.iterations, self.name = console, work_dir, iterations, name
        self.rows: dict[str, Row] = {}
        self.expected: dict[str, int] = {}
        self._unfinished: dict[str, Row] = {}  # trials of an earlier start that have not ended
        self._began = time.monotonic()
        self._rates: deque[tuple[float, int]] = deque()
        self._stage = Stage()
        self._stuck: frozenset[str] | None = None  # ids of trials that never left one class; None: to be found again
        self._live: Live | None = None
        self._lock = threading.RLock()  # rich draws the table in a thread of its own
        self._last_line_share = 0.0  # fraction of the trials that had ended when the last plain line was printed
        self._next_line_at = self._began + SILENCE_S  # when a plain line about the progress is due
        # Counts and the leader are updated, not computed from all trials, which would be slow in a large sweep.
        self._count: Counter[str] = Counter()  # status -> number of trials
        self._leader: Row | None = None  # the best distilled trial
        self._lost: dict[str, list[str]] = {}  # reason -> ids of lost trials that are not printed yet
        self._lost_timer: threading.Timer | None = None

    def __enter__(self) -> SweepConsole:
        self._began = time.monotonic()
        if updates_in_place(self.console):
            self._live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._print_lost()
        if self._live is not None:
            self._live.stop()

    def expect(self, phase: str, trials: int) -> None:
        """Sets the number of trials of a phase that begins now; it may be called again for the same phase.

        Phases that are set before the next trial starts train together. All earlier phases are over.
        """
        with self._lock:
            if self._stage.began is not None:
                self._stage = Stage()
            self._stage.phases.add(phase)
            self.expected[phase] = trials

    def resume_from(self, records: Iterable[TrialRecord]) -> None:
        """Shows the trials of an earlier start, which Tune does not report again: ended ones are no work to come."""
        with self._lock:
            for record in records:
                trial = TrialInfo(record.id, record.phase, record.values, record.seed, record.of, record.iterations)
                row = Row(trial, {key: record.used(key) for key in record.values}, read_back=bool(record.effective))
                if record.history:
                    last = record.history[-1]
                    row.iteration, row.last, row.best = last["iter"], last["mIoU"], record.best["mIoU"]
                    row.scores = record.best
                if record.status not in ENDED:
                    self._unfinished[record.id] = row  # it is shown as running once a process works on it again
                    continue
                self.rows[record.id] = row
                row.status = ENDED[record.status]
                self._count[row.status] += 1
                self._update_leader(row)

    # What happens ------------------------------------------------------------------------------------------------

    def trial_started(self, trial: TrialInfo) -> None:
        with self._lock:
            self._set_status(self._row(trial), RUNNING)

    def trial_validated(self, trial: TrialInfo, result: TrialReport) -> None:
        with self._lock:
            row = self._row(trial)
            row.iteration, row.last, row.best = result.get("iter", 0), result.get("mIoU"), result.get("best_mIoU")
            self._update_leader(row)
            self._read_record(row)
            if self._live is None and time.monotonic() >= self._next_line_at:
                self._print_progress()

    def trial_lost(self, trial: TrialInfo, reason: str) -> None:
        with self._lock:
            self._lost.setdefault(reason, []).append(trial.id)
            if self._lost_timer is None:
                self._lost_timer = threading.Timer(LOST_TOGETHER_S, self._print_lost)
                self._lost_timer.daemon = True
                self._lost_timer.start()

    def _print_lost(self) -> None:
        """Prints a line for each reason for which trials were lost."""
        with self._lock:
            lost, self._lost = self._lost, {}
            if self._lost_timer is not None:
                self._lost_timer.cancel()
                self._lost_timer = None
        for reason, names in lost.items():
            if len(names) == 1:
                self.warned(f"{names[0]} was lost, and starts again from its last checkpoint ({reason})")
            else:
                shown = listed(names, LOST_SHOWN)
                self.warned(f"{shown} were lost, and start again from their last checkpoints ({reason})")

    def trial_ended(self, trial: TrialInfo, result: TrialReport, failed: bool) -> None:
        with self._lock:
            row = self._row(trial)
            record = self._read_record(row)
            row.iteration, row.best = result.get("iter", row.iteration), result.get("best_mIoU", row.best)
            self._update_leader(row)
            self._set_status(row, FAILED if failed else DONE if row.iteration >= self._length(row) else STOPPED)
            row.reason = record.reason + error_to_read(self.work_dir, trial.id) if failed and record else ""
        if self._live is None:
            self._print_end(row)
        elif failed:
            line = f"{trial.id:<9} failed: {row.reason}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warned(self, message: str) -> None:
        """Prints a warning."""
        self.console.print(f"warning   {message}", markup=False, highlight=False, soft_wrap=True)

    def _read_record(self, row: Row) -> TrialRecord | None:
        """Reads a trial's record, which has its scores by class and the values of the built model."""
        record = load_record(self.work_dir / TRIALS / row.trial.id)
        if record is not None:
            row.scores, self._stuck = record.best, None
            if not row.read_back and record.effective:
                row.values = {key: record.effective.get(key, value) for key, value in record.values.items()}
                row.read_back = True
        return record

    def _row(self, trial: TrialInfo) -> Row:
        if self._stage.began is None:
            self._stage.began, self._stage.before = time.monotonic(), self._iterations_done()
        if trial.id not in self.rows:
            begun = self._unfinished.pop(trial.id, None)
            self.rows[trial.id] = begun or Row(trial, trial.values)
            self._count[RUNNING] += 1
        return self.rows[trial.id]

    def _length(self, row: Row) -> int:
        return row.trial.iterations or self.iterations

    def _set_status(self, row: Row, status: str) -> None:
        self._count[row.status] -= 1
        self._count[status] += 1
        row.status = status

    def _update_leader(self, row: Row) -> None:
        leader = self._leader
        if not row.trial.is_baseline and row.best is not None and (leader is None or row.best > (leader.best or 0.0)):
            self._leader = row

    # What it comes to --------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Number of trials in all phases that are known so far."""
        return max(len(self.rows), sum(self.expected.values()))

    def counts(self) -> Counter[str]:
        return self._count

    def best(self) -> Row | None:
        """The best distilled trial; the best of all trials while there is none."""
        if self._leader is not None:
            return self._leader
        with_a_score = [row for row in self.rows.values() if row.best is not None]
        return max(with_a_score, key=lambda row: row.best or 0.0, default=None)

    def gain(self, row: Row) -> float | None:
        """mIoU minus that of the best baseline on the same seed; None for baselines.

        It is also None while no baseline on that seed has trained for at least as many iterations, and where one of
        the two never left one class, as in :func:`rdistill.sweeps.study.records.gains`.
        """
        stuck = self._never_trained()
        baselines = [
            baseline.best
            for baseline in self.rows.values()
            if baseline.trial.is_baseline
            and baseline.trial.phase != EQUAL_COST
            and baseline.best
            and baseline.trial.id not in stuck
            and baseline.trial.seed == row.trial.seed
            and baseline.iteration >= row.iteration
        ]
        if row.trial.is_baseline or row.best is None or row.trial.id in stuck or not baselines:
            return None
        return row.best - max(baselines)

    def _never_trained(self) -> frozenset[str]:
        """Ids of trials that never left one class; those of the search and of the confirmation are judged apart."""
        if self._stuck is None:
            groups = ([row for row in self.rows.values() if row.searched is searched] for searched in (True, False))
            stuck = [never_left_one_class({row.trial.id: row.scores for row in group}) for group in groups]
            self._stuck = frozenset().union(*stuck)
        return self._stuck

    def _iterations_done(self) -> int:
        return sum(row.iteration for row in (*self.rows.values(), *self._unfinished.values()))

    def rate(self) -> float | None:
        """Iterations per second of all trials together, over the last two minutes; None before the first iteration."""
        self._sample_rate()
        (since, before), (until, after) = self._rates[0], self._rates[-1]
        return (after - before) / (until - since) if after > before else None

    def _sample_rate(self) -> None:
        """Remembers the number of iterations done by now, for the throughput."""
        now, done = time.monotonic(), self._iterations_done()
        if not self._rates or done > self._rates[-1][1]:
            self._rates.append((now, done))
        while len(self._rates) > 2 and now - self._rates[1][0] > RATE_WINDOW_S:
            self._rates.popleft()

    def eta(self) -> str:
        """Estimated time to the end of the phases that train now.

        It is the iterations left in these phases, over the iterations per second since their first trial started.
        The students of a cohort advance together, so that no trial may have ended until long after the start.
        """
        self._read_progress()
        self._sample_rate()
        began = self._stage.began
        if began is None:
            return "unknown"
        elapsed, done = time.monotonic() - began, self._iterations_done() - self._stage.before
        return as_clock(self._iterations_left() * elapsed / done) if done > 0 and elapsed > 0 else "unknown"

    def _iterations_left(self) -> float:
        """Iterations left in the phases that train now: of trials that have not ended, or have not started."""
        begun = [*self.rows.values(), *self._unfinished.values()]
        running = [row for row in begun if row.status == RUNNING]
        left = sum(self._expected_length(row) - row.iteration for row in running)
        seen = Counter(row.trial.phase for row in begun)
        for phase in self._stage.phases:
            lengths = [self._length(row) for row in begun if row.trial.phase == phase]
            whole = sum(lengths) / len(lengths) if lengths else self.iterations
            each = whole if phase in WHOLE else self._length_in_search()
            left += each * max(0, self.expected[phase] - seen[phase])
        return left

    def _expected_length(self, row: Row) -> float:
        """Iterations that a running trial is expected to train.

        A trial of the search that has passed the mean of the ended ones was not stopped early, and is expected to train
        to its end; so is every run of a confirmation.
        """
        whole = self._length(row)
        if row.trial.phase in WHOLE or row.trial.iterations is not None:
            return whole
        mean = self._length_in_search()
        return mean if row.iteration < mean else whole

    def _length_in_search(self) -> float:
        """Mean iterations of the ended trials of the search, of which a scheduler may have stopped some early."""
        ended = [row.iteration for row in self.rows.values() if row.searched and row.status in (DONE, STOPPED)]
        return sum(ended) / len(ended) if ended else self.iterations

    def _read_progress(self) -> None:
        """Reads how far the running trials are, which they write down between their validations."""
        for row in self.rows.values():
            if row.status == RUNNING:
                row.iteration = max(row.iteration, _progress(self.work_dir / TRIALS / row.trial.id))

    # The lines ---------------------------------------------------------------------------------------------------

    def _print_progress(self) -> None:
        """Prints a line about the progress after a time without lines."""
        self._next_line_at = time.monotonic() + SILENCE_S
        ended = len(self.rows) - self._count[RUNNING]
        line = f"so far    {ended}/{self.total} over, {self._count[RUNNING]} running  {'  '.join(self._figures())}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _print_end(self, row: Row) -> None:
        """Prints a line about an ended trial. In a large sweep, only failures, the best and some others get a line."""
        ended = len(self.rows) - self._count[RUNNING]
        share = ended / self.total
        notable = row.status == FAILED or row is self._leader or row.trial.phase == BASELINE or ended == self.total
        if self.total > LINES_OF_A_SWEEP and not notable and share - self._last_line_share < 1 / LINES_OF_A_SWEEP:
            return
        self._last_line_share, self._next_line_at = share, time.monotonic() + SILENCE_S
        gain = self.gain(row)
        parts = [f"mIoU {_number(row.best)}"]
        parts += [f"gain {gain:+.2f}"] if gain is not None else []
        parts += [f"stopped at {row.iteration}"] if row.status == STOPPED else []
        outcome = f"failed: {row.reason}" if row.status == FAILED else "  ".join(parts)
        line = f"{row.trial.id:<9} {outcome}  ({ended}/{self.total}, eta {self.eta()})"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    # The table ---------------------------------------------------------------------------------------------------

    def draw(self) -> Group:
        """The current head line, table and foot line."""
        with self._lock:
            self._read_progress()
            rows = self._choose(min(ROWS_SHOWN, self.console.height - 9))
            return Group(self._head(), *self._table(rows), self._foot())

    def _head(self) -> Text:
        counts = self.counts()
        phases = [f"{phase} {n}" for phase, n in self._progress_of_phases()]
        line = Text(f"{self.name}  ", style="bold")
        line.append("  ".join(phases), style="not bold")
        for status in (RUNNING, DONE, STOPPED, FAILED):
            line.append(f"  {counts[status]} {status}", style=f"not bold {STYLES[status] if counts[status] else 'dim'}")
        line.truncate(self.console.width, overflow="ellipsis")
        return line

    def _progress_of_phases(self) -> list[tuple[str, str]]:
        ended = Counter(row.trial.phase for row in self.rows.values() if row.status != RUNNING)
        phases = Counter(row.trial.phase for row in self.rows.values())
        return [(p, f"{ended[p]}/{max(self.expected.get(p, 0), phases[p])}") for p in {**self.expected, **phases}]

    def _choose(self, max_rows: int) -> list[Row]:
        """The rows to show, best first: the baseline, running trials, and the best of the ended ones."""
        by_score = sorted(self.rows.values(), key=lambda row: -(row.best or 0.0))
        running = [row for row in by_score if row.status == RUNNING]
        ended = [row for row in by_score if row.status != RUNNING]
        max_rows = max(max_rows, 3)
        if len(by_score) <= max_rows:
            return by_score
        leaders = [row for row in ended if row.trial.phase == BASELINE][:1]
        leaders += [row for row in ended if row not in leaders][: min(BEST_SHOWN, max(1, max_rows - len(running) - 1))]
        chosen = {row.trial.id for row in (*leaders, *running[: max(1, max_rows - len(leaders))])}
        return [row for row in by_score if row.trial.id in chosen]

    def _table(self, rows: list[Row]) -> list[Any]:
        """The table with the given rows, and a line about trials and values that it does not show."""
        keys = sorted({key for row in self.rows.values() for key in row.values})
        widths = {
            "trial": max(8, *(len(row.trial.id) for row in rows), 0),
            "phase": max(8, *(len(row.trial.phase) for row in rows), 0),
            "iteration": max(9, 2 * len(str(self.iterations)) + 1),
            **{"mIoU": 6, "best": 6, "gain": 6, "status": 7},
        }
        room = self.console.width - sum(widths.values()) - len(widths)
        fit = min(len(keys), max(0, room // (VALUE_WIDTH + 1)))
        table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
        for name, width in widths.items():
            if name == "iteration":
                for key in keys[:fit]:
                    # The heading has the loss's name above its parameter.
                    head = "\n".join(part[:VALUE_WIDTH] for part in short_key(key, keys).split("."))
                    table.add_column(head, justify="right", no_wrap=True, width=VALUE_WIDTH)
            left = name in ("trial", "phase", "status")
            table.add_column(name, justify="left" if left else "right", no_wrap=True, width=width)
        for row in rows:
            gain = self.gain(row)
            table.add_row(
                row.trial.id,
                row.trial.phase,
                *(cell_text(row.values.get(key)) for key in keys[:fit]),
                f"{row.iteration}/{self._length(row)}",
                _number(row.last),
                _number(row.best),
                "" if gain is None else f"{gain:+.2f}",
                row.status,
                style="bold" if row is self.best() else "",
            )
        hidden = Counter(row.status for row in self.rows.values() if row not in rows)
        words = [", ".join(f"{n} {status}" for status, n in hidden.items())] if hidden else []
        words += [f"the values of {', '.join(short_key(key, keys) for key in keys[fit:])}"] if keys[fit:] else []
        return [table, *([Text(f"not shown: {'; '.join(words)}", style="dim")] if words else [])]

    def _foot(self) -> Text:
        line = Text("  ".join(self._figures()))
        line.truncate(self.console.width, overflow="ellipsis")
        return line

    def _figures(self) -> list[str]:
        """The best so far, the throughput, and the time."""
        best, rate = self.best(), self.rate()
        parts = ["no score yet"]
        if best is not None:
            gain = self.gain(best)
            parts = [f"best {best.trial.id} {_number(best.best)}" + ("" if gain is None else f" ({gain:+.2f})")]
        parts += [f"{rate:.1f} trial-iter/s"] if rate is not None else []
        return [*parts, f"{as_clock(time.monotonic() - self._began)} so far", f"eta {self.eta()}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _progress(folder: Path) -> int:
    """The number of a trial's last iteration, which its process writes to a file every second."""
    try:
        return int((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return 0
