"""The scripts and notebooks of examples/ run from a copy of the repository's folder, as a user runs them.

`rdistill.train` and `rdistill.sweep` get few iterations on small images, a sweep two trials; all else is theirs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import REPO

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.test_clusters import Client, free_ports, head  # noqa: F401

pytestmark = pytest.mark.e2e
SMALL = dict(size=32, iters=3, val_interval=3, batch_size=2)
# Stands before an example; the rest is what Python does with a script's name, or Jupyter with a notebook's.
RUN = f"""
import json, os, sys

import rdistill

for name in ("train", "sweep"):
    def shortened(*words, _whole=getattr(rdistill, name), **options):
        if isinstance(words[0], dict):
            for choice in words[0]["space"].values():
                choice["values"] = choice["values"][:2]
        return _whole(*words, **{{**options, **{SMALL}}})
    setattr(rdistill, name, shortened)
sys.argv = sys.argv[1:]
path = sys.argv[0]
sys.path.insert(0, os.path.dirname(path))
text = open(path).read()
cells = [text]
if path.endswith(".ipynb"):
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
scope = {{"__name__": "__main__", "__file__": path}}
for number, cell in enumerate(cells):
    exec(compile(cell, f"{{path}}, cell {{number}}", "exec"), scope)
"""


@pytest.fixture(scope="module")
def folder(sandbox: Sandbox) -> Iterator[Path]:
    """A copy of what the examples need, which they share: the images and the teacher are made once."""
    there = sandbox.root / "repository"
    for name in ("configs", "sweeps", "examples"):
        shutil.copytree(REPO / name, there / name, ignore=shutil.ignore_patterns("__pycache__"))
    yield there


def run(
    sandbox: Sandbox,
    folder: Path,
    name: str,
    *arguments: object,
    status: int = 0,
    variables: Mapping[str, str] | None = None,
) -> str:
    """What an example prints; its errors where it is to fail."""
    variables = {**(variables or {}), "PYTHONPATH": str(REPO), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, f"examples/{name}", *map(str, arguments)],
        cwd=folder, env={**sandbox.environment(), **variables}, text=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if status == 0 else done.stderr


def test_every_example_is_run_here() -> None:
    """And is in the gallery's table."""
    names = {path.name for path in (REPO / "examples").glob("*.*") if path.suffix in (".py", ".ipynb")}
    text, table = Path(__file__).read_text(), (REPO / "examples" / "README.md").read_text()
    assert {name for name in names if f"({name})" not in table} == set()
    assert {name for name in names - {"shared.py", "own_loss.py"} if f'"{name}"' not in text} == set()


def test_own_data(sandbox: Sandbox, folder: Path) -> None:
    printed = run(sandbox, folder, "own_data.py")
    assert "masks have the values 0 and 255" in printed and "'foreground': " in printed
    assert (folder / "work_dirs" / "examples" / "own-data" / "student" / "student.pth").is_file()


def test_custom_loss(sandbox: Sandbox, folder: Path) -> None:
    printed = run(sandbox, folder, "custom_loss.py")
    assert [line.split()[0] for line in printed.splitlines() if line.endswith(" mIoU")] == ["KL", "HardPixelKL"]


@pytest.mark.slow
def test_unlabeled(sandbox: Sandbox, folder: Path) -> None:
    printed = run(sandbox, folder, "unlabeled.py")
    assert "12 masks and images without masks" in printed


def test_hugging_face_teacher(sandbox: Sandbox, folder: Path) -> None:
    printed = run(sandbox, folder, "hugging_face_teacher.py")
    assert printed.splitlines()[-1].startswith("student ") and "teacher" in printed.splitlines()[-1]


def test_results_to_pandas_and_a_notebook_of_the_same_sweep(sandbox: Sandbox, folder: Path) -> None:
    printed = run(sandbox, folder, "results_to_pandas.py")
    assert "baseline" in printed and "Searched only, not confirmed" in printed
    written = folder / "work_dirs" / "examples" / "sweep"
    assert len((written / "finished.csv").read_text().splitlines()) == 4  # two trials, the student alone, a heading
    run(sandbox, folder, "reading_a_sweep.ipynb")


@pytest.mark.slow
def test_first_student(sandbox: Sandbox, folder: Path) -> None:
    assert "alone " in run(sandbox, folder, "first_student.ipynb")


def test_cluster_job_without_a_cluster(sandbox: Sandbox, folder: Path) -> None:
    (port,) = free_ports(1)
    (line,) = run(sandbox, folder, "cluster_job.py", f"http://127.0.0.1:{port}", "x.yaml", "x", status=1).splitlines()
    assert "no Ray dashboard answers" in line


@pytest.mark.slow
def test_cluster_job(sandbox: Sandbox, folder: Path, head: tuple[Client, int]) -> None:  # noqa: F811
    """On a cluster with a token, as `ray start --head` makes one."""
    client, _ = head
    made = folder / "work_dirs" / "examples"
    if not (made / "teacher" / "best.pth").exists():
        run(sandbox, folder, "unlabeled.py")
    shutil.copytree(REPO / "rdistill", folder / "rdistill", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / ".gitignore", folder)  # what the job is not sent
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    options = [f"--data-root={made / 'data'}", f"--teacher-checkpoint={made / 'teacher' / 'best.pth'}", *small]
    printed = run(
        sandbox,
        folder,
        "cluster_job.py",
        client.address,
        "examples/configs/weights.yaml",
        sandbox.root / "job",
        *options,
        variables=client.environment,
    )
    assert f"{sandbox.root / 'job'}/best.pth" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line.split()[:1] == ["baseline"]][-1:] == [
        ["baseline", "finished"]
    ]


@pytest.mark.parametrize("path", sorted((REPO / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_kept_without_what_it_printed(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
