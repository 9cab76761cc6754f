"""What loading a config complains of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.config.load import Shortcuts, load_config
from rdistill.core.errors import UserError


def problems_of(
    tiny: Tiny, overrides: dict[str, Any] | None = None, name: str = "distill", **shortcuts: Any
) -> list[str]:
    """What loading a config complains of, without the file's name in front."""
    with pytest.raises(UserError) as caught:
        tiny.load(name, overrides, **shortcuts)
    prefix = f"{tiny.folder / name}.py: "
    assert all(problem.startswith(prefix) for problem in caught.value.problems), caught.value.problems
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def problems(file: Path | str, overrides: dict[str, Any] | None = None, **shortcuts: Any) -> list[str]:
    """What loading a config file complains of, without its name in front; its data are not looked at."""
    with pytest.raises(UserError) as caught:
        load_config(file, overrides, Shortcuts(**shortcuts), with_data=False)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]
