"""The trials of a sweep as an Optuna study, and what Optuna makes of them."""

from __future__ import annotations

import json
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from rdistill.report.load import Sweep, mapping, miou
from rdistill.report.plot import Plot
from rdistill.report.text import Column, Table, cell, short, show
from rdistill.report.theme import layout
from rdistill.sweeps.study.records import TrialRecord

ENOUGH = 8  # trials with a score, below which an importance would be noise
TARGET = "mIoU"


def study_of(sweep: Sweep) -> optuna.Study:
    """The scored trials as an Optuna study, in order; its parameters have the keys' short names.

    A stopped trial counts with its best score, as it did for the searcher. Values of a choice or a pair are texts.
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
    """How much of what separates good trials from the rest each parameter explains; or why that is not known."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return None
    if len(trials) < ENOUGH:
        return f"Importance needs {ENOUGH} trials with a score; there are {len(trials)}."
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study, params=varied)
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
            text=[f"{shares[name]:.0%}" if shares[name] >= 0.005 else "under 1%" for name in names],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            width=0.6,
        )
    ]
    figure = layout(
        xaxis=dict(title="share", tickformat=".0%", range=[0, max(shares.values()) * 1.15 or 1]),
        yaxis=dict(type="category", showgrid=False, ticks=""),
        margin=dict(t=16),
    )
    first = names[-1]
    table = Table(
        "Importance of each parameter",
        [Column("parameter"), Column("importance", numeric=True)],
        [[cell(name), cell(value, ".3f")] for name, value in shares.items()],
    )
    summary = f"{first} matters most for {TARGET}, with a share of {shares[first]:.0%}, over {len(trials)} trials."
    note = "Optuna's PED-ANOVA: what separates the better trials from all. A hint, not a measurement: trials are few."
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


def distribution_of(sweep: Sweep, key: str) -> BaseDistribution | None:
    """Optuna's form of what a key may be; of what it was, where the sweep file does not say."""
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
        pass  # a file by hand or of another version: what was seen says enough
    if kind is None and all(isinstance(value, float) for value in seen):
        return FloatDistribution(min(seen), max(seen))
    choices = dimension.get("values") if isinstance(dimension.get("values"), list) else sorted(seen, key=json.dumps)
    return CategoricalDistribution(list(dict.fromkeys(json.dumps(value) for value in [*(choices or []), *seen])))


def categories_of(sweep: Sweep, key: str, distribution: CategoricalDistribution) -> list[str]:
    """Texts of those choices that a trial had, in the order of the sweep file; pairs and numbers ascending."""
    present = [record.values[key] for record in scored(sweep) if key in record.values]
    choices = [json.loads(str(choice)) for choice in distribution.choices]
    used = [choice for choice in choices if choice in present]
    if all(isinstance(choice, list) for choice in used) or all(isinstance(choice, (int, float)) for choice in used):
        used.sort()
    return list(dict.fromkeys(show(choice) for choice in used))


def _scalar(value: Any, distribution: BaseDistribution) -> Any:
    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else value
