"""How a sweep's trials are divided among cohorts."""

from __future__ import annotations

import pytest

from rdistill.sweeps.cohort.assignment import CohortAssigner, sharing_key
from rdistill.sweeps.cohort.fleet import Plan, plan_cohorts
from rdistill.sweeps.trial.step_profile import StepProfile
from rdistill.training.ray_train import Resources

MB, GB = 10**6, 10**9


def step(
    teacher: float, student: float, *, both: tuple[float, float] | None = None, held_bytes: int = 10 * MB
) -> StepProfile:
    """Seconds with one slot, and with two where ``both`` is given."""
    return StepProfile(held_bytes, 500 * MB, {1: (teacher, student), **({2: both} if both else {})})


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(1, 1, 1), "1 cohort of 1 student with a teacher, on 1 CPU"),
        (Plan(2, 1, 2), "2 cohorts of 1 student with a teacher, on 2 CPUs each"),
        (Plan(2, 5, 1), "2 cohorts of up to 5 students that share a teacher, on 1 CPU each"),
    ],
)
def test_a_plan_in_words(plan: Plan, words: str) -> None:
    assert plan.describe(Resources(cpus_per_worker=1, gpus_per_worker=0)) == words


@pytest.mark.parametrize(
    ("wanted", "trials", "slots", "plan"),
    [
        ("auto", 9, 2, Plan(2, 5, 1)),
        ("auto", 2, 2, Plan(2, 1, 1)),
        (4, 9, 2, Plan(2, 4, 1)),
        (8, 9, 2, Plan(2, 5, 1)),  # more places than there are trials
    ],
)
def test_an_equal_share(wanted: int | str, trials: int, slots: int, plan: Plan) -> None:
    assert plan_cohorts(wanted, trials, slots, step(0.5, 0.5), 10 * GB) == plan
    assert plan_cohorts(wanted, trials, slots, None, 10 * GB) == plan


@pytest.mark.parametrize(
    ("trials", "profile", "cohorts"),
    [
        (8, step(1.0, 0.1, both=(0.55, 0.07)), 1),  # a heavy teacher: once for all, with both cores
        (8, step(0.07, 0.11, both=(0.06, 0.10)), 2),  # a light one, and little to gain from a second core
        # 9 are 5 and 4, and the second core has nothing to do while the fifth trains.
        (8, step(0.10, 0.15, both=(0.06, 0.065)), 2),
        (9, step(0.10, 0.15, both=(0.06, 0.065)), 1),
        (9, step(0.078, 0.105, both=(0.028, 0.057)), 2),  # one cohort's round took 0.76 s, not the 0.54 of this
    ],
)
def test_one_cohort_with_all_cores_where_it_is_quicker(trials: int, profile: StepProfile, cohorts: int) -> None:
    plan = plan_cohorts("auto", trials, 2, profile, 10 * GB)
    assert plan == Plan(cohorts, -(-trials // cohorts), 2 // cohorts)


def test_a_full_cohort_leaves_trials_waiting() -> None:
    """Four places with both cores twice, or eight with a core each once: 2 x 0.4 s or 2 x 0.2 s against 0.6 s."""
    assert plan_cohorts(4, 8, 2, step(0.0, 0.15, both=(0.0, 0.1)), 10 * GB) == Plan(2, 4, 1)
    assert plan_cohorts(4, 8, 2, step(0.0, 0.15, both=(0.0, 0.05)), 10 * GB) == Plan(1, 4, 2)


def test_something_between_one_core_and_all() -> None:
    """Eight cores, of which a step makes use of four."""
    profile = StepProfile(MB, MB, {1: (1.0, 1.0), 2: (0.5, 0.5), 4: (0.26, 0.26), 8: (0.2, 0.2)})
    assert plan_cohorts("auto", 8, 8, profile, 10 * GB) == Plan(2, 4, 4)
    assert plan_cohorts("auto", 4, 8, profile, 10 * GB).slots <= 4  # no more CPUs than its trials would have alone


def test_no_more_than_the_memory_holds() -> None:
    assert plan_cohorts("auto", 9, 1, step(1, 1, held_bytes=100 * MB), 2 * GB) == Plan(1, 9, 1)
    assert plan_cohorts("auto", 9, 1, step(1, 1, held_bytes=400 * MB), 2 * GB) == Plan(1, 2, 1)  # 0.7 x 2 GB - 500 MB
    assert plan_cohorts("auto", 9, 1, step(1, 1, held_bytes=5 * GB), 2 * GB) == Plan(1, 1, 1)  # the run says the rest


def trial(seed: int = 0, **values: object) -> dict[str, object]:
    return {"id": "t", "seed": seed, "values": {key.replace("__", "."): value for key, value in values.items()}}


def test_what_may_be_shared() -> None:
    plain = sharing_key(trial())
    for free in (
        trial(distill__losses__logits__weight=3.0),
        trial(model__decode_head__channels=16),
        trial(optim_wrapper__optimizer__lr=0.1),
        trial(randomness__init_seed=7),
    ):
        assert sharing_key(free) == plain
    apart = (
        trial(seed=1),
        trial(train_dataloader__batch_size=8),
        trial(model__data_preprocessor={"size": [64, 64]}),
        trial(distill__teachers__0__checkpoint="other.pth"),
    )
    assert len({plain, *map(sharing_key, apart)}) == 1 + len(apart)


def test_trials_that_share_go_together() -> None:
    assigner = CohortAssigner(cohorts=2, size=4)
    taken = [(key, assigner.assign(f"{key}{number}", key)) for number, key in enumerate("ABABABAB")]
    assert {key: {number for taken_key, number in taken if taken_key == key} for key in "AB"} == {"A": {0}, "B": {1}}
    assigner.release("B1")
    assert assigner.assign("another", "A") == 1  # the one with room


def test_a_trial_whose_process_died_finds_its_student_again() -> None:
    assigner = CohortAssigner(cohorts=2, size=1)
    assert [assigner.assign("t1", "A"), assigner.assign("t2", "A"), assigner.assign("t1", "A")] == [0, 1, 0]
    assigner.release("t1")
    assert assigner.assign("t3", "A") == 0


def test_equal_trials_are_spread() -> None:
    assigner = CohortAssigner(cohorts=2, size=8)
    numbers = [assigner.assign(f"t{number}", "A") for number in range(8)]
    assert numbers.count(0) == numbers.count(1) == 4
