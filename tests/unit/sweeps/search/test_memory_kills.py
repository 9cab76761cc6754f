"""A trial that Ray killed for its node's memory is lost in one line."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError

from rdistill.distributed.cluster import killed_for_memory
from rdistill.sweeps.search.memory_kills import as_actor_died

OF_RAY = OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, ID: a509) was "
    "6.45GB used / 23.54GB limit (0.273800)\nOOM kill reason: Memory usage 6887460864B exceeded threshold\nand a page"
)


def test_rays_page_on_memory_in_a_line() -> None:
    line = "out of memory: Ray killed the process, its node had 6.45GB used / 23.54GB limit"
    assert killed_for_memory(OF_RAY) == line
    assert killed_for_memory(OutOfMemoryError("other words")).endswith("its node had too little left")
    assert str(as_actor_died(OF_RAY)).startswith(f"{line}; lower --batch-size") and "\n" not in str(
        as_actor_died(OF_RAY)
    )
