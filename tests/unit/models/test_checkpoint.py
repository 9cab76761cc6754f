"""Weights on disk: what loads, what is refused, what the errors say, and what a failing save leaves."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, Tiny
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models.checkpoint import (
    as_plain_data,
    load_file,
    load_weights,
    matching_weights,
    model_weights,
    require_finite,
    save_atomically,
    save_student,
)
from rdistill.models.pretrained import SAFE_SCHEME
from rdistill.models.segmentor import build_segmentor

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@pytest.fixture
def student(tiny_without_teacher: Tiny) -> nn.Module:
    return build_segmentor(tiny_without_teacher.load("student").model)


@pytest.fixture(scope="module")
def mmengine_checkpoint(tiny_without_teacher: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mmengine's own Runner and CheckpointHook write, with log histories and numpy values."""
    cfg = tiny_without_teacher.load("student", {"+custom_imports": None}, iters=2)
    cfg.work_dir = str(tmp_path_factory.mktemp("mmengine"))
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2, save_best="mIoU")
    cfg.default_hooks.logger.interval = 1
    cfg.experiment_name = "plain-mmengine"
    Runner.from_cfg(cfg).train()
    return Path(cfg.work_dir, "iter_2.pth")


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


# ---------------------------------------------------------------------------------------------------------
# What loads


def test_rdistill_files(distilled_run: Run, student: nn.Module, state_equal: Equal) -> None:
    meta = load_weights(student, distilled_run.folder / "best.pth")
    assert meta["iter"] == distilled_run.metrics["best_iter"]
    from_best = {key: value.clone() for key, value in student.state_dict().items()}
    for parameter in student.parameters():
        nn.init.zeros_(parameter)
    meta = load_weights(student, distilled_run.folder / "student.pth")
    assert (
        meta["dataset_meta"]["classes"] == ["background", "optic disc"]
        and meta["mIoU"] == distilled_run.metrics["mIoU"]
    )
    assert state_equal(student.state_dict(), from_best)
    assert torch.load(distilled_run.folder / "best.pth", weights_only=True)  # plain data: needs no trust anywhere


def test_mmengine_checkpoint(mmengine_checkpoint: Path, student: nn.Module, state_equal: Equal) -> None:
    with pytest.raises(pickle.UnpicklingError):
        torch.load(mmengine_checkpoint, weights_only=True)
    loaded = load_file(mmengine_checkpoint)
    histories = [value for value in loaded["message_hub"]["log_scalars"].values() if isinstance(value, HistoryBuffer)]
    assert len(histories) > 2 and all(isinstance(history.current(), float) for history in histories)
    trusted = torch.load(mmengine_checkpoint, weights_only=False)
    assert state_equal(model_weights(loaded), trusted["state_dict"])
    load_weights(student, mmengine_checkpoint)
    assert state_equal(student.state_dict(), trusted["state_dict"])


def test_numpy_values(tmp_path: Path) -> None:
    values = {"a": np.float64(0.5), "b": np.int64(3), "c": np.arange(3), "d": np.float32([1.5]), "e": np.bool_(True)}
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": values}, tmp_path / "a.pth")
    loaded = load_file(tmp_path / "a.pth")["meta"]
    assert loaded["a"] == 0.5 and loaded["b"] == 3 and loaded["c"].tolist() == [0, 1, 2] and loaded["e"]


def renamed(file: Path, old: bytes, new: bytes) -> Path:
    """A copy of a checkpoint whose pickle names a global otherwise, with checksums that are right."""
    out = file.with_name(f"renamed-{file.name}")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            target.writestr(entry.filename, content)
    return out


@pytest.mark.parametrize("module", ["core", "_core"])
def test_the_names_of_numpy_1_and_2(mmengine_checkpoint: Path, module: str, student: nn.Module) -> None:
    """Most of mmseg's published teachers were written under numpy 1, whose functions have other names."""
    own = np.ndarray.__reduce__(np.ones(1))[0].__module__.encode()  # numpy._core.multiarray, or numpy 1's
    file = renamed(mmengine_checkpoint, own, f"numpy.{module}.multiarray".encode())
    load_weights(student, file)
    histories = load_file(file)["message_hub"]["log_scalars"]
    assert isinstance(histories["train/loss"].data[0], np.ndarray) and histories["train/loss"].current() > 0


@pytest.mark.parametrize("name", ["fromstring", "_ufunc_reconstruct", "frombuffer"])
def test_nothing_else_of_numpy_1(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": {}, "meta": np.float64(1)}, tmp_path / "a.pth")
    own = np.float64(1).__reduce__()[0].__module__.encode() + b"\nscalar"
    file = renamed(tmp_path / "a.pth", own, f"numpy.core.multiarray\n{name}".encode())
    with pytest.raises(UserError, match=f"numpy.core.multiarray.{name}"):
        load_file(file)


@pytest.mark.parametrize("prefix", ["", "module.", "student.", "module.student."])
@pytest.mark.parametrize("bare", [True, False])
def test_forms_of_a_state_dict(student: nn.Module, tmp_path: Path, state_equal: Equal, prefix: str, bare: bool) -> None:
    weights = {key: torch.full_like(value, 2) for key, value in student.state_dict().items()}
    saved = {prefix + key: value for key, value in weights.items()}
    if "student." in prefix:
        saved[prefix.replace("student.", "terms.") + "hidden.adapter.project.weight"] = torch.ones(1)
    torch.save(saved if bare else {"state_dict": saved, "meta": {"iter": 7}}, tmp_path / "a.pth")
    assert load_weights(student, tmp_path / "a.pth") == ({} if bare else {"iter": 7})
    assert state_equal(student.state_dict(), weights)


def test_batch_counters_may_be_averages(student: nn.Module, tmp_path: Path) -> None:
    weights = {key: value.double() for key, value in student.state_dict().items()}
    torch.save(weights, tmp_path / "a.pth")
    load_weights(student, tmp_path / "a.pth")
    assert matching_weights(student, tmp_path / "a.pth").report == f"{len(weights)} of {len(weights)} weights loaded"


def test_batch_counters_may_be_missing(student: nn.Module, tmp_path: Path) -> None:
    weights = {key: value for key, value in student.state_dict().items() if "num_batches" not in key}
    assert len(weights) < len(student.state_dict())
    torch.save(weights, tmp_path / "a.pth")
    load_weights(student, tmp_path / "a.pth")


# ---------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_that_carries_code(student: nn.Module, tmp_path: Path, zipped: bool) -> None:
    file, ran = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"state_dict": student.state_dict(), "meta": Touch(ran)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as caught:
        load_weights(student, file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: ") and "system" in problem and "--trust-checkpoint" in problem
    assert "\n" not in problem and not ran.exists()
    load_weights(student, file, trust=True)
    assert ran.exists()


@pytest.mark.parametrize(
    "call",
    [
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, torch.Tensor, "numpy"),
        Call(eval, "1"),
        Call(open, "/dev/null"),
    ],
    ids=["a method that histories do not need", "another class", "eval", "open"],
)
def test_the_allowed_names_open_no_door(tmp_path: Path, call: Call) -> None:
    torch.save({"state_dict": {}, "meta": call}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="--trust-checkpoint"):
        load_file(tmp_path / "evil.pth")


def test_resume_loads_safely(tmp_path: Path) -> None:
    """mmengine's own loader runs the code of a checkpoint; the path that a Runner is given goes past it."""
    from mmengine.runner import CheckpointLoader

    ran = tmp_path / "ran"
    torch.save({"state_dict": {}, "meta": Touch(ran)}, tmp_path / "evil.pth")
    with pytest.raises(UserError):
        CheckpointLoader.load_checkpoint(f"{SAFE_SCHEME}{tmp_path / 'evil.pth'}", map_location="cpu")
    assert not ran.exists()


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99], ids=lambda kept: f"{kept} kept")
def test_a_truncated_file(teacher_run: Run, tmp_path: Path, kept: float) -> None:
    whole = (teacher_run.folder / "student.pth").read_bytes()
    file = tmp_path / "cut.pth"
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    for trust in (False, True):
        with pytest.raises(UserError) as caught:
            load_file(file, trust=trust)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{file}: ") and "\n" not in problem
        assert kept == 3 or ("is cut off after" if kept else "is an empty file") in problem


@pytest.mark.parametrize("content", [b"not a checkpoint\n", b"<html>404</html>", pickle.dumps({"a": 1}), b"\x80\x02}."])
def test_a_file_of_something_else(student: nn.Module, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    for trust in (False, True):
        with pytest.raises(UserError) as caught:
            load_weights(student, tmp_path / "a.pth", trust=trust)
        (problem,) = caught.value.problems
        assert str(tmp_path / "a.pth") in problem and "\n" not in problem


def test_a_text_file_is_told_by_its_beginning(tmp_path: Path) -> None:
    """A config, or a pointer that Git LFS left in place of the file."""
    (tmp_path / "a.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(UserError, match=r"a\.pth: is no checkpoint, .* begins with 'version https://git-lfs\.github"):
        load_file(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [torch.ones(3), [1, 2], {"state_dict": None}, {"state_dict": [1]}], ids=str)
def test_data_that_is_no_checkpoint(student: nn.Module, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: "):
        load_weights(student, tmp_path / "a.pth")


def test_a_missing_file(student: nn.Module, tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=f"{path}: no such checkpoint file"):
            load_weights(student, path)


def test_keys_that_do_not_fit_are_listed(student: nn.Module, tmp_path: Path, state_equal: Equal) -> None:
    weights = dict(student.state_dict())
    before = {key: value.clone() for key, value in weights.items()}
    stem = [key for key in weights if key.startswith("backbone.stem") and "num_batches" not in key]
    for key in stem:
        del weights[key]
    weights = {key: value + 1 for key, value in weights.items()}
    weights["decode_head.conv_seg.weight"] = torch.zeros(19, 12, 1, 1)
    weights["auxiliary_head.conv_seg.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        load_weights(student, tmp_path / "a.pth", what="teacher")
    (problem,) = caught.value.problems
    assert "does not fit the teacher (EncoderDecoder)" in problem
    assert f"{len(stem)} missing: {', '.join(stem[:5])}, ..." in problem and len(stem) > 5
    assert "1 unexpected: auxiliary_head.conv_seg.weight" in problem
    assert "1 misshapen: decode_head.conv_seg.weight (19, 12, 1, 1) instead of (2, 12, 1, 1)" in problem
    assert state_equal(student.state_dict(), before)  # nothing was half loaded


@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
def test_two_flipped_bytes(student: nn.Module, tmp_path: Path, where: float) -> None:
    """torch.load takes such a file, and the scores are others."""
    file = tmp_path / "a.pth"
    torch.save(student.state_dict(), file)
    content = bytearray(file.read_bytes())
    for at in (int(where * len(content)), int(where * len(content)) + 1):
        content[at] ^= 0xFF
    file.write_bytes(content)
    for trust in (False, True):
        with pytest.raises(UserError, match=r"a\.pth: is damaged \(.*; copy or download it again"):
            load_weights(student, file, trust=trust)


def test_a_file_without_checksums(student: nn.Module, tmp_path: Path) -> None:
    """torch.save can leave them out; there is then nothing to verify."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(student.state_dict(), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    load_weights(student, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("sparse_coo", "is a sparse tensor"),
        ("sparse_csr", "is a sparse tensor"),
        ("meta", "is a meta tensor, without values"),
        ("quantised", r"is a quantised tensor \(torch.qint8\)"),
        ("nested", "is a nested tensor"),
        ("complex", r"complex instead of real"),
        ("int8", r"integer instead of real"),
        ("bool", r"truth instead of real"),
        ("NaN", "holds NaN"),
        ("infinite", "holds infinite values"),
        ("half NaN", "holds NaN"),
        ("float8 NaN", "holds NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch warns when they are made
def test_tensors_that_are_no_weights(student: nn.Module, tmp_path: Path, kind: str, says: str) -> None:
    name = "decode_head.conv_seg.weight"
    weights = dict(student.state_dict())
    value = weights[name]
    damaged = value.clone()
    damaged.view(-1)[3] = torch.inf if kind == "infinite" else torch.nan
    strange = {
        "sparse_coo": lambda: value.to_sparse(),
        "sparse_csr": lambda: value.flatten(1).to_sparse_csr(),
        "meta": lambda: value.to("meta"),
        "quantised": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "nested": lambda: torch.nested.nested_tensor([value[0], value[1]]),
        "complex": lambda: value.to(torch.complex64),
        "int8": lambda: value.to(torch.int8),
        "bool": lambda: value > 0,
        "half NaN": lambda: damaged.half(),
        "float8 NaN": lambda: damaged.to(torch.float8_e4m3fn),
    }
    weights[name] = strange.get(kind, lambda: damaged)()
    torch.save(weights, tmp_path / "a.pth")
    for load in (load_weights, matching_weights):
        with pytest.raises(UserError) as caught:
            load(student, tmp_path / "a.pth")
        (problem,) = caught.value.problems
        assert name in problem and str(tmp_path / "a.pth") in problem and "\n" not in problem and len(problem) < 400
        if load is load_weights:
            assert re.search(says, problem), problem


def test_a_mask_of_attention_may_be_infinite(tmp_path: Path) -> None:
    mask = torch.full((3, 3), -torch.inf).triu(1)
    require_finite("a.pth", {"attn_mask": mask, "count": torch.tensor(3), "nothing": torch.ones(0)})
    with pytest.raises(UserError, match=r"a\.pth: attn_mask holds infinite"):
        require_finite("a.pth", {"attn_mask": mask + torch.eye(3)})


def test_a_tensor_that_claims_more_than_its_file_holds() -> None:
    """Expanded from one value to four million million: looked at once, not as often as it says."""
    require_finite("a.pth", {"w": torch.ones(1).expand(2000000, 2000000)})
    with pytest.raises(UserError, match="holds NaN"):
        require_finite("a.pth", {"w": torch.full((1, 2), torch.nan).expand(2000000, 2)})


# ---------------------------------------------------------------------------------------------------------
# What is written


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.pth"
    save_atomically({"w": torch.ones(2)}, file)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_atomically({"w": torch.zeros(2), "f": lambda: None}, file)
    assert torch.equal(load_file(file)["w"], torch.ones(2))
    save_atomically({"w": torch.zeros(2)}, file)
    assert torch.equal(load_file(file)["w"], torch.zeros(2)) and [path.name for path in file.parent.iterdir()] == [
        "a.pth"
    ]


def test_save_student(student: nn.Module, tmp_path: Path, state_equal: Equal) -> None:
    palette = [np.array([0, 0, 0]), (255, 215, 0)]
    save_student(student, tmp_path / "student.pth", classes=["a", "b"], palette=palette, meta={"iter": 3})
    saved = torch.load(tmp_path / "student.pth", weights_only=True)
    assert saved["meta"] == {"iter": 3, "dataset_meta": {"classes": ["a", "b"], "palette": [[0, 0, 0], [255, 215, 0]]}}
    assert state_equal(saved["state_dict"], student.state_dict())


def test_as_plain_data() -> None:
    value = {1: np.float32(0.5), "a": (np.arange(2), None, True), "p": Path("x"), "t": torch.ones(1)}
    plain = as_plain_data(value)
    assert plain == {"1": 0.5, "a": [[0, 1], None, True], "p": "x", "t": value["t"]}
    assert type(plain["1"]) is float
