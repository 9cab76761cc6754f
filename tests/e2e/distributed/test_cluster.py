"""A cluster that does not answer, asked by Ray's own client, which tries for 40 seconds."""

from __future__ import annotations

import socket

import pytest

from rdistill._compat import ray as compat
from rdistill._compat.changed import LibraryChangedError


@pytest.mark.e2e
def test_a_cluster_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert compat.bootstrap_address(address).endswith(address.partition(":")[2])
    with pytest.raises(Exception) as caught:
        compat.ask_cluster(address, 0.5)
    assert not isinstance(caught.value, LibraryChangedError)
