"""The pages: every command in them runs, every file in them loads. Their links: tests/unit/test_links.py.

Commands run in a scratch copy of configs/ and sweeps/, page by page, with ``rdistill`` being this package. To keep it
short, each `train`, `sweep` and `check` gets a few iterations on small images appended, and drawn data are few. A block
that cannot run (a cluster, hours) stands under ``<!-- not run: reason -->``; its `rdistill` lines must still parse.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from e2e.conftest import Sandbox
from rdistill.cli import app
from rdistill.config.distill_spec import DistillSpec
from rdistill.sweeps.study.spec import read_sweep

pytestmark = pytest.mark.e2e
REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")])
QUICK = ("handover.md",)  # pages that `make test` runs; the others are for `make test-all`
FENCE = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
TIMEOUT_S = 900  # the most that a page may take
SMALL = "--size 32 --iters 2 --val-interval 2 --batch-size 2"
# Stands in front of `python -m rdistill` and appends what makes a command short; the last of two equal options counts.
SHIM = f"""#!{sys.executable}
import os, sys
words, command = sys.argv[1:], " ".join(sys.argv[1:])
small = {{"train": "{SMALL}", "sweep": "{SMALL}", "check": "{SMALL}", "layers": "--size 64", "eval": "--size 32",
          "headroom": "--size 32 --iters 20 --batch-size 2", "data": "--num-train 4 --num-val 3 --size 48",
          "store build": "--size 32 --batch-size 2"}}
if "work_dirs/init" in command:  # its schedules have two phases, which want an iteration more
    longer = "--iters 3 --val-interval 3"
    small = {{name: line.replace("--iters 2 --val-interval 2", longer) for name, line in small.items()}}
if "--help" not in words and "--version" not in words:
    words += small.get(" ".join(words[:2]), small.get(words[0] if words else "", "")).split()
os.execv(sys.executable, [sys.executable, "-m", "rdistill", *words])
"""
# Stands before a page's Python: the same for its functions.
PRELUDE = """import rdistill
small = dict(size=32, iters=2, val_interval=2, batch_size=2)
for name in ("train", "sweep"):
    def short(*words, _whole=getattr(rdistill, name), **options):
        return _whole(*words, **{**options, **small})
    setattr(rdistill, name, short)
"""
# What a page may take for granted, unless it does so itself: the commands of README.md's first screen.
_TRAIN = "rdistill train configs/{}_optic-disc-128.py --data-root data/synthetic --work-dir work_dirs/{} > /dev/null"
DRAWN_BEFORE = "rdistill data synthetic data/synthetic > /dev/null"
TRAINED_BEFORE = [
    _TRAIN.format("teacher/deeplabv3plus_r50-slim", "teacher"),
    _TRAIN.format("student/deeplabv3plus_r18-slim", "student"),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    kind: str
    text: str
    reason: str | None  # why it is not run

    @property
    def commands(self) -> list[list[str]]:
        """The words of each `rdistill` line, here-documents left out."""
        text = re.sub(r"<<'END'.*?^END$", "", self.text.replace("\\\n", " "), flags=re.M | re.S)
        text = re.sub(r"\$\w+", "", text)  # variables of a shell
        lines = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("rdistill ")]
        return [line[1 : line.index(">")] if ">" in line else line[1:] for line in lines]


def blocks(page: Path) -> Iterator[Block]:
    for fence in FENCE.finditer(page.read_text()):
        yield Block(page, fence["kind"], fence["text"], fence["reason"])


def all_blocks(*kinds: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.kind in kinds]


def of_a_page(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def test_every_block_has_a_kind() -> None:
    kinds = {"bash", "python", "yaml", "json", "text", ""}
    assert not [(block.page.name, block.kind) for block in all_blocks() if block.kind not in kinds]


@pytest.mark.parametrize("page", PAGES, ids=of_a_page)
def test_every_command_is_one(page: Path) -> None:
    """Also of blocks that are not run: each command exists and takes the options it is shown with."""
    root = typer.main.get_command(app)
    for words in (words for block in blocks(page) if block.kind == "bash" for words in block.commands):
        command, rest = root, words
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            if not rest or rest[0].startswith("-"):
                break
            assert rest[0] in command.commands, words  # type: ignore[attr-defined]
            command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
        if not {"--help", "--version"} & set(rest):
            command.make_context(words[0], list(rest))


@pytest.mark.parametrize("page", PAGES, ids=of_a_page)
def test_every_sweep_is_one(page: Path, tmp_path: Path) -> None:
    """YAML: a whole sweep file, or some keys of one."""
    for index, block in enumerate(block for block in blocks(page) if block.kind == "yaml"):
        content = yaml.safe_load(block.text)
        if not isinstance(content, dict) or "apiVersion" in content or block.reason:
            continue
        if all("." in key for key in content):  # entries of `space`
            content = {"space": content}
        content.setdefault("config", "configs/distill/deeplabv3plus_r50-r18-slim_optic-disc-128.py")
        content.setdefault("space", {"distill.losses.logits.weight": {"type": "uniform", "low": 1, "high": 2}})
        content.setdefault("search", {"num_trials": 2})
        file = tmp_path / f"{index}.yaml"
        file.write_text(yaml.safe_dump(content))
        read_sweep(file)


def test_every_page_is_in_the_index() -> None:
    index = (REPO / "docs" / "README.md").read_text()
    pages = [page.name for page in PAGES if page.parent.name == "docs" and page.name != "README.md"]
    assert not [name for name in pages if f"({name})" not in index]


def is_config(block: Block) -> bool:
    """Whether Python shows a part of a config instead of a program."""
    return block.kind == "python" and "import " not in block.text


@pytest.mark.parametrize("block", [b for b in all_blocks("python") if is_config(b)], ids=lambda b: b.page.name)
def test_every_part_of_a_config_is_one(block: Block) -> None:
    variables: dict[str, Any] = {}
    exec(f"distill = dict({block.text})" if block.text.startswith("losses=") else block.text, {}, variables)
    section = variables.get("distill") or {"losses": {"logits": {"type": "KL"}}}
    names = ["backbone.layer3", "backbone.layer4", "decode_head.bottleneck"]
    whole = {"teachers": [{"ema_decay": 0.999}], "features": {"student": names, "teacher": names}, **section}
    assert DistillSpec.model_validate(whole).problems() == []


def runnable(page: Path) -> list[Block]:
    """Programs and commands that are not marked."""
    return [b for b in blocks(page) if b.kind in ("bash", "python") and not b.reason and not is_config(b)]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow, id=page.name)
        for page in PAGES
        if runnable(page)
    ],
)
def test_every_command_runs(page: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("configs", "sweeps"):
        shutil.copytree(REPO / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "rdistill"
    shim.write_text(SHIM)
    shim.chmod(0o755)
    script = ["set -euo pipefail", DRAWN_BEFORE]
    if not re.search(r"train\b.*configs/teacher/.*work_dirs/teacher\b", page.read_text()):
        script += TRAINED_BEFORE
    for index, block in enumerate(runnable(page)):
        if block.kind == "python":
            (tmp_path / f"block{index}.py").write_text(PRELUDE + block.text)
            script.append(f"python block{index}.py")
        else:
            script.append(block.text)
    environment = sandbox.environment()
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), environment["PATH"]])
    python_path = os.pathsep.join([str(REPO), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, text=True, capture_output=True, timeout=TIMEOUT_S,
        env={**environment, "PATH": path, "PYTHONPATH": python_path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
