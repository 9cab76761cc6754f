"""What several test files of the checks start from: images to damage, a config of them, a run to check."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.checks.run import Report, check_config
from rdistill.config.load import Shortcuts
from rdistill.distill.distiller import Distiller, build_distiller

Check = Callable[..., Report]


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be broken."""
    return Path(shutil.copytree(data_root, tmp_path / "data"))


@pytest.fixture
def config(tiny_without_teacher: Tiny, root: Path) -> Callable[..., Config]:
    return lambda **overrides: tiny_without_teacher.load("student", overrides, data_root=str(root))


@pytest.fixture
def shortcuts(tiny: Tiny) -> dict[str, Any]:
    return dict(data_root=str(tiny.data_root), size="32", iters=6, batch_size=2, val_interval=2)


@pytest.fixture
def check(tiny: Tiny, shortcuts: dict[str, Any]) -> Check:
    """Checks ``distill.py`` with some keys and shortcuts changed."""

    def run(overrides: Mapping[str, Any] | None = None, name: str = "distill", **changed: Any) -> Report:
        return check_config(tiny.folder / f"{name}.py", overrides, Shortcuts(**{**shortcuts, **changed}))

    return run


@pytest.fixture
def built(tiny: Tiny) -> tuple[Config, Distiller]:
    cfg = tiny.load("distill")
    return cfg, build_distiller(cfg, seed=0)
