"""The cohort: one worker that trains several trials of a sweep, loads each batch once and runs the teacher once.

Each student stays a trial of Ray Tune: a proxy process (:mod:`.proxy`) passes the student's reports on to Tune, so that
Tune's schedulers and searchers treat it like any trial. A process that gets an actor's handle imports the actor's
class. Proxy processes do, so this module imports neither torch nor mmengine when it is imported.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED, TAKEN_OVER, Events, events_until_end

if TYPE_CHECKING:
    from rdistill.sweeps.trial.trial import Study
    from rdistill.training.lockstep import Lane


class Cohort:
    """The worker. A Ray actor: proxy processes call :meth:`run` and :meth:`stop`, each call in a thread of its own."""

    def __init__(self, study: Study) -> None:
        from rdistill.training.lockstep import Lockstep

        self._study = study
        self._lockstep = Lockstep()
        self._lanes: dict[str, Lane] = {}
        self._events: dict[str, Events] = {}  # trial id -> events of a student that trains now
        self._keys: dict[str, str] = {}  # trial id -> sharing key of every student that ever joined
        self._lock, self._call_lock = threading.Lock(), threading.Lock()
        self._joined = threading.Event()
        threading.Thread(target=self._work, name="cohort", daemon=True).start()

    def run(self, trial: TrialConfig) -> Iterator[tuple[str, Any]]:
        """Trains one student in lockstep with the others; yields its reports, and last how it ended.

        If the student already trains, this call yields its further events, and the earlier call ends.

        Args:
            trial: the same as for :func:`rdistill.sweeps.trial.trial.run_trial`.
        """
        from rdistill.sweeps.trial.trial import reason_of, run_trial

        name, events = trial["id"], Events()

        def train(lane: Lane) -> None:
            try:
                run_trial(self._study, trial, lambda report: self._pass_on(name, (REPORTED, report)), lane)
                self._pass_on(name, (FINISHED, None))
            except Exception as error:
                self._pass_on(name, (FAILED, reason_of(error)))

        with self._lock:
            before, self._events[name] = self._events.get(name), events
            self._keys[name] = sharing_key(trial)
            if before is None:
                self._lanes[name] = self._lockstep.join(name, train)
                self._joined.set()
            else:
                before.put(TAKEN_OVER)
        yield from events_until_end(events)

    def _pass_on(self, name: str, event: tuple[str, Any]) -> None:
        with self._lock:
            events = self._events.get(name) if event[0] == REPORTED else self._events.pop(name, None)
        if events is not None:
            events.put(event)

    def end(self) -> None:
        """Does nothing: a single worker can be killed safely. :meth:`.group.CohortGroup.end` does have work to do."""

    def ready(self) -> None:
        """Returns once the actor runs."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls ``function(study, *arguments)`` in this process, which holds the CPUs and the GPU; one at a time."""
        with self._call_lock:
            return function(self._study, *arguments)

    def students(self) -> dict[str, str]:
        """The students that train: trial id -> sharing key."""
        with self._lock:
            return {name: self._keys[name] for name in self._events}

    def stop(self, trial_id: str) -> None:
        """Removes a student before its next batch; its checkpoint and its record stay."""
        with self._lock:
            if (events := self._events.pop(trial_id, None)) is not None:
                self._lanes[trial_id].stopped = True
                events.put((FINISHED, "stopped"))

    def _work(self) -> None:
        try:
            while True:
                self._joined.wait()
                self._joined.clear()
                while self._lockstep.step():
                    pass
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # Ray restarts the cohort; without this thread no student would ever train on
