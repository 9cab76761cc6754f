"""Runs the confirmation of a sweep: the best configurations and the best baseline again, on fresh seeds.

The baseline and the configurations train first, which also measures the seconds of each. Then the student alone trains
for as many seconds as each configuration took. With ``seeds: auto`` this is done for a few seeds, the results are
looked at, and it is done for more seeds until every question is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler

from rdistill.core.words import counted
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.findings.confirm import (
    FILES,
    PYTORCH,
    Selection,
    load_selection,
    save_selection,
    scores_getter,
    select,
    with_more_seeds,
)
from rdistill.sweeps.findings.equal_cost import EqualCost, equal_costs, load_equal_costs, save_equal_costs
from rdistill.sweeps.findings.exported import score_exported
from rdistill.sweeps.findings.looks import CLAIMS, LookHistory, add_look, load_looks, take_look
from rdistill.sweeps.findings.statistics import evidence
from rdistill.sweeps.findings.summary import evidence_facts
from rdistill.sweeps.findings.test_split import count_on_validation, has_test_split, score_on_test
from rdistill.sweeps.monitor.console import SweepConsole
from rdistill.sweeps.proof.decision import ALPHA
from rdistill.sweeps.search.searchers import list_searcher
from rdistill.sweeps.search.tune import Phase, Team
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TRIALS, load_record, load_records

PHASE, EQUAL_COST_PHASE = "tune-confirm", "tune-equal-cost"  # Tune's folders in the work dir


def confirm(team: Team, shown: SweepConsole, resume: bool) -> bool:
    """Runs the confirmation, if the sweep has one. Returns whether it is complete, that is, not interrupted."""
    spec, work_dir = team.study.spec, team.here.folder
    if spec.confirm is None:
        return True
    selection = load_selection(work_dir)
    if selection is None:
        baseline = spec.baseline
        if baseline.cost != "iterations" and team.study.base.cfg.train_cfg.get("max_iters") is None:
            shown.warned("no baseline of equal cost: the config trains by epochs, which cannot be stretched to seconds")
            baseline = baseline.model_copy(update={"cost": "iterations"})
        selection = select(load_records(work_dir), spec.confirm, spec.objectives, baseline, spec.seed)
        if not selection.configurations:
            return True  # no trial has a score: the sweep has failed, and its summary says so
        save_selection(work_dir, selection)
        team.here.push()
    else:
        selection = _grown(team, shown, selection)
    looks = load_looks(work_dir)
    while not looks.over:
        seeds = _next_seeds(selection, looks, team.processes)
        if not _train(team, shown, selection, seeds, resume):
            return False
        if selection.of != PYTORCH:
            _score_files(team, selection.of, "val")
        elif reason := count_on_validation(team.study, team.resources, work_dir, team.cohorts):
            shown.warned(f"the interval is over seeds alone: {reason}")
        team.here.push()
        if not selection.first:
            break
        looks = _look(team, selection, len(seeds))
        team.here.push()
    if has_test_split(team.study.base.cfg):
        score_on_test(team.study, team.resources, work_dir, team.cohorts)
        if selection.of != PYTORCH:
            _score_files(team, selection.of, "test")
    return True


def _score_files(team: Team, form: str, split: str) -> None:
    """Scores the students' exported files, which the verdict is about, and prints how many were scored."""
    scored = score_exported(team.study, team.resources, team.here.folder, form, team.cohorts, split=split)
    if scored:
        images = "validation images" if split == "val" else "test split"
        team.notify(f"export    {counted(scored, 'student')} as {FILES[form]}, scored on the {images}")


def _grown(team: Team, shown: SweepConsole, selection: Selection) -> Selection:
    """The selection with the seeds that the sweep file has now, which may be more than when it was made."""
    spec, work_dir = team.study.spec, team.here.folder
    assert spec.confirm is not None
    looks = load_looks(work_dir)
    longer = with_more_seeds(selection, spec.confirm, spec.seed, looks.seeds)
    if longer is selection:
        return selection
    if looks.over and set(looks.settled.values()) <= set(CLAIMS):
        shown.warned("every question is decided: the seeds that the sweep file has got since are not trained")
        return selection
    save_selection(work_dir, longer)
    team.here.push()
    if longer.replanned != selection.replanned:
        spent, last = longer.looks.design().spent_by(looks.seeds), len(longer.seeds)
        team.notify(
            f"look      up to {last} seeds from now on: {100 * spent:.1f} of the {100 * ALPHA:g} % of error are spent, "
            f"the rest is for the looks after {counted(looks.seeds, 'seed')}"
        )
    return longer


def _next_seeds(selection: Selection, looks: LookHistory, processes: int) -> list[int]:
    """All seeds up to the next look: at least one more, and as many more as keep the cluster busy."""
    if not selection.first:
        return selection.seeds
    if not looks.seeds:
        return selection.seeds[: selection.first]
    return selection.seeds[: looks.seeds + max(1, processes // max(1, selection.questions))]


def _look(team: Team, selection: Selection, seeds: int) -> LookHistory:
    """Takes one look at the results after a number of seeds; saves it and prints its answers."""
    work_dir, before = team.here.folder, load_looks(team.here.folder)
    records = [record for record in load_records(work_dir) if not record.searched]
    facts = evidence_facts(work_dir, selection, records)
    arms = (selection.baseline, selection.configurations)
    differences = evidence(records, *arms, None, scores_getter(selection.of), facts)
    look = take_look(differences, seeds, selection, before.settled)
    looks = add_look(work_dir, look)
    for question, answer in look.answers.items():
        difference = look.differences.get(question)
        size = (
            f" ({difference['mean']:+.2f}: {difference['low']:+.2f} to {difference['high']:+.2f})" if difference else ""
        )
        team.notify(f"look      after {counted(seeds, 'seed')}: {question}: {answer}{size}")
    return looks


def _train(team: Team, shown: SweepConsole, selection: Selection, seeds: Sequence[int], resume: bool) -> bool:
    """Trains the runs of the given seeds that are not trained yet. Returns whether all of them came to an end."""
    work_dir = team.here.folder
    looked_at = load_looks(work_dir).seeds  # the runs of the first seeds, up to the last look, are complete
    new = seeds[looked_at:]
    suffix = f"-{len(seeds)}" if selection.first or selection.grown or team.study.grown else ""
    if team.study.grown:
        suffix += f"-{team.study.grown}"
    runs, costs = selection.runs(work_dir, new), load_equal_costs(work_dir)
    measured = selection.at_equal_cost and bool(costs)
    if measured and looked_at:  # the lengths of the runs at equal cost are known, so they train in the same phase
        runs += _longer(selection, work_dir, new, costs)
    shown.expect(CONFIRMED, len(selection.runs(work_dir, seeds)))
    if measured and looked_at:
        shown.expect(EQUAL_COST, len(_longer(selection, work_dir, seeds, costs)))
    if not _run(team, f"{PHASE}{suffix}", runs, resume):
        return False
    if not selection.at_equal_cost or (measured and looked_at):
        return True
    if not measured:
        costs = equal_costs(load_records(work_dir), selection)
        save_equal_costs(work_dir, costs)
        team.here.push()
    for name, cost in costs.items():
        team.notify(f"cost      {describe_cost(name, cost, selection.seconds)}")
    runs = _longer(selection, work_dir, new, costs)
    shown.expect(EQUAL_COST, len(_longer(selection, work_dir, seeds, costs)))
    return _run(team, f"{EQUAL_COST_PHASE}{suffix}", runs, resume)


def describe_cost(name: str, cost: EqualCost, kind: str) -> str:
    """The line for the user about one configuration's equal cost.

    Example: ``t0003 takes 41.2 s a run, the student alone 30.1 s (real; alone: 60.0 s and 31.0 s): 1369 iterations of
    the student alone cost as much``.
    """
    second = next(name for name in cost.distilled if name != kind)
    return (
        f"{name} takes {cost.distilled[kind]:.1f} s a run, the student alone {cost.student_alone[kind]:.1f} s ({kind}; "
        f"{second}: {cost.distilled[second]:.1f} s and {cost.student_alone[second]:.1f} s): "
        f"{counted(cost.iterations, 'iteration')} of the student alone cost as much"
    )


def _longer(
    selection: Selection, work_dir: Path, seeds: Sequence[int], costs: Mapping[str, EqualCost]
) -> list[TrialConfig]:
    lengths = {name: cost.iterations for name, cost in costs.items()}
    return selection.equal_cost_runs(work_dir, seeds, lengths)


def _run(team: Team, name: str, runs: Sequence[TrialConfig], resume: bool) -> bool:
    """Runs these trials, unless all of them have finished. Returns whether they came to an end."""
    records = [load_record(team.here.folder / TRIALS / run["id"]) for run in runs]
    if all(record is not None and record.status == "finished" for record in records):
        return True
    listed = [run["id"] for run in runs]
    return team.run(
        Phase(name, len(runs), lambda at_once: list_searcher(runs, at_once), FIFOScheduler(), listed), resume
    )
