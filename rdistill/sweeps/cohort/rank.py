"""What each rank of a cohort of several workers runs; see :mod:`.group`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypedDict

import ray
from mmengine.dist import broadcast_object_list, is_main_process

from rdistill.core.errors import UserError
from rdistill.core.storage import join, open_work_dir
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.news import JOIN, News
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED
from rdistill.sweeps.study.records import RECORD, TRIALS, TrialRecord
from rdistill.sweeps.trial.faults import GivenUpError, give_up_again
from rdistill.sweeps.trial.trial import Study, begun, reason_of, run_trial, score, support_trial
from rdistill.training.hooks import DivergedError
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.ray_train import peer_lost

IDLE_S = 0.1  # seconds between two looks for news; while there are students, no more often than that
# Raised on every rank in the same step: by what is read from the config, and by losses averaged over the ranks.
RAISED_BY_ALL = (UserError, DivergedError)


class GroupConfig(TypedDict):
    """What every rank is given."""

    study: Study
    mailbox: Any  # the handle of the group's actor


def work(config: GroupConfig) -> None:
    """What each rank runs, until the group's actor is gone or says so."""
    study, mailbox, main = config["study"], config["mailbox"], is_main_process()
    lockstep, lanes = Lockstep(), dict[str, Lane]()
    looked, beginning = 0.0, True
    while True:
        news: list[News | None] = [[]]
        if main and time.monotonic() - looked >= IDLE_S:
            news = [_begin(study, mailbox, ray.get(mailbox.news.remote(beginning)))]
            looked, beginning = time.monotonic(), False
        broadcast_object_list(news)
        if news[0] is None:
            return
        for what, subject in news[0]:
            if what == JOIN:
                lanes[subject["id"]] = lockstep.join(subject["id"], _student(study, subject, mailbox, main))
            elif subject in lanes:
                lanes[subject].stopped = True
        if not lockstep.step() and main:
            time.sleep(IDLE_S)


def _begin(study: Study, mailbox: Any, news: News | None) -> News | None:
    """Makes each newcomer's folder ready before any rank looks into it; leaves out whoever has ended already."""
    if news is None:
        return None
    left = []
    for what, subject in news:
        record = None
        if what == JOIN:
            with open_work_dir(join(study.work_dir, TRIALS, subject["id"]), RECORD) as here:
                record = begun(here, subject)
        if record is not None and (events := _ended(record)):
            for event in events:
                ray.get(mailbox.pass_on.remote(subject["id"], event))
        else:
            left.append((what, subject))
    return left


def _ended(record: TrialRecord) -> list[tuple[str, Any]]:
    """The events of a trial that another start would not change; none for any other trial."""
    if record.status == "finished":
        return [(REPORTED, score(record)), (FINISHED, None)]
    try:
        give_up_again(record)
    except GivenUpError as error:
        return [(FAILED, str(error))]
    return []


def _student(study: Study, trial: TrialConfig, mailbox: Any, main: bool) -> Callable[[Lane], None]:
    """A lane's run. The first rank speaks for the student."""

    def pass_on(event: str, what: Any = None) -> None:
        if main:  # waits: an actor of several threads may take two calls in another order
            ray.get(mailbox.pass_on.remote(trial["id"], (event, what)))

    def train(lane: Lane) -> None:
        try:
            if main:
                run_trial(study, trial, lambda report: pass_on(REPORTED, report), lane)
            else:
                support_trial(study, trial, lane)
            pass_on(FINISHED)
        except RAISED_BY_ALL as error:
            pass_on(FAILED, reason_of(error))
        except Exception as error:
            # The other ranks may be waiting for this one in the student's all-reduce: the group has to start again.
            # Where it is this rank that has waited for one that is gone, the student is not to blame, and goes on then.
            if not peer_lost(error):
                ray.get(mailbox.pass_on.remote(trial["id"], (FAILED, reason_of(error)), takes_the_group_down=True))
            lane.broken = error

    return train
