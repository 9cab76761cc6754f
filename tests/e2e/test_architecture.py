"""The processes of a cohort start without torch."""

from __future__ import annotations

import pytest
from conftest import modules_after


@pytest.mark.e2e
@pytest.mark.parametrize("module", ["assignment", "proxy", "worker", "group"])
def test_a_trial_in_a_cohort_waits_for_no_torch(module: str) -> None:
    """Each such trial has a process of its own, which unpickles its cohort's handle, and with it imports its class."""
    loaded = modules_after(f"import rdistill.sweeps.cohort.{module}")
    assert "rdistill" in loaded and not loaded & {"torch", "mmengine", "mmseg", "mmcv"}
