"""From a sweep's files to its page: what it says, of every state a folder may be in."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import os
import re
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
from rdistill.report.load import Run, Sweep, load, load_sweep
from rdistill.report.losses import loss_sizes, raw, weighted
from rdistill.report.page import Page, escaped, packed, render, write
from rdistill.report.text import MISSING, duration, plural, short, show, signed
from rdistill.report.theme import DARK, LIGHT, coloured
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
    assert headings == ["confirmed", "searched", "learning", "search", "features", "losses", "images", "cost", "repeat"]
    assert re.findall(r'<a href="#([a-z]+)">', text) == headings
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
    plots = page_of(confirmed).plots
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
    assert "<img" not in text and html.escape(evil, quote=False) in html.unescape(text).replace(
        evil, html.escape(evil, quote=False)
    )
    assert len(re.findall("<script", text)) == 3
    figures = embedded(text, "figures")
    assert "onerror" in figures and "<img" not in figures


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
    rows = {row[1].text: row for row in boards.leaderboard(sweep).rows}
    assert [rows[name][4].text for name in ("t0001", "b0001", "baseline")] == [signed(1.0), show(None), show(None)]


def test_the_sweeps_own_verdict_comes_first(confirmed: Path) -> None:
    sweep = load_sweep(confirmed)
    assert facts.verdict(sweep).startswith("t0001 is better than the student alone")
    values = {fact.label: (fact.value, fact.note) for fact in facts.headline(sweep)}
    assert values["confirmed difference"] == ("+4.10", "+2.20 to +6.00")
    assert values["teacher"] == ("84.10", "91.7% of it reached")


def test_searched_and_confirmed_are_apart(confirmed: Path) -> None:
    sweep = load_sweep(confirmed)
    table = boards.confirmed_table(sweep)
    assert table is not None and table.caption.startswith("Confirmed: fresh seeds 1, 2, 3")
    assert [row[0].text for row in table.rows] == ["t0001", "t0002", "baseline (student alone)"]
    assert [row[4].text for row in table.rows[:2]] == ["+4.10", "+0.50"]
    assert boards.leaderboard(sweep).caption.startswith("Searched")
    assert boards.confirmed_table(of(scored("t0001", 70.0))) is None


def test_the_forest_marks_what_is_above_zero(confirmed: Path) -> None:
    rows = [
        ("x", {"mean": 1.0, "low": 0.5, "high": 1.5, "above_zero": True}),
        ("y", {"mean": -1.0, "low": -3.0, "high": 1.0}),
    ]
    plot = scores.forest(rows)
    assert plot is not None and [trace["marker"]["color"] for trace in plot.data] == ["$best", "$other"]
    assert plot.data[1]["error_x"]["array"] == [2.0] and plot.data[1]["error_x"]["arrayminus"] == [2.0]
    assert plot.summary.startswith("1 of 2 confirmed configurations lies above")
    assert scores.forest([("z", {"mean": None})]) is None


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


def test_importance_needs_trials(small: Path) -> None:
    few = study.importance(study.study_of(of(*[a_record(f"t000{number}") for number in range(1, 5)])))
    assert few == "Importance needs 8 trials with a score; there are 4."
    plot = study.importance(study.study_of(load_sweep(small)))
    assert not isinstance(plot, str) and plot is not None
    assert sum(row[1].sort for row in plot.table.rows) == pytest.approx(1.0)  # type: ignore[misc]


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
    assert plot is not None and not isinstance(plot, str) and plot.summary.startswith("logits.weight matters most")


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
    assert (
        plot.summary
        == "backbone.layer3 (student) with backbone.layer4 (teacher) has the highest mean, 75.00 mIoU over 2 trials."
    )
    assert [cell.text for cell in plot.table.rows[0]][2:] == ["75.00", "80.00", "2"]


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
    assert [plural(1, "class"), plural(2, "class"), plural(0, "trial")] == ["1 class", "2 classes", "0 trials"]


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
    assert page.warnings == [] and [plot.id for plot in page.plots] == ["sweeps", "confirmed"]
    assert "t0001 is better than the student alone" in render(page)


def test_compare_warns_of_unequal_terms(small: Path, tmp_path: Path) -> None:
    second = a_sweep(tmp_path / "other", 2, spec={"seed": 7})
    (warning,) = compare_page([small, second]).warnings
    assert warning == "The sweeps differ in seed (small: 0; other: 7): their scores are not about the same thing."


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
