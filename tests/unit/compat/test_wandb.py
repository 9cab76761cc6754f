"""wandb's temporary folders are made where they are to be: by the modules that are imported for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdistill._compat import wandb as compat

IMPORTS = """
import sys, tempfile
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from rdistill._compat.wandb import import_whole
wandb = import_whole()
tempfile.tempdir = sys.argv[2]
wandb.Image, wandb.Artifact, wandb.Settings()
print(len(list(Path(sys.argv[1]).iterdir())), len(list(Path(sys.argv[2]).iterdir())))
"""


def test_its_folders_are_made_at_import(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "later"]
    for folder in folders:
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *map(str, folders)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "0"], done


def test_a_module_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compat, "MODULES", ("wandb.sdk.no_such_module",))
    with caplog.at_level(logging.WARNING):
        assert compat.import_whole().__name__ == "wandb"
    assert "wandb has changed" in caplog.text and "temporary folder" in caplog.text
