"""mmengine's optimizers are imported without transformers, and transformers' own is there all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPO, modules_after

pytest.importorskip("transformers")


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]  # mmengine prints what it calls torch's own


def test_a_run_starts_without_transformers() -> None:
    loaded = modules_after("import rdistill.training.run")
    assert {"mmengine", "torch"} <= loaded and "transformers" not in loaded


def test_its_optimizer_is_imported_where_a_config_names_it() -> None:
    """Also after rdistill; mmengine alone, and transformers imported before, stay as they were."""
    build = (
        "import sys, torch; from mmengine.optim import build_optim_wrapper\n"
        "before = 'transformers' in sys.modules\n"
        "wrapper = dict(optimizer=dict(type='Adafactor', lr=0.1, relative_step=False, scale_parameter=False))\n"
        "print(before, type(build_optim_wrapper(torch.nn.Linear(2, 2), wrapper).optimizer).__module__)\n"
    )
    assert output_of(f"import rdistill\n{build}") == "False transformers.optimization"
    assert output_of(f"import transformers, rdistill\n{build}") == "True transformers.optimization"
