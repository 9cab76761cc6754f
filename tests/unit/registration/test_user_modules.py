"""A user's module that cannot be imported is one line: which, why, and on which line of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.registration.user_modules import import_user_modules


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("import nothing_there", "ModuleNotFoundError: No module named 'nothing_there' (failing.py, line 1)"),
        ("\nraise RuntimeError('two\\nlines')", "RuntimeError: two lines (failing.py, line 2)"),
        ("x = = 1", "SyntaxError: invalid syntax (failing.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 (failing.py, line 1)"),
    ],
)
def test_why(content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        import_user_modules({"imports": "failing"})
    assert caught.value.problems == (f"custom_imports: Failed to import failing: {problem}",)
    assert "failing" not in sys.modules


def test_one_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"^custom_imports: Failed to import no_such.module; its folder must be in PYTH"
    ):
        import_user_modules(["no_such.module"])
    with pytest.warns(UserWarning, match="no_such failed to import and is ignored"):
        import_user_modules({"imports": ["no_such"], "allow_failed_imports": True})
    with pytest.raises(UserError, match="has no key 'import'; its keys are imports and allow_failed_imports"):
        import_user_modules({"import": ["no_such"]})
