"""A torchvision whose compiled operators do not load is imported all the same; any other failure stays one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

# What torchvision 0.29's `__init__` does before all else that matters here.
DESCRIBES = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets
"""
IMPORTS = """
import torch
from rdistill._compat.torchvision import import_torchvision
import_torchvision()
import torchvision
import_torchvision()
box = torch.zeros(1, 4)
try:
    torch.ops.torchvision.nms(box, box[0], 0.5)
except NotImplementedError as error:
    print("not computed")
"""


def run(tmp_path: Path, content: str, imports: str = IMPORTS) -> subprocess.CompletedProcess[str]:
    (tmp_path / "torchvision.py").write_text(content)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{imports}"
    return subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)


def test_operators_that_do_not_load(tmp_path: Path) -> None:
    done = run(tmp_path, DESCRIBES)
    assert done.stdout.strip() == "not computed", done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise RuntimeError('libcudart.so.13: no such file')", "RuntimeError: libcudart.so.13: no such file"),
        ("raise ImportError('for another Python')", "ImportError: for another Python"),
    ],
)
def test_another_failure(tmp_path: Path, content: str, said: str) -> None:
    done = run(tmp_path, content)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == said


@pytest.mark.parametrize("content", [DESCRIBES, "raise ImportError('for another Python')"])
def test_mmseg_is_imported_beside_timm_all_the_same(tmp_path: Path, content: str) -> None:
    """mmseg imports timm where it is installed, and timm torchvision: of what that raises it expects ImportError."""
    (tmp_path / "timm.py").write_text("import torchvision")
    done = run(tmp_path, content, "import rdistill.models.quiet_mmseg\nprint('timm' in sys.modules)")
    assert done.stdout.strip() == str(content == DESCRIBES), done.stderr
