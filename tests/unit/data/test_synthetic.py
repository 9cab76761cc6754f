"""The synthetic fundus generator: reproducible, exact, not solved by brightness, safe with directories."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdistill.core.errors import UserError
from rdistill.data import synthetic
from rdistill.data.fundus import draw_fundus


def _make(out_dir: Path, num_train: int = 3, num_val: int = 2, size: int = 48, seed: int = 0) -> Path:
    synthetic.generate(out_dir, num_train=num_train, num_val=num_val, size=size, seed=seed)
    return out_dir


def _digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def eyes() -> tuple[np.ndarray, np.ndarray]:
    """60 images (60, 96, 96, 3) and masks (60, 96, 96)."""
    drawn = [draw_fundus(seed=1, split="train", index=index, size=96) for index in range(60)]
    return np.stack([image for image, _ in drawn]), np.stack([mask for _, mask in drawn])


def test_layout_and_formats(tmp_path: Path) -> None:
    out = _make(tmp_path / "new" / "data")
    assert set(_digests(out)) == {
        "README.md", "synthetic.json",
        *(f"img_dir/train/{k:04d}.jpg" for k in range(3)), *(f"ann_dir/train/{k:04d}.png" for k in range(3)),
        *(f"img_dir/val/{k:04d}.jpg" for k in range(2)), *(f"ann_dir/val/{k:04d}.png" for k in range(2)),
    }  # fmt: skip
    image = cv2.imread(str(out / "img_dir/train/0000.jpg"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(out / "ann_dir/train/0000.png"), cv2.IMREAD_UNCHANGED)
    assert image is not None and mask is not None
    drawn, exact = draw_fundus(seed=0, split="train", index=0, size=48)
    assert image.shape == (48, 48, 3) and mask.shape == (48, 48) and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, exact)
    # RGB on disk: swapped channels would be far off, JPEG loss is not.
    assert np.abs(image[..., ::-1].astype(int) - drawn).mean() < 6
    readme = (out / "README.md").read_text()
    command = "rdistill data synthetic OUT --num-train 3 --num-val 2 --size 48 --seed 0"
    assert command in readme and f"version {synthetic.VERSION}" in readme


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert _digests(_make(tmp_path / "a")) == _digests(_make(tmp_path / "b"))


def test_seeds_splits_and_indices_differ(tmp_path: Path) -> None:
    _make(tmp_path / "a")
    _make(tmp_path / "b", seed=1)
    images = [digest for name, digest in _digests(tmp_path).items() if name.endswith(".jpg")]
    assert len(images) == 10 and len(set(images)) == 10


def test_growing_keeps_earlier_images(tmp_path: Path) -> None:
    small, large = _digests(_make(tmp_path / "a")), _digests(_make(tmp_path / "b", num_train=5, num_val=3))
    assert {name: large[name] for name in small if "_dir" in name} == {
        name: digest for name, digest in small.items() if "_dir" in name
    }
    assert _digests(_make(tmp_path / "a", num_train=5, num_val=3)) == large
    assert _digests(_make(tmp_path / "a")) == small  # and shrinking removes exactly the surplus


def test_masks_are_exact_and_of_bounded_area(eyes: tuple[np.ndarray, np.ndarray]) -> None:
    _, masks = eyes
    assert masks.dtype == np.uint8 and set(np.unique(masks)) == {0, 1}
    shares = masks.mean(axis=(1, 2))
    assert shares.min() > 0.006 and shares.max() < 0.045 and 0.012 < shares.mean() < 0.03


def test_both_eyes_occur(eyes: tuple[np.ndarray, np.ndarray]) -> None:
    columns = np.array([np.nonzero(mask)[1].mean() / 96 for mask in eyes[1]])
    assert (columns < 0.4).sum() >= 10 and (columns > 0.6).sum() >= 10


@pytest.mark.parametrize("channel", ["red", "green", "gray"])
def test_brightness_alone_does_not_find_the_disc(eyes: tuple[np.ndarray, np.ndarray], channel: str) -> None:
    images, masks = eyes
    brightness = {"red": images[..., 0], "green": images[..., 1], "gray": images.mean(-1)}[channel]
    chosen = brightness[..., None] >= np.arange(0, 256, 5)
    disc = masks[..., None].astype(bool)
    iou = (chosen & disc).sum(axis=(1, 2)) / (chosen | disc).sum(axis=(1, 2))
    assert iou.mean(axis=0).max() < 0.3  # one threshold for all images
    assert iou.max(axis=1).mean() < 0.5  # even the best one for each


def test_running_again_writes_nothing(tmp_path: Path) -> None:
    out = _make(tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    _make(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_repairs_what_a_killed_run_left(tmp_path: Path) -> None:
    out = _make(tmp_path / "a")
    whole = _digests(out)
    (out / "img_dir/train/0001.jpg").unlink()
    cut = out / "ann_dir/val/0000.png"
    cut.write_bytes(cut.read_bytes()[:-7])
    (out / "img_dir/val/0001.jpg").write_bytes(b"")
    (out / "README.md").unlink()
    assert _digests(_make(out)) == whole


def test_kill_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(**_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synthetic, "draw_fundus", killed)
        _make(tmp_path / "a")
    assert _digests(_make(tmp_path / "a")) == _digests(_make(tmp_path / "b"))


def test_other_arguments_and_versions_replace_our_files(tmp_path: Path) -> None:
    out = _make(tmp_path / "a", num_train=5, seed=7)
    assert _digests(_make(out)) == _digests(_make(tmp_path / "b"))
    record = json.loads((out / "synthetic.json").read_text())
    (out / "synthetic.json").write_text(json.dumps({**record, "version": -1}))
    (out / "img_dir/train/0000.jpg").write_bytes(b"drawn by another version\xff\xd9")
    assert _digests(_make(out)) == _digests(tmp_path / "b")


def test_hurried_masks_leave_photographs_and_validation_as_they_are(tmp_path: Path) -> None:
    exact = _digests(_make(tmp_path / "exact", size=96))
    out = tmp_path / "hurried"
    synthetic.generate(out, num_train=3, num_val=2, size=96, seed=0, mask_error=60)
    hurried = _digests(out)
    assert hurried.keys() == exact.keys()
    changed = {name for name in exact if exact[name] != hurried[name]}
    assert changed == {"README.md", "synthetic.json", *(f"ann_dir/train/{k:04d}.png" for k in range(3))}
    command = "rdistill data synthetic OUT --num-train 3 --num-val 2 --size 96 --seed 0 --mask-error 60"
    readme = (out / "README.md").read_text()
    assert command in readme and "up to 60 % of the disc's radius" in readme
    # Other masks are other data: drawn again in both directions, with nothing of the old ones left.
    assert _digests(_make(out, size=96)) == exact
    synthetic.generate(out, num_train=3, num_val=2, size=96, seed=0, mask_error=60)
    assert _digests(out) == hurried


def test_the_error_of_masks_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="synthetic data: mask_error must be <= 100, got 101; lower it"):
        synthetic.generate(tmp_path / "a", mask_error=101)
    with pytest.raises(UserError, match="synthetic data: mask_error must be >= 0, got -1; raise it"):
        synthetic.generate(tmp_path / "a", mask_error=-1)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("stray", ["notes.txt", "img_dir/train/mine.jpg", "img_dir/train/0003.jpg"])
@pytest.mark.parametrize("made_before", [False, True])
def test_refuses_foreign_files(tmp_path: Path, stray: str, made_before: bool) -> None:
    out = _make(tmp_path / "a") if made_before else tmp_path / "a"
    (out / stray).parent.mkdir(parents=True, exist_ok=True)
    (out / stray).write_text("precious")
    before = _digests(out)
    with pytest.raises(UserError) as caught:
        _make(out, num_train=5)
    message = str(caught.value)
    assert str(out) in message and stray in message and "new directory" in message and "\n" not in message
    assert _digests(out) == before


def test_refuses_a_file_and_a_broken_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="got a file"):
        _make(tmp_path / "file")
    out = _make(tmp_path / "a")
    (out / "synthetic.json").write_text("[]")
    with pytest.raises(UserError, match="synthetic data only"):
        _make(out)


def test_arguments_are_checked_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _make(tmp_path / "a", num_train=0, num_val=-1, size=31, seed=-2)
    assert [problem.split(" must be ")[0].split()[-1] for problem in caught.value.problems] == [
        "num_train", "num_val", "size", "seed",
    ]  # fmt: skip
    assert "size must be >= 32, got 31; raise it" in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (dict(size=1_000_000), "synthetic data: size must be <= 4096, got 1000000; lower it"),
        (dict(num_train=10**12), "synthetic data: num_train must be <= 1000000, got 1000000000000; lower it"),
        (dict(seed=2**70), "synthetic data: seed must be <= 9223372036854775807"),
    ],
)
def test_impossible_arguments(tmp_path: Path, arguments: dict[str, int], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        _make(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_more_than_the_disk_holds(tmp_path: Path) -> None:
    """Told before the first image; of more than the arguments allow, since some disks hold those."""
    record = dict(num_train=10**9, num_val=1, size=4096)
    with pytest.raises(UserError, match=r"1000000001 images of 4096 x 4096 pixels take about 1678221\.6 GB, but"):
        synthetic._check_disk(tmp_path / "a", record)
    synthetic._check_disk(tmp_path / "a", dict(num_train=1, num_val=1, size=32))


@pytest.mark.parametrize("count", [10**12, -1, "many", 1.5, None])
def test_a_foreign_record(tmp_path: Path, count: object) -> None:
    """It may name more files than anybody can list; it is left alone at once."""
    record = dict(version=1, num_train=count, num_val=2, size=48, seed=0)
    (tmp_path / "synthetic.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"must hold synthetic data only, got synthetic.json"):
        _make(tmp_path)
    assert json.loads((tmp_path / "synthetic.json").read_text()) == record
