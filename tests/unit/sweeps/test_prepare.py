"""Whether a resumed sweep is the one that was begun, and what of it is made again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.core.files import DamagedFileError, read_json, write_json
from rdistill.schemas.trial import StudyRecord
from rdistill.sweeps.findings.confirm import SELECTION, Selection, save_selection
from rdistill.sweeps.findings.looks import Look, add_look
from rdistill.sweeps.findings.summary import SUMMARY
from rdistill.sweeps.prepare import NOT_THE_STUDY, STUDY, repair, require_same_study
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.sweeps.study.spec import SweepSpec

WEIGHT = "distill.losses.logits.weight"


def study(rate: float = 0.01, **more: Any) -> StudyRecord:
    content = {"config": "a.py", "space": {WEIGHT: {"type": "uniform", "low": 1, "high": 9}},
               "search": {"num_trials": 2}, **more}  # fmt: skip
    spec = SweepSpec.model_validate(content)
    return {
        "sweep": spec.model_dump(mode="json", exclude=set(NOT_THE_STUDY)),
        "config": {"optim_wrapper": {"optimizer": {"lr": rate}}, "train_cfg": {"max_iters": 100}},
    }


def begun(folder: Path, record: StudyRecord) -> None:
    write_json(folder / STUDY, record)


def refused(folder: Path, wanted: StudyRecord) -> list[str]:
    with pytest.raises(UserError) as caught:
        require_same_study(folder, wanted, "work_dirs/sweeps/a")
    return list(caught.value.problems)


def test_nothing_was_begun(tmp_path: Path) -> None:
    require_same_study(tmp_path, study(), tmp_path)


def test_the_same_study_goes_on(tmp_path: Path) -> None:
    begun(tmp_path, study(tracking="tensorboard", headroom="off"))
    require_same_study(tmp_path, study(tracking=None, headroom="on"), tmp_path)


def test_a_study_of_a_version_with_fewer_keys_goes_on(tmp_path: Path) -> None:
    older = copy.deepcopy(study())
    del older["sweep"]["objectives"], older["sweep"]["baseline"]["cost"]
    begun(tmp_path, older)
    require_same_study(tmp_path, study(), tmp_path)


def test_a_confirmation_may_be_added_with_how_it_compares(tmp_path: Path) -> None:
    begun(tmp_path, study())
    require_same_study(tmp_path, study(confirm={"top": 1, "seeds": [1, 2]}, baseline={"cost": "both"}), tmp_path)


def test_a_confirmation_may_not_be_taken_away_or_changed(tmp_path: Path) -> None:
    begun(tmp_path, study(confirm={"top": 1, "seeds": [1, 2]}))
    assert "confirm" in refused(tmp_path, study())[0]
    assert "confirm.seeds" in refused(tmp_path, study(confirm={"top": 1, "seeds": [1, 3]}))[0]


def test_a_confirmation_gets_more_seeds_before_its_last_look_alone(tmp_path: Path) -> None:
    before, more = ({"seeds": "auto", "min": 2, "max": most} for most in (4, 8))
    begun(tmp_path, study(confirm=before))
    require_same_study(tmp_path, study(confirm=more), tmp_path)
    save_selection(tmp_path, Selection("baseline", ["t0001"], [1, 2, 3, 4], first=2))
    add_look(tmp_path, Look(3, {"a": "futile"}, {}, True))
    require_same_study(tmp_path, study(confirm=more), tmp_path)
    add_look(tmp_path, Look(4, {"a": "futile"}, {}, True))
    (problem,) = refused(tmp_path, study(confirm=more))
    assert problem.startswith(
        "work_dirs/sweeps/a: --resume: sweep.confirm.max was 4, is 8: the last look, after 4 seeds"
    )
    assert "confirm.max was 4, is 3" in refused(tmp_path, study(confirm={**before, "max": 3}))[0]


def test_what_has_changed_is_named_with_the_folder_as_the_user_wrote_it(tmp_path: Path) -> None:
    begun(tmp_path, study(rate=0.01))
    wanted = study(rate=0.02, space={WEIGHT: {"type": "uniform", "low": 1, "high": 7}})  # a wider one is growth
    problems = refused(tmp_path, wanted)
    fix = "; set it back, or use another --work-dir for this other study"
    assert list(problems) == [
        f"work_dirs/sweeps/a: --resume: config.optim_wrapper.optimizer.lr was 0.01, is 0.02{fix}",
        f"work_dirs/sweeps/a: --resume: sweep.space.{WEIGHT}.high was 9.0, is 7.0{fix}",
    ]


def test_a_damaged_study_is_not_taken_for_the_same(tmp_path: Path) -> None:
    (tmp_path / STUDY).write_text('{"sweep": {"con')
    with pytest.raises(DamagedFileError, match="whether this is the same study cannot be seen"):
        require_same_study(tmp_path, study(), tmp_path)


def test_what_is_damaged_and_made_again_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text('{"verdict": ')
    (tmp_path / SELECTION).write_text("")
    write_json(tmp_path / "equal_cost.json", {})
    lines: list[str] = []
    repair(tmp_path, lines.append)
    assert len(lines) == 2 and all(line.startswith("damaged   ") for line in lines)
    assert SUMMARY in lines[0] and "without the time of earlier starts" in lines[0] and SELECTION in lines[1]
    assert not (tmp_path / SUMMARY).exists() and read_json(tmp_path / "equal_cost.json") == {}


def test_a_damaged_record_is_never_set_aside(tmp_path: Path) -> None:
    """It is hours of training: the user decides."""
    TrialRecord("t0001", {}, 0).save(tmp_path / TRIALS / "t0001")
    file = tmp_path / TRIALS / "t0001" / "trial.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(DamagedFileError, match="t0001"):
        repair(tmp_path, lambda line: None)
    assert file.is_file()
