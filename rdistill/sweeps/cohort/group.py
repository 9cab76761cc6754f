"""A cohort of several workers: one Ray Train worker group in which every rank steps the same students in lockstep.

Each rank draws its share of a batch and runs the teacher on it once for all students; each student is a DDP model of
its own. Between two batches, rank 0 gets the students that join or stop and broadcasts them to all ranks, so that no
rank ever waits in an all-reduce that another rank does not enter. :mod:`.rank` holds what each rank runs. Like
:mod:`.worker`, this module imports neither torch nor mmengine when it is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key
from rdistill.sweeps.cohort.membership import JOIN, STOP, MembershipChanges
from rdistill.sweeps.cohort.proxy import ATTEMPTS, FAILED, FINISHED, REPORTED, TAKEN_OVER, Events, events_until_end

if TYPE_CHECKING:
    from rdistill.sweeps.trial.trial import Study
    from rdistill.training.ray_train import Resources


class CohortGroup:
    """Starts a worker group and connects it to the trials' processes. A Ray actor with the methods of ``Cohort``.

    The group lives as long as this actor. When a worker dies, Ray Train restarts the group and each student goes on
    from its own checkpoint. A student that fails on one rank alone also makes the group restart, and does not join the
    new group.
    """

    def __init__(self, study: Study, resources: Resources) -> None:
        self._students: dict[str, tuple[TrialConfig, Events]] = {}  # trial id -> a student that trains
        self._changes: MembershipChanges = []
        self._lock = threading.Lock()
        self._starts_left = ATTEMPTS + 1  # a restart that a failed student causes does not count
        self._end_reason = ""  # why no further group will be started; empty while groups are started
        self._ending, self._group_ended = False, threading.Event()
        group_actor = ray.get_runtime_context().current_actor
        threading.Thread(target=self._run, args=(study, resources, group_actor), name="group", daemon=True).start()

    # Called by the trials' processes ------------------------------------------------------------------------------

    def run(self, trial: TrialConfig) -> Iterator[tuple[str, Any]]:
        """Trains one student, or follows one that already trains; yields events like :meth:`.worker.Cohort.run`."""
        events = Events()
        with self._lock:
            before = self._students.get(trial["id"])
            if before is None:
                self._changes.append((JOIN, trial))
            else:
                before[1].put(TAKEN_OVER)
            self._students[trial["id"]] = trial, events
            if self._end_reason:
                events.put((FAILED, self._end_reason))
        yield from events_until_end(events)

    def ready(self) -> None:
        """Returns once the actor runs."""

    def students(self) -> dict[str, str]:
        """The students that train: trial id -> sharing key."""
        with self._lock:
            return {trial_id: sharing_key(trial) for trial_id, (trial, _) in self._students.items()}

    def stop(self, trial_id: str) -> None:
        """Removes a student before the next batch; its checkpoint and its record stay."""
        with self._lock:
            if (student := self._students.pop(trial_id, None)) is not None:
                self._changes.append((STOP, trial_id))
                student[1].put((FINISHED, "stopped"))

    def end(self) -> None:
        """Ends the group before its next batch, and returns when Ray Train has released the reserved resources.

        If the group were killed, an actor of Ray Train's would have to release them, and that actor itself dies where
        several Ray clusters run on one machine.
        """
        with self._lock:
            self._ending = True
        self._group_ended.wait()

    # Called by the group's first rank -----------------------------------------------------------------------------

    def pending_changes(self, group_starts: bool) -> MembershipChanges | None:
        """The students that join or stop before the next batch; None when the group has to end.

        Args:
            group_starts: whether this is the first call of a group; then every student joins.
        """
        with self._lock:
            if self._ending:
                return None
            if group_starts:
                self._starts_left -= 1
                if self._starts_left < 0:
                    self._give_up("the cohort's workers died again and again")
                    return None
                self._changes = [(JOIN, trial) for trial, _ in self._students.values()]
            changes, self._changes = self._changes, []
            return changes

    def pass_on(self, trial_id: str, event: tuple[str, Any], takes_the_group_down: bool = False) -> None:
        """Passes an event of a student on to the trial's process.

        Args:
            trial_id: the student's trial.
            event: what the student reports, or how it ended.
            takes_the_group_down: the student failed on one rank, so that the group has to restart.
        """
        with self._lock:
            student = self._students.get(trial_id)
            # Several ranks may report the same failure: only the first still finds the student here.
            self._starts_left += takes_the_group_down and student is not None
            if event[0] != REPORTED:
                self._students.pop(trial_id, None)
        if student is not None:
            student[1].put(event)

    def _run(self, study: Study, resources: Resources, group_actor: Any) -> None:
        try:
            self._train_group(study, resources, group_actor)
        finally:
            self._group_ended.set()

    def _train_group(self, study: Study, resources: Resources, group_actor: Any) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from rdistill.sweeps.cohort.rank import run_rank
        from rdistill.sweeps.trial.trial import reason_of
        from rdistill.training.ray_train import PLACEMENT_ATTEMPTS, controller_lost

        per_worker, reason = resources.per_worker(), ""
        while not reason:
            trainer = TorchTrainer(
                run_rank,
                train_loop_config={"study": study, "group_actor": group_actor},
                scaling_config=ScalingConfig(
                    num_workers=resources.workers, use_gpu="GPU" in per_worker, resources_per_worker=per_worker
                ),
                run_config=RunConfig(
                    name=f"cohort-{time.time_ns()}",
                    storage_path=str(Path(study.work_dir, "ray_train")),
                    failure_config=FailureConfig(max_failures=-1, controller_failure_limit=PLACEMENT_ATTEMPTS),
                ),
            )
            try:
                trainer.fit()
                reason = "the cohort's workers ended"
            except Exception as error:
                # Where Ray lost processes of its own, the loop starts a new group; `_starts_left` bounds how often.
                if not controller_lost(error) or self._end_reason:
                    reason = reason_of(error)
        with self._lock:
            self._give_up(self._end_reason or reason)

    def _give_up(self, reason: str) -> None:
        self._end_reason = reason
        for _, events in self._students.values():
            events.put((FAILED, reason))
        self._students.clear()
