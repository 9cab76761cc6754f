"""The trials of a sweep as an Optuna study, with Optuna's importances and history."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from rdistill.report.load import Sweep, mapping, miou
from rdistill.report.plot import Plot
from rdistill.report.text import Column, Table, cell, short, show
from rdistill.report.theme import Trace, layout, percent_range, round_step
from rdistill.sweeps.study.records import TrialRecord

MIN_TRIALS = 16  # an importance from fewer trials with a score would be noise
RESAMPLES = 40  # bootstrap samples of the trials, to estimate how uncertain an importance is
QUANTILES = (0.1, 0.9)  # quantiles of the bootstrap samples that are drawn as a range
TARGET = "mIoU"


def study_of(sweep: Sweep) -> optuna.Study:
    """The trials with a score as an Optuna study, in order. Its parameters have the short names of the config keys.

    A stopped trial has its best score, the same as for the searcher. Values of choices and pairs are JSON texts.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    space = {key: distribution for key in sweep.keys if (distribution := distribution_of(sweep, key)) is not None}
    for record in scored(sweep):
        params = {key: _scalar(record.values[key], space[key]) for key in space if key in record.values}
        names = {key: short(key, sweep.keys) for key in params}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=miou(record),
                params={names[key]: value for key, value in params.items()},
                distributions={names[key]: space[key] for key in params},
                user_attrs={"id": record.id},
            )
        )
    return study


def scored(sweep: Sweep) -> list[TrialRecord]:
    return [record for record in sweep.trials if miou(record) is not None and record.values]


def importance(study: optuna.Study) -> Plot | str | None:
    """A figure of each parameter's importance for the score; or a sentence that says why there is none."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return None
    if len(trials) < MIN_TRIALS:
        return f"Importance needs {MIN_TRIALS} trials with a score; there are {len(trials)}."
    varied = [
        name
        for name in dict.fromkeys(name for trial in trials for name in trial.params)
        if len({trial.params.get(name) for trial in trials}) > 1
    ]
    if len(varied) < 2:
        return "Importance compares parameters; fewer than two varied."
    if len({trial.value for trial in trials}) == 1:
        return "All trials have the same score: nothing separates them."
    try:
        shares = _shares(study, varied)
        ranges = _ranges(study, varied)
    except (ValueError, RuntimeError) as error:
        return f"Optuna cannot tell the importance of these trials: {error}"
    names = list(shares)[::-1]
    data = [
        dict(
            type="bar",
            orientation="h",
            x=[round(shares[name], 4) for name in names],
            y=names,
            marker=dict(color="$best"),
            error_x=dict(
                type="data",
                symmetric=False,
                array=[max(ranges[name][1] - shares[name], 0.0) for name in names],
                arrayminus=[max(shares[name] - ranges[name][0], 0.0) for name in names],
                color="$muted",
                thickness=1.5,
            ),
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            width=0.6,
        )
    ]
    figure = layout(
        xaxis=dict(title="share, with its range over resamples of the trials", tickformat=".0%", range=[0, 1]),
        yaxis=dict(type="category", showgrid=False, ticks=""),
        margin=dict(t=16),
    )
    first = names[-1]
    table = Table(
        "Importance of each parameter",
        [Column("parameter"), *[Column(name, numeric=True) for name in ("importance", "from", "to")]],
        [[cell(name), *[cell(share, ".3f") for share in (shares[name], *ranges[name])]] for name in shares],
    )
    low, high = ranges[first]
    summary = (
        f"A hint from {len(trials)} trials, not a measurement: {first} separates the better trials most, with a share "
        f"of {shares[first]:.0%}, which other trials would have put between {low:.0%} and {high:.0%}."
    )
    note = (
        f"Optuna's PED-ANOVA: what separates the better trials from all. Bars: the middle 80 % of {RESAMPLES} "
        "resamples of the trials."
    )
    return Plot(
        "importance",
        "Importance of each parameter",
        summary,
        data,
        figure,
        table,
        height=110 + 40 * len(names),
        note=note,
    )


def _shares(study: optuna.Study, names: Sequence[str]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, params=list(names))


def _ranges(study: optuna.Study, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The range of each importance over bootstrap samples of the trials, drawn with a fixed seed."""
    rng, trials = random.Random(0), study.get_trials(deepcopy=False)
    drawn: list[dict[str, float]] = []
    for _ in range(RESAMPLES):
        resample = optuna.create_study(direction="maximize")
        resample.add_trials(rng.choices(trials, k=len(trials)))
        try:
            drawn.append(_shares(resample, names))
        except (ValueError, RuntimeError):  # a parameter may have a single value in this sample
            continue
    if not drawn:
        raise ValueError("no resample of them can be told apart")
    ends = {}
    for name in names:
        ordered = sorted(shares.get(name, 0.0) for shares in drawn)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in QUANTILES)
        ends[name] = (low, high)
    return ends


def history(sweep: Sweep, study: optuna.Study) -> Plot | None:
    """The score of each trial in order, and the best score so far, from Optuna's own figure."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < 2:
        return None
    drawn = optuna.visualization.plot_optimization_history(study, target_name=TARGET).to_plotly_json()
    ids = [str(trial.user_attrs["id"]) for trial in trials]
    by_name = {trace["name"]: [float(value) for value in trace["y"]] for trace in drawn["data"]}
    scores, so_far = by_name[TARGET], by_name["Best Value"]
    numbers = list(range(1, len(trials) + 1))
    data: list[Trace] = [
        dict(
            type="scatter",
            mode="markers",
            name="a trial",
            x=numbers,
            y=scores,
            text=ids,
            marker=dict(color="$other", size=7),
            hovertemplate="%{text}: %{y:.2f}<extra></extra>",
        ),
        dict(
            type="scatter",
            mode="lines",
            name="best so far",
            x=numbers,
            y=so_far,
            line=dict(color="$best", width=2.5, shape="hv"),
            hovertemplate="best after %{x}: %{y:.2f}<extra></extra>",
        ),
    ]
    alone = miou(sweep.baseline)
    if alone is not None:
        data.append(
            dict(
                type="scatter",
                mode="lines",
                name="student alone, best",
                x=[1, len(trials)],
                y=[alone, alone],
                line=dict(color="$baseline", width=1.5, dash="dash"),
                hovertemplate="student alone %{y:.2f}<extra></extra>",
            )
        )
    top = max(range(len(trials)), key=lambda index: scores[index])
    summary = (
        f"The best of {len(trials)} trials, {ids[top]} with {scores[top]:.2f} mIoU on one seed, was number {top + 1}; "
        f"{_late_progress(so_far)}"
    )
    figure = layout(
        xaxis=dict(
            title="trial, in order", range=[0.5, len(trials) + 0.5], dtick=max(1, round(round_step(0, len(trials), 10)))
        ),
        yaxis=dict(title="best mIoU, %", range=percent_range([*scores, alone])),
    )
    rows = [
        [cell(number), cell(name), cell(score, ".2f"), cell(best, ".2f")]
        for number, name, score, best in zip(numbers, ids, scores, so_far, strict=True)
    ]
    columns = [Column("number", True), Column("trial"), Column("mIoU", True, rank=0), Column("best so far", True)]
    return Plot("history", "Best so far", summary, data, figure, Table("Trials in order", columns, rows), height=340)


def _late_progress(so_far: Sequence[float]) -> str:
    """A clause about the gain in the second half of the search."""
    gained = so_far[-1] - so_far[len(so_far) // 2]
    return f"the second half of the trials brought {f'{gained:.2f} points' if gained else 'nothing more'}."


def distribution_of(sweep: Sweep, key: str) -> BaseDistribution | None:
    """Optuna's distribution of a key; from the trials' values if the sweep file does not have the key."""
    dimension = mapping(mapping(sweep.spec.get("space")).get(key))
    seen = [record.values[key] for record in scored(sweep) if key in record.values]
    if not seen:
        return None
    kind = dimension.get("type")
    try:
        if kind in ("uniform", "loguniform"):
            low, high = (float(end) for end in (min(dimension["low"], *seen), max(dimension["high"], *seen)))
            return FloatDistribution(low, high, log=kind == "loguniform")
        if kind == "int":
            return IntDistribution(int(min(dimension["low"], *seen)), int(max(dimension["high"], *seen)))
    except (KeyError, TypeError, ValueError):
        pass  # the sweep file is not valid for this version: the trials' values are used
    if kind is None and all(isinstance(value, float) for value in seen):
        return FloatDistribution(min(seen), max(seen))
    choices = dimension.get("values") if isinstance(dimension.get("values"), list) else sorted(seen, key=json.dumps)
    return CategoricalDistribution(list(dict.fromkeys(json.dumps(value) for value in [*(choices or []), *seen])))


def categories_of(sweep: Sweep, key: str, distribution: CategoricalDistribution) -> list[str]:
    """Texts of the choices that trials have, in the order of the sweep file; pairs and numbers are sorted."""
    present = [record.values[key] for record in scored(sweep) if key in record.values]
    choices = [json.loads(str(choice)) for choice in distribution.choices]
    used = [choice for choice in choices if choice in present]
    if all(isinstance(choice, list) for choice in used) or all(isinstance(choice, (int, float)) for choice in used):
        used.sort()
    return list(dict.fromkeys(show(choice) for choice in used))


def _scalar(value: Any, distribution: BaseDistribution) -> Any:
    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else value
