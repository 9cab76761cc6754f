"""Images that can be read, and what only looks like one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command, Tiny


@pytest.fixture
def broken(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder of a good image and of what is none."""
    folder = tmp_path / "broken"
    folder.mkdir()
    content = min((tiny.data_root / "img_dir" / "val").iterdir()).read_bytes()
    (folder / "good.jpg").write_bytes(content)
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)  # 3.6 billion pixels
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return folder


@pytest.fixture(scope="session")
def exports() -> dict[tuple[str, ...], dict[str, bytes]]:
    """What `export` has written, by its words: the files by name."""
    return {}


@pytest.fixture
def export(
    command: Command, both_classes: list[Path], tmp_path: Path, exports: dict[tuple[str, ...], dict[str, bytes]]
) -> Callable[..., None]:
    """Puts what `rdistill export` makes of the student into the test's folder; the same words export once."""

    def exported(name: str, *words: str) -> None:
        key = (name, *words)
        if key not in exports:
            assert command("export", *both_classes, *key).status == 0
            exports[key] = {file.name: file.read_bytes() for file in tmp_path.glob(f"{name}*")}
            assert len(exports[key]) == 2  # the file and its record
        for file, content in exports[key].items():
            (tmp_path / file).write_bytes(content)

    return exported
