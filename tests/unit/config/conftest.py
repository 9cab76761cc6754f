"""A config file over that of a small student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Tiny

Write = Callable[[str], Path]


@pytest.fixture
def write(tiny_without_teacher: Tiny, tmp_path: Path) -> Write:
    """A config file over ``student.py``."""

    def written(text: str) -> Path:
        file = tmp_path / "child.py"
        file.write_text(f"_base_ = [{str(tiny_without_teacher.folder / 'student.py')!r}]\n{text}\n")
        return file

    return written
