"""From a sweep's files to its page: what it says, of every state a folder may be in."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from report_sweep import CONFIG, HIDDEN, KIND, PAIR, SPACE, WEIGHT, a_record, a_summary, a_sweep

from rdistill.core.errors import UserError
from rdistill.report import boards, facts, pairs, parameters, pareto, repeat, scores, study
from rdistill.report.build import page_of, sweep_page
from rdistill.report.compare import compare_page
from rdistill.report.curves import learning_curves
from rdistill.report.equal_cost import looks_note, uncertainty_table
from rdistill.report.load import Run, Sweep, load, load_sweep
from rdistill.report.losses import loss_sizes, raw, weighted
from rdistill.report.models import models_table
from rdistill.report.page import Page, escaped, packed, render, write
from rdistill.report.scores import DifferenceRow
from rdistill.report.standing import next_steps, standing
from rdistill.report.text import MISSING, Column, Table, cell, condensed, duration, short, show, signed
from rdistill.report.theme import DARK, LIGHT, coloured, percent_range, round_range, round_ticks
from rdistill.report.why import why_section
from rdistill.sweeps.study.records import TrialRecord

MEGABYTE = 1e6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline and 12 trials, nothing confirmed."""
    return a_sweep(tmp_path_factory.mktemp("report") / "small", 12)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = a_sweep(tmp_path_factory.mktemp("report") / "confirmed", 3)
    a_summary(folder)
    return folder


def of(*records: TrialRecord, summary: dict[str, Any] | None = None, **spec: Any) -> Sweep:
    """A sweep of some records, without a folder."""
    study_spec = {"space": SPACE, "search": {"type": "optuna", "num_trials": 3, "seed": 0}, "seed": 0, **spec}
    return Sweep(Path("nowhere"), {"sweep": study_spec, "config": CONFIG}, list(records), [], summary or {}, {})


def embedded(text: str, name: str) -> str:
    match = re.search(rf'<script type="text/plain" id="{name}-packed">([^<]*)</script>', text)
    assert match
    return gzip.decompress(base64.b64decode(match[1])).decode()


# ---------------------------------------------------------------------------------------------------------
# The page


def test_every_section_of_a_finished_sweep(confirmed: Path) -> None:
    text = render(page_of(confirmed))
    headings = re.findall(r'<h2 id="heading-([a-z]+)"', text)
    sections = ["confirmed", "searched", "learning", "search", "features", "losses", "images", "cost", "repeat"]
    assert headings == ["next", *sections]
    assert re.findall(r'<a href="#([a-z]+)">', text) == sections
    assert 'lang="en"' in text and "<main" in text and 'class="skip"' in text
    assert "t0001 is better than the student alone: +4.10 mIoU (95\xa0% interval" in text
    assert "the search ended at the border of distill.losses.logits.weight" in text


def test_nothing_is_fetched(small: Path) -> None:
    """No address stands where a browser would follow it by itself."""
    text = render(page_of(small))
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_every_plot_is_valid_and_has_words_and_a_table(confirmed: Path) -> None:
    page = page_of(confirmed)
    assert page.card is not None
    plots = [*page.plots, page.card]
    assert len({plot.id for plot in plots}) == len(plots) >= 9
    for plot in plots:
        figure = go.Figure(coloured({"data": plot.data, "layout": plot.layout}, LIGHT))  # raises for unknown properties
        assert len(figure.data) > 0 and plot.summary.endswith(".") and plot.table.rows
        assert all(len(row) == len(plot.table.columns) for row in plot.table.rows)
        for theme in (LIGHT, DARK):
            assert '"$' not in json.dumps(coloured({"data": plot.data, "layout": plot.layout}, theme))


def test_two_hundred_trials_are_under_five_megabytes(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "many", 200)
    file = write(page_of(folder), folder / "report.html")
    assert 1 * MEGABYTE < file.stat().st_size < 3.5 * MEGABYTE  # images come on top
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "study.json", "trials"]
    kept = json.loads(embedded(file.read_text(), "figures"))["figures"]["losses"]["variants"]
    assert len(kept) == 201 and max(len(trace["x"]) for traces in kept.values() for trace in traces) == 50


def test_names_cannot_break_out(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&</script>"
    folder = a_sweep(tmp_path / "evil", 0)
    for name in ("baseline", "t0001", "t0002"):
        record = a_record(name, classes=("background", evil), reason=evil)
        record.values = {} if name == "baseline" else {KIND: evil, WEIGHT: 2.0}
        record.save(folder / "trials" / name)
    (folder / "summary.json").write_text(json.dumps({"verdict": evil, "environment": {evil: evil}, "warnings": [evil]}))
    text = render(page_of(folder))
    assert "<img src=x" not in text and html.escape(evil, quote=False) in html.unescape(text).replace(
        evil, html.escape(evil, quote=False)
    )
    assert len(re.findall("<script", text)) == 3
    figures = embedded(text, "figures")
    assert "onerror" in figures and "<img" not in figures


def column_of(table: Table, name: str) -> list[str]:
    """The texts of a column."""
    (place,) = (index for index, column in enumerate(table.columns) if column.name == name)
    return [row[place].text for row in table.rows]


def test_a_written_page_is_whole_or_not_there(small: Path, tmp_path: Path) -> None:
    page = Page("title", "kind", "said", [], [])
    with pytest.raises(UserError, match="choose another place with --out"):
        write(page, small / "study.json" / "x.html")
    assert write(page, tmp_path / "a" / "b.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.html"]


# ---------------------------------------------------------------------------------------------------------
# Folders in every state


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match="holds neither a sweep"):
        load(tmp_path)


def test_before_the_first_record(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"sweep": {"space": SPACE}, "config": CONFIG}))
    page = page_of(tmp_path)
    assert page.verdict == "No trial has written a record yet." and page.plots == []
    assert "<main" in render(page)


def test_while_it_runs(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "running", 3)
    for name, status in (("t0002", "running"), ("t0003", "running")):
        a_record(name, status=status, history=[], losses=[]).save(folder / "trials" / name)
    page = page_of(folder)
    assert page.verdict.startswith("Still running (2 of 4 trials done); searched only, not confirmed: t0001 is best")
    assert "<main" in render(page)


def test_when_all_failed(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "failed", 0)
    for name in ("baseline", "t0001"):
        a_record(name, status="failed", reason="iteration 2: loss is not finite", history=[], losses=[]).save(
            folder / "trials" / name
        )
    page = page_of(folder)
    assert "no trial under a teacher has a score (iteration 2: loss is not finite)" in page.verdict
    assert "iteration 2: loss is not finite" in render(page)


def test_nan_is_a_gap(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "nan", 2)
    record = a_record("t0001")
    record.history[0]["mIoU"] = math.nan
    record.history[1]["IoU"] = {"background": None, "optic disc": math.nan}
    record.losses[3]["raw/logits"] = math.inf
    record.losses[4]["distill.loss_hidden"] = math.nan
    record.save(folder / "trials" / "t0001")
    assert "NaN" not in embedded(render(page_of(folder)), "figures")


def test_what_is_damaged_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "damaged", 3)
    (folder / "trials" / "t0001" / "trial.json").write_text('{"id": "t0001", "val')
    (folder / "trials" / "t0002" / "trial.json").write_text('{"id": "t0002", "values": [1], "history": 3}')
    (folder / "summary.json").write_text("[]")
    sweep = load_sweep(folder)
    assert [record.id for record in sweep.records] == ["baseline", "t0003"]
    assert "t0001/trial.json cannot be read" in sweep.notes[0] and "t0002/trial.json is not" in sweep.notes[1]
    assert "t0001/trial.json cannot be read" in render(sweep_page(sweep))


def test_records_of_other_versions(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "versions", 1)
    file = folder / "trials" / "t0002" / "trial.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"id": "t0002", "values": {WEIGHT: 2.0}, "seed": 1, "unheard_of": {"a": 1}}))
    record = load_sweep(folder).trials[1]
    assert (record.id, record.status, record.history) == ("t0002", "running", [])


def test_confirmation_runs_are_not_among_the_searched(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "phases", 2)
    for name, of_ in (("t0001-s1", "t0001"), ("baseline-s1", "baseline")):
        content = json.loads((folder / "trials" / of_ / "trial.json").read_text())
        file = folder / "trials" / name / "trial.json"
        file.parent.mkdir()
        file.write_text(json.dumps({**content, "id": name, "phase": "confirm", "of": of_, "seed": 1}))
    sweep = load_sweep(folder)
    assert [record.id for record in sweep.records] == ["baseline", "t0001", "t0002"]
    assert sorted(record.id for record in sweep.confirming) == ["baseline-s1", "t0001-s1"]


def test_a_single_run(tmp_path: Path) -> None:
    logs = tmp_path / "run" / "20260101_000000" / "vis_data"
    logs.mkdir(parents=True)
    lines = [{"loss": 1.0 / step, "decode.loss_ce": 1.0 / step, "lr": 0.1, "step": step} for step in range(10, 50, 10)]
    lines += [{"mIoU": 50.0 + step, "IoU.disc": 3.0, "step": step} for step in (20, 40)]
    (logs / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"loss": 0.')  # a kill while it wrote
    assert "has not ended yet" in page_of(tmp_path / "run").verdict
    metrics = {"mIoU": 90.0, "best_iter": 40, "iter": 40, "IoU": {"disc": 80.0, "rim": None}, "seed": 3, "seconds": 5.0}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    run = load(tmp_path / "run")
    assert isinstance(run, Run) and len(run.steps) == 4 and len(run.validations) == 2
    page = page_of(tmp_path / "run")
    assert page.verdict.startswith("90.00 mIoU on validation data") and len(page.plots) == 2
    assert "rdistill train" in render(page)


# ---------------------------------------------------------------------------------------------------------
# What it says


def scored(name: str, *values: float, **more: Any) -> TrialRecord:
    history = [
        {"iter": 10 * index, "seconds": 2.0 * index, "mIoU": value, "IoU": {"a": value, "b": more.pop("b", value)}}
        for index, value in enumerate(values, start=1)
    ]
    return TrialRecord(name, more.pop("values", {}), 0, status=more.pop("status", "finished"), history=history, **more)


def test_a_searched_verdict() -> None:
    sentence = facts.verdict(of(scored("baseline", 70.0), scored("t0001", 72.5), scored("t0002", 60.0)))
    assert sentence == (
        "Searched only, not confirmed: t0001 is best with 72.50 mIoU, 2.50 points above the student alone (70.00), "
        "each on one seed: a lead, not a result."
    )
    below = facts.verdict(of(scored("baseline", 70.0), scored("t0001", 69.0)))
    assert "1.00 points below the student alone" in below
    stuck = facts.verdict(of(scored("baseline", 49.0, b=0.0), scored("t0001", 80.0)))
    assert stuck.endswith("80.00 mIoU; the student alone never left one class, so there is nothing to compare it with.")


def test_the_best_of_several_baselines_counts() -> None:
    sweep = of(scored("b0001", 71.0, phase="baseline"), scored("baseline", 70.0), scored("t0001", 72.0))
    assert sweep.baseline is not None and sweep.baseline.id == "b0001"
    assert "1.00 points above the student alone (71.00)" in facts.verdict(sweep)
    table = boards.leaderboard(sweep)
    gains = dict(zip(column_of(table, "trial"), column_of(table, "gain"), strict=True))
    assert gains == {"t0001": signed(1.0), "b0001": show(None), "baseline": show(None)}


def test_the_sweeps_own_verdict_comes_first(confirmed: Path) -> None:
    sweep = load_sweep(confirmed)
    assert facts.verdict(sweep).startswith("t0001 is better than the student alone")
    values = {fact.label: (fact.value, fact.note) for fact in facts.headline(sweep)}
    assert values["better by"] == ("+4.10", "+2.20 to +6.00")
    assert values["teacher"] == ("84.10", "91.7% of it reached")


def test_searched_and_confirmed_are_apart(confirmed: Path) -> None:
    sweep = load_sweep(confirmed)
    table = boards.confirmed_table(sweep)
    assert table is not None and table.caption.startswith("Confirmed: fresh seeds 1, 2, 3")
    assert [row[0].text for row in table.rows] == ["t0001", "t0002", "baseline (student alone)"]
    assert column_of(table, "difference")[:2] == ["+4.10", "+0.50"]
    assert boards.leaderboard(sweep).caption.startswith("Searched")
    assert boards.confirmed_table(of(scored("t0001", 70.0))) is None


def test_the_forest_shows_what_is_decided_and_each_seed(confirmed: Path) -> None:
    rows = [
        DifferenceRow("x", {"mean": 1.0, "low": 0.5, "high": 1.5, "p_adjusted": 0.01}, {"1": 0.75, "2": 1.25}),
        DifferenceRow("y", {"mean": -1.0, "low": -3.0, "high": 1.0, "p_adjusted": 0.4}),
        DifferenceRow("z", {"mean": -2.0, "low": -3.0, "high": -1.0, "p_adjusted": 0.01}),
        DifferenceRow("wide", {"mean": 50.0, "low": -5.0, "high": 105.0, "p_adjusted": 0.4}),
    ]
    plot = scores.forest(rows)
    assert plot is not None
    *means, seeds = plot.data
    assert [trace["marker"]["color"] for trace in means] == ["$best", "$muted", "$bad", "$muted"]
    assert means[1]["error_x"]["array"] == [2.0] and means[1]["error_x"]["arrayminus"] == [2.0]
    assert means[3]["error_x"]["array"] == [50.0] and max(plot.layout["xaxis"]["range"]) == 100  # points; no more
    assert (seeds["x"], seeds["text"]) == ([0.75, 1.25], ["seed 1", "seed 2"])
    assert plot.summary.startswith("1 of 4 differences is shown to be above zero; x differs by +1.00 points, and is")
    assert column_of(plot.table, "shows") == ["better", "not decided", "worse", "not decided"]
    assert column_of(plot.table, "seed 1") == ["+0.75", MISSING, MISSING, MISSING]
    assert scores.forest([]) is None
    sweep = load_sweep(confirmed)
    assert scores.difference_rows(sweep)[0].by_seed == pytest.approx({"1": 4.1, "2": 4.1, "3": 4.1})
    sweep.confirmed_baseline["never_trained"] = [2]
    assert set(scores.difference_rows(sweep)[0].by_seed) == {"1", "3"}


def a_difference(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"mean": (low + high) / 2, "low": low, "high": high, "p_adjusted": 0.01, "n": 3, **more}


@pytest.mark.parametrize(
    ("at_iterations", "at_cost", "word", "colour", "step"),
    [
        ((1, 3), None, "Better than the student alone", "best", "Score it once on a test split"),
        ((1, 3), (-1, 2), "Better at equal iterations, not decided at equal cost", "best", "Confirm on more seeds"),
        ((1, 3), (-3, -1), "Better at equal iterations, worse at equal cost", "bad", "Train the student alone for"),
        ((-3, -1), None, "Worse than the student alone", "bad", "Use the student alone, or another teacher"),
        ((-1, 2), None, "Not decided", "muted", "Confirm on more seeds"),
    ],
)
def test_word_colour_and_next_step_follow_the_verdict(
    at_iterations: tuple[float, float], at_cost: tuple[float, float] | None, word: str, colour: str, step: str
) -> None:
    arm: dict[str, Any] = {"id": "t0001", "mean": 77.0, "n": 3, "difference": a_difference(*at_iterations)}
    if at_cost:
        arm["equal_cost"] = {"id": "baseline", "mean": 76.0, "n": 3, "difference": a_difference(*at_cost)}
    summary = {"confirmed": {"seeds": [1, 2, 3], "configurations": [arm], "baseline": {"id": "baseline", "mean": 75.0}}}
    sweep = of(scored("baseline", 75.0), scored("t0001", 77.0), summary=summary)
    assert (standing(sweep).word, standing(sweep).colour) == (word, colour)
    assert next_steps(sweep)[0].text.startswith(step)
    shown = {fact.value: fact.colour for fact in facts.headline(sweep)}
    assert (
        shown[signed(sum(at_iterations) / 2)]
        == {"best": "best", "bad": "bad", "muted": "muted"}[
            "best" if at_iterations[0] > 0 else "bad" if at_iterations[1] < 0 else "muted"
        ]
    )
    card = page_card(sweep)
    assert f"<b>{word}</b>" in card and "What next: " + step in card


def page_card(sweep: Sweep) -> str:
    """All texts of the card."""
    card = sweep_page(sweep).card
    assert card is not None
    return "\n".join(note["text"] for note in card.layout["annotations"])


def test_more_images_where_seeds_would_not_decide() -> None:
    gap = a_difference(-1, 2, images=20, binds="images", half_by_images=1.4)
    arm = {"id": "t0001", "mean": 77.0, "n": 3, "difference": gap}
    sweep = of(scored("baseline", 75.0), scored("t0001", 77.0), summary={"confirmed": {"configurations": [arm]}})
    assert next_steps(sweep)[0].text.startswith("Validate on more images: with 20 of them")


@pytest.mark.parametrize(
    ("one_class_runs", "step"), [(3, "Train for longer (`--iters`)"), (0, "Look at the runs that")]
)
def test_longer_training_where_nothing_could_be_compared(one_class_runs: int, step: str) -> None:
    arms = [{"id": name, "n": 3, "mean": 49.0, "one_class_runs": one_class_runs} for name in ("t0001", "baseline")]
    confirmed = {"configurations": [{**arms[0], "difference": None}], "baseline": arms[1]}
    sweep = of(scored("baseline", 49.0), scored("t0001", 49.1), summary={"confirmed": confirmed})
    assert standing(sweep).word == "Not confirmed: nothing to compare"
    assert next_steps(sweep)[0].text.startswith(step)


def test_no_more_seeds_where_looks_have_given_up() -> None:
    arm = {"id": "t0001", "mean": 77.0, "n": 3, "difference": a_difference(-1, 2, answer="futile")}
    confirmed: dict[str, Any] = {"configurations": [arm]}
    records = (scored("baseline", 75.0), scored("t0001", 77.0))
    assert next_steps(of(*records, summary={"confirmed": confirmed}))[0].text.startswith("Confirm on more seeds")
    confirmed["looks"] = {"each": [], "most": 10}
    sweep = of(*records, summary={"confirmed": confirmed})
    assert next_steps(sweep)[0].text.endswith(
        "that a gain would be shown by seed 10 had become unlikely, so no more were added."
    )
    assert looks_note(sweep) == ["Seeds are added until the answer is decided, up to 10; none was looked at yet."]


@pytest.mark.parametrize(
    ("at_iterations", "at_cost", "word", "step", "shows"),
    [
        # (answer, chance) of each question; without a chance, an older version called every open one futile
        (("futile", 0.031), None, "Not decided; more seeds would hardly show a gain",
         "would very probably not show a gain (a chance of 3 %).", "futile"),
        (("futile", 0.031), ("futile", 0.001), "Not decided; more seeds would hardly show a gain",
         "would very probably not show a gain (a chance of 3 %).", "futile"),
        (("futile", 0.031), ("open", 0.2), "Not decided", "adds them until it is decided.", "futile"),
        (("open", 0.16), ("futile", 0.01), "Not decided", "adds them until it is decided.", "open"),
        (("futile", None), None, "Not decided", "adds them until it is decided.", "open"),
    ],
)  # fmt: skip
def test_word_and_next_step_of_a_fixed_list_follow_the_answer(
    at_iterations: tuple[str, float | None], at_cost: tuple[str, float | None] | None, word: str, step: str, shows: str
) -> None:
    def gap(answer: str, chance: float | None) -> dict[str, Any]:
        of_chance = {} if chance is None else {"chance": chance}
        return a_difference(-1, 2, answer=answer, p_adjusted=0.4, low_seeds=-1.0, high_seeds=2.0, **of_chance)

    arm: dict[str, Any] = {"id": "t0001", "mean": 77.0, "n": 3, "difference": gap(*at_iterations)}
    if at_cost:
        arm["equal_cost"] = {"id": "baseline", "mean": 76.0, "n": 3, "difference": gap(*at_cost)}
    sweep = of(scored("baseline", 75.0), scored("t0001", 77.0), summary={"confirmed": {"configurations": [arm]}})
    assert (standing(sweep).word, standing(sweep).colour) == (word, "muted")
    assert next_steps(sweep)[0].text.endswith(step)
    assert f"<b>{word}</b>" in page_card(sweep)
    (fact,) = (fact for fact in facts.headline(sweep) if fact.label == "difference, not decided")
    assert fact.colour == "muted"
    table = uncertainty_table(sweep)
    assert table is not None
    first_row = " ".join(cell.text for cell in table.rows[0])
    assert shows in re.findall(r"\w+", f"{first_row} {table.same}")  # what is the same in every row stands apart


def test_the_confirmed_configurations_are_compared_with_each_other() -> None:
    def pair(first: str, second: str, mean: float, half: float) -> dict[str, Any]:
        ends = {"low": mean - half, "high": mean + half}
        return {"first": first, "second": second, "n": 6, "images": 76, "mean": mean, **ends, "p_adjusted": 0.0123}

    pairs = [pair("t1", "t2", 1.5, 1.0), pair("t1", "t3", 0.5, 1.0), pair("t2", "t3", -1.0, 0.5)]
    table = boards.pairwise_table(of(scored("baseline", 75.0), summary={"confirmed": {"pairwise": pairs}}))
    assert table is not None and [[cell.text for cell in row] for row in table.rows] == [
        ["t1", "t2", "+1.50", "+0.50 to +2.50", "t1"],
        ["t1", "t3", "+0.50", "\u22120.50 to +1.50", "neither is shown to be"],
        ["t2", "t3", "\u22121.00", "\u22121.50 to \u22120.50", "t3"],
    ]
    assert "hold together with 95 %" in table.caption and "76" in table.same and "0.0123" in table.same
    assert boards.pairwise_table(of(scored("baseline", 75.0), summary={"confirmed": {"pairwise": []}})) is None
    assert boards.pairwise_table(of(scored("baseline", 75.0))) is None


def test_when_all_planned_seeds_are_used_the_step_says_so() -> None:
    """A larger `max` is refused after the last look, so more seeds are no advice."""
    arm = {"id": "t0001", "mean": 77.0, "n": 3, "difference": a_difference(-1, 2, answer="futile", n=10)}
    confirmed = {"configurations": [arm], "looks": {"each": [], "most": 10}}
    sweep = of(scored("baseline", 75.0), scored("t0001", 77.0), summary={"confirmed": confirmed})
    assert standing(sweep).word == "Not decided"
    assert next_steps(sweep)[0].text.endswith("or the losses: all 10 planned seeds are used.")


def test_a_search_alone_is_not_in_the_colour_of_a_gain() -> None:
    sweep = of(scored("baseline", 60.0), scored("t0001", 76.89, values={WEIGHT: 99.0}))
    assert standing(sweep).word == "Searched, not confirmed" and standing(sweep).colour == "muted"
    (gain,) = (fact for fact in facts.headline(sweep) if fact.value == "+16.89")
    assert (gain.label, gain.colour) == ("difference on one seed", "muted")
    confirm, widen = next_steps(sweep)
    assert "confirm: {top: 2, seeds: auto}" in confirm.text and confirm.command.endswith("--resume")
    assert widen.text.startswith("Widen logits.weight and search on")


def test_an_interrupted_sweep_does_not_run() -> None:
    """Though its trials are still called running: they go on with --resume."""
    records = [scored("baseline", 70.0), scored("t0001", 71.0, status="running")]
    sweep = of(*records, summary={"status": "interrupted", "environment": {"command": "rdistill sweep a.yaml"}})
    assert not sweep.running and standing(sweep).word == "Interrupted"
    assert facts.verdict(sweep).startswith("Interrupted (1 of 4 trials done); searched only, not confirmed: ")
    assert [step.command for step in next_steps(sweep)] == ["rdistill sweep a.yaml --resume"]
    assert of(*records).running and standing(of(*records)).word == "Still running"


def test_the_images_of_each_kind_are_counted() -> None:
    images = {"training": 6, "validation": 3, "without_masks": 9}
    sweep = of(scored("baseline", 70.0), summary={"environment": {"images": images}})
    for unlabeled, many in (({"per_batch": 4}, "4 images"), ({"share": 0.25}, "share 0.25")):
        section = {"teachers": [], "unlabeled": {"img_dir": "more", **unlabeled}}
        with_them = replace(sweep, study={**sweep.study, "config": {**CONFIG, "distill": section}})
        rows = {row[0].text: row[1].text for row in repeat.environment(with_them).rows}
        assert [rows[f"images {kind}"] for kind in ("training", "validation", "without masks")] == ["6", "3", "9"]
        assert rows["folder of images without masks"] == f"more, {many} of each batch"
    assert not any("folder of images" in row[0].text for row in repeat.environment(sweep).rows)


def test_choices_with_long_names_lie_below_each_other() -> None:
    names = ["a loss with a long name", "another loss with a long name"]
    sweep = of(*[scored(f"t000{index}", 70.0 + index, values={KIND: names[index % 2]}) for index in range(1, 5)])
    (plot,) = parameters.slices(sweep)
    go.Figure(coloured({"data": plot.data, "layout": plot.layout}, LIGHT))  # raises for unknown properties
    assert plot.layout["yaxis"]["type"] == "category" and plot.min_width > 0
    (star,) = (trace for trace in plot.data if trace["name"] == "best")
    assert (star["x"], star["y"]) == ([74.0], names[:1])


def test_one_best_on_the_whole_page() -> None:
    """The verdict's configuration, not the search's: curves, leaderboard, parameters and losses highlight the same."""
    losses = [{"iter": 1, "loss": 1.0, "decode.loss_ce": 1.0}]
    records = [
        scored("baseline", 70.0),
        scored("t0001", 75.0, 76.0, values={WEIGHT: 2.0}, losses=losses),
        scored("t0002", 79.0, 80.0, values={WEIGHT: 5.0}, losses=losses),
    ]
    arms = [{"id": "t0001", "mean": 77.0, "difference": {"mean": 1.0}}, {"id": "t0002", "mean": 74.0, "difference": {}}]
    sweep = of(*records, summary={"confirmed": {"configurations": arms, "baseline": {"id": "baseline", "mean": 70.0}}})
    board, curves = boards.leaderboard(sweep), learning_curves(sweep)
    assert [board.mark(index) for index in range(3)] == ["", "is-best", "is-baseline"]  # t0002 leads the search
    assert curves is not None and "best, t0001" in [trace["name"] for trace in curves.data]
    assert "t0001, the best on fresh seeds," in curves.summary
    wide, sizes = parameters.parallel(sweep), loss_sizes(sweep)
    assert wide is not None and "the thick one is t0001" in wide.summary
    assert sizes is not None and next(iter(sizes.variants)).startswith("t0001")
    (star,) = (trace for trace in parameters.slices(sweep)[0].data if trace["name"] == "best")
    assert star["text"] == ["t0001"]
    assert "t0002 was highest here; on fresh seeds it was t0001" in render(sweep_page(sweep))


def test_what_is_the_same_in_every_row_is_one_line() -> None:
    columns = [Column("trial"), Column("status"), Column("mIoU", True, rank=0), Column("p"), Column("time")]
    rows = [
        [cell("a"), cell("finished"), cell(7), cell(None), cell(1)],
        [cell("b"), cell("finished"), cell(7), cell(None), cell(2)],
    ]
    table = condensed(Table("t", columns, rows))
    assert [column.name for column in table.columns] == ["trial", "mIoU", "time"]  # the column of rank 0 stays
    assert table.same == "The same in every row: status finished. Empty: p."
    assert condensed(Table("t", columns, rows[:1])).same == ""


def test_a_note_stands_beside_its_trial() -> None:
    stuck = scored("t0002", 49.0, b=0.0)
    board = boards.leaderboard(of(scored("baseline", 70.0), scored("t0001", 72.0), stuck))
    assert column_names(board)[0] == "trial" and "note" not in column_names(board)
    assert {row[0].text: row[0].note for row in board.rows}["t0002"] == "never left one class"


def column_names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def test_axes_end_at_round_numbers_within_what_is_possible() -> None:
    assert percent_range([2.0, 98.7]) == [0.0, 100.0] and percent_range([-12.0, 105.0]) == [0.0, 100.0]
    assert percent_range([70.1, 74.9]) == [69.5, 75.5] and percent_range([]) == [0.0, 1.0]
    low, high = percent_range([100.0, 100.0])
    assert low < 100 and high == 100
    assert round_range([-0.3, 4.2]) == [-0.5, 4.5]
    assert round_ticks(0.13, 0.97) == [0.2, 0.4, 0.6, 0.8] and round_ticks(3.0, 3.0) == [3.0]


def test_bars_of_a_class_end_where_percent_end() -> None:
    arms = [
        {"id": name, "mean": 50.0, "IoU": {"disc": {"mean": mean, "sd": 14.0}}, "difference": {"mean": 1.0}}
        for name, mean in (("t0001", 95.0), ("baseline", 2.0))
    ]
    confirmed = {"configurations": arms[:1], "baseline": arms[1]}
    sweep = of(scored("baseline", 50.0), scored("t0001", 50.0), summary={"confirmed": confirmed})
    plot = scores.per_class(sweep)
    assert plot is not None and plot.layout["xaxis"]["range"] == [0.0, 100.0]
    bars = [(trace["error_x"]["arrayminus"], trace["error_x"]["array"]) for trace in plot.data]
    assert bars == [([2.0], [14.0]), ([14.0], [5.0])]


def test_equal_scores_lie_at_45_degrees() -> None:
    entries = [{"name": f"{index}.jpg", "baseline": 40.0 + index, "best": 70.0 - index} for index in range(3)]
    plot = scores.per_image({"best": "t0001", "baseline": "baseline", "per_image": entries})  # type: ignore[typeddict-item]
    assert plot is not None
    across, up = plot.layout["xaxis"], plot.layout["yaxis"]
    assert across["range"] == up["range"] == [35.0, 75.0] and across["dtick"] == up["dtick"]
    assert up["scaleanchor"] == "x" and plot.data[0]["x"] == plot.data[0]["y"] == [35.0, 75.0]


def test_the_best_so_far_is_optunas(small: Path) -> None:
    sweep = load_sweep(small)
    plot = study.history(sweep, study.study_of(sweep))
    assert plot is not None
    points, so_far = plot.data[:2]
    assert points["y"] == [record.best["mIoU"] for record in sweep.trials]
    assert so_far["y"] == [max(points["y"][: index + 1]) for index in range(12)]


def test_what_the_models_cost_stands_at_the_top(confirmed: Path) -> None:
    sweep = load_sweep(confirmed)
    sizes = {"params": 3.4e6, "flops": 1.25e9, "latency_ms": 23.45}
    small_sizes = {"params": 512e3, "flops": 91e6, "latency_ms": 4.1}
    models = {"teacher": sizes, "baseline": small_sizes, "best": small_sizes}
    images = {"models": models, "size": [96, 128], "device": "2 CPU threads"}
    table = models_table(replace(sweep, images=images))  # type: ignore[arg-type]
    assert table is not None and "an image of 128 x 96, on 2 CPU threads" in table.caption
    assert [[item.text for item in row] for row in table.rows] == [
        ["teacher", "84.10", "3.4 M", "1.25 G", "23.4"],
        ["student alone", "73.00", "512 k", "91 M", "4.1"],
        ["student distilled, t0001", "77.10", "512 k", "91 M", "4.1"],
    ]
    assert not any(item.note for row in table.rows for item in row)
    failed = {"params": 9.0, "problem": "it does not run on a blank image: ValueError: no image"}
    busy = "the machine was busy: load 9.8 on 2 cores"
    images = {**images, "models": {"teacher": failed, "best": small_sizes}, "busy": busy}
    partly = models_table(replace(sweep, images=images))  # type: ignore[arg-type]
    assert partly is not None and partly.caption.endswith(f"2 CPU threads; {busy}, so that latency is too long")
    teacher, alone, _ = (row[0].note for row in partly.rows)
    assert teacher == "no FLOPs and latency: it does not run on a blank image: ValueError: no image"
    assert alone == "no size: it is no network of its own, or was not measured"
    without = models_table(sweep)  # an older version measured nothing
    assert without is not None and column_names(without) == ["model", "mIoU"]
    assert without.caption.endswith("parameters, FLOPs and latency are measured when a sweep ends")
    text = render(page_of(confirmed))
    assert text.index("student distilled, t0001") < text.index('id="heading-next"') < text.index('id="main"')


def test_columns_have_their_rank_and_figures_their_width(confirmed: Path) -> None:
    """What page.js fits tables and pictures by."""
    text = render(page_of(confirmed))
    assert '<th scope="col" data-rank="0">configuration</th>' in text
    assert re.search(r'<th scope="col" data-rank="4" class="n">seed 1</th>', text)
    widths = {name: figure["width"] for name, figure in json.loads(embedded(text, "figures"))["figures"].items()}
    assert widths["verdict-card"] == 1280 and widths["confirmed"] == 0
    assert '<details class="card" data-figure="verdict-card">' in text and "@page{size:A4" in text


def test_the_pareto_front() -> None:
    records = [
        scored("baseline", 60.0, objectives={"params": 9.0}), scored("t0001", 70.0, objectives={"params": 5.0}),
        scored("t0002", 80.0, objectives={"params": 9.0}), scored("t0003", 65.0, objectives={"params": 7.0}),
        scored("t0004", 90.0),
    ]  # fmt: skip
    several = {"objectives": ["mIoU", "params"], "pareto": ["t0001", "t0002"]}
    (plot,) = pareto.fronts(of(*records, summary=several))
    go.Figure(coloured({"data": plot.data, "layout": plot.layout}, LIGHT))  # raises for unknown properties
    assert [(trace["name"], trace["text"]) for trace in plot.data] == [
        ("trials", ["t0003"]), ("students alone", ["baseline"]), ("Pareto front", ["t0001", "t0002"]),
    ]  # fmt: skip
    assert (plot.data[2]["x"], plot.data[2]["y"]) == ([5.0, 9.0], [70.0, 80.0])
    assert plot.summary.startswith("mIoU against parameters: 2 trials of 4 are on the Pareto front")
    assert pareto.fronts(of(*records, summary={"objectives": ["mIoU"], "pareto": None})) == []


def test_stopped_trials_are_marked_where_they_stopped() -> None:
    plot = learning_curves(
        of(scored("baseline", 50.0, 60.0), scored("t0001", 55.0, 70.0), scored("t0002", 40.0, status="stopped"))
    )
    assert plot is not None
    marks = next(trace for trace in plot.data if trace["name"] == "stopped here")
    assert (marks["x"], marks["y"], marks["text"]) == ([10], [40.0], ["t0002"])
    assert "1 were stopped early" not in plot.summary and "1 was stopped early" in plot.summary


def test_importance_needs_trials_and_says_how_far_it_may_be_off() -> None:
    few = study.importance(study.study_of(of(*[a_record(f"t000{number}") for number in range(1, 5)])))
    assert few == "Importance needs 16 trials with a score; there are 4."
    plot = study.importance(study.study_of(of(*[a_record(f"t{number:04d}") for number in range(1, 19)])))
    assert not isinstance(plot, str) and plot is not None
    assert sum(row[1].sort for row in plot.table.rows) == pytest.approx(1.0)  # type: ignore[misc]
    assert all(0 <= row[2].sort < row[3].sort <= 1 for row in plot.table.rows)  # type: ignore[operator]
    assert plot.summary.startswith("A hint from 18 trials, not a measurement: ")
    assert plot.layout["xaxis"]["range"] == [0, 1] and "text" not in plot.data[0]


def test_importance_finds_what_matters() -> None:
    records = [
        scored(
            f"t{index:04d}",
            60 + 10 * (index % 7),
            values={WEIGHT: 10 ** (index % 7 / 3.5), HIDDEN: 10 ** (index % 5 / 2.5)},
        )
        for index in range(1, 41)
    ]
    plot = study.importance(study.study_of(of(*records)))
    assert plot is not None and not isinstance(plot, str)
    assert "logits.weight separates the better trials most" in plot.summary


def test_the_study_has_the_trials_as_they_were(small: Path) -> None:
    sweep = load_sweep(small)
    rebuilt = study.study_of(sweep).get_trials()
    assert [trial.user_attrs["id"] for trial in rebuilt] == [record.id for record in sweep.trials]
    for trial, record in zip(rebuilt, sweep.trials, strict=True):
        assert trial.value == record.best["mIoU"] and trial.params["logits.weight"] == record.values[WEIGHT]
        assert json.loads(trial.params["hidden.pair"]) == record.values[PAIR]


def test_values_outside_of_the_space_do_not_break_it() -> None:
    sweep = of(scored("t0001", 70.0, values={WEIGHT: 1e4}), scored("t0002", 60.0, values={WEIGHT: 2.0, "made.up": [1]}))
    assert len(study.study_of(sweep).get_trials()) == 2
    assert len(parameters.slices(sweep)) == 2 and parameters.parallel(sweep) is not None


def test_the_heat_map_has_means_bests_and_counts() -> None:
    sweep = of(
        scored("t0001", 70.0, values={PAIR: [0, 1]}), scored("t0002", 80.0, values={PAIR: [0, 1]}),
        scored("t0003", 60.0, values={PAIR: [2, 0]}),
    )  # fmt: skip
    (plot,) = pairs.heat_maps(sweep)
    assert plot.data[0]["z"] == [[None, 75.0, None], [None] * 3, [60.0, None, None]]
    assert plot.data[0]["x"] == ["0 backbone.layer3", "1 backbone.layer4", "2 decode_head.bottleneck"]
    assert plot.data[0]["customdata"][0][1] == [80.0, 2]
    assert plot.summary == (
        "backbone.layer3 (student) with backbone.layer4 (teacher) has the highest mean, 75.00 mIoU over 2 trials, "
        "of 3 over 2 pairs."
    )
    assert [cell.text for cell in plot.table.rows[0]][2:] == ["75.00", "80.00", "2", "0"]


def test_the_heat_map_counts_the_collapsed_apart() -> None:
    sweep = of(
        scored("t0001", 70.0, values={PAIR: [0, 1]}), scored("t0002", 49.0, b=0.0, values={PAIR: [0, 1]}),
        scored("t0003", 49.0, b=0.0, values={PAIR: [2, 0]}),
    )  # fmt: skip
    (plot,) = pairs.heat_maps(sweep)
    assert plot.data[0]["z"] == [[None, 70.0, None], [None] * 3, [None] * 3]
    assert [note["text"] for note in plot.layout["annotations"]] == [
        "<b>70.00</b><br>n = 1<br>1 never left one class", "1 never left one class",
    ]  # fmt: skip
    assert plot.summary.endswith("2 more trials never left one class and are in no mean.")
    assert column_of(plot.table, "never left one class") == ["1", "1"]


def test_a_measured_weight_has_a_column() -> None:
    measured = scored("t0001", 70.0)
    measured.history[0]["weights"] = {"kd": 17.23456}
    board = boards.leaderboard(of(measured, scored("t0002", 60.0)))
    (place,) = (index for index, column in enumerate(board.columns) if column.name == "kd weight")
    assert [row[place].text for row in board.rows] == ["17.23", MISSING]


def test_loss_sizes() -> None:
    entry = {
        "iter": 10,
        "loss": 5.0,
        "decode.loss_ce": 0.5,
        "raw/kd": 0.4,
        "weight/kd_loss": 10.0,
        "distill.loss_kd": 4.0,
        "decode.acc_seg": 90.0,
        "lr": 0.1,
    }
    assert weighted(entry) == {"ce": 0.5, "kd": 4.0}
    assert raw(entry, task_weight=0.25) == {"ce": 2.0, "kd": 0.4}
    plot = loss_sizes(of(scored("t0001", 70.0, losses=[entry] * 5)))
    assert plot is not None and plot.summary.startswith("At the end of t0001 the sum consists of kd 89%, ce 11%.")
    assert loss_sizes(of(scored("t0001", 70.0))) is None


def test_cost_says_what_is_not_recorded() -> None:
    sweep = of(scored("baseline", 70.0, 71.0), scored("t0001", 70.0, status="stopped"))
    rows = {row[0].text: row[1].text for row in repeat.cost(sweep).rows}
    assert rows["share saved by cohorts"] == "not recorded"
    assert rows["share saved by early stopping"] == "99% of the iterations"  # 10 of 1,000 were run


def test_commands_are_quoted(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "with space", 1)
    commands = dict(repeat.commands(load_sweep(folder)))
    assert commands["trial t0001"].startswith(f"rdistill train '{folder}/trials/t0001/trial.py' --work-dir ")


@pytest.mark.parametrize(
    ("key", "keys", "expected"),
    [
        ("distill.losses.kd.weight", ["distill.losses.kd.weight"], "kd.weight"),
        ("optim_wrapper.optimizer.lr", ["optim_wrapper.optimizer.lr", "x"], "lr"),
        ("a.b.c", ["a.b.c", "d.b.c"], "a.b.c"),
    ],
)
def test_short_names(key: str, keys: list[str], expected: str) -> None:
    assert short(key, keys) == expected


def test_how_values_are_written() -> None:
    minus, dash = "\N{MINUS SIGN}", "\N{EN DASH}"
    assert [signed(1.234), signed(-0.4), signed(None)] == ["+1.23", f"{minus}0.40", dash]
    assert [show(value) for value in (None, math.nan, 0.000123456, True, [0, 1], 12)] == [
        dash, dash, "0.0001235", "yes", "[0, 1]", "12",
    ]  # fmt: skip
    assert show({"type": "CWD", "tau": 4.0}) == "CWD tau=4"
    assert [duration(value) for value in (1.23, 42, 190, 18420, None)] == [
        "1.2 s", "42 s", "3 min 10 s", "5 h 07 min", "not recorded",
    ]  # fmt: skip


def contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(theme: dict[str, str]) -> None:
    for name in ("ink", "muted", "best", "baseline", "teacher", "bad"):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
    for name in ("other", *(f"series{index}" for index in range(8))):  # lines and marks
        assert contrast(theme[name], theme["paper"]) >= 3, name


def test_escaping_leaves_templates_alone() -> None:
    figure = {"x": ["<b>"], "hovertemplate": "%{x}<extra></extra>", "name": "a&b", "line": {"color": "$best"}}
    assert escaped(figure, ["x", "name"]) == {**figure, "x": ["&lt;b>"], "name": "a&amp;b"}
    with pytest.raises(ValueError, match="JSON"):
        packed({"x": math.nan})


# ---------------------------------------------------------------------------------------------------------
# Several sweeps


def test_compare(confirmed: Path, small: Path) -> None:
    page = compare_page([confirmed, small])
    assert page.verdict.startswith(("confirmed is ahead", "small is ahead")) and "confirm them" in page.verdict
    assert page.warnings == [
        "What they try differs in sweep.search.num_trials; the table On equal terms? has the values."
    ]
    assert [plot.id for plot in page.plots] == ["sweeps", "confirmed"]
    assert "t0001 is better than the student alone" in render(page)


def test_compare_warns_of_unequal_terms(small: Path, tmp_path: Path) -> None:
    second = a_sweep(tmp_path / "other", 2, spec={"seed": 7})
    page = compare_page([small, second])
    assert page.warnings[0] == (
        "The sweeps differ in seed (small: 0; other: 7): their scores are not about the same thing."
    )
    assert page.verdict.startswith("These sweeps cannot be ranked: they were not run on equal terms")


def test_compare_sees_whatever_differs(small: Path, tmp_path: Path) -> None:
    """The size of the images too, and what no term names."""
    folder = a_sweep(tmp_path / "wide", 12)
    for name, side, depth in (("narrow", 64, 18), ("wide", 96, 50)):
        folder = a_sweep(tmp_path / name, 2)
        content = json.loads((folder / "study.json").read_text())
        pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": [side, side]}]
        content["config"]["train_dataloader"]["dataset"] = {"dataset": {"pipeline": pipeline}}
        content["config"]["model"] = {"backbone": {"depth": depth}}
        (folder / "study.json").write_text(json.dumps(content))
    page = compare_page([tmp_path / "narrow", tmp_path / "wide"])
    assert page.warnings[0].startswith(
        "The sweeps differ in image size in training (narrow: Resize 64 x 64; wide: Resize 96 x 96)"
    )
    assert page.warnings[1].startswith("Their configs differ too in ") and "model.backbone.depth" in page.warnings[1]
    (table,) = page.sections[-1].tables
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["model.backbone.depth"] == ["18", "50"]


def test_compare_names_every_folder_that_is_no_sweep(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compare_page([small, tmp_path, tmp_path / "none"])
    assert len(error.value.problems) == 2
    with pytest.raises(UserError, match="two sweeps or more"):
        compare_page([small, small])


def test_png_without_a_browser_is_one_line(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rdistill.report.png import write_pngs

    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(UserError, match="needs Chrome or Chromium, and none is on the PATH"):
        write_pngs(page_of(small), tmp_path / "png")


def test_the_gradients_over_training_are_drawn_for_each_configuration() -> None:
    """Means over two seeds, of the validations that were diagnosed; beside them a table of each of several teachers."""

    def run(seed: int, *figures: tuple[float | None, float | None]) -> TrialRecord:
        history = [
            {
                "iter": 10 * at,
                "seconds": 1.0,
                "mIoU": 50.0,
                "diagnosis": {"gradient_ratio": size, "gradient_cosine": cos},
            }
            for at, (size, cos) in enumerate(figures, 1)
        ]
        return TrialRecord(f"t0001-s{seed}", {}, seed, phase="confirm", of="t0001", history=history)

    runs = [run(1, (2.0, 0.5), (0.5, 0.1)), run(2, (4.0, 0.3), (None, None))]
    figures = {"teachers": [{"agreement": 90.0}, {"agreement": 80.0}]}
    why = {"t0001": {"figures": figures, "sentences": [{"about": "errors", "text": "Few.", "warning": True}]}}
    summary = {"why": why, "teachers": [{"mIoU": 80.0}, {"mIoU": 81.0}]}
    section = why_section(Sweep(Path("s"), {}, [], runs, summary, {}))
    size, cosine = section.plots
    assert (size.data[0]["x"], size.data[0]["y"]) == ([10, 20], [3.0, 0.5])
    assert cosine.data[0]["y"] == pytest.approx([0.4, 0.1]) and size.layout["yaxis"]["type"] == "log"
    assert [item.text for item in size.table.rows[0]] == ["t0001", "3", "0.5"]
    assert size.summary.endswith("over 2 validations, mean over the runs: t0001 from 3 to 0.5.")
    assert section.intro.endswith("Each of several teachers is compared with the student.")
    assert why_section(Sweep(Path("s"), {}, [], runs, {}, {})).empty
