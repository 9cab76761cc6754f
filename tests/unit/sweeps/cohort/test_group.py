"""What stands between a group of workers and the trials' processes, without Ray and without workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from rdistill.sweeps.cohort import group
from rdistill.sweeps.cohort.assignment import sharing_key
from rdistill.sweeps.cohort.group import CohortGroup
from rdistill.sweeps.cohort.membership import JOIN, STOP
from rdistill.sweeps.cohort.proxy import ATTEMPTS, FAILED, FINISHED, REPORTED, TAKEN_OVER

OVER = (FINISHED, None)


class NoWorkers(CohortGroup):
    """The test stands for the group's first rank, and a thread for each trial's process."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.pool = pool

    def _train_group(self, study: Any, resources: Any, group_actor: Any) -> None: ...

    def follow(self, each: Any) -> Future[list[Any]]:
        """All events of a student, once it has joined and has come to its end."""
        before = self._students.get(each["id"])
        followed = self.pool.submit(lambda: list(self.run(each)))
        while self._students.get(each["id"]) is before:
            time.sleep(0.001)
        return followed


@pytest.fixture
def cohort(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWorkers]:
    context = SimpleNamespace(current_actor="the group's own handle")
    monkeypatch.setattr(group.ray, "get_runtime_context", lambda: context)
    with ThreadPoolExecutor() as pool:
        yield NoWorkers(pool)


def trial(trial_id: str, seed: int = 0) -> Any:
    return {"id": trial_id, "phase": "search", "of": "", "seed": seed, "values": {}}


def test_who_joins_and_who_stops_is_told_the_ranks_once(cohort: NoWorkers) -> None:
    first, second = cohort.follow(trial("t1")), cohort.follow(trial("t2", seed=1))
    assert cohort.students() == {"t1": sharing_key(trial("t1")), "t2": sharing_key(trial("t2", seed=1))}
    assert (
        cohort.pending_changes(False) == [(JOIN, trial("t1")), (JOIN, trial("t2", seed=1))]
        and cohort.pending_changes(False) == []
    )
    cohort.stop("t1")
    cohort.stop("t1")  # a second time: it is not there any more
    assert cohort.pending_changes(False) == [(STOP, "t1")] and first.result() == [(FINISHED, "stopped")]
    cohort.pass_on("t1", (REPORTED, 1))  # a rank has not heard of it yet
    cohort.pass_on("t2", (REPORTED, 1))
    cohort.pass_on("t2", OVER)
    assert second.result() == [(REPORTED, 1), OVER] and cohort.students() == {}


def test_a_student_whose_process_died_trains_on_and_is_followed_by_the_next(cohort: NoWorkers) -> None:
    died, next_one = cohort.follow(trial("t1")), cohort.follow(trial("t1"))
    assert died.result() == [TAKEN_OVER]
    assert cohort.pending_changes(False) == [(JOIN, trial("t1"))]  # it joins once
    cohort.pass_on("t1", OVER)
    assert next_one.result() == [OVER]


def test_a_group_that_begins_again_gets_every_student_and_gives_up_in_the_end(cohort: NoWorkers) -> None:
    followed = cohort.follow(trial("t1"))
    for _ in range(ATTEMPTS + 1):
        assert cohort.pending_changes(True) == [(JOIN, trial("t1"))] and cohort.pending_changes(False) == []
    assert cohort.pending_changes(True) is None
    over = (FAILED, "the cohort's workers died again and again")
    assert followed.result() == [over]
    assert list(cohort.run(trial("t2"))) == [over]  # nobody waits for a group that will not be there


def test_a_student_that_takes_the_group_down_is_to_blame_once(cohort: NoWorkers) -> None:
    """Each rank may say it: of one student there is one death that counts for nothing."""
    followed = cohort.follow(trial("t1"))
    cohort.pending_changes(True)
    left = cohort._starts_left
    for _ in range(2):
        cohort.pass_on("t1", (FAILED, "ValueError: rank 1"), takes_the_group_down=True)
    assert cohort._starts_left == left + 1 and followed.result() == [(FAILED, "ValueError: rank 1")]
    assert cohort.pending_changes(True) == [] and cohort._starts_left == left


def test_the_end_waits_until_the_group_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is killed instead keeps its place in the cluster where Ray Train does not notice."""
    context = SimpleNamespace(current_actor="the group's own handle")
    monkeypatch.setattr(group.ray, "get_runtime_context", lambda: context)
    answers: list[Any] = []

    class OneRank(CohortGroup):
        def _train_group(self, study: Any, resources: Any, group_actor: Any) -> None:
            answers.append(self.pending_changes(True))
            while answers[-1] is not None:
                answers.append(self.pending_changes(False))
            answers.append("Ray Train has ended its workers")

    OneRank(None, None).end()  # type: ignore[arg-type]
    assert answers[-2:] == [None, "Ray Train has ended its workers"]
