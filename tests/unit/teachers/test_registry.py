"""A kind of teacher is one declaration: what it takes, what it must return, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdistill.config.distill_spec import TeacherSpec
from rdistill.core.errors import UserError
from rdistill.registration.parameters import Whole
from rdistill.teachers import TEACHERS, TeacherModel, register
from rdistill.teachers.registry import COMMON_KEYS


class Nowhere:
    """No files."""

    def find(self, name: str) -> Path:
        raise UserError(f"no such file {name}")

    def read_teacher(self, name: str) -> TeacherModel:
        raise UserError(f"no such config file {name}")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(TEACHERS, "_entries", dict(TEACHERS._entries))
    monkeypatch.setattr(TEACHERS, "_sources", dict(TEACHERS._sources))
    yield


def test_a_kind_gives_a_model() -> None:
    @register("Mine", params={"depth": Whole(at_least=1)})
    def mine(*, depth: int = 2) -> Any:
        return {"type": "EncoderDecoder", "depth": depth}

    assert TEACHERS["Mine"].params == {"depth": Whole(2, at_least=1)} and not TEACHERS["Mine"].fusible
    assert TEACHERS["Mine"].build({"depth": 3}, Nowhere()) == TeacherModel({"type": "EncoderDecoder", "depth": 3})


def test_what_fails_is_named() -> None:
    @register("Failing")
    def failing(*, file: str, files: Any) -> Any:
        return files.find(file)

    @register("Wrong")
    def wrong() -> Any:
        return {"typ": "EncoderDecoder"}

    with pytest.raises(UserError, match=r"^teacher kind 'Failing': no such file a.onnx$"):
        TEACHERS["Failing"].build({"file": "a.onnx"}, Nowhere())
    with pytest.raises(UserError, match=r"^teacher kind 'Wrong': must return the `model` section of a segmentor of mm"):
        TEACHERS["Wrong"].build({}, Nowhere())


def test_declarations_that_are_refused() -> None:
    def weighed(*, weight: float = 1.0) -> Any: ...

    with pytest.raises(UserError, match=r"^teacher kind 'Mine' of .*: weight is a key of every teacher; call"):
        register("Mine")(weighed)
    with pytest.raises(UserError, match=r"^teacher kind 'mmseg' of .* is rdistill's own already"):
        register("mmseg")(lambda: {})


def test_the_keys_of_every_teacher_are_the_spec_s() -> None:
    assert {*TeacherSpec.model_fields} - {"config"} == set(COMMON_KEYS)
