"""What ends a run although nobody made a mistake is one line that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from rdistill.core.failures import OutOfMemoryError, last_good, readable_errors
from rdistill.core.storage import StorageError


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory with 4 images a worker"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), r"out of GPU memory .*\(CUDA out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory with 4 images"),
    ],
)
def test_too_little_memory(error: Exception, what: str, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=what) as caught, readable_errors(tmp_path, 4):
        raise error
    assert "lower --batch-size" in str(caught.value) and "\n" not in str(caught.value)


def test_a_real_allocation_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="lower --batch-size"), readable_errors(tmp_path, 1):
        torch.empty(2**58, dtype=torch.uint8)


def test_a_full_disk_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "last.pth.previous").touch()
    full = OSError(errno.ENOSPC, "No space left on device", "a/last.pth")
    with pytest.raises(StorageError) as caught, readable_errors(tmp_path, 1):
        raise full
    assert str(caught.value).startswith("a/last.pth: No space left on device; the last good checkpoint is ")
    assert str(tmp_path / "last.pth.previous") in str(caught.value)
    (tmp_path / "last.pth").touch()
    assert str(tmp_path / "last.pth") + ";" in last_good(tmp_path)
    assert last_good(tmp_path / "nowhere") == "there is no checkpoint yet"


def test_a_work_dir_that_was_removed(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, readable_errors(tmp_path / "run", 1):
        (tmp_path / "run" / "best.pth").write_text("")
    what = "was removed or moved while rdistill wrote to it; remove what is left of it, and start again"
    assert str(caught.value) == f"{tmp_path / 'run'}: {what}"


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), RuntimeError("a bug"), KeyError("x")])
def test_anything_else_is_left_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, readable_errors(tmp_path, 1):
        raise error
    assert caught.value is error
