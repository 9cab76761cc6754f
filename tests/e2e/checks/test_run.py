"""A check in a process of its own says nothing but what it found."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import Tiny


@pytest.mark.e2e
def test_an_optimizer_with_options_of_single_parameters_is_checked_quietly(tiny: Tiny) -> None:
    """mmengine's logger would say a line for each parameter; in a process of its own, as the command runs."""
    code = f"""
from rdistill.config.load import Shortcuts, load_config
from rdistill.checks.run import check_optimizer
from rdistill.distill.distiller import build_distiller
cfg = load_config({str(tiny.folder / "student.py")!r}, {{"+optim_wrapper.paramwise_cfg": {{"norm_decay_mult": 0.5}}}},
                  Shortcuts(data_root={str(tiny.data_root)!r}))
assert check_optimizer(build_distiller(cfg, seed=0), cfg) == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).strip() == ""
