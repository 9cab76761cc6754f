"""The loop that each rank of a cohort of several workers runs; see :mod:`.group`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypedDict

import ray
from mmengine.dist import broadcast_object_list, is_main_process

from rdistill.core.errors import UserError
from rdistill.core.storage import join, open_work_dir
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.membership import JOIN, MembershipChanges
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED
from rdistill.sweeps.study.records import RECORD, TRIALS, TrialRecord
from rdistill.sweeps.trial.faults import GivenUpError, raise_if_given_up
from rdistill.sweeps.trial.trial import (
    Study,
    last_report,
    load_or_create_record,
    reason_of,
    run_trial,
    run_trial_on_other_ranks,
)
from rdistill.training.hooks import DivergedError
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.ray_train import peer_lost

POLL_INTERVAL_S = 0.1  # rank 0 gets membership changes from the group's actor at most this often
# Every rank raises these in the same step, since the config and the losses averaged over the ranks are the same.
RAISED_ON_ALL_RANKS = (UserError, DivergedError)


class GroupConfig(TypedDict):
    """Ray Train's ``train_loop_config`` of the group."""

    study: Study
    group_actor: Any  # handle of the CohortGroup


def run_rank(config: GroupConfig) -> None:
    """Steps the students until the group's actor ends the group or dies."""
    study, group_actor, main = config["study"], config["group_actor"], is_main_process()
    lockstep, lanes = Lockstep(), dict[str, Lane]()
    last_poll, group_starts = 0.0, True
    while True:
        changes: list[MembershipChanges | None] = [[]]
        if main and time.monotonic() - last_poll >= POLL_INTERVAL_S:
            pending = ray.get(group_actor.pending_changes.remote(group_starts))
            changes = [_prepare_changes(study, group_actor, pending)]
            last_poll, group_starts = time.monotonic(), False
        broadcast_object_list(changes)
        if changes[0] is None:
            return
        for change, subject in changes[0]:
            if change == JOIN:
                lanes[subject["id"]] = lockstep.join(subject["id"], _lane_function(study, subject, group_actor, main))
            elif subject in lanes:
                lanes[subject].stopped = True
        if not lockstep.step() and main:
            time.sleep(POLL_INTERVAL_S)


def _prepare_changes(study: Study, group_actor: Any, changes: MembershipChanges | None) -> MembershipChanges | None:
    """Prepares the folder of each joining student before any rank reads it, and drops students that have ended."""
    if changes is None:
        return None
    kept = []
    for change, subject in changes:
        record = None
        if change == JOIN:
            with open_work_dir(join(study.work_dir, TRIALS, subject["id"]), RECORD) as here:
                record = load_or_create_record(here, subject)
        if record is not None and (events := _final_events(record)):
            for event in events:
                ray.get(group_actor.pass_on.remote(subject["id"], event))
        else:
            kept.append((change, subject))
    return kept


def _final_events(record: TrialRecord) -> list[tuple[str, Any]]:
    """The last events of a trial that has finished or was given up; no events for a trial that is still to train."""
    if record.status == "finished":
        return [(REPORTED, last_report(record)), (FINISHED, None)]
    try:
        raise_if_given_up(record)
    except GivenUpError as error:
        return [(FAILED, str(error))]
    return []


def _lane_function(study: Study, trial: TrialConfig, group_actor: Any, main: bool) -> Callable[[Lane], None]:
    """The function that a lane runs. Rank 0 reports for the student."""

    def pass_on(kind: str, details: Any = None) -> None:
        if main:  # `ray.get` waits, since an actor of several threads may run two calls in another order
            ray.get(group_actor.pass_on.remote(trial["id"], (kind, details)))

    def train(lane: Lane) -> None:
        try:
            if main:
                run_trial(study, trial, lambda report: pass_on(REPORTED, report), lane)
            else:
                run_trial_on_other_ranks(study, trial, lane)
            pass_on(FINISHED)
        except RAISED_ON_ALL_RANKS as error:
            pass_on(FAILED, reason_of(error))
        except Exception as error:
            # The other ranks may be waiting for this one in the student's all-reduce, so the group has to restart.
            # If this rank itself was waiting for a rank that died, the student did not fail: it joins the new group.
            if not peer_lost(error):
                ray.get(group_actor.pass_on.remote(trial["id"], (FAILED, reason_of(error)), takes_the_group_down=True))
            lane.broken = error

    return train
