"""What a cohort's actor passes on to the workers of its group: who joins and who stops. Imports nothing of rdistill."""

from __future__ import annotations

from typing import Any

JOIN, STOP = "join", "stop"
News = list[tuple[str, Any]]  # (JOIN, the trial as Tune has it) or (STOP, its id), in the order of the calls
