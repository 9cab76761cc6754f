"""Each row of the table of texts against the error that it was written for, raised by the package itself."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import typer
from mmengine.registry import Registry
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from typer.testing import CliRunner

from rdistill._compat import texts
from rdistill._compat.typer import AnyError
from rdistill.core.errors import causes_of

# Rows whose errors need a cluster, a full disk or another process: where they are provoked.
ELSEWHERE = {
    "RAY_STARTS_SLOWLY": "test_rays_own_words_for_a_slow_start",
    "RAY_MEMORY": "tests/e2e/test_faults_memory.py and tests/unit/distributed/test_cluster.py",
    "NO_OPERATORS": "tests/unit/models/test_packages.py",
}


def raised(action: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        action()
    return caught.value


def whole(error: BaseException) -> str:
    return " ".join(f"{type(cause).__name__} {cause}" for cause in causes_of(error, also_context=True))


def test_every_row_is_provoked() -> None:
    own = Path(__file__).read_text()
    missing = [name for name in texts.TABLE if f"texts.{name}" not in own and name not in ELSEWHERE]
    assert not missing


def test_rays_own_words_for_a_slow_start() -> None:
    """It gives its node 30 s and its dashboard 60 s, which no test can wait for: the words are those of its source."""
    import inspect

    from ray._private import node, services

    assert texts.RAY_STARTS_SLOWLY.is_in(inspect.getsource(node))
    assert texts.RAY_STARTS_SLOWLY.is_in(inspect.getsource(services.start_api_server))  # the dashboard's


def test_an_operator_that_a_library_did_not_bring() -> None:
    describe = torch.library.register_fake("torchvision::no_such_operator")
    assert texts.NO_SUCH_OPERATOR.is_in(raised(lambda: describe(lambda x: x)))


def test_no_memory_on_the_cpu() -> None:
    error = raised(lambda: torch.empty(2**50))
    assert isinstance(error, RuntimeError) and texts.CPU_MEMORY.is_in(error)


class Dies(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_data_worker_that_is_killed() -> None:
    error = raised(lambda: next(iter(DataLoader(Dies(), num_workers=1))))
    assert isinstance(error, RuntimeError) and texts.LOADER_DIED.is_in(error)


def test_the_system_of_a_lost_connection() -> None:
    assert texts.CONNECTION_LOST.is_in(f"{os.strerror(104)}")
    assert texts.CONNECTION_LOST.is_in("gloo: Connection closed by peer [127.0.0.1]:2929")  # tests/e2e/test_workers.py


def test_a_peer_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    def connect() -> None:
        from datetime import timedelta

        store = torch.distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=1))
        store.get("key")

    error = raised(connect)
    assert isinstance(error, torch.distributed.DistNetworkError) and texts.PEER_GONE.is_in(whole(error))


def test_a_disk_that_is_full() -> None:
    error = raised(lambda: torch.save({"a": torch.ones(10**6)}, "/dev/full"))
    assert texts.NOT_WRITTEN.is_in(whole(error)), whole(error)
    assert texts.DISK_FULL.is_in(os.strerror(28))
    assert texts.DISK_FULL.is_in(raised(lambda: Path("/dev/full").write_text("text")))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def test_what_a_checkpoint_would_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful()}, tmp_path / "new.pth")
    torch.save({"a": Harmful()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        error = raised(lambda name=name: torch.load(tmp_path / name, weights_only=True))
        assert isinstance(error, pickle.UnpicklingError)
        assert texts.UNSAFE_PICKLE.read(error) == "posix.getcwd"
    assert texts.UNSAFE_PICKLE.read("other words") is None


def test_packages_that_a_config_needs() -> None:
    error = raised(lambda: Registry("things", locations=["mmdet.models"]).build(dict(type="mmdet.No")))
    assert texts.names_scope("mmdet").is_in(whole(error)), whole(error)
    assert not texts.names_scope("mmpretrain").is_in(whole(error))
    assert texts.names_scope("mmdet").is_in(raised(lambda: __import__("mmdet.models")))


def test_advice_on_registries() -> None:
    error = raised(lambda: Registry("things").build(dict(type="No")))
    text = " ".join(str(error).split())
    assert texts.REGISTRY_ADVICE.is_in(text)
    rest = texts.REGISTRY_ADVICE.pattern.sub("", text)
    assert "registry" in rest and "check" not in rest


def test_an_image_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    error = raised(lambda: Image.open(tmp_path / "a.png"))
    assert isinstance(error, Image.DecompressionBombError) and texts.PIXELS_CLAIMED.read(error) == "300"


app = typer.Typer()


@app.command()
def first(number: int, flag: bool = False, text: str = "") -> None: ...


@app.command()
def second() -> None: ...


@pytest.mark.parametrize(
    ("words", "row", "read"),
    [
        (["third"], texts.NO_SUCH_COMMAND, "third"),
        (["first", "1", "2"], texts.TOO_MANY_WORDS, "2"),
        (["first", "1", "2", "3"], texts.TOO_MANY_WORDS, "2 3"),
        (["first", "--text"], texts.NEEDS_A_VALUE, "--text"),
        (["first", "1", "--flag=3"], texts.TAKES_NO_VALUE, "--flag"),
    ],
)
def test_a_wrong_command_line(words: list[str], row: texts.Text, read: str) -> None:
    error = CliRunner().invoke(app, words, standalone_mode=False).exception
    assert isinstance(error, AnyError)
    assert row.read(" ".join(str(error.format_message()).split())) == read
    others = {texts.NO_SUCH_COMMAND, texts.TOO_MANY_WORDS, texts.NEEDS_A_VALUE, texts.TAKES_NO_VALUE} - {row}
    assert not any(other.is_in(error.format_message()) for other in others)
