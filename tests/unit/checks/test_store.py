"""A store of another teacher is refused before training; what is worth knowing of one's own is noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Tiny

from rdistill.checks.store import cache_folder_problems, inspect_store, teacher_stores
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.core.storage import StorageError
from rdistill.data.splits import passes_over_images
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.store_files import ABOUT, store_files, write_about


def run_of(tiny: Tiny, **store: Any) -> tuple[LoadedConfig, Distiller]:
    run = LoadedConfig.of(
        tiny.load("distill", {"distill.losses.hidden": None, "distill.store": {"views": 2, "bits": 32, **store}})
    )
    return run, build_distiller(run, seed=0)


def test_whose_store(tiny: Tiny, tmp_path: Path) -> None:
    folder = str(tmp_path / "store")
    run, distiller = run_of(tiny, dir=folder)
    assert inspect_store(run, distiller) == ([], [])  # it will be filled
    (own,) = teacher_stores(run, distiller)
    files = store_files(folder)
    write_about(files, "another", {**own.about, "teacher": "theirs.py", "checkpoint": "theirs.pth", "weights": "0"})
    ((problem,), notes) = inspect_store(run, distiller)
    assert problem.startswith(f"distill.store.dir: {folder} holds the outputs of theirs.py (theirs.pth) alone")
    assert "best.pth); set that teacher, another folder, or add this teacher's outputs with" in problem and not notes
    assert inspect_store(*run_of(tiny)) == ([], [])  # no folder is named: that of all studies there
    write_about(files, "16 bits", {**own.about, "bits": 16})
    (problems, (note,)) = inspect_store(run, distiller)
    assert not problems
    assert note.endswith("with other bits (16 instead of 32): they cannot be used, and are computed")
    write_about(files, own.folder, own.about)
    assert inspect_store(run, distiller) == ([], [])


def test_a_teacher_without_a_checkpoint_file_is_named_by_its_own_weights(tiny: Tiny, tmp_path: Path) -> None:
    """As a model of transformers is."""
    run, distiller = run_of(tiny, dir=str(tmp_path))
    spec = run.distillation
    teacher = spec.teachers[0].model_copy(update={"checkpoint": None})
    run = LoadedConfig(run.cfg, spec.model_copy(update={"teachers": (teacher,)}))
    (own,) = teacher_stores(run, distiller)
    write_about(store_files(str(tmp_path)), "another", {**own.about, "teacher": "theirs.py", "weights": "0"})
    ((problem,), _) = inspect_store(run, distiller)
    assert f"alone, and none of {teacher.config} (its own weights); set that teacher" in problem


def test_folders_that_are_none(tiny: Tiny, tmp_path: Path) -> None:
    """They are refused; a store that is filled may be read-only."""
    (tmp_path / "file").touch()
    for key, more in (("dir", {}), ("local", {"dir": f"memory://{tmp_path.name}"})):
        for where, text in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "a", "lies below")):
            ((problem,), _) = inspect_store(*run_of(tiny, **{key: str(where), **more}))
            assert problem.startswith(f"distill.store.{key} {where}: {text}")
    run, distiller = run_of(tiny, dir=str(tmp_path / "store"))
    (own,) = teacher_stores(run, distiller)
    write_about(store_files(str(tmp_path / "store")), own.folder, own.about)
    assert not (tmp_path / "new").exists() and inspect_store(*run_of(tiny, dir=str(tmp_path / "new"))) == ([], [])
    assert not (tmp_path / "new").exists()


def test_a_filled_folder_that_cannot_be_written_to_is_noted(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(where: str, flag: str) -> None:
        raise UserError(f"{flag} {where}: cannot be written to: Read-only file system; choose another")

    run, distiller = run_of(tiny, dir=str(tmp_path))
    (own,) = teacher_stores(run, distiller)
    monkeypatch.setattr("rdistill.checks.store.require_work_dir", refuse)
    refused = f"distill.store.dir {tmp_path}: cannot be written to: Read-only file system; choose another"
    assert inspect_store(run, distiller) == ([refused], [])
    write_about(store_files(str(tmp_path)), own.folder, own.about)
    (problems, (note,)) = inspect_store(run, distiller)
    assert not problems and note.endswith("Read-only file system: outputs that it lacks are computed in each run")


def test_the_refusal_is_one_line(tiny: Tiny, command: Command, small: list[object], tmp_path: Path) -> None:
    """Of `train` and of `check`; a build adds the teacher."""
    file = tmp_path / "store" / "another" / ABOUT
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"teacher": "theirs.py", "weights": "0"}))
    store = f"distill.store={{'dir': '{tmp_path / 'store'}', 'views': 2}}"
    options = ["--set", "distill.losses.hidden=None", "--set", store, *small]
    for name in ("train", "check"):
        result = command(name, tiny.folder / "distill.py", *options)
        assert result.status == 2 and result.err.count("\n") == 1, result
        assert "holds the outputs of theirs.py (its own weights) alone, and none of" in result.err
    assert not (tmp_path / "work_dirs" / "distill" / "last.pth").exists()


def test_more_views_than_passes(tiny: Tiny, tmp_path: Path) -> None:
    run, distiller = run_of(tiny, views=5)
    assert passes_over_images(run.cfg) == 2
    assert inspect_store(run, distiller)[1] == [
        "distill.store.views: 5, but the run has 2 passes over its images: it takes 2 of them, each once, and only "
        "another run reads again what is kept"
    ]
    run, distiller = run_of(tiny, views=5, dir=str(tmp_path / "store"))
    assert len(inspect_store(run, distiller)[1]) == 1
    (own,) = teacher_stores(run, distiller)
    write_about(store_files(str(tmp_path / "store")), own.folder, own.about)
    assert inspect_store(run, distiller)[1] == []  # this run reads what is kept there


@pytest.mark.parametrize(("top_k", "problems"), [(1, 0), (2, 1)])
def test_top_k_of_two_classes(tiny: Tiny, top_k: int, problems: int) -> None:
    found, _ = inspect_store(*run_of(tiny, top_k=top_k))
    assert len(found) == problems and all("leaves none out" in problem for problem in found)


def test_a_uri_that_nobody_knows(tiny: Tiny) -> None:
    ((problem,), _) = inspect_store(*run_of(tiny, dir="nothing://a"))
    assert problem.startswith("distill.store.dir nothing://a: neither pyarrow nor fsspec knows this storage")


def test_a_storage_that_cannot_be_reached(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(where: str) -> None:
        raise StorageError(f"{where}: no answer")

    monkeypatch.setattr("rdistill.checks.store.store_files", fail)
    ((problem,), _) = inspect_store(*run_of(tiny, dir="s3://nobody/a"))
    assert problem == "distill.store.dir: s3://nobody/a cannot be read: no answer"


def test_a_cache_s_folder_that_is_none(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def problems(**overrides: Any) -> list[str]:
        run = LoadedConfig.of(tiny.load("distill", {key.replace("__", "."): value for key, value in overrides.items()}))
        return cache_folder_problems(run.distillation)

    cache = {"dir": str(tmp_path / "file")}
    assert problems(distill__cache=cache) == [f"distill.cache.dir {tmp_path}/file: is a file; name a folder"]
    own = {"mode": "on", "dir": f"{tmp_path}/file/a"}
    assert problems(**{"+distill__teachers__0__cache": own})[0].startswith(
        f"distill.teachers[0].cache.dir {tmp_path}/file/a: lies below {tmp_path}/file, which is a file"
    )
    assert problems(distill__cache={**cache, "mode": "off"}) == problems() == []
