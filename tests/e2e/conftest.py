"""Commands as a user starts them: a new process, an empty home directory, a short temporary folder for Ray."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

# The most that one command may take: seconds. A machine that others use too may need more.
TIMEOUT_S = int(os.environ.get("RDISTILL_TEST_TIMEOUT_S", 300))


@dataclass(frozen=True)
class Sandbox:
    """Folders of their own for some commands: where they run, their home and their temporary files."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def cwd(self) -> Path:
        return self.root / "cwd"

    def environment(self) -> dict[str, str]:
        own = {
            "HOME": str(self.home),
            "TMPDIR": str(self.root / "t"),
            "RAY_TMPDIR": str(self.root / "t"),
            "WANDB_MODE": "offline",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "XDG_"))}
        return {**inherited, **own}

    def start(
        self, *arguments: object, variables: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Starts ``rdistill ARGUMENTS``, with these variables in its environment too."""
        return subprocess.Popen(
            [sys.executable, "-m", "rdistill", *map(str, arguments)], env={**self.environment(), **(variables or {})},
            cwd=self.cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def run(
        self,
        *arguments: object,
        status: int | None = 0,
        variables: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``rdistill ARGUMENTS`` to its end. ``status`` is the expected one, or None."""
        with self.start(*arguments, variables=variables) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.terminate()  # Ray then stops its own processes
                raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        assert status is None or done.returncode == status, (done.returncode, out, err)
        return done

    def python(self, code: str, *arguments: object) -> str:
        """Runs some Python in which rdistill cannot be imported; returns what it printed."""
        code = f"import sys; sys.modules['rdistill'] = None\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.cwd, env=self.environment(), text=True, capture_output=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sweep_file(self, name: str, content: Mapping[str, Any]) -> Path:
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        return file


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Not pytest's own folder: its path is too long for Ray's sockets."""
    root = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
    for name in ("home", "cwd", "t"):
        (root / name).mkdir()
    yield Sandbox(root)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], dict[str, dict[str, str]]]:
    """A sweep's table by trial id."""

    def read(work_dir: Path) -> dict[str, dict[str, str]]:
        with open(work_dir / "results.csv", newline="") as file:
            table = list(csv.DictReader(file))
        by_id = {row["id"]: row for row in table}
        assert len(by_id) == len(table)
        return by_id

    return read


@pytest.fixture(scope="session")
def trial_json() -> Callable[[Path, str], dict[str, Any]]:
    return lambda work_dir, name: json.loads((work_dir / "trials" / name / "trial.json").read_text())
