"""Writes synthetic fundus photographs to a folder, for tests, demos and benchmarks.

The content of an image depends only on (seed, split, index) and the size; see :mod:`rdistill.data.fundus`.
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
from rdistill.core.files import nearest_existing, write_json, write_whole
from rdistill.data.fundus import SPLITS, draw_fundus

# Increase it with every change that alters a pixel; data of another version are then drawn again.
VERSION = 1
# Lowest and highest value of each argument. An image of 4,096 pixels takes about 2 GB of memory to draw.
RANGES = {
    "num_train": (1, 1_000_000),
    "num_val": (1, 1_000_000),
    "size": (32, 4096),
    "seed": (0, 2**63 - 1),
    "mask_error": (0, 100),  # percent of the disc's radius
}
_DEFAULTS = {"mask_error": 0}  # default values are not recorded: older versions did not have these arguments
FILE_BYTES, PIXEL_BYTES = 500, 0.1  # lower bound of the disk space for an image and its mask
_FILE_ENDINGS = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # last bytes of a complete file

_logger = logging.getLogger(__name__)


def generate(
    out_dir: Path, *, num_train: int = 200, num_val: int = 60, size: int = 256, seed: int = 0, mask_error: int = 0
) -> None:
    """Writes ``img_dir/{train,val}/NNNN.jpg`` and ``ann_dir/{train,val}/NNNN.png`` (0 background, 1 disc).

    Image k of a split depends only on (seed, split, k) and ``size``, so larger counts only add images. A second call
    draws missing and incomplete files; with other arguments it replaces the generator's old files.

    Args:
        out_dir: the folder to write to.
        num_train, num_val: number of images.
        size: height and width in pixels.
        seed: seed of the images.
        mask_error: error of the training masks, in percent of the disc's radius
            (:func:`rdistill.data.fundus.draw_fundus`); validation masks are exact.

    Raises:
        UserError: an argument is out of range, or the folder contains files that the generator did not write.
    """
    out_dir = Path(out_dir)
    new_record = {"num_train": num_train, "num_val": num_val, "size": size, "seed": seed, "mask_error": mask_error}
    _check_arguments(**new_record)
    new_record = {
        "version": VERSION,
        **{key: value for key, value in new_record.items() if value != _DEFAULTS.get(key)},
    }
    record = _read_record(out_dir)
    if record != new_record:
        _check_disk(out_dir, new_record)
    if record is not None and record != new_record:
        _remove_stale(out_dir, record, new_record)
    if record != new_record:
        # The record is written first, so that the folder of a killed call is recognised and completed later.
        _write_record(out_dir, new_record)
    drawn = 0
    for split, index, image_path, mask_path in _pairs(out_dir, new_record):
        if _is_complete(image_path) and _is_complete(mask_path):
            continue
        error = mask_error / 100 if split == "train" else 0.0
        image, mask = draw_fundus(seed=seed, split=split, index=index, size=size, mask_error=error)
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        write_whole(image_path, jpeg.tobytes())
        write_whole(mask_path, cv2.imencode(".png", mask)[1].tobytes())
        drawn += 1
    if record != new_record or not (out_dir / "README.md").exists():
        write_whole(out_dir / "README.md", _readme(new_record))
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
    """Raises UserError if the disk has no room for the images of a record."""
    images = record["num_train"] + record["num_val"]
    needed = images * (FILE_BYTES + PIXEL_BYTES * record["size"] ** 2)
    folder = nearest_existing(out_dir)
    disk = shutil.disk_usage(folder)
    # A virtual file system such as /proc has no size; writing to it raises its own error.
    if disk.total and needed > disk.free:
        raise UserError(
            f"{out_dir}: {images} images of {record['size']} x {record['size']} pixels take about "
            f"{needed / 1e9:.1f} GB, but {disk.free / 1e9:.1f} GB are free; draw fewer or smaller images"
        )


def _pairs(out_dir: Path, record: dict[str, int]) -> Iterator[tuple[str, int, Path, Path]]:
    """Yields split, index, image path and mask path of every image of a record."""
    for split in SPLITS:
        for index in range(record[f"num_{split}"]):
            name = f"{index:04d}"
            image_path = out_dir / "img_dir" / split / f"{name}.jpg"
            yield split, index, image_path, out_dir / "ann_dir" / split / f"{name}.png"


def _read_record(out_dir: Path) -> dict[str, int] | None:
    """Returns the arguments of an earlier call; None in a new folder. Raises ``UserError`` if other files are there.

    An additional image is refused too, because training reads every file of ``img_dir``.
    """
    if not out_dir.exists():
        return None
    advice = "choose an empty or new directory"
    if not out_dir.is_dir():
        raise UserError(f"{out_dir}: synthetic data need a directory, got a file; {advice}")
    try:
        record = json.loads((out_dir / "synthetic.json").read_text())
        complete = {**_DEFAULTS, **record}
        if not all(low <= operator.index(complete[name]) <= high for name, (low, high) in RANGES.items()):
            record = None
    except (OSError, ValueError, KeyError, TypeError):
        record = None
    for path in out_dir.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and not _is_in_record(path.relative_to(out_dir), record):
            foreign = path.relative_to(out_dir)
            raise UserError(f"{out_dir}: must hold synthetic data only, got {foreign}; move it away or {advice}")
    return record


def _is_in_record(path: Path, record: Mapping[str, int] | None) -> bool:
    """Returns whether a file belongs to a record, by its name; a record may have too many files to list them."""
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
    """Removes the images of the old record that the new one does not contain."""
    same_images = all(old.get(key) == new.get(key) for key in ("version", "size", "seed", "mask_error"))
    _logger.warning("%s: replacing synthetic data made with %s", out_dir, old)
    for folder in ("img_dir", "ann_dir"):
        for path in list((out_dir / folder).rglob("*")):
            name = path.relative_to(out_dir)
            if path.is_file() and _is_in_record(name, old) and not (same_images and _is_in_record(name, new)):
                path.unlink(missing_ok=True)


def _write_record(out_dir: Path, record: dict[str, int]) -> None:
    write_json(out_dir / "synthetic.json", record)


def _is_complete(path: Path) -> bool:
    """Returns whether a file exists with its last bytes; the last file of a killed call may be incomplete."""
    file_ending = _FILE_ENDINGS[path.suffix]
    try:
        with path.open("rb") as file:
            file.seek(-len(file_ending), os.SEEK_END)
            return file.read() == file_ending
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
