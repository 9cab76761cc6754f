"""``summary.json``: a sweep's verdict with its evidence, cost and environment, for people and for the report.

It is written while the sweep runs and at its end. This module needs neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.core.one_class import when_trained
from rdistill.core.redaction import redacted
from rdistill.schemas.headroom import Headroom
from rdistill.schemas.run import Scores
from rdistill.schemas.summary import Arm, Confirmed, Cost, Environment, Searched, Session, Summary, Tested
from rdistill.sweeps.findings.confirm import PYTORCH, Selection, counts_name, load_selection, scores_getter
from rdistill.sweeps.findings.equal_cost import EQUAL_COST_FILE, load_equal_costs
from rdistill.sweeps.findings.looks import load_looks
from rdistill.sweeps.findings.statistics import EvidenceFacts, describe, evidence, pairwise_differences, value_text
from rdistill.sweeps.findings.verdict import search_lead, verdict
from rdistill.sweeps.findings.why import why
from rdistill.sweeps.proof.counts import SplitCounts
from rdistill.sweeps.study.records import (
    BASELINE,
    SEARCHED,
    TrialRecord,
    error_to_read,
    gain,
    load_records,
    never_trained,
    pareto,
    ranked,
    twins,
)
from rdistill.sweeps.study.spec import SweepSpec

SUMMARY = "summary.json"
HEADROOM = Path("headroom", "headroom.json")  # a file in the work dir; see rdistill.sweeps.headroom.run
REFRESH_S = 15.0  # seconds that pass at least before the summary of a running sweep is written again
PACKAGES = ("torch", "ray", "optuna", "numpy", "mmengine", "mmcv", "mmsegmentation")  # or OneDL's packages of that name
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


@dataclass
class SweepFacts:
    """Facts about a sweep that do not change while it runs, except for ``teacher_test``."""

    spec: SweepSpec
    trials: int  # number of trials in the search
    baselines: int  # number of baselines
    iterations: int  # iterations of a trial that is not stopped early
    teachers: Sequence[Scores]  # the scores of each teacher
    processes: int  # number of trials, or of cohorts, that run at a time
    started: str = field(default_factory=lambda: _now())
    since: float = field(default_factory=time.monotonic)
    images: Mapping[str, int] = field(default_factory=dict)  # kind -> number of images
    teacher_test: Scores | None = None  # the first teacher's scores on the test split


def summarize(facts: SweepFacts, records: Sequence[TrialRecord], work_dir: Path, status: str) -> Summary:
    """The content of ``summary.json``; docs/proof-details.md explains it."""
    spec = facts.spec
    confirmed, test, left = _confirmed(facts, records, work_dir)
    tuned = bool(spec.baseline.search)
    earlier = read_summary(work_dir)
    return {
        "status": status,
        "verdict": verdict(
            confirmed,
            facts.baselines,
            tuned=tuned,
            runs_left=left,
            searched=_lead(records),
            tuned_alone=tuned_alone(spec, records, confirmed),
        ),
        "teacher": facts.teachers[0] if facts.teachers and facts.teachers[0] else None,
        "teachers": list(facts.teachers),
        "searched": _searched(facts, records),
        "confirmed": confirmed,
        "test": test,
        "headroom": _headroom(work_dir),
        "why": why(
            records,
            _alone_in_pytorch(confirmed),
            [teacher.get("mIoU") for teacher in facts.teachers],
        ),
        "pareto": pareto(_in_phase(records, SEARCHED), spec.objectives) if len(spec.objectives) > 1 else None,
        "objectives": list(spec.objectives),
        "cost": _cost(facts, records, earlier),
        "environment": _environment(facts, earlier, status),
        "warnings": warnings_of(spec, records, work_dir),
    }


def _alone_in_pytorch(confirmed: Confirmed | None) -> float | None:
    """The mean mIoU of the confirmed student alone in PyTorch, to compare it with the teacher's."""
    arm = (confirmed or Confirmed()).get("baseline") or Arm()
    return arm["pytorch"]["mean"] if "pytorch" in arm else when_trained(arm)["mean"]


def read_summary(work_dir: Path) -> Summary:
    """The summary that was last written; empty before the first time."""
    file = work_dir / SUMMARY
    return read_json(file) if file.is_file() else {}


def write_summary(facts: SweepFacts, work_dir: Path, status: str) -> Summary:
    """Writes the current ``summary.json``, whole or not at all, and returns its content."""
    summary = summarize(facts, load_records(work_dir), work_dir, status)
    write_json(work_dir / SUMMARY, summary)
    return summary


@contextmanager
def summary_refreshed(facts: SweepFacts, work_dir: Path) -> Iterator[None]:
    """A context in which a thread writes the summary again every few seconds."""
    ended = threading.Event()

    def refresh() -> None:
        pause = 0.0
        while not ended.wait(pause):
            start = time.monotonic()
            write_summary(facts, work_dir, RUNNING)
            pause = max(REFRESH_S, 50 * (time.monotonic() - start))  # it takes longer in a large sweep

    thread = threading.Thread(target=refresh, name="summary", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def warnings_of(spec: SweepSpec, records: Sequence[TrialRecord], work_dir: Path) -> list[str]:
    """Reasons to doubt the results, a line each; ``work_dir`` is the sweep's folder."""
    warnings = []
    shared = [key for key in spec.space if key.lstrip("+").split(".")[0] != "distill"]
    if shared and not spec.baseline.search:
        warnings.append(
            f"the baseline was not tuned, though {', '.join(shared)} was searched for the students: "
            "add baseline.search for a fair comparison"
        )
    stuck = never_trained(records)
    alone = [record.id for record in records if record.is_baseline and record.id in stuck]
    if alone:
        warnings.append(f"baselines that never left one class: {', '.join(alone)}")
    for record in records:
        if record.status == "failed" and not record.searched:
            where = error_to_read(work_dir, record.id, from_inside=True)
            warnings.append(f"{record.id} failed and is left out of its pairs: {record.reason}{where}")
    for record in records:
        if problem := (record.exported or {}).get("problem"):
            warnings.append(f"{record.id} has no file and is left out of its pairs: {problem}")
    for first, second in twins(records):
        warnings.append(f"{first} and {second} have different values and the same losses: a value has no effect")
    return warnings


def tuned_alone(spec: SweepSpec, records: Sequence[TrialRecord], confirmed: Confirmed | None) -> list[str]:
    """Values of the confirmed baseline that no student under a teacher was tried with.

    Returns:
        ``lr 0.016 (not 0.008)`` for each key that was searched for the baselines alone and whose value is not the
        config's, which all students under a teacher have.
    """
    arm = (confirmed or Confirmed()).get("baseline") or Arm()
    best = next((record for record in records if record.id == arm.get("id")), None)
    unchanged = next((record for record in records if record.id == BASELINE), None)
    if best is None or unchanged is None:
        return []
    texts = []
    for key in spec.keys_of_baselines_alone:
        own, configured = best.values.get(key), unchanged.effective.get(key)
        if key in best.values and own != configured:
            instead = "" if configured is None else f" (not {value_text(configured)})"
            texts.append(f"{key.split('.')[-1]} {value_text(own)}{instead}")
    return texts


def _headroom(work_dir: Path) -> Headroom | None:
    """The result of :mod:`rdistill.sweeps.headroom`; None if it was not measured."""
    file = work_dir / HEADROOM
    return read_json(file) if file.is_file() else None


def _lead(records: Sequence[TrialRecord]) -> str:
    """The result of the search, in words."""
    best, baseline = (next(iter(ranked(_in_phase(records, kind))), None) for kind in (SEARCHED, BASELINE))
    reason = next((record.reason for record in records if record.reason), "")
    return search_lead(best, baseline, never_trained(records), reason)


def _searched(facts: SweepFacts, records: Sequence[TrialRecord]) -> Searched:
    best = next((record for record in ranked(_in_phase(records, SEARCHED)) if record.best), None)
    baseline = next((record for record in ranked(_in_phase(records, BASELINE)) if record.best), None)
    return {
        "trials": facts.trials,
        "baseline_trials": facts.baselines,
        "status": dict(Counter(record.status for record in records if record.searched)),
        "best": best.id if best else None,
        "best_label": describe(best) if best else None,
        "best_mIoU": best.best["mIoU"] if best else None,
        "baseline": baseline.id if baseline else None,
        "baseline_label": describe(baseline) if baseline else None,
        "baseline_mIoU": baseline.best["mIoU"] if baseline else None,
        "gain": gain(best, records) if best else None,
        "seed": facts.spec.seed,
    }


def _confirmed(
    facts: SweepFacts, records: Sequence[TrialRecord], work_dir: Path
) -> tuple[Confirmed | None, Tested | None, int]:
    """The evidence on validation data and on the test split, and the number of runs that are still to train."""
    selection = load_selection(work_dir)
    if selection is None:
        confirm = facts.spec.confirm
        return None, None, facts.spec.num_confirming * confirm.first if confirm else 0
    runs = [record for record in records if not record.searched]
    arms = (selection.baseline, selection.configurations)
    teacher = facts.teachers[0].get("mIoU") if facts.teachers else None
    known_facts = evidence_facts(work_dir, selection, runs)
    looks = load_looks(work_dir)
    seeds = selection.seeds[: max(looks.seeds, selection.first)] if selection.first else selection.seeds
    confirmed: Confirmed = {"of": selection.of, "seeds": list(seeds), "seconds": selection.seconds}
    if selection.first:
        confirmed["looks"] = looks.as_summary(selection)
    scores = scores_getter(selection.of)
    confirmed.update(evidence(runs, *arms, teacher, scores, known_facts))
    if len(selection.configurations) > 1:
        confirmed["pairwise"] = pairwise_differences(runs, selection.configurations, scores, known_facts)
    expected = len(seeds) * (len(selection.configurations) + selection.at_equal_iterations)
    if selection.at_equal_cost:  # every configuration is expected to have one until equal costs are measured
        measured = (work_dir / EQUAL_COST_FILE).is_file()
        expected += len(seeds) * (len(known_facts.costs) if measured else len(selection.configurations))
    left = expected - sum(
        run.status == "failed" or (run.status == "finished" and (selection.of == PYTORCH or run.exported is not None))
        for run in runs
    )
    if selection.first and not looks.over:
        left = max(left, 1)
    test: Tested | None = None
    on_split = scores_getter(selection.of, "test")
    if any(on_split(run) for run in runs):
        on_test = facts.teacher_test
        on_images = dataclasses.replace(
            known_facts, by_image=SplitCounts(work_dir, counts_name(selection.of, "test")).by_image, settled={},
            looks=None, chosen_from=1, in_pytorch=None if selection.of == PYTORCH else scores_getter(PYTORCH, "test"),
        )  # fmt: skip
        test = {
            "teacher": on_test or None,
            **evidence(runs, *arms, on_test.get("mIoU") if on_test else None, on_split, on_images),
        }
    return confirmed, test, left


def evidence_facts(work_dir: Path, selection: Selection, runs: Sequence[TrialRecord]) -> EvidenceFacts:
    """The facts about a confirmation on validation data, read from its files in the work dir."""
    finished = [run for run in runs if run.status == "finished"]
    return EvidenceFacts(
        selection.looks if selection.first else None,
        load_looks(work_dir).settled,
        load_equal_costs(work_dir) if selection.at_equal_cost else {},
        never_trained(finished),
        SplitCounts(work_dir, counts_name(selection.of, "val")).by_image,
        selection.chosen_from,
        None if selection.of == PYTORCH else scores_getter(PYTORCH),
    )


def _cost(facts: SweepFacts, records: Sequence[TrialRecord], earlier: Summary) -> Cost:
    before = [session for session in _sessions(earlier) if session["started"] != facts.started]
    done = {record.id: record.history[-1]["iter"] if record.history else 0 for record in records}
    stopped = sum(facts.iterations - done[record.id] for record in records if record.status == "stopped")
    total = sum(done.values())
    return {
        "wall_seconds": round(time.monotonic() - facts.since + sum(session["seconds"] for session in before), 1),
        "trial_seconds": round(sum(record.history[-1]["seconds"] for record in records if record.history), 1),
        "processes": facts.processes,
        "iterations": total,
        "iterations_saved_by_stopping": stopped,
        "share_saved_by_stopping": round(stopped / (total + stopped), 4) if total else 0.0,
    }


def _environment(facts: SweepFacts, earlier: Summary, status: str) -> Environment:
    spec = facts.spec
    now = _now()
    own: Session = {"started": facts.started, "ended": now, "seconds": round(time.monotonic() - facts.since, 1)}
    sessions = [*(session for session in _sessions(earlier) if session["started"] != facts.started), own]
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "command": command_line(redacted(sys.argv)),
        "images": dict(facts.images),
        "seeds": {
            "training": spec.seed,
            "search": spec.search.seed,
            "baseline_search": spec.search.seed if spec.baseline.seed is None else spec.baseline.seed,
            "confirm": spec.confirm.fresh_seeds(spec.seed) if spec.confirm else [],
        },
        "started": sessions[0]["started"],
        "ended": None if status == RUNNING else now,
        "written": now,
        "sessions": sessions,
    }


def command_line(argv: Sequence[str]) -> str:
    """The command as a user types it, without the folder in which rdistill is installed.

    ``python -m rdistill`` has the file ``__main__.py`` as its first argument, which could not be run by itself.
    """
    program = Path(argv[0])
    if program.parts[-2:] == ("rdistill", "__main__.py"):
        return shlex.join(["python", "-m", "rdistill", *argv[1:]])
    return shlex.join(["rdistill" if program.name == "rdistill" else argv[0], *argv[1:]])


def _sessions(earlier: Summary) -> list[Session]:
    return list((earlier.get("environment") or Environment()).get("sessions") or [])


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("rdistill", *PACKAGES):
        for name in (package, f"onedl-{package}"):
            try:
                versions[name] = version(name)
                break
            except PackageNotFoundError:
                continue
    return versions


def _processor() -> str:
    """The processor's name from Linux's /proc/cpuinfo, or else from the platform."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _in_phase(records: Sequence[TrialRecord], phase: str) -> list[TrialRecord]:
    return [record for record in records if record.phase == phase]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
