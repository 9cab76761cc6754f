"""What is kept of a teacher's outputs is what it computed: to the last bit with 32 bits, near it with fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import random_crops
import torch
from conftest import Tiny
from torch import Tensor, nn

from rdistill.config.distill_spec import StoreSpec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.core.errors import UserError
from rdistill.data.datasets import VIEW, StreamDataset
from rdistill.distill.store_files import ABOUT, LocalFiles, store_files, teachers_in
from rdistill.distill.teacher_store import (
    TeacherStore,
    note_weights,
    own_folder_name,
    packed,
    unpacked,
    weights_digest,
)
from rdistill.schemas.store import StoreAbout
from rdistill.training.runner import prepare_config

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VIEWS = ["a", "b", "c", "d"]
CROPS: dict[str, Any] = {"distill.losses.hidden": None, "distill.store": {"views": 2, "bits": 32}}


def store_in(
    folder: Path, weight: float = 1.0, described: str = "", further: Sequence[str] = (), **spec: Any
) -> TeacherStore:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, weight)
    nn.init.constant_(model.bias, 0)
    note_weights(model)
    store_spec = StoreSpec(**{"bits": 32, **spec})
    about: StoreAbout = {
        "teacher": "teacher.py", "weights": weights_digest(model), "setting": described, "bits": store_spec.bits
    }  # fmt: skip
    return TeacherStore(store_spec, about, [store_files(folder), *map(store_files, further)])


class Doubles:
    def __init__(self) -> None:
        self.images = 0
        self.calls: list[int] = []

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.images += len(images)
        self.calls.append(len(images))
        return {"twice": images * 2}


def files(folder: Path) -> list[Path]:
    """Of entries."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ABOUT)


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    compute = Doubles()
    for _ in range(2):
        store = store_in(tmp_path)
        assert torch.equal(store(IMAGES, VIEWS, ["twice"], compute)["twice"], IMAGES * 2)
    # One by one, and once more together to see whether that comes to the same; nothing the second time.
    assert compute.calls == [1, 1, 1, 1, 4] and (store.images, store.computed) == (4, 0) and len(files(tmp_path)) == 4
    for another in (store_in(tmp_path, weight=2.0), store_in(tmp_path, described="x"), store_in(tmp_path, bits=16)):
        another(IMAGES, VIEWS, ["twice"], compute)
        assert another.computed == 4  # another teacher, another forward, other bits
    store(IMAGES[:, :, :4], VIEWS, ["twice"], compute)
    assert store.computed == 4  # padded otherwise


def test_how_many_of_some_images_are_kept(tmp_path: Path) -> None:
    """With all of the outputs that are needed; nothing is computed or counted for it."""
    store = store_in(tmp_path)
    assert store.count_kept(IMAGES, VIEWS, ["twice"]) == 0
    store(IMAGES[1:3], VIEWS[1:3], ["twice"], Doubles())
    again = store_in(tmp_path)
    assert again.count_kept(IMAGES, VIEWS, ["twice"]) == 2
    assert again.count_kept(IMAGES, VIEWS, ["twice", "thrice"]) == 0
    assert again.count_kept(IMAGES[:, :, :4], VIEWS, ["twice"]) == 0  # padded otherwise
    assert again.count_kept(IMAGES, ["b", "b", "x", None], ["twice"]) == 2
    assert (again.images, again.computed, again.written) == (0, 0, 0)


def test_a_store_may_keep_nothing(tmp_path: Path) -> None:
    """Views then repeat, but each is computed again."""
    compute, store = Doubles(), store_in(tmp_path, bits=16, keep="nothing")
    for _ in range(2):
        assert torch.equal(store(IMAGES, VIEWS, ["twice"], compute)["twice"], IMAGES * 2)  # not rounded either
    assert (store.computed, store.written, compute.calls) == (8, 0, [4, 4])
    assert not list(tmp_path.iterdir()) and store.count_kept(IMAGES, VIEWS, ["twice"]) == 0


def test_bytes_written_are_those_of_the_entries(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store(IMAGES[:3], VIEWS[:3], ["twice"], Doubles())
    assert store.written == sum(file.stat().st_size for file in files(tmp_path)) > 0


def test_a_teachers_folder_and_entries_have_names_of_128_bits(tmp_path: Path) -> None:
    about: StoreAbout = {"teacher": "teacher.py", "weights": "a", "setting": "b", "bits": 8}
    different: list[StoreAbout] = [
        about, {**about, "weights": "c"}, {**about, "setting": "c"}, {**about, "bits": 16}, {**about, "top_k": 5},
        {**about, "top_k": 6},
    ]  # fmt: skip
    names = {own_folder_name(one_of_them) for one_of_them in different}
    assert len(names) == len(different) and own_folder_name({**about, "teacher": "moved.py"}) in names
    store_in(tmp_path)(IMAGES, VIEWS, ["twice"], Doubles())
    assert {len(name) for name in (*names, *(file.name for file in files(tmp_path)))} == {32}


def test_only_logits_lose_classes(tmp_path: Path) -> None:
    about: StoreAbout = {"teacher": "teacher.py", "weights": "a", "setting": "b", "bits": 32, "top_k": 2}
    spec = StoreSpec(bits=32, top_k=2, keep="features")
    store = TeacherStore(spec, about, [store_files(tmp_path)], logits=["logits"])
    outputs = store(IMAGES, VIEWS, ["logits", "feature"], lambda images: {"logits": images, "feature": images + 1})
    assert torch.equal(outputs["feature"], IMAGES + 1)
    assert torch.equal(outputs["logits"].amax(dim=1), IMAGES.amax(dim=1))
    torch.testing.assert_close(outputs["logits"].amin(dim=1), IMAGES.amin(dim=1))  # one class is left: all of the rest
    few = StoreSpec(bits=32, top_k=1, keep="features")
    store = TeacherStore(few, {**about, "top_k": 1}, [store_files(tmp_path)], logits=["logits"])
    outputs = store(IMAGES, VIEWS, ["logits", "feature"], lambda images: {"logits": images, "feature": images + 1})
    assert torch.equal(outputs["feature"], IMAGES + 1) and not torch.allclose(outputs["logits"], IMAGES)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_an_output_that_is_not_one_for_each_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as caught:
        store_in(tmp_path, bits=16)(IMAGES, VIEWS, ["scale"], lambda images: {"scale": torch.zeros(shape)})
    assert caught.value.problems == (
        f"distill.store: feature 'scale' of a teacher is not one for each image (shape {shape} for 4); leave "
        "distill.store out",
    )


@pytest.mark.parametrize("bits", [32, 16, 8])
def test_an_output_may_be_a_number_or_a_vector_for_each_image(tmp_path: Path, bits: int) -> None:
    def compute(images: Tensor) -> dict[str, Tensor]:
        return {"mean": images.mean((1, 2, 3)), "means": images.mean((2, 3))}

    for _ in range(2):
        outputs = store_in(tmp_path, bits=bits)(IMAGES, VIEWS, ["mean", "means"], compute)
        for name, value in compute(IMAGES).items():
            torch.testing.assert_close(outputs[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("bits", "calls"), [(32, [1, 1, 1, 3]), (16, [3])])
def test_how_the_teacher_sees_what_is_missing(tmp_path: Path, bits: int, calls: list[int]) -> None:
    """Singly (and for a while at once too) where the last bit is promised, else at once; what was there comes back in
    its place."""
    store_in(tmp_path, bits=bits)(IMAGES[1:2], ["b"], ["twice"], Doubles())
    compute = Doubles()
    outputs = store_in(tmp_path, bits=bits)(IMAGES, VIEWS, ["twice"], compute)["twice"]
    torch.testing.assert_close(outputs, IMAGES * 2, rtol=1e-3, atol=1e-4)
    assert compute.calls == calls


class Batchwise(Doubles):
    """Several images at once come out otherwise, in the last bit, from the given call on."""

    def __init__(self, since: int) -> None:
        super().__init__()
        self.since = since

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().__call__(images)["twice"]
        if len(images) > 1 and len(self.calls) >= self.since:
            outputs[-1, 0, 0, 0] = torch.nextafter(outputs[-1, 0, 0, 0], torch.tensor(9.0))
        return {"twice": outputs}


def test_batches_are_relied_on_once_they_have_been_alike_three_times(tmp_path: Path) -> None:
    """Of each size by itself; with every batch, the outputs are those of single images."""
    store, compute = store_in(tmp_path), Doubles()
    for number in range(5):
        views = [f"{view}{number}" for view in VIEWS]
        assert torch.equal(store(IMAGES, views, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.calls == [1, 1, 1, 1, 4] * 3 + [4] * 2
    store(IMAGES[:2], ["y", "z"], ["twice"], compute)
    assert compute.calls[-3:] == [1, 1, 2] and store.computed == 22


@pytest.mark.parametrize(("since", "batches"), [(1, 1), (10, 2)])
def test_a_batch_that_differs_in_the_last_bit_is_never_relied_on(tmp_path: Path, since: int, batches: int) -> None:
    store, compute = store_in(tmp_path), Batchwise(since)
    for number in range(5):
        views = [f"{view}{number}" for view in VIEWS]
        assert torch.equal(store(IMAGES, views, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.calls == [1, 1, 1, 1, 4] * batches + [1] * 4 * (5 - batches)


@pytest.mark.parametrize("damage", [b"", bytes(300), None])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: bytes | None) -> None:
    store_in(tmp_path)(IMAGES, VIEWS, ["twice"], Doubles())
    file = files(tmp_path)[0]
    content = file.read_bytes()
    file.write_bytes(content[:-9] if damage is None else damage)
    store = store_in(tmp_path)
    assert torch.equal(store(IMAGES, VIEWS, ["twice"], Doubles())["twice"], IMAGES * 2)
    assert (store.computed, store.damaged) == (1, 1) and "is damaged: it is computed again" in store.notes[0]
    assert file.read_bytes() == content
    for damaged in files(tmp_path)[1:]:
        damaged.write_bytes(b"")
    store(IMAGES, VIEWS, ["twice"], Doubles())
    assert (store.computed, store.damaged, len(store.notes)) == (4, 4, 4)


def test_a_single_image_is_computed_once(tmp_path: Path) -> None:
    compute = Doubles()
    store_in(tmp_path)(IMAGES[:1], VIEWS[:1], ["twice"], compute)
    assert compute.calls == [1]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = store_in(tmp_path / "file" / "store")
    assert torch.equal(store(IMAGES, VIEWS, ["twice"], Doubles())["twice"], IMAGES * 2)
    assert len(store.notes) == 1 and "nothing more is kept" in store.notes[0]


def test_a_store_that_is_read_only_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a store is that others have filled and this user may not change; what it lacks is computed every time."""
    store_in(tmp_path)(IMAGES[:3], VIEWS[:3], ["twice"], Doubles())

    def refuse(self: LocalFiles, name: str, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFiles, "write", refuse)
    for _ in range(2):
        store = store_in(tmp_path)
        assert torch.equal(store(IMAGES, VIEWS, ["twice"], Doubles())["twice"], IMAGES * 2)
        assert (store.images, store.computed) == (4, 1)
        assert store.notes == [
            f"store: {tmp_path} cannot be written to (Permission denied): nothing more is kept there"
        ]


def test_a_place_that_cannot_be_read_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(self: LocalFiles, name: str, content: bytes = b"") -> None:
        asked.append(name)
        raise TimeoutError("no answer")

    monkeypatch.setattr(LocalFiles, "read", fail)
    store = store_in(tmp_path)
    for _ in range(2):
        assert torch.equal(store(IMAGES, VIEWS, ["twice"], Doubles())["twice"], IMAGES * 2)
    assert len(asked) == 1 and store.computed == 8 and files(tmp_path) == []  # nor is it written to
    assert store.notes == [f"store: {tmp_path} cannot be read (no answer): it is not used any more"]


def test_entries_at_a_uri(tmp_path: Path) -> None:
    """They are kept here too; each place mends the other."""
    uri = f"memory://{tmp_path.name}/store"
    store_in(tmp_path / "one", further=[uri])(IMAGES, VIEWS, ["twice"], Doubles())
    another = store_in(tmp_path / "two", further=[uri])
    assert torch.equal(another(IMAGES, VIEWS, ["twice"], Doubles())["twice"], IMAGES * 2) and another.computed == 0
    assert len(files(tmp_path / "two")) == 4  # read from here the next time
    remote = store_files(uri)
    (folder,) = teachers_in(remote)
    assert len([file for file in remote.listed(folder) if not file.name.endswith(ABOUT)]) == 4
    damaged = files(tmp_path / "two")[0]
    damaged.write_bytes(b"")
    store = store_in(tmp_path / "two", further=[uri])
    store(IMAGES, VIEWS, ["twice"], Doubles())
    assert (store.computed, store.damaged) == (0, 1) and damaged.stat().st_size
    remote.remove_folder(folder)
    store(IMAGES, VIEWS, ["twice"], Doubles())
    assert store.computed == 0


def test_a_sample_without_a_view(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        store_in(tmp_path)(IMAGES, ["a", None, "c", "d"], ["twice"], Doubles())
    assert caught.value.problems == (
        "distill.store: a training image came without its view; the dataset must give mmseg's `inputs` and "
        "`data_samples` (PackSegInputs), or leave distill.store out",
    )


def test_the_counts_are_those_of_all_batches(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store(IMAGES, VIEWS, ["twice"], Doubles())
    store(IMAGES, [*VIEWS[:3], "new"], ["twice"], Doubles())
    assert (store.images, store.computed) == (8, 5)


def test_an_entry_is_of_one_number_of_channels_and_of_one_precision(tmp_path: Path) -> None:
    store_in(tmp_path)(IMAGES, VIEWS, ["twice"], Doubles())
    store = store_in(tmp_path)
    assert store.count_kept(IMAGES[:, :1], VIEWS, ["twice"]) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert store.count_kept(IMAGES, VIEWS, ["twice"]) == 0
        store(IMAGES[:1], VIEWS[:1], ["twice"], Doubles())
        assert store.count_kept(IMAGES, VIEWS, ["twice"]) == 1
    with torch.autocast("cpu", torch.float16):
        assert store.count_kept(IMAGES, VIEWS, ["twice"]) == 0
    assert store.count_kept(IMAGES, VIEWS, ["twice"]) == 4


def test_a_teacher_is_described_once_and_its_entries_are_spread_over_folders(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store(IMAGES[:2], VIEWS[:2], ["twice"], Doubles())
    (about,) = tmp_path.rglob(ABOUT)
    about.unlink()
    store(IMAGES[2:], VIEWS[2:], ["twice"], Doubles())
    assert not list(tmp_path.rglob(ABOUT))
    assert {file.parent for file in files(tmp_path)} == {
        tmp_path / store.folder / file.name[:2] for file in files(tmp_path)
    }


def test_bits() -> None:
    value = (
        torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1.0, 10, 100])[:, None, None]
    )
    assert torch.equal(unpacked(packed(value, 32)), value)
    assert torch.equal(unpacked(packed(value.bfloat16(), 32)), value.bfloat16())
    torch.testing.assert_close(unpacked(packed(value, 16)), value, rtol=2**-11, atol=1e-7)
    step = (value.amax((2, 3), keepdim=True) - value.amin((2, 3), keepdim=True)) / 255
    assert bool(((unpacked(packed(value, 8)) - value).abs() <= step * 0.501).all())
    constant = torch.full((1, 2, 3, 3), 0.7)
    assert torch.equal(unpacked(packed(constant, 8)), constant)
    broken = torch.tensor([[1.0, float("inf")]])
    assert torch.equal(unpacked(packed(broken, 8)), broken)
    assert len(packed(value, 8)) < len(packed(value, 16)) < len(packed(value, 32))


def test_what_float16_cannot_hold_is_its_largest_number() -> None:
    value = torch.tensor([[1e6, -1e6, 65504.0, 2.0]])
    assert unpacked(packed(value, 16)).tolist() == [[65504.0, -65504.0, 65504.0, 2.0]]


@pytest.mark.parametrize("classes", [255, 256, 257, 300])
def test_the_last_of_many_classes_is_kept_under_its_own_number(classes: int) -> None:
    """A byte has room for 256 numbers."""
    logits = torch.zeros(1, classes, 3, 2)
    logits[:, -1], logits[:, 0] = 9.0, 5.0
    actual = unpacked(packed(logits, 16, top_k=2))
    assert torch.equal(actual[:, [0, -1]], logits[:, [0, -1]])
    torch.testing.assert_close(actual, logits, rtol=0, atol=1e-2)


@pytest.mark.parametrize("bits", [32, 16, 8])
def test_top_k(bits: int) -> None:
    """The likeliest classes keep their logits; the others share what probability they had together."""
    logits = torch.randn(1, 7, 4, 5, generator=torch.Generator().manual_seed(2)) * 3
    actual = unpacked(packed(logits, bits, top_k=2))
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.topk(2, dim=1).indices, True)
    tolerance = {32: 1e-6, 16: 2e-3, 8: 0.06}[bits]
    torch.testing.assert_close(actual[kept], logits[kept], rtol=0, atol=tolerance * 3)
    rest = [values.softmax(1).masked_fill(kept, 0).sum(1) for values in (actual, logits)]
    torch.testing.assert_close(*rest, rtol=0, atol=tolerance)
    others = actual.masked_fill(kept, torch.inf).amin(1), actual.masked_fill(kept, -torch.inf).amax(1)
    assert torch.equal(*others)  # equal parts
    assert len(packed(logits.repeat(1, 3, 9, 9), bits, top_k=2)) < len(packed(logits.repeat(1, 3, 9, 9), bits)) / 2
    assert torch.equal(unpacked(packed(logits, 32, top_k=7)), logits)  # nothing is left out
    large = logits[:, :3].repeat(1, 1, 2, 2)
    assert torch.equal(unpacked(packed(large, 32, top_k=3)), large)  # `top_k` counts classes, not rows


@pytest.mark.parametrize("bits", [32, 16, 8])
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_read_back_has_its_dtype(bits: int, top_k: int | None, dtype: torch.dtype) -> None:
    logits = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    content = packed(logits, bits, top_k=top_k)
    assert unpacked(content).dtype == dtype
    if bits == 32 and dtype != torch.float32:
        assert len(content) < len(packed(logits.float(), bits, top_k=top_k))


@pytest.mark.parametrize(
    ("store", "line"),
    [
        ({"views": 0}, "distill.store.views: must be"),
        ({"bits": 7}, "distill.store.bits: must be"),
        ({"kep": "logits"}, "unknown key distill.store.kep; did you mean 'keep'?"),
        ({"local": "here"}, "distill.store.local: is the folder that entries of a URI are kept in too, and needs one"),
        ({}, "distill.store.keep: 'logits' leaves out the features that distill.losses.hidden compares"),
    ],
)
def test_mistakes(tiny: Tiny, store: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(tiny.load("distill"), {"distill.store": store})
    assert caught.value.problems[0].startswith(line), caught.value.problems


def test_augmentation_of_a_whole_batch_is_refused(tiny: Tiny) -> None:
    """It comes after the view, so that a view would not say what the teacher is given."""
    with pytest.raises(UserError, match=r"model.data_preprocessor.batch_augments: .* leave it or distill.store out"):
        with_overrides(tiny.load("distill", CROPS), {"+model.data_preprocessor.batch_augments": [dict(type="X")]})
    assert with_overrides(tiny.load("distill"), {"distill.losses.hidden": None, "distill.store.views": 4}).distill.store


def crops(tiny: Tiny, overrides: Mapping[str, Any] | None = None) -> Any:
    return random_crops.crops(tiny, {**CROPS, **(overrides or {})})


def test_views_depend_on_image_and_view_alone(tiny: Tiny, tmp_path: Path) -> None:
    cfg = crops(tiny)
    streams = [StreamDataset(cfg.train_dataloader.dataset, seed=seed, views=2) for seed in (0, 1)]
    size = len(streams[0])
    digests = [[stream[(draw, 3)]["data_samples"].metainfo[VIEW] for draw in (0, size, 2 * size)] for stream in streams]
    assert digests[0] == digests[1] and digests[0][0] == digests[0][2] != digests[0][1]
    alone = LoadedConfig.of(cfg).without_distillation()
    for run in (cfg, alone.cfg):  # the baseline sees the batches of the others
        assert prepare_config(run, tmp_path, 5, None).train_dataloader.dataset.views == 2
