"""A teacher that counts what it computes, and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from rdistill.config.distill_spec import CacheSpec
from rdistill.distill.teacher_cache import TeacherCache

ON = {"distill.cache": "on"}


class Counted:
    """A teacher that doubles, and counts the images that it is given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        assert len(images) == 1
        self.images += 1
        return {"twice": images * 2, "thrice": images * 3}


def make_cache(folder: Path | None, teacher: bytes = b"one", **budgets: Any) -> TeacherCache:
    return TeacherCache(lambda: teacher, CacheSpec(mode="on", **budgets), folder)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
