"""What a task of a build computes is what a run asks for. Whole builds, by Ray, are in tests/e2e/store."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, Tiny
from random_crops import builder_of, with_features

from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.distill.store_files import RemoteFiles, store_files, teachers_in
from rdistill.distill.teacher_store import own_folder_name
from rdistill.schemas.store import StoreAbout, StorePlan
from rdistill.store.build import _chunks, _require_room, _require_writable

ABOUT: StoreAbout = {"teacher": "teacher.py", "weights": "0", "setting": "", "bits": 16}


def test_images_of_several_sizes_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    cfg = with_features(tiny, dir=str(tmp_path / "store"))
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(len(steps) - 1, dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 1.0), keep_ratio=True))
    cfg.model.data_preprocessor.size = None
    with pytest.raises(UserError, match=r"distill.store: training images have several sizes"):
        builder_of(cfg).build([(image, view) for image in range(6) for view in range(2)])


@pytest.mark.parametrize(
    ("store", "line"),
    [
        ("distill.store=None", "error: distill.store: is not set, so no run would read the outputs"),
        ("distill.store={'views': 2}", "error: distill.store.dir: is not set; name the folder or URI"),
        ("distill.store={'keep': 'nothing', 'dir': 'a'}", "error: distill.store.keep: 'nothing' stores no outputs"),
        ("distill.store={'dir': '/dev/null'}", "error: distill.store.dir /dev/null: is a file; name a folder"),
    ],
)
def test_mistakes(tiny: Tiny, command: Command, store: str, line: str) -> None:
    result = command(
        "store", "build", tiny.folder / "distill.py", "--data-root", tiny.data_root, "--size", 32,
        "--set", "distill.losses.hidden=None", "--set", store,
    )  # fmt: skip
    assert result.status == 2 and result.err.startswith(line) and result.err.count("\n") == 1, result


def test_chunks_and_room(tiny: Tiny, tmp_path: Path) -> None:
    plan = StorePlan(images=5, views=3, teachers=[], outputs=[], bytes_a_view=10**12, batch=2, notes=[])
    chunks = list(_chunks(plan, 2))
    assert [len(chunk) for chunk in chunks] == [2] * 7 + [1] and chunks[0] == [(0, 0), (1, 0)]
    assert len({pair for chunk in chunks for pair in chunk}) == 15
    with pytest.raises(UserError, match=r"distill\.store\.dir: the store takes 15 TB, and .* are free at "):
        _require_room(plan, LoadedConfig.of(with_features(tiny, dir=str(tmp_path / "store"))))


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoadedConfig.of(with_features(tiny, dir="memory://read-only/store"))
    plan = StorePlan(images=5, views=3, teachers=[ABOUT], outputs=[], bytes_a_view=1, batch=2, notes=[])
    _require_writable(plan, run)
    (folder,) = teachers_in(store_files("memory://read-only/store"))
    assert folder == own_folder_name(ABOUT)

    def refuse(self: RemoteFiles, name: str, content: bytes) -> None:
        raise OSError("AccessDenied")

    monkeypatch.setattr(RemoteFiles, "write", refuse)
    line = r"^distill\.store\.dir memory://read-only/store: cannot be written to: AccessDenied; choose another$"
    with pytest.raises(UserError, match=line):
        _require_writable(plan, run)
