"""``summary.json`` and the files beside it are what their types say: all that mypy knows of them rests on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typed_files import unlike

from rdistill.core.files import read_json
from rdistill.schemas.run import Diagnosis, Scores
from rdistill.schemas.summary import Arm, Confirmed, LooksRecord, Spread, Summary
from rdistill.sweeps.findings.confirm import Selection, save_selection
from rdistill.sweeps.findings.equal_cost import EqualCost, save_equal_costs
from rdistill.sweeps.findings.looks import Look, add_look
from rdistill.sweeps.findings.summary import FINISHED, SweepFacts, write_summary
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TRIALS, TrialRecord
from rdistill.sweeps.study.spec import SweepSpec

SEEDS = (1, 2, 3)
DIAGNOSIS: Diagnosis = {
    "iter": 10, "seconds": 0.5, "pixels": 100, "agreement": 90.0, "student_error": 9.0, "teacher_error": 4.0,
    "errors_repeated": 60.0, "errors_to_learn": 50.0, "teacher_confidence": 97.0, "teacher_calibration_error": 1.0,
    "teacher_entropy": {"1": 0.1}, "gradient_task": 1.0, "gradient_distill": 0.5, "gradient_ratio": 0.5,
    "gradient_cosine": 0.6, "terms": {"logits": {"ratio": 0.5, "cosine": 0.6, "raw": 0.1}},
}  # fmt: skip


def run(name: str, seed: int, score: float, phase: str = CONFIRMED, **more: Any) -> TrialRecord:
    """A finished confirmation run, with scores on the test split and the seconds of its steps."""
    entry: dict[str, Any] = {"iter": 10, "seconds": 2.0, "mIoU": score, "IoU": {"background": 98.0, "disc": score}}
    test: Scores = {"mIoU": score - 1, "IoU": {"background": 97.0, "disc": score - 1}}
    losses = [{"iter": index, "loss": 1.0, "raw/logits": 1.0 / (1 + index)} for index in range(4)]
    cost = {"steps": 10.0, "steps_seconds": 2.0, "steps_data_seconds": 0.5, "steps_data_alone_seconds": 0.5}
    return TrialRecord(
        name, {}, seed, phase, status="finished", history=[{**entry, "diagnosis": DIAGNOSIS}], losses=losses, cost=cost,
        teacher_mIoU=90.0, test=test, **more,
    )  # fmt: skip


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Of a sweep that confirms at equal iterations and at equal cost, with looks, and scores on the test split."""
    score = {"baseline": 70.0, "t0001": 75.0}
    records = [TrialRecord(name, {}, 0, status="finished", history=[{"iter": 10, "seconds": 2.0, "mIoU": value}])
               for name, value in score.items()]  # fmt: skip
    for seed in SEEDS:
        records += [run(f"{name}-s{seed}", seed, value + seed % 2, of=name) for name, value in score.items()]
        alone = run(f"baseline-as-t0001-s{seed}", seed, 71.0, EQUAL_COST, of="baseline", rival="t0001", iterations=15)
        records.append(alone)
    for record in records:
        record.save(tmp_path / TRIALS / record.id)
    save_selection(tmp_path, Selection("baseline", ["t0001"], list(SEEDS), "both", first=2, margin=0.5))
    save_equal_costs(tmp_path, {"t0001": EqualCost(15, {"real": 3.0, "alone": 4.0}, {"real": 2.0, "alone": 2.5}, 3)})
    kept = {"n": 3, "mean": 5.0, "low": 4.0, "high": 6.0}
    add_look(tmp_path, Look(3, {"t0001 at equal iterations": "better"}, {"t0001 at equal iterations": kept}, True))
    return tmp_path


def facts() -> SweepFacts:
    content = {"config": "a.py", "space": {"lr": {"type": "uniform", "low": 0, "high": 1}}, "search": {"num_trials": 1},
               "confirm": {"top": 1, "seeds": list(SEEDS)}}  # fmt: skip
    teacher: Scores = {"mIoU": 90.0, "aAcc": 99.0, "mAcc": 95.0, "IoU": {"background": 98.0, "disc": None}}
    return SweepFacts(SweepSpec.model_validate(content), 1, 1, 10, [teacher], 2, teacher_test=teacher)


def test_a_summary_with_everything_in_it(work_dir: Path) -> None:
    write_summary(facts(), work_dir, FINISHED)
    summary = read_json(work_dir / "summary.json")
    assert unlike(summary, Summary) == []
    (arm,) = summary["confirmed"]["configurations"]
    # What the check has been over, so that an empty part does not pass for a right one.
    assert arm["difference"]["answer"] and arm["equal_cost"]["difference"]["p_adjusted"] is not None
    assert arm["IoU"]["disc"]["difference"]["n"] == 3 and summary["confirmed"]["looks"]["each"]
    assert summary["test"]["configurations"][0]["mean"] == pytest.approx(75.0 - 1 + 2 / 3)
    assert summary["why"]["t0001"]["figures"]["losses"]["logits"]["state"] and summary["environment"]["sessions"]


def test_the_looks_as_they_stand_on_disk(work_dir: Path) -> None:
    (look,) = read_json(work_dir / "looks.json")["looks"]
    whole = {"seeds": 3, "first": 2, "most": 3, "replanned": [], "margin": 0.5, "over": True, "each": [look]}
    assert unlike(whole, LooksRecord) == []


@pytest.mark.parametrize(
    ("value", "kind", "line"),
    [
        ({"n": 3, "meen": 1.0}, Spread, ".meen: is no key of Spread"),
        ({"n": 3.5}, Spread, ".n: 3.5 instead of int"),
        ({"n": True}, Spread, ".n: True instead of int"),
        ({"seeds": [1, "2"]}, Confirmed, ".seeds.1: '2' instead of int"),
        ({"baseline": {"IoU": {"disc": {"difference": {"p": "small"}}}}}, Confirmed,
         ".baseline.IoU.disc.difference.p: 'small' instead of float"),
        ({"difference": {"answer": "perhaps"}}, Arm,
         ".difference.answer: 'perhaps' is none of ('better', 'worse', 'futile', 'open')"),
        (
            {"seeds": 1, "first": 1, "most": 2, "replanned": [[1, 2]], "margin": 0.0, "over": False}, LooksRecord,
            ".each: is absent",
        ),
    ],
)  # fmt: skip
def test_what_is_otherwise_is_seen(value: Any, kind: Any, line: str) -> None:
    assert unlike(value, kind) == [line]
