"""Joining or starting Ray, as far as it goes without Ray running; tests/e2e starts it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.distributed.cluster import connected


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError) as caught, connected(address, tmp_path):
            pass
    (line,) = caught.value.problems
    assert line.startswith(f"--address {address}: no Ray cluster answers: ") and "\n" not in line
    assert list(tmp_path.iterdir()) == []
