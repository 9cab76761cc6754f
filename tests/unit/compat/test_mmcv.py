"""Whether mmcv was built with its operators, as it does not say itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mmcv
import pytest

from rdistill._compat.mmcv import OPERATORS, has_compiled_operators


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    has_compiled_operators.cache_clear()
    yield
    has_compiled_operators.cache_clear()


def test_it_is_the_module_that_mmcv_imports_its_operators_from() -> None:
    source = (Path(str(mmcv.__file__)).parent / "utils" / "ext_loader.py").read_text(encoding="utf-8")
    package, _, name = OPERATORS.rpartition(".")
    assert f"import_module('{package}.' + name)" in source and name == "_ext"
    users = (Path(str(mmcv.__file__)).parent / "ops").rglob("*.py")
    assert any("load_ext(" in text and f"'{name}'" in text for text in map(Path.read_text, users))


def test_operators_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, OPERATORS, ModuleType(OPERATORS))
    assert has_compiled_operators()


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("undefined symbol"), RuntimeError("ABI")])
def test_operators_that_are_absent_or_of_another_torch(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == OPERATORS:
                raise error

    monkeypatch.delitem(sys.modules, OPERATORS, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert not has_compiled_operators()
