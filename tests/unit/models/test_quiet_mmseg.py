"""mmseg is imported without what it prints: a program may read standard output."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

from conftest import REPO
from mmengine.logging import MMLogger

from rdistill.models import quiet_mmseg

SOURCE = REPO / "rdistill" / "models" / "quiet_mmseg.py"
NOISY = "import warnings\nprint('welcome to mmseg')\nwarnings.warn('an old name')\n"


def test_all_that_is_named_is_there_and_mmengines_logger_only_warns() -> None:
    assert all(getattr(quiet_mmseg, name) is not None for name in quiet_mmseg.__all__)
    logger = MMLogger.get_instance("mmengine")
    assert all(each.level == logging.WARNING for each in (logger, *logger.handlers))


def test_what_an_import_prints_and_warns_of_is_not_seen(tmp_path: Path) -> None:
    """With packages of the same names in place of mmseg's and mmengine's, all of which have something to say."""
    modules = {"mmengine.logging": ["MMLogger"]}
    for module, names in re.findall(r"^    from (mmseg[\w.]*) import (.+)$", SOURCE.read_text(), re.MULTILINE):
        modules[module] = names.split(", ")
    modules.setdefault("mmseg.models", [])
    for module, names in modules.items():
        folder = tmp_path
        for part in module.split("."):
            folder /= part
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        lines = [
            f"class {name}:\n    get_instance = setLevel = classmethod(lambda cls, *_, **__: cls)\n" for name in names
        ]
        (folder / "__init__.py").write_text("".join([NOISY if "mmseg" in module else "", *lines]))
    code = f"import runpy; print(sorted(runpy.run_path({str(SOURCE)!r})['__all__'])[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": f"{tmp_path}:{REPO}"})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "BaseSegDataset\n", "")
