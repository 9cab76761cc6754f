"""Copies a sweep's search to an Optuna storage, where optuna-dashboard and other tools can watch it.

The search itself reads nothing from the storage: its suggestions depend on its own state alone, and the sweep goes on
if the storage no longer answers.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from rdistill.core.errors import UserError, one_line
from rdistill.core.redaction import redacted
from rdistill.schemas.mappings import Params
from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.study.earlier import scores_of
from rdistill.sweeps.study.records import ENDED_STATUSES, SEARCHED, TrialRecord, gains, load_records
from rdistill.sweeps.study.search_space import quiet_optuna
from rdistill.sweeps.study.space import encoded_values
from rdistill.sweeps.study.spec import SweepSpec

NAME = "optuna storage"  # the tracker's, in warnings
ID = "id"  # attribute of a trial: its id in the sweep
MAXIMIZED = "mIoU"


def require_storage(url: str, name: str, *, may_exist: bool) -> None:
    """Checks that a storage answers and does not hold another study of this name.

    Args:
        url: the storage's URL.
        name: the study's name.
        may_exist: whether the study may exist already, since an earlier start of the sweep has created it.

    Raises:
        UserError: the storage does not answer, or holds a study of that name that is not this sweep's.
    """
    where = f"search.storage: {redacted(url)}"
    try:
        with quiet_optuna():
            names = optuna.get_all_study_names(url)
    except Exception as error:  # errors of SQLAlchemy, of a missing driver, or of the database
        raise UserError(f"{where}: does not answer: {redacted(one_line(error))[:300]}") from None
    if name in names and not may_exist:
        raise UserError(f"{where}: holds a study {name!r} already; use another storage, or another --work-dir")


class StudyStorage:
    """A :class:`rdistill.sweeps.monitor.trackers.TrialTracker` that keeps each trial of the search in a study.

    Args:
        url: the storage's URL.
        name: the study's name. Optuna lets no choice grow, so a study with other choices stays as it is and this
            one becomes NAME-2.
        spec: the sweep.
        distributions: the distributions of its search space.
        work_dir: the sweep's folder.
    """

    def __init__(
        self, url: str, name: str, spec: SweepSpec, distributions: Mapping[str, BaseDistribution], work_dir: Path
    ) -> None:
        self.spec, self.distributions, self.work_dir = spec, distributions, work_dir
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        studies = (self._study(url, each) for each in names)
        self.study = next(study for study in studies if self._has_these_choices(study))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(spec.objectives))
        self.open: dict[str, optuna.Trial] = {}
        self._catch_up()

    def _study(self, url: str, name: str) -> optuna.Study:
        return optuna.create_study(
            storage=url, study_name=name, load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=0),
            directions=["maximize" if objective == MAXIMIZED else "minimize" for objective in self.spec.objectives],
        )  # fmt: skip

    def _has_these_choices(self, study: optuna.Study) -> bool:
        return all(
            not isinstance(before, CategoricalDistribution) or before == self.distributions.get(key)
            for trial in study.get_trials(deepcopy=False)
            for key, before in trial.distributions.items()
        )

    def _catch_up(self) -> None:
        """Gives the study what an earlier start of the sweep could not: it was killed, or had another storage or none.

        Optuna lets nobody go on with a trial that another process began: it is closed, and the sweep's trial has a new
        one, here if it is over, or else when it is resumed.
        """
        complete = set()
        for each in self.study.get_trials(deepcopy=False):
            if not each.state.is_finished():
                self.study.tell(each.number, state=TrialState.FAIL)
            elif each.state == TrialState.COMPLETE:
                complete.add(each.user_attrs.get(ID))
        for record in load_records(self.work_dir):
            scores = scores_of(record, self.spec.objectives)
            if (
                record.phase != SEARCHED
                or record.status not in ENDED_STATUSES
                or record.id in complete
                or scores is None
            ):
                continue
            params, on_the_way = encoded_values(record.values, self.spec.space), self._reported(record)
            self.study.add_trial(
                optuna.trial.create_trial(
                    values=scores, params=params, distributions={key: self.distributions[key] for key in params},
                    user_attrs={ID: record.id, "seed": record.seed, **self._attributes(record)},
                    intermediate_values=on_the_way,
                )
            )  # fmt: skip

    def _reported(self, record: TrialRecord) -> dict[int, float]:
        """Iteration -> mIoU of each validation, where that is what is optimised."""
        if len(self.spec.objectives) > 1:
            return {}
        return {int(entry["iter"]): float(entry["mIoU"]) for entry in record.history}

    def open_run(self, trial: TrialInfo) -> None:
        if trial.phase != SEARCHED or trial.id in self.open:
            return
        before = [each for each in self.study.get_trials(deepcopy=False) if each.user_attrs.get(ID) == trial.id]
        if any(each.state == TrialState.COMPLETE for each in before):
            return
        params = encoded_values(trial.values, self.spec.space)
        self.study.enqueue_trial(params, user_attrs={ID: trial.id, "seed": trial.seed})
        self.open[trial.id] = self.study.ask({key: self.distributions[key] for key in params})

    def log_validation(
        self, trial: TrialInfo, metrics: Mapping[str, float], record: TrialRecord, images: list[Path]
    ) -> None:
        if (drawn := self.open.get(trial.id)) is None:
            return
        if len(self.spec.objectives) == 1 and MAXIMIZED in metrics:
            drawn.report(float(metrics[MAXIMIZED]), int(metrics["iter"]))
        for name, value in self._attributes(record).items():
            drawn.set_user_attr(name, value)

    def close_run(self, trial: TrialInfo, status: str, record: TrialRecord | None) -> None:
        drawn = self.open.pop(trial.id, None)
        if drawn is None:
            return
        attributes = {} if record is None else self._attributes(record)
        for name, value in {**attributes, "status": status}.items():
            drawn.set_user_attr(name, value)
        scores = None if record is None or status == "failed" else scores_of(record, self.spec.objectives)
        if scores is None:
            self.study.tell(drawn, state=TrialState.FAIL)
        else:
            self.study.tell(drawn, scores)

    def close(self) -> None:
        """Trials that were interrupted stay as running ones, until a resume."""

    def _attributes(self, record: TrialRecord) -> Params:
        """The trial's figures that the report also shows."""
        best = record.best
        values = {
            "status": record.status,
            "reason": record.reason or None,
            "mIoU": best.get("mIoU"),
            "gain": gains(load_records(self.work_dir)).get(record.id) if best else None,
            **{f"IoU {name}": value for name, value in (best.get("IoU") or {}).items()},
            "best_iter": best.get("iter"),
            "iterations": record.history[-1]["iter"] if record.history else 0,
            "seconds": record.history[-1]["seconds"] if record.history else None,
            "teacher_mIoU": record.teacher_mIoU,
            **{f"effective {key}": value for key, value in record.effective.items()},
        }
        return {name: value for name, value in values.items() if value is not None}
