"""Synthetic fundus photographs in a folder: data for tests, demos and benchmarks.

What is in an image depends on (seed, split, index) and the size alone; see :mod:`rdistill.data.fundus`.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2

from rdistill.core.errors import UserError
from rdistill.core.files import write_json, write_whole
from rdistill.data.fundus import SPLITS, draw_fundus

# Raise it with every change that alters a pixel: data of another version is then drawn anew.
VERSION = 1
# Lowest and highest of each argument. An image of 4,096 pixels takes about 2 GB of memory to draw.
RANGES = {
    "num_train": (1, 1_000_000),
    "num_val": (1, 1_000_000),
    "size": (32, 4096),
    "seed": (0, 2**63 - 1),
    "mask_error": (0, 100),  # percent of the disc's radius
}
_EXACT = {"mask_error": 0}  # not in the record of exact masks, as they were drawn before there was a choice
FILE_BYTES, PIXEL_BYTES = 500, 0.1  # what an image and its mask take on the disk at least
_WHOLE = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # how a completely written file ends

_logger = logging.getLogger(__name__)


def generate(
    out_dir: Path, *, num_train: int = 200, num_val: int = 60, size: int = 256, seed: int = 0, mask_error: int = 0
) -> None:
    """Write ``img_dir/{train,val}/NNNN.jpg`` and ``ann_dir/{train,val}/NNNN.png`` (0 background, 1 disc).

    Image k of a split depends on (seed, split, k) and ``size`` (pixels) alone, so larger counts only add
    images. Running again draws what is missing or cut short; other arguments replace our own old files.
    With ``mask_error`` the training masks are hurried: off by up to this percentage of the disc's radius
    (:func:`rdistill.data.fundus.draw_fundus`); those of validation are exact.
    Raises ``UserError`` for arguments out of range and for a directory that holds anything not ours.
    """
    out_dir = Path(out_dir)
    wanted = {"num_train": num_train, "num_val": num_val, "size": size, "seed": seed, "mask_error": mask_error}
    _check_arguments(**wanted)
    wanted = {"version": VERSION, **{key: value for key, value in wanted.items() if value != _EXACT.get(key)}}
    record = _our_record(out_dir)
    if record != wanted:
        _check_disk(out_dir, wanted)
    if record is not None and record != wanted:
        _remove_stale(out_dir, record, wanted)
    if record != wanted:
        # Written before the images: a killed run then leaves a directory known as ours, with files missing.
        _write_record(out_dir, wanted)
    drawn = 0
    for split, index, image_path, mask_path in _pairs(out_dir, wanted):
        if _is_whole(image_path) and _is_whole(mask_path):
            continue
        error = mask_error / 100 if split == "train" else 0.0
        image, mask = draw_fundus(seed=seed, split=split, index=index, size=size, mask_error=error)
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        write_whole(image_path, jpeg.tobytes())
        write_whole(mask_path, cv2.imencode(".png", mask)[1].tobytes())
        drawn += 1
    if record != wanted or not (out_dir / "README.md").exists():
        write_whole(out_dir / "README.md", _readme(wanted))
    _logger.info("%s: drew %d of %d synthetic images", out_dir, drawn, num_train + num_val)


def _check_arguments(**arguments: int) -> None:
    problems = []
    for name, value in arguments.items():
        lowest, highest = RANGES[name]
        if value < lowest:
            problems.append(f"synthetic data: {name} must be >= {lowest}, got {value}; raise it")
        elif value > highest:
            problems.append(f"synthetic data: {name} must be <= {highest}, got {value}; lower it")
    if problems:
        raise UserError(*problems)


def _check_disk(out_dir: Path, record: Mapping[str, int]) -> None:
    """Raises UserError where the disk has no room for the images that a record promises."""
    images = record["num_train"] + record["num_val"]
    needed = images * (FILE_BYTES + PIXEL_BYTES * record["size"] ** 2)
    folder = next(folder for folder in (out_dir.absolute(), *out_dir.absolute().parents) if folder.exists())
    disk = shutil.disk_usage(folder)
    if (
        disk.total and needed > disk.free
    ):  # a file system of the kernel's own has no size, and says itself what is wrong
        raise UserError(
            f"{out_dir}: {images} images of {record['size']} x {record['size']} pixels take about "
            f"{needed / 1e9:.1f} GB, but {disk.free / 1e9:.1f} GB are free; ask for fewer or smaller ones"
        )


def _pairs(out_dir: Path, record: dict[str, int]) -> Iterator[tuple[str, int, Path, Path]]:
    """Split, index, image path and mask path of everything ``record`` promises."""
    for split in SPLITS:
        for index in range(record[f"num_{split}"]):
            name = f"{index:04d}"
            image_path = out_dir / "img_dir" / split / f"{name}.jpg"
            yield split, index, image_path, out_dir / "ann_dir" / split / f"{name}.png"


def _our_record(out_dir: Path) -> dict[str, int] | None:
    """Arguments an earlier run left here, None in a new directory; ``UserError`` where others' files are.

    A stray image among ours is refused too: training reads every file of ``img_dir``.
    """
    if not out_dir.exists():
        return None
    fix = "choose an empty or new directory"
    if not out_dir.is_dir():
        raise UserError(f"{out_dir}: synthetic data need a directory, got a file; {fix}")
    try:
        record = json.loads((out_dir / "synthetic.json").read_text())
        whole = {**_EXACT, **record}
        if not all(low <= operator.index(whole[name]) <= high for name, (low, high) in RANGES.items()):
            record = None
    except (OSError, ValueError, KeyError, TypeError):
        record = None
    for path in out_dir.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and not _is_ours(path.relative_to(out_dir), record):
            stray = path.relative_to(out_dir)
            raise UserError(f"{out_dir}: must hold synthetic data only, got {stray}; move it away or {fix}")
    return record


def _is_ours(path: Path, record: Mapping[str, int] | None) -> bool:
    """Whether a record promises a file, by its name: a record may promise more files than can be listed."""
    if record is None:
        return False
    if str(path) in ("synthetic.json", "README.md"):
        return True
    if len(path.parts) != 3 or path.parts[1] not in SPLITS:
        return False
    folder, split, name = path.parts
    if (folder, path.suffix) not in (("img_dir", ".jpg"), ("ann_dir", ".png")) or not path.stem.isdecimal():
        return False
    index = int(path.stem)
    return index < record[f"num_{split}"] and name == f"{index:04d}{path.suffix}"


def _remove_stale(out_dir: Path, old: dict[str, int], new: dict[str, int]) -> None:
    """Remove our images that ``new`` does not contain; the record goes last, lest a kill orphan images."""
    same_eyes = all(old.get(key) == new.get(key) for key in ("version", "size", "seed", "mask_error"))
    _logger.warning("%s: replacing synthetic data made with %s", out_dir, old)
    for folder in ("img_dir", "ann_dir"):
        for path in list((out_dir / folder).rglob("*")):
            name = path.relative_to(out_dir)
            if path.is_file() and _is_ours(name, old) and not (same_eyes and _is_ours(name, new)):
                path.unlink(missing_ok=True)


def _write_record(out_dir: Path, record: dict[str, int]) -> None:
    write_json(out_dir / "synthetic.json", record)


def _is_whole(path: Path) -> bool:
    """Whether the file is there to its last byte, which a killed run's last file is not."""
    ending = _WHOLE[path.suffix]
    try:
        with path.open("rb") as file:
            file.seek(-len(ending), os.SEEK_END)
            return file.read() == ending
    except OSError:
        return False


def _readme(record: dict[str, int]) -> str:
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in record.items() if key != "version")
    masks = "its exact mask: 0 background, 1 optic disc."
    if "mask_error" in record:
        masks = f"""its mask: 0 background, 1 optic disc.
Those of train are hurried, moved and scaled by up to {record["mask_error"]} % of the disc's radius; those of val
are exact."""
    return f"""# Synthetic fundus photographs

Drawn by rdistill's generator, version {record["version"]}, seed {record["seed"]}; no patient data.

    rdistill data synthetic OUT {flags}

Train {record["num_train"]}, val {record["num_val"]} images of {record["size"]} x {record["size"]} pixels.
`img_dir/SPLIT/NNNN.jpg` is RGB, `ann_dir/SPLIT/NNNN.png` {masks}
Each image depends on seed, split, number and size alone. Bright lesions, atrophy and lens flare are decoys;
some discs are dim, blurred or cut by the retina's rim.
"""
