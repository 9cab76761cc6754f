"""A lazy module is imported at its first use, and then is the module itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rdistill.registration.lazy import LazyModule, lazily


def test_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used_late.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {}
    lazily(namespace, late="used_late")
    late = namespace["late"]
    assert isinstance(late, LazyModule) and not hasattr(late, "__wrapped__") and "used_late" not in sys.modules
    assert late.value == 3
    assert namespace["late"] is sys.modules.pop("used_late")
