"""The message from a cohort's actor to the workers of its group: which students join and which stop.

This module imports nothing else of rdistill, so that any process may import it.
"""

from __future__ import annotations

from typing import Any

JOIN, STOP = "join", "stop"
# (JOIN, the trial's config from Tune) or (STOP, the trial's id), in the order of the calls.
MembershipChanges = list[tuple[str, Any]]
